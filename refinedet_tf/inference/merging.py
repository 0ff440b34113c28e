"""Merging of overlapping detections after the network's own non-maximum suppression (NMS).

The authors' program merges in three places: box voting joins the passes of a multi-scale test on VOC,
soft box voting those on COCO, and soft-NMS (Bodla et al., ICCV 2017) follows a single-scale test on
COCO. Each of them sees one class of one image; `merge_detections` applies one of them to a whole dataset.

Boxes are `[ymin, xmin, ymax, xmax]` in pixels, and IoU counts both ends as inside: a box is
`xmax - xmin + 1` wide. The thresholds differ: voting merges boxes whose IoU equals the threshold or
exceeds it, soft-NMS lowers a score only if the IoU exceeds the threshold. Both keep a score that equals the
score threshold.

The arithmetic has the type of the input: float32, or float64 if boxes or scores are float64. As in the
authors' program, voting returns float64 arrays if it has merged boxes; given float32, they hold float32
values.
"""

from collections.abc import Callable, Iterator

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections, best_of_each_image
from refinedet_tf.pixel_boxes import inclusive_iou, to_normalized, to_pixels

Merge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""A function from boxes [n, 4] in pixels and scores [n], which belong to one class of one image, to the
boxes [k, 4] and scores [k] that remain."""

METHODS = ("linear", "gaussian", "hard")
"""The values of `method` in `soft_nms`."""


def box_voting(boxes: np.ndarray, scores: np.ndarray, iou: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Replaces each group of overlapping boxes by its mean weighted by score (authors: `bbox_vote`).

    The best remaining box and all remaining boxes whose IoU with it is `iou` or more form a group; this
    is repeated until no box remains. The mean gets the best score of its group; a group of one box stays
    as it is. Among equal scores the last row is the best.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: the smallest IoU within a group, 0..1.

    Returns:
        Boxes [k, 4] and scores [k], k <= n, in descending order of score. They are float64 if any group
        has more than one box, otherwise of the input's type.

    Raises:
        InputError: a shape does not fit, a score is negative or NaN, or `iou` lies outside 0..1.
    """
    # A new score is never infinite, so that only the means are kept.
    return _voted(boxes, scores, iou, np.inf)


def soft_box_voting(
    boxes: np.ndarray, scores: np.ndarray, iou: float = 0.45, score_threshold: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """Does `box_voting`, and keeps the boxes of each group with lower scores (authors: `soft_bbox_vote`).

    Each box of a group of several boxes is kept in addition to the mean if its new score is
    `score_threshold` or more. The new score is the old one times one minus the IoU with the best box of
    the group, so that of the best box is 0. A group of one box stays, whatever its score. Among equal
    scores the last row is the best; in the result equal scores stand in reverse order, a mean before the
    boxes of its group.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: the smallest IoU within a group, 0..1.
        score_threshold: the smallest new score of a box that is kept in addition to the mean.

    Returns:
        Boxes [k, 4] and scores [k] in descending order of score, of the type that `box_voting` returns.

    Raises:
        InputError: a shape does not fit, a score is negative or NaN, or `iou` lies outside 0..1.
    """
    boxes, scores = _voted(boxes, scores, iou, score_threshold)
    order = _best_first(scores)
    return boxes[order], scores[order]


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou: float = 0.30,
    score_threshold: float = 0.01,
    method: str = "linear",
    sigma: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Lowers scores by the overlap with better boxes (Bodla et al., 2017; authors: `cpu_soft_nms`).

    The best remaining box is picked, again and again. The score of every box that remains is then
    multiplied by `1 - IoU` ("linear") or 0 ("hard") if its IoU with the picked box is above `iou`, or by
    `exp(-IoU^2 / sigma)` in any case ("gaussian"); boxes with a score below `score_threshold` are
    removed. The first box picked stays, whatever its score.

    Among equal scores the first row is picked. At first that is the order of the input, but a picked box
    changes places with the first remaining box, and a box from the end fills the place of a removed one.
    The authors' program does the same; it matters because the order of equal scores decides which of two
    boxes loses score. Scores differ from theirs by rounding, up to 2e-6 of the score in float32.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: the IoU above which a score is lowered, 0..1; "gaussian" does not use it.
        score_threshold: boxes with a lower score are removed. The authors' test uses 0.01, their
            function's default is 0.001.
        method: "linear", "gaussian" or "hard" (ordinary NMS, given a threshold above 0).
        sigma: the width of "gaussian", above 0.

    Returns:
        Boxes [k, 4] and scores [k], k <= n, in descending order of score, of the input's type.

    Raises:
        InputError: a shape does not fit, a score is negative or NaN, `iou` lies outside 0..1, the
            method is unknown or `sigma` is not above 0.
    """
    boxes, scores = _check(boxes, scores, iou)
    if method not in METHODS:
        raise InputError(f"the soft-NMS method must be one of {', '.join(METHODS)}, got {method!r}")
    if not sigma > 0:
        raise InputError(f"the sigma of soft-NMS must be above 0, got {sigma}")
    boxes, scores = boxes.copy(), scores.copy()
    picked, end = 0, len(boxes)
    while picked < end:
        best = picked + int(scores[picked:end].argmax())
        if best != picked:
            boxes[[picked, best]] = boxes[[best, picked]]
            scores[[picked, best]] = scores[[best, picked]]
        remaining = slice(picked + 1, end)
        overlaps = inclusive_iou(boxes[picked], boxes[remaining])
        if method == "gaussian":
            scores[remaining] *= np.exp(-(overlaps * overlaps) / sigma)
        else:
            factor = 1 - overlaps if method == "linear" else 0
            scores[remaining] *= np.where(overlaps > iou, factor, 1)
        kept = scores[remaining] >= score_threshold
        if not kept.all():
            rows = picked + 1 + _close_gaps(kept)
            end = picked + 1 + len(rows)
            boxes[picked + 1 : end], scores[picked + 1 : end] = boxes[rows], scores[rows]
        picked += 1
    return boxes[:end], scores[:end]


def merge_detections(
    detections: DatasetDetections,
    image_sizes: np.ndarray,
    merge: Merge,
    max_detections: int | None,
) -> DatasetDetections:
    """Merges the detections of a dataset, each class of each image separately.

    Args:
        detections: rows in any order; `merge` receives the rows of one class of one image in this order.
        image_sizes: int [N, 2], height and width in pixels of every image of the dataset.
        merge: one of the functions above, or a `functools.partial` of it.
        max_detections: the number of detections of an image that are kept, the best over all classes;
            None: all.

    Returns:
        Rows ordered by image and then by descending score; equal scores are ordered by label and then
        in the order of `merge`. Boxes and scores are float32.
    """
    order = np.lexsort((detections.labels, detections.images))
    images, labels = detections.images[order], detections.labels[order]
    scores = detections.scores[order]
    boxes = to_pixels(detections.boxes[order].astype(np.float32), image_sizes[images])

    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(images) != 0) | (np.diff(labels) != 0)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts, len(order))[1:]
    groups = [merge(boxes[start:end], scores[start:end]) for start, end in zip(starts, ends, strict=True)]
    counts = np.array([len(group_scores) for _, group_scores in groups], np.int64)
    images, labels = np.repeat(images[starts], counts), np.repeat(labels[starts], counts)
    # The empty first part is for a dataset without detections.
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(group_boxes for group_boxes, _ in groups)])
    scores = np.concatenate([np.zeros(0, np.float32), *(group_scores for _, group_scores in groups)])
    boxes = to_normalized(boxes.astype(np.float64), image_sizes[images]).astype(np.float32)
    scores = scores.astype(np.float32)

    order = best_of_each_image(images, scores, max_detections)
    return DatasetDetections(images[order], labels[order], scores[order], boxes[order])


def _check(boxes: np.ndarray, scores: np.ndarray, iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Checks the arguments of a merging function; returns boxes and scores of one common float type."""
    boxes, scores = np.asarray(boxes), np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise InputError(
            f"merging needs boxes [n, 4] and scores [n], got the shapes {list(boxes.shape)} and "
            f"{list(scores.shape)}"
        )
    if not 0 <= iou <= 1:
        raise InputError(f"the iou of merging must lie in 0..1, got {iou}")
    if len(scores) and not scores.min() >= 0:
        raise InputError(f"the scores to merge must be 0 or more, got {scores.min()}")
    dtype = np.float64 if np.float64 in (boxes.dtype, scores.dtype) else np.float32
    return boxes.astype(dtype, copy=False), scores.astype(dtype, copy=False)


def _best_first(scores: np.ndarray) -> np.ndarray:
    """Returns rows by descending score; of equal scores the last row is first.

    The authors' program reverses NumPy's default sort, which may order ties in any way. The stable sort
    gives the same order on short lists.
    """
    return np.argsort(scores, kind="stable")[::-1]


def _groups(boxes: np.ndarray, scores: np.ndarray, iou: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the groups of voting: rows int [m], the best first, and their IoU [m] with the best."""
    remaining = _best_first(scores)
    while len(remaining):
        overlaps = inclusive_iou(boxes[remaining[0]], boxes[remaining])
        grouped = overlaps >= iou
        # An inverted box has no overlap, not even with itself.
        grouped[0] = True
        yield remaining[grouped], overlaps[grouped]
        remaining = remaining[~grouped]


def _voted(
    boxes: np.ndarray, scores: np.ndarray, iou: float, score_threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean of each group, and before it what `soft_box_voting` keeps of the group."""
    boxes, scores = _check(boxes, scores, iou)
    voted_boxes, voted_scores, dtype = [boxes[:0]], [scores[:0]], boxes.dtype
    for group, overlaps in _groups(boxes, scores, iou):
        if len(group) > 1:
            lowered = scores[group] * (1 - overlaps)
            kept = lowered >= score_threshold
            voted_boxes.append(boxes[group[kept]])
            voted_scores.append(lowered[kept])
            dtype = np.dtype(np.float64)
        voted_boxes.append(_vote(boxes[group], scores[group])[None])
        voted_scores.append(scores[group[:1]])
    return np.concatenate(voted_boxes).astype(dtype), np.concatenate(voted_scores).astype(dtype)


def _vote(boxes: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Returns the mean box [4] of boxes [m, 4], the best first, weighted by their scores [m]."""
    total = scores.sum()
    if len(boxes) == 1 or total == 0:
        return boxes[0]
    return (boxes * scores[:, None]).sum(axis=0) / total


def _close_gaps(kept: np.ndarray) -> np.ndarray:
    """Returns the rows of a list, bool [n], that are kept: the last one fills the first gap, and so on."""
    count = np.count_nonzero(kept)
    rows = np.arange(count)
    rows[~kept[:count]] = count + np.flatnonzero(kept[count:])[::-1]
    return rows
