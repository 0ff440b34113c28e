"""Merging of overlapping detections after the network's own non-maximum suppression (NMS).

The authors' program merges in three places: box voting joins the passes of a multi-scale test on VOC,
soft box voting those on COCO, and soft-NMS (Bodla et al., ICCV 2017) follows a single-scale test on
COCO. Each of them sees one class of one image; `merge_detections` applies one to a whole data set.

Boxes are `[ymin, xmin, ymax, xmax]` in pixels, and IoU counts both ends as inside: a box is
`xmax - xmin + 1` wide. The thresholds are not alike: voting merges at an IoU equal to its threshold or
above, soft-NMS lowers a score only above; a score equal to its threshold stays in both.

Arithmetic is that of the input: float32, or float64 where boxes or scores are float64. The box that
voting makes of several is float64 (of a float32 value, given float32), as in the authors' program.
"""

from collections.abc import Callable

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.inference.detections import DatasetDetections
from refinedet_tf.pixel_boxes import inclusive_iou, to_normalized, to_pixels

Merge = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Boxes [n, 4] in pixels and scores [n] of one class of one image -> those that are left, [k, 4], [k]."""

METHODS = ("linear", "gaussian", "hard")


def box_voting(boxes: np.ndarray, scores: np.ndarray, iou: float = 0.45) -> tuple[np.ndarray, np.ndarray]:
    """Groups of overlapping boxes, each replaced by its mean weighted by score (authors: `bbox_vote`).

    The best box that is left and every other one that it overlaps by `iou` or more form a group, and
    so on until none is left. The mean gets the best score of its group; a group of one stays as it is.
    Among equal scores the last row is the best.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: 0..1.

    Returns:
        boxes [k, 4] and scores [k], k <= n, in descending order of score: float64 if any group has
        more than one box, otherwise of the input's type.

    Raises:
        InputError: a shape does not fit, a score is negative or NaN, or `iou` lies outside 0..1.
    """
    boxes, scores = _check(boxes, scores, iou)
    merged_boxes, merged_scores, grouped = [boxes[:0]], [scores[:0]], False
    for group, _ in _groups(boxes, scores, iou):
        merged_boxes.append(_vote(boxes[group], scores[group])[None])
        merged_scores.append(scores[group[:1]])
        grouped |= len(group) > 1
    dtype = np.float64 if grouped else boxes.dtype
    return np.concatenate(merged_boxes).astype(dtype), np.concatenate(merged_scores).astype(dtype)


def soft_box_voting(
    boxes: np.ndarray, scores: np.ndarray, iou: float = 0.45, score_threshold: float = 0.01
) -> tuple[np.ndarray, np.ndarray]:
    """`box_voting` that also keeps the members of a group, with less score (authors: `soft_bbox_vote`).

    Beside the mean, a group of several boxes leaves each of them with its score times one minus its IoU
    with the best of the group, where that is `score_threshold` or more. The best box itself comes to 0
    and goes. A group of one stays, whatever its score. Among equal scores the last row is the best;
    in the result equal scores stand in reverse order, a mean before the boxes of its own group.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: 0..1.
        score_threshold: the least score of a member of a group that stays beside the mean.

    Returns:
        boxes [k, 4] and scores [k] in descending order of score, typed as by `box_voting`.

    Raises:
        InputError: a shape does not fit, a score is negative or NaN, or `iou` lies outside 0..1.
    """
    boxes, scores = _check(boxes, scores, iou)
    merged_boxes, merged_scores, grouped = [boxes[:0]], [scores[:0]], False
    for group, overlaps in _groups(boxes, scores, iou):
        if len(group) > 1:
            lowered = scores[group] * (1 - overlaps)
            stays = lowered >= score_threshold
            merged_boxes.append(boxes[group[stays]])
            merged_scores.append(lowered[stays])
            grouped = True
        merged_boxes.append(_vote(boxes[group], scores[group])[None])
        merged_scores.append(scores[group[:1]])
    dtype = np.float64 if grouped else boxes.dtype
    all_boxes, all_scores = np.concatenate(merged_boxes), np.concatenate(merged_scores)
    order = _best_first(all_scores)
    return all_boxes[order].astype(dtype), all_scores[order].astype(dtype)


def soft_nms(
    boxes: np.ndarray,
    scores: np.ndarray,
    iou: float = 0.30,
    score_threshold: float = 0.01,
    method: str = "linear",
    sigma: float = 0.5,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores lowered by the overlap with better boxes (Bodla et al., 2017; authors: `cpu_soft_nms`).

    The best box that is left is picked. The score of every other one that is left is multiplied by
    `1 - IoU` ("linear") or 0 ("hard") if its IoU with the picked box is above `iou`, or by
    `exp(-IoU^2 / sigma)` in any case ("gaussian"); those below `score_threshold` go. The first box
    picked stays, whatever its score.

    Among equal scores the one that stands first is picked. That is the row order to begin with, but a
    picked box changes places with the first one left, and a box from the end fills the place of one
    that goes: the bookkeeping of the authors' program, kept up here because a tie decides which of two
    boxes loses score. Scores differ from theirs by rounding, up to 2e-6 of the score in float32.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels, finite. n may be 0.
        scores: float [n], 0 or more.
        iou: 0..1; unused by "gaussian".
        score_threshold: a lower score goes. The authors' test uses 0.01, their function's default is
            0.001.
        method: "linear", "gaussian" or "hard" (ordinary NMS, given a threshold above 0).
        sigma: width of "gaussian", above 0.

    Returns:
        boxes [k, 4] and scores [k], k <= n, in descending order of score, of the input's type.

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
        left = slice(picked + 1, end)
        overlaps = inclusive_iou(boxes[picked], boxes[left])
        if method == "gaussian":
            scores[left] *= np.exp(-(overlaps * overlaps) / sigma)
        else:
            factor = 1 - overlaps if method == "linear" else 0
            scores[left] *= np.where(overlaps > iou, factor, 1)
        stays = scores[left] >= score_threshold
        if not stays.all():
            rows = picked + 1 + _close_gaps(stays)
            end = picked + 1 + len(rows)
            boxes[picked + 1 : end], scores[picked + 1 : end] = boxes[rows], scores[rows]
        picked += 1
    return boxes[:end], scores[:end]


def merge_detections(
    detections: DatasetDetections,
    image_sizes: np.ndarray,
    merge: Merge,
    max_detections: int | None,
    *,
    clip: bool = True,
) -> DatasetDetections:
    """The detections of a data set, each class of each image merged on its own.

    Args:
        detections: rows in any order; the rows of one class of one image keep theirs.
        image_sizes: int [N, 2], height and width in pixels of every image of the data set.
        merge: one of the functions above, or a `functools.partial` of it.
        max_detections: how many stay of an image, the best over all classes; None: all.
        clip: see `pixel_boxes`. False for boxes that were clipped before they were mirrored back: the
            authors' program clips what a pass finds and nothing after that, so that a mirrored box
            may reach the full width.

    Returns:
        Rows ordered by image and then by descending score; equal scores are ordered by label and then
        as `merge` left them. Boxes and scores are float32.

    Raises:
        InputError: `image_sizes` is not [N, 2] of positive numbers, a detection lies in an image that
            it does not have, or `max_detections` is below 1.
    """
    image_sizes = _check_sizes(image_sizes, detections.images)
    if max_detections is not None and max_detections < 1:
        raise InputError(f"max_detections must be 1 or more, or None for all, got {max_detections}")
    order = np.lexsort((detections.labels, detections.images))
    images, labels = detections.images[order], detections.labels[order]
    scores = detections.scores[order]
    boxes = pixel_boxes(detections.boxes[order], image_sizes[images], clip)

    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(images) != 0) | (np.diff(labels) != 0)
    starts = np.flatnonzero(is_first)
    ends = np.append(starts, len(order))[1:]
    groups = [merge(boxes[start:end], scores[start:end]) for start, end in zip(starts, ends, strict=True)]
    counts = np.array([len(group_scores) for _, group_scores in groups], np.int64)
    images, labels = np.repeat(images[starts], counts), np.repeat(labels[starts], counts)
    # The empty first part is for a data set without detections.
    boxes = np.concatenate([np.zeros((0, 4), np.float32), *(group_boxes for group_boxes, _ in groups)])
    scores = np.concatenate([np.zeros(0, np.float32), *(group_scores for _, group_scores in groups)])
    boxes = to_normalized(boxes.astype(np.float64), image_sizes[images]).astype(np.float32)
    scores = scores.astype(np.float32)

    order = np.lexsort((-scores, images))
    if max_detections is not None:
        rank = np.arange(len(order)) - np.searchsorted(images, images)
        order = order[rank < max_detections]
    return DatasetDetections(images[order], labels[order], scores[order], boxes[order])


def pixel_boxes(boxes: np.ndarray, sizes: np.ndarray, clip: bool = True) -> np.ndarray:
    """Normalised boxes in pixels, as the authors' program has them after a pass (`im_detect`).

    Args:
        boxes: float [n, 4], normalised `[ymin, xmin, ymax, xmax]`.
        sizes: [n, 2] or [2], height and width of the image of each box.
        clip: whether to clip to `[0, H - 1]` and `[0, W - 1]`, the first and the last pixel.

    Returns:
        float32 [n, 4].
    """
    pixels = to_pixels(np.asarray(boxes, np.float32), sizes)
    if not clip:
        return pixels
    last_pixel = np.concatenate([sizes, sizes], axis=-1).astype(np.float32) - 1
    return np.clip(pixels, 0, last_pixel)


def _check(boxes, scores, iou) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and scores of one common float type."""
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


def _check_sizes(image_sizes, images) -> np.ndarray:
    image_sizes = np.asarray(image_sizes)
    if image_sizes.ndim != 2 or image_sizes.shape[1] != 2:
        raise InputError(f"image_sizes must be [N, 2], got {list(image_sizes.shape)}")
    if (image_sizes <= 0).any():
        raise InputError(f"image_sizes must be positive heights and widths, got {image_sizes.min()}")
    bad = np.flatnonzero((images < 0) | (images >= len(image_sizes)))
    if bad.size:
        raise InputError(
            f"detection {bad[0]} lies in image {images[bad[0]]}; image_sizes has 0..{len(image_sizes) - 1}"
        )
    return image_sizes


def _best_first(scores: np.ndarray) -> np.ndarray:
    """Rows by descending score; of equal scores the last row is first, as in the authors' program.

    (Theirs reverses an ascending sort; numpy's default one, which need not keep ties in any order,
    is replaced by the stable one, which it equals on short lists.)
    """
    return np.argsort(scores, kind="stable")[::-1]


def _groups(boxes, scores, iou):
    """Yields the groups of voting: rows int [m], the best first, and their IoU [m] with the best."""
    left = _best_first(scores)
    while len(left):
        overlaps = inclusive_iou(boxes[left[0]], boxes[left])
        grouped = overlaps >= iou
        # An inverted box has no overlap, not even with itself.
        grouped[0] = True
        yield left[grouped], overlaps[grouped]
        left = left[~grouped]


def _vote(boxes, scores):
    """The mean box [4] of boxes [m, 4], the best first, weighted by their scores [m]."""
    total = scores.sum()
    if len(boxes) == 1 or total == 0:
        return boxes[0]
    return (boxes * scores[:, None]).sum(axis=0) / total


def _close_gaps(stays: np.ndarray) -> np.ndarray:
    """Where each place of a shortened list gets its box from: the first gap takes the last box, and so on.

    Args:
        stays: bool [n], k of them True.

    Returns:
        int [k].
    """
    kept = np.count_nonzero(stays)
    source = np.arange(kept)
    source[~stays[:kept]] = kept + np.flatnonzero(stays[kept:])[::-1]
    return source
