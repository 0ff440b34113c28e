"""The table in Markdown and the plot of what `exports.py` measures."""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLORS = {"float32": "#1f5fa8", "bfloat16": "#c0661a", "int8": "#23823b"}
"""The colours of points and their labels by precision."""

SMALLEST_RANGE = 6.0
"""The smallest range of the axis of the accuracy in points, so that accidents do not look like losses."""

LABEL_DISTANCE = 0.035
"""The smallest distance of two labels in widths of the axes."""


def markdown(result: Mapping[str, Any]) -> str:
    """Returns the table of a result of `exports.py`: a row per form, without the whole detector after it."""
    facts = {fact["form"]: fact for fact in result["forms"]}
    batches = list(dict.fromkeys(row["batch"] for row in result["rows"]))
    has_accuracy = all("mAP" in fact for fact in facts.values())
    has_starts = all("memory_mb" in fact for fact in facts.values())
    head = ["form", *(f"batch {batch}" for batch in batches), "images/s"]
    lines: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        cells = lines.setdefault((row["stage"], row["form"]), [])
        cells.append(f"{_number(row['ms'])} ms ({row['ratio']:.2f})")
        if row["batch"] == batches[-1]:
            cells.append(_number(row["images_per_second"]))
    head += ["size"] + ["memory", "start"] * has_starts + ["mAP"] * has_accuracy
    body = []
    for (stage, form), cells in lines.items():
        extra = [""] * (len(head) - 1 - len(cells))
        if stage == "network":
            fact = facts[form]
            extra = [f"{fact['size_mb']:.1f} MB"]
            if has_starts:
                extra += [_memory(fact), f"{fact['import_s']:.2f} + {fact['first_answer_s']:.2f} s"]
            if has_accuracy:
                extra += [f"{100 * fact['mAP']:.2f}"]
        body.append([form if stage == "network" else f"{form}, {stage}", *cells, *extra])
    return "".join(_line(cells) for cells in [head, ["---", *["--:"] * (len(head) - 1)], *body])


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draws the mAP of each form over its time for the first batch, and writes the picture."""
    # Without pyplot, no window system is needed.
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    batch = result["rows"][0]["batch"]
    times = {
        row["form"]: row["ms"] for row in result["rows"] if (row["stage"], row["batch"]) == ("network", batch)
    }
    facts = sorted(result["forms"], key=lambda fact: times[fact["form"]])
    accuracies = [100 * fact["mAP"] for fact in facts]
    figure = Figure((8, 5))
    axes = figure.add_axes((0.09, 0.11, 0.76, 0.5))
    axes.set_xscale("log")
    axes.set_xlim(min(times.values()) / 1.3, max(times.values()) * 1.3)
    middle = (min(accuracies) + max(accuracies)) / 2
    span = max(SMALLEST_RANGE, 1.5 * (max(accuracies) - min(accuracies)))
    axes.set_ylim(middle - span / 2, middle + span / 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    images = "image" if batch == 1 else "images"
    threads = "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"
    axes.set_xlabel(f"milliseconds for {batch} {images}, {threads} — left is faster (logarithmic)")
    axes.set_ylabel("mAP in % — up is better")
    height, width = result["image_size"]
    figure.suptitle(f"{result['backbone']}, {height} x {width}: accuracy and time of each form", fontsize=11)
    left, right = map(math.log, axes.get_xlim())
    places = _spread([(math.log(times[fact["form"]]) - left) / (right - left) for fact in facts])
    for fact, accuracy, place in zip(facts, accuracies, places, strict=True):
        color = COLORS[fact["form"].split()[-1]]
        point = (times[fact["form"]], accuracy)
        axes.plot(*point, "o", markersize=9, color=color, markeredgecolor="white", zorder=3)
        axes.annotate(
            f"{fact['form']}, {fact['size_mb']:.0f} MB",
            point,
            (place, 1.03),
            textcoords="axes fraction",
            rotation=45,
            rotation_mode="anchor",
            color=color,
            arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.4, "relpos": (0, 0)},
            annotation_clip=False,
        )
    figure.savefig(file, dpi=110)


def _spread(places: Sequence[float]) -> list[float]:
    """Moves ascending places apart by the least that leaves `LABEL_DISTANCE` between them."""
    moved = list(places)
    for _ in range(1000):
        for left, right in itertools.pairwise(range(len(moved))):
            overlap = max(0.0, LABEL_DISTANCE - (moved[right] - moved[left]))
            moved[left] -= overlap / 2
            moved[right] += overlap / 2
    return moved


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _number(value: float) -> str:
    """Returns a positive number with three digits, or more before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _memory(fact: Mapping[str, Any]) -> str:
    return "unknown" if fact["memory_mb"] is None else f"{fact['memory_mb']:,.0f} MB"
