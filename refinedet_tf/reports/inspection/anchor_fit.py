"""Anchors that fit the objects of a data set: a suggestion for `model.anchors`."""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from refinedet_tf.config.values import (
    ASPECT_RATIOS,
    SCALE,
    STRIDES,
    STRIDES_WITH_4,
    AnchorLevel,
    Stride,
    check_levels,
    level_grids,
)
from refinedet_tf.reports.inspection.anchor_coverage import PAPERS_IOU, best_ious, level_ious, relative_sizes

Levels: TypeAlias = tuple[AnchorLevel, ...]

MAX_BOXES = 2_000
"""The number of boxes on which the search runs; of more, a random sample of this size."""

FACTORS = (1.5, 1.2, 1.05)
"""The factors by which the search changes a scale or an aspect ratio, one after the other."""

MAX_SCALES = 2
"""The largest number of scales of a level."""

MAX_SWEEPS = 8
"""The number of times that the search tries all scales and aspect ratios with the same factor."""

RATIO_QUANTILES = (1 / 2, 5 / 6, 1 / 6)
"""The quantiles of the objects' aspect ratios at which the search starts, in the paper's order of ratios."""

SMALLEST_GAIN = 0.01
"""The gain of the score (see `_score`) below which the paper's anchors are suggested."""

GAIN_PER_SCALE = 0.02
"""The gain of the score below which a level gets no further scale, which would cost time and memory."""

GAIN_PER_STEP = 1e-4
"""The gain of the score below which a number is not changed."""


def fit_anchors(
    boxes: np.ndarray,
    image_size: tuple[int, int],
    stride_4: bool = False,
    positive_iou: float = PAPERS_IOU,
) -> Levels | None:
    """Suggests scales and aspect ratios per level that reach more objects than the paper's.

    The search starts from the paper's anchors, and from the median size and some quantiles of the aspect
    ratio of the objects near each level's size. It changes one scale or aspect ratio at a time, and adds a
    scale to a level, as long as the objects' best IoUs gain. It is deterministic.

    Args:
        boxes: float [N, 4], normalised `[ymin, xmin, ymax, xmax]`, of any number of images.
        image_size: (height, width) of the network's input in pixels.
        stride_4: whether the network has a finer level of stride 4.
        positive_iou: the IoU from which an anchor reaches an object, the value of `loss.positive_iou`.

    Returns:
        A value of `model.anchors`, which `anchors_as_json` writes. None stands for the paper's anchors:
        there are no boxes, or nothing was found that reaches as many objects, has as large a mean of the
        best IoUs, and gains in one of them.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    boxes = boxes[relative_sizes(boxes) > 0]
    if not len(boxes):
        return None
    sample = boxes
    if len(boxes) > MAX_BOXES:
        sample = boxes[np.random.default_rng(0).choice(len(boxes), MAX_BOXES, replace=False)]
    strides = STRIDES_WITH_4 if stride_4 else STRIDES
    starts = [
        tuple(
            _start_level(stride, objects, image_size) for stride, objects in zip(strides, parts, strict=True)
        )
        for parts in ([sample[:0]] * len(strides), _objects_by_level(sample, image_size, strides))
    ]
    default = best_ious(boxes, image_size)
    best, best_score = None, _score(default, positive_iou) + SMALLEST_GAIN
    for start in starts:
        if not _are_valid(start, image_size):
            continue
        levels = _Search(sample, image_size, positive_iou).improve(start)
        ious = best_ious(boxes, image_size, levels)
        reached, reached_before = (_reached(values, positive_iou) for values in (ious, default))
        is_no_worse = np.mean(ious) >= np.mean(default) and reached >= reached_before
        if is_no_worse and _score(ious, positive_iou) >= best_score:
            best, best_score = levels, _score(ious, positive_iou)
    return best


def anchors_as_json(anchor_levels: Sequence[AnchorLevel] | None) -> str:
    """Returns the line `"anchors": ...` for the section "model" of a config file, with a level per line."""
    if anchor_levels is None:
        return '"anchors": null'
    lines = [json.dumps(dataclasses.asdict(level)) for level in anchor_levels]
    return '"anchors": [\n  ' + ",\n  ".join(lines) + "\n]"


def _reached(ious: np.ndarray, positive_iou: float) -> float:
    return float(np.mean(ious >= positive_iou))


def _score(ious: np.ndarray, positive_iou: float) -> float:
    """Returns what the search maximises: the share of objects that are reached plus the mean IoU."""
    return _reached(ious, positive_iou) + float(np.mean(ious))


def _objects_by_level(
    boxes: np.ndarray, image_size: tuple[int, int], strides: Sequence[int]
) -> list[np.ndarray]:
    """Divides boxes between the levels at the geometric means of the paper's scales."""
    sizes = relative_sizes(boxes) * np.sqrt(np.prod(image_size))
    level = np.digitize(sizes, [SCALE * stride * np.sqrt(2) for stride in strides[:-1]])
    return [boxes[level == number] for number in range(len(strides))]


def _start_level(stride: Stride, boxes: np.ndarray, image_size: tuple[int, int]) -> AnchorLevel:
    """Returns the anchors of a level from which the search starts; without boxes, the paper's."""
    largest = float(max(image_size))
    if not len(boxes):
        scale = min(float(SCALE * stride), largest)
        return AnchorLevel(stride=stride, scales=(scale,), aspect_ratios=ASPECT_RATIOS)
    height, width = ((boxes[:, 2:] - boxes[:, :2]) * image_size).T
    ratios = np.quantile(np.log(width / height), RATIO_QUANTILES)
    scale = min(float(np.median(np.sqrt(height * width))), largest)
    return AnchorLevel(
        stride=stride,
        scales=(max(1.0, round(scale, 1)),),
        aspect_ratios=tuple(dict.fromkeys(_rounded_ratio(ratio) for ratio in np.exp(ratios))),
    )


def _are_valid(levels: Sequence[AnchorLevel], image_size: tuple[int, int]) -> bool:
    try:
        check_levels(levels, image_size)
    except ValueError:
        return False
    return True


def _rounded_ratio(ratio: float) -> float:
    return round(min(max(float(ratio), 0.02), 50.0), 2)


class _Search:
    """A search that improves the score of anchors on some boxes, float64 [N, 4], normalised."""

    def __init__(self, boxes: np.ndarray, image_size: tuple[int, int], positive_iou: float) -> None:
        self.boxes, self.image_size, self.positive_iou = boxes, image_size, positive_iou

    def improve(self, levels: Levels) -> Levels:
        """Changes the scales and aspect ratios, and adds a scale at a time where it gains most."""
        levels, score = self._climb(levels, range(len(levels)))
        while True:
            larger = [
                self._climb(changed, [number])
                for number, level in enumerate(levels)
                for more in self._with_one_more_scale(level)
                if _are_valid(changed := (*levels[:number], more, *levels[number + 1 :]), self.image_size)
            ]
            if not larger or max(found for _, found in larger) < score + GAIN_PER_SCALE:
                return levels
            levels, _ = max(larger, key=lambda pair: pair[1])
            levels, score = self._climb(levels, range(len(levels)))

    def _climb(self, levels: Levels, numbers: Sequence[int]) -> tuple[Levels, float]:
        """Changes one scale or aspect ratio at a time of the levels with these indices, while that gains.

        Returns the levels and their score.
        """
        ious = [self._level_ious(level) for level in levels]
        score = _score(np.max(ious, axis=0), self.positive_iou)
        for factor in FACTORS:
            for _ in range(MAX_SWEEPS):
                before = score
                for number in numbers:
                    levels, score = self._sweep(levels, number, factor, ious, score)
                if score == before:
                    break
        return levels, score

    def _sweep(
        self, levels: Levels, number: int, factor: float, ious: list[np.ndarray], score: float
    ) -> tuple[Levels, float]:
        """Multiplies and divides each scale and aspect ratio of a level by a factor, where that gains.

        `ious` are the boxes' best IoUs with the anchors of each level, which follow the changes. Returns the
        levels and their score.
        """
        rest = np.max([row for index, row in enumerate(ious) if index != number], axis=0)
        places = range(len(levels[number].scales) + len(levels[number].aspect_ratios))
        for place, change in itertools.product(places, (factor, 1 / factor)):
            level = _changed(levels[number], place, change)
            changed = levels if level is None else (*levels[:number], level, *levels[number + 1 :])
            if level is None or not _are_valid(changed, self.image_size):
                continue
            row = self._level_ious(level)
            found = _score(np.maximum(rest, row), self.positive_iou)
            if found > score + GAIN_PER_STEP:
                levels, score, ious[number] = changed, found, row
        return levels, score

    def _with_one_more_scale(self, level: AnchorLevel) -> Iterator[AnchorLevel]:
        if len(level.scales) < MAX_SCALES:
            for scale in (min(level.scales) / 1.5, max(level.scales) * 1.5):
                if 1 <= scale <= max(self.image_size):
                    scales = tuple(sorted({*level.scales, round(scale, 1)}))
                    yield dataclasses.replace(level, scales=scales)

    def _level_ious(self, level: AnchorLevel) -> np.ndarray:
        (grid,) = level_grids(self.image_size, [level])
        return level_ious(self.boxes, self.image_size, level.stride, grid, level.shapes())


def _changed(level: AnchorLevel, place: int, factor: float) -> AnchorLevel | None:
    """Multiplies the number at a place of (scales, aspect ratios); None if that is not possible."""
    scales, ratios = list(level.scales), list(level.aspect_ratios)
    if place < len(scales):
        scales[place] = round(scales[place] * factor, 1)
    else:
        ratios[place - len(scales)] = _rounded_ratio(ratios[place - len(scales)] * factor)
    try:
        return AnchorLevel(stride=level.stride, scales=tuple(scales), aspect_ratios=tuple(ratios))
    except ValueError:
        return None
