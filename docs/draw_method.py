"""Draws the figures of docs/how-it-works.md, and prints its numbers: python docs/draw_method.py

The detector that comes with the package runs on a photograph in the public domain, part by part.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import refinedet_tf as rd
from refinedet_tf.config import Config
from refinedet_tf.config.files import PRETRAINED, load_config
from refinedet_tf.config.values import DEFAULT_LEVELS, AnchorLevel, level_grids
from refinedet_tf.inference.detections import ImageDetections

DOCS = Path(__file__).parent
PHOTO = DOCS.parent / "examples/photos/chelsea.jpg"

CAT = (0.0, 0.0, 1.0, 398 / 451)
"""The box of the cat in the photograph, annotated by hand: normalised `[ymin, xmin, ymax, xmax]`."""

IOUS = (0.5, 0.7, 0.9)
"""The overlaps with the cat at which anchors are counted."""

THRESHOLDS = (0.01, 0.05, 0.1, 0.5)
"""The thresholds of the object score at which discarded anchors are counted; the first is the paper's."""

SHOWN_THRESHOLD = 0.1
"""The one of them that the figure shows."""

SHOWN_SCORE = 0.5
"""The smallest score of a detection that is drawn."""

BOX_COLORS = ("#ff3b30", "#ffd60a", "#34d8ff")
STAGES = ("tiled", "refined", "detected")


@dataclasses.dataclass(frozen=True)
class Parts:
    """What the parts of the detector say of the photograph.

    Attributes:
        config: the config of the detector.
        image: the photograph, uint8 [H, W, 3], RGB.
        boxes: the A boxes of each of `STAGES`, float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`: the
            anchors, the anchors after the ARM, and these after the ODM.
        object_scores: float32 [A], of the ARM.
        class_scores: float32 [A, C], of the ODM, 0 where the pair is no candidate.
        detections: what the detector returns.
    """

    config: Config
    image: np.ndarray
    boxes: dict[str, np.ndarray]
    object_scores: np.ndarray
    class_scores: np.ndarray
    detections: ImageDetections


def run_in_parts() -> Parts:
    """Runs the detector on the photograph."""
    from keras import ops

    from refinedet_tf.data.images import read_image
    from refinedet_tf.refinedet.boxes import decode
    from refinedet_tf.refinedet.candidates import candidates

    config, detector = load_config(PRETRAINED), rd.Detector.pretrained()
    anchors = rd.tile_anchors(detector.image_size)
    heads = detector.heads([PHOTO])
    refined = decode(heads["arm_loc"], anchors)
    detected, class_scores = candidates(heads, anchors, config)
    return Parts(
        config,
        read_image(PHOTO),
        dict(zip(STAGES, (anchors, np.array(refined[0]), np.array(detected[0])), strict=True)),
        np.array(ops.softmax(heads["arm_conf"][0])[:, 1]),
        np.array(class_scores[0]),
        detector([PHOTO])[0],
    )


def overlaps(boxes: np.ndarray) -> np.ndarray:
    """Returns the IoU of boxes [N, 4] with the cat, float32 [N]."""
    from refinedet_tf.refinedet.boxes import pairwise_iou

    return np.array(pairwise_iou(np.array([CAT], np.float32), boxes))[0]


def numbers(parts: Parts) -> list[str]:
    """Returns the rows of the two tables of the page."""
    rows = []
    for stage in STAGES:
        iou = overlaps(parts.boxes[stage])
        counts = [f"{np.count_nonzero(iou >= threshold):,}" for threshold in IOUS]
        rows.append(f"| {stage} | {iou.max():.2f} | {' | '.join(counts)} |")
    for threshold in THRESHOLDS:
        discarded = parts.object_scores < threshold
        counts = [f"{np.count_nonzero(part):,}" for part in (discarded, *split_levels(discarded))]
        rows.append(f"| {threshold} | {' | '.join(counts)} |")
    return rows


def split_levels(values: np.ndarray) -> list[np.ndarray]:
    """Splits values [A, ...] of anchors into those of the levels."""
    grids = level_grids((320, 320), DEFAULT_LEVELS)
    counts = [
        rows * columns * level.per_cell for level, (rows, columns) in zip(DEFAULT_LEVELS, grids, strict=True)
    ]
    return np.split(values, np.cumsum(counts)[:-1])


def draw_anchors(parts: Parts) -> Figure:
    """Draws the cells of each level, and the three anchors of one cell."""

    def draw(axes: Axes, level: AnchorLevel, grid: tuple[int, int], number: int) -> None:
        boxes = split_levels(parts.boxes["tiled"])[number].reshape(*grid, level.per_cell, 4)
        centers = (boxes[..., :2] + boxes[..., 2:])[:, :, 0].reshape(-1, 2) / 2
        height, width, _ = parts.image.shape
        axes.plot(
            centers[:, 1] * width,
            centers[:, 0] * height,
            ".",
            color="white",
            markersize=3 if level.stride > 8 else 1,
        )
        for box, color in zip(boxes[grid[0] // 2, grid[1] // 2], BOX_COLORS, strict=True):
            add_box(axes, box, parts.image, color)
        axes.set_title(f"stride {level.stride}: {grid[0]} x {grid[1]} cells")

    return of_levels(parts.image, 0.1, draw)


def draw_discarded(parts: Parts) -> Figure:
    """Draws the object scores of each level, and covers the cells whose anchors are discarded."""

    def draw(axes: Axes, level: AnchorLevel, grid: tuple[int, int], number: int) -> None:
        scores = split_levels(parts.object_scores)[number].reshape(*grid, level.per_cell)
        best = scores.max(axis=-1)
        height, width, _ = parts.image.shape
        shown = np.zeros((*grid, 4))
        shown[...] = matplotlib.colormaps["plasma"](best)
        shown[..., 3] = 0.6
        shown[best < SHOWN_THRESHOLD] = (0, 0, 0, 0.85)
        axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest")
        discarded = np.count_nonzero(scores < SHOWN_THRESHOLD)
        axes.set_title(f"stride {level.stride}: {discarded:,} of {scores.size:,}")

    figure = of_levels(parts.image, 0.0, draw)
    colors = matplotlib.cm.ScalarMappable(matplotlib.colors.Normalize(0, 1), "plasma")
    figure.colorbar(
        colors,
        ax=figure.axes,
        orientation="horizontal",
        label="object score of the ARM",
        aspect=40,
        shrink=0.8,
    )
    return figure


def draw_refined(parts: Parts) -> Figure:
    """Draws the anchors of the largest object scores before and after the ARM."""
    best = np.argsort(-parts.object_scores, kind="stable")[:8]
    figure, axes = photographs(parts.image, 2, 0.2)
    for panel, stage, title in zip(axes, STAGES, ("tiled: 8 anchors", "refined by the ARM"), strict=False):
        for row, box in enumerate(parts.boxes[stage][best]):
            add_box(panel, box, parts.image, matplotlib.colormaps["Set2"](row))
        mark_cat(panel, parts.image)
        panel.set_title(title)
    return figure


def draw_found(parts: Parts) -> Figure:
    """Draws the candidates of the ODM, and what the suppression leaves of them."""
    figure, axes = photographs(parts.image, 2, 0.08)
    anchor_rows, labels = np.nonzero(parts.class_scores)
    for anchor in anchor_rows[np.argsort(parts.class_scores[anchor_rows, labels])]:
        add_box(axes[0], parts.boxes["detected"][anchor], parts.image, BOX_COLORS[1], width=0.7, alpha=0.25)
    axes[0].set_title(f"{len(anchor_rows):,} candidates")
    kept = parts.detections.above(SHOWN_SCORE)
    height, width, _ = parts.image.shape
    for box, name, score in zip(kept.normalized_boxes, kept.names, kept.scores, strict=True):
        add_box(axes[1], box, parts.image, BOX_COLORS[1])
        place = (box[1] * width + 8, box[0] * height + 12)
        axes[1].text(*place, f"{name} {score:.2f}", va="top", color="black", backgroundcolor=BOX_COLORS[1])
    axes[1].set_title(f"score {SHOWN_SCORE} or more: {len(kept.scores)}")
    return figure


def of_levels(
    image: np.ndarray, margin: float, draw: Callable[[Axes, AnchorLevel, tuple[int, int], int], None]
) -> Figure:
    """Draws a panel for each level: `draw(axes, level, grid, number of the level)`."""
    figure, axes = photographs(image, 4, margin)
    grids = level_grids((320, 320), DEFAULT_LEVELS)
    for number, (level, grid) in enumerate(zip(DEFAULT_LEVELS, grids, strict=True)):
        draw(axes[number], level, grid, number)
    return figure


def photographs(image: np.ndarray, panels: int, margin: float) -> tuple[Figure, Sequence[Axes]]:
    """Makes a figure with the photograph in two columns of panels; boxes may leave it.

    Args:
        image: the photograph.
        panels: their number, even.
        margin: what is shown around the photograph, as a share of its sides.
    """
    height, width, _ = image.shape
    rows = panels // 2
    figure, axes = plt.subplots(rows, 2, figsize=(4.6, rows * 1.75 + 0.1), layout="constrained")
    for panel in axes.flat:
        panel.imshow(image)
        panel.set_xlim(-margin * width, (1 + margin) * width)
        panel.set_ylim((1 + margin) * height, -margin * height)
        panel.set_axis_off()
    return figure, list(axes.flat)


def add_box(
    axes: Axes, box: np.ndarray, image: np.ndarray, color: Any, width: float = 1.3, alpha: float = 1.0
) -> None:
    """Draws a normalised box `[ymin, xmin, ymax, xmax]`."""
    height, length, _ = image.shape
    ymin, xmin, ymax, xmax = np.asarray(box) * (height, length, height, length)
    axes.add_patch(
        Rectangle(
            (xmin, ymin), xmax - xmin, ymax - ymin, fill=False, edgecolor=color, linewidth=width, alpha=alpha
        )
    )


def mark_cat(axes: Axes, image: np.ndarray) -> None:
    """Draws the annotated box of the cat."""
    height, length, _ = image.shape
    ymin, xmin, ymax, xmax = np.asarray(CAT) * (height, length, height, length)
    style: dict[str, Any] = {"fill": False, "edgecolor": "black", "linewidth": 1.5, "linestyle": "--"}
    axes.add_patch(Rectangle((xmin, ymin), xmax - xmin, ymax - ymin, **style))


FIGURES = {
    "method_anchors.jpg": draw_anchors,
    "method_discarded.jpg": draw_discarded,
    "method_refined.jpg": draw_refined,
    "method_found.jpg": draw_found,
}


def main() -> None:
    """Writes the figures and prints the rows of the tables."""
    matplotlib.use("agg")
    plt.rcParams.update({"font.size": 10, "axes.titlesize": 10, "savefig.dpi": 200})
    parts = run_in_parts()
    for name, draw in FIGURES.items():
        figure = draw(parts)
        figure.savefig(DOCS / name, pil_kwargs={"quality": 82})
        plt.close(figure)
    print("\n".join(numbers(parts)))


if __name__ == "__main__":
    main()
