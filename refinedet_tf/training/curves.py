"""The curves of a run as a picture: losses, mAP and learning rate over the steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from refinedet_tf.files import write_aside

TRAINING, VALIDATION = "#4477aa", "#cc3311"
"""The colours of what was measured on training batches and on the validation set."""

LARGEST = 1e30
"""Larger values are not drawn. No training goes on with such a loss."""

MEANS = 50
"""The number of means of the training loss that are drawn over it, because the loss of single batches is
noisy."""


def draw_curves(entries: Sequence[dict[str, Any]], path: Path) -> None:
    """Draws the log of a run, as `RunFolder.log_entries` returns it, as a PNG, which is replaced at once."""
    drawn = ("loss", "learning_rate")
    steps = [entry for entry in entries if all(_is_number(entry.get(key)) for key in drawn)]
    validations = [(entry["step"], entry["validation"]) for entry in entries if "validation" in entry]
    figure = Figure(figsize=(8, 8), layout="constrained")
    FigureCanvasAgg(figure)
    loss_panel, ap_panel, rate_panel = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    _draw_losses(loss_panel, steps, validations)
    _draw_mean_ap(ap_panel, validations)
    rate_panel.plot(*_columns(steps, "learning_rate"), color="0.3", linewidth=1.2)
    rate_panel.set(ylabel="learning rate", xlabel="step", ylim=(0, None))
    for panel in (loss_panel, ap_panel, rate_panel):
        panel.grid(color="0.9", linewidth=0.6)
        panel.tick_params(labelsize=8)
    write_aside(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _draw_losses(
    panel: Axes, steps: Sequence[dict[str, Any]], validations: Sequence[tuple[int, dict[str, Any]]]
) -> None:
    """Draws the loss of the logged steps, its means, and the loss on the validation set."""
    places, losses = _columns(steps, "loss")
    panel.plot(places, losses, color=TRAINING, linewidth=0.6, alpha=0.4)
    parts = min(MEANS, len(losses))
    if parts:
        means = [
            [part.mean() for part in np.array_split(np.asarray(values, float), parts)]
            for values in (places, losses)
        ]
        panel.plot(*means, color=TRAINING, linewidth=1.6, label="training")
    measured = [(step, entry["loss"]) for step, entry in validations if _is_number(entry.get("loss"))]
    if measured:
        panel.plot(*zip(*measured, strict=True), "o-", color=VALIDATION, markersize=3.5, label="validation")
    shown = [np.percentile(values, 97) for values in (losses, [loss for _, loss in measured[-5:]]) if values]
    if shown and max(shown) > 0:
        # The losses of the first steps are many times those that matter.
        panel.set_ylim(0, 1.1 * max(shown))
    panel.set(ylabel="loss")
    if panel.get_legend_handles_labels()[0]:
        panel.legend(fontsize=8)


def _draw_mean_ap(panel: Axes, validations: Sequence[tuple[int, dict[str, Any]]]) -> None:
    """Draws the mAP of the validations, and names the best one."""
    measured = [(step, 100 * entry["mAP"]) for step, entry in validations if entry["mAP"] is not None]
    panel.set(ylabel="mAP on the validation set, %")
    if not measured:
        panel.text(0.5, 0.5, "no validation", transform=panel.transAxes, ha="center", color="0.5", fontsize=9)
        return
    panel.plot(*zip(*measured, strict=True), "o-", color=VALIDATION, markersize=3.5)
    step, best = max(measured, key=lambda point: point[1])
    panel.plot(step, best, "o", color=VALIDATION, markersize=8, fillstyle="none")
    panel.set_title(f"best: {best:.2f} at step {step}", fontsize=9)
    panel.set_ylim(0, None)


def _is_number(value: object) -> bool:
    """Says whether a value from the log can be drawn; a log may have been edited."""
    return isinstance(value, int | float) and abs(value) < LARGEST


def _columns(entries: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Returns the steps of entries and the values that they have under a name."""
    return [entry["step"] for entry in entries], [entry[name] for entry in entries]
