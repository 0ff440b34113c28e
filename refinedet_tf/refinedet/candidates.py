"""The candidates: which pairs of anchor and class may be detections, and their boxes (paper, section 3.4).

All functions use TensorFlow, float32 and batches, so that they run inside an exported graph. A candidate
is an (anchor, class) pair, so that an anchor may yield detections of several classes. Throughout, a score
of 0 means that there is no candidate, because the scores of candidates exceed the score threshold.
"""

from collections.abc import Callable

import tensorflow as tf

from refinedet_tf.config import Config, PostprocessConfig
from refinedet_tf.refinedet import boxes as box_ops
from refinedet_tf.tensors import Heads, Tensor


def candidates(heads: Heads, anchors: Tensor, config: Config) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns all boxes and scores that enter the suppression, for a runtime that does the suppression.

    The arguments are those of `postprocess`. The limits on the number of candidates are not applied.

    Returns:
        Boxes float32 [B, A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped, and scores float32
        [B, A, C] of classes 1..C, 0 where the pair is no candidate.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    return decode_rows(heads, anchors, None, config.model.design), candidate_scores(heads, config)


def limited_candidates(
    heads: Heads, anchors: Tensor, config: Config
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the candidates after the limits on their number, for a runtime that does the suppression.

    The arguments are those of `postprocess`. Suppression within each class by `nms_iou` leaves the detections
    of `postprocess`, of which the best `max_detections` count.

    Returns:
        Boxes float32 [B, N, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped; scores float32 [B, N], 0
        where there is no candidate; labels int32 [B, N], 1..C. The scores of each class descend.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    scores, rows, labels = limited_pairs(candidate_scores(heads, config), config.postprocess)
    if config.postprocess.pre_nms_per_image is None:
        scores, rows, labels = map(_merge_axes, (scores, rows, labels))
    return decode_rows(heads, anchors, rows, config.model.design), scores, labels


def candidate_scores(heads: Heads, config: Config) -> tf.Tensor:
    """Returns the class scores float32 [B, A, C], 0 where the pair is no candidate."""
    scores = tf.nn.softmax(tf.cast(heads["odm_conf"], tf.float32))[..., 1:]
    accepted = scores > config.postprocess.score_threshold
    if config.model.design != "single_stage":
        objectness = tf.nn.softmax(tf.cast(heads["arm_conf"], tf.float32))[..., 1:]
        accepted &= objectness >= config.postprocess.objectness_threshold
    return tf.where(accepted, scores, 0.0)


def top_k(scores: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls `tf.math.top_k` for a k that may exceed the length; equal scores keep their order."""
    return tf.math.top_k(scores, min(k, scores.shape[-1]))


def limited_pairs(
    scores: tf.Tensor, postprocess_config: PostprocessConfig
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the pairs of anchor and class that the limits on their number leave, by descending score.

    Args:
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        postprocess_config: holds the limits.

    Returns:
        Scores float32, rows of the anchors int32 and labels int32 (1..C), all of them [B, N] with
        `pre_nms_per_image`, and [B, C, M] without it.
    """
    if postprocess_config.pre_nms_per_class is None and postprocess_config.pre_nms_per_image is not None:
        return _best_of_image(scores, postprocess_config.pre_nms_per_image)
    # If both limits are null, every candidate of a class enters the suppression.
    per_class = postprocess_config.pre_nms_per_class or scores.shape[1]
    scores, rows, labels = _best_of_each_class(scores, per_class)
    if postprocess_config.pre_nms_per_image is not None:
        scores, best = top_k(_merge_axes(scores), postprocess_config.pre_nms_per_image)
        rows, labels = (tf.gather(_merge_axes(value), best, batch_dims=1) for value in (rows, labels))
    return scores, rows, labels


def _best_of_image(scores: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the best `limit` pairs of each image, over all classes, by descending score.

    Args:
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        limit: the largest number N of pairs per image.

    Returns:
        Scores float32 [B, N], rows of the anchors int32 [B, N], labels int32 [B, N] (1..C).
    """
    num_classes = scores.shape[2]
    # A pair among the best N belongs to an anchor among the N with the best maximum, so that the
    # long list of A x C pairs need not be searched. Sorted rows keep ties in the order of anchors.
    _, rows = top_k(tf.reduce_max(scores, axis=2), limit)
    rows = tf.sort(rows, axis=1)
    pairs = _merge_axes(tf.gather(scores, rows, batch_dims=1))
    scores, best = top_k(pairs, limit)
    return scores, tf.gather(rows, best // num_classes, batch_dims=1), best % num_classes + 1


def _best_of_each_class(scores: tf.Tensor, limit: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the best `limit` pairs of each class of each image, by descending score.

    Args:
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        limit: the largest number M of pairs per class.

    Returns:
        Scores float32 [B, C, M], rows of the anchors int32 [B, C, M], labels int32 [B, C, M] (1..C).
    """
    num_classes = scores.shape[2]
    scores, rows = top_k(tf.transpose(scores, [0, 2, 1]), limit)
    labels = tf.broadcast_to(tf.range(1, num_classes + 1)[:, None], tf.shape(rows))
    return scores, rows, labels


def weakest_of_class(scores: tf.Tensor, postprocess_config: PostprocessConfig) -> tf.Tensor:
    """Returns float32 [B], the second column of what `postprocess_and_limits` returns.

    Args:
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        postprocess_config: `pre_nms_per_class` is used.
    """
    limit, batch = postprocess_config.pre_nms_per_class, tf.shape(scores, tf.int64)[:1]
    if limit is None or limit >= scores.shape[1]:
        return tf.zeros(batch)
    # A class has so many candidates only where so many anchors have some.
    is_possible = nth_largest(tf.reduce_max(scores, axis=2), limit) > 0
    of_classes = tf.transpose(tf.boolean_mask(scores, is_possible), [0, 2, 1])
    weakest = tf.reduce_max(nth_largest(of_classes, limit), axis=1)
    return tf.scatter_nd(tf.where(is_possible), weakest, batch)


def nth_largest(values: tf.Tensor, n: int | tf.Tensor) -> tf.Tensor:
    """Returns the n-th largest of `values` [..., N] as [...], n in 1..N."""
    with tf.device("CPU:0"):  # TensorFlow has it for no other device.
        return tf.raw_ops.NthElement(input=values, n=n - 1, reverse=True)


def _merge_axes(values: tf.Tensor) -> tf.Tensor:
    """Reshapes [B, M, N] to [B, M * N]."""
    return tf.reshape(values, [-1, values.shape[1] * values.shape[2]])


def decode_rows(heads: Heads, anchors: tf.Tensor, rows: tf.Tensor | None, design: str) -> tf.Tensor:
    """Returns the boxes float32 [B, ..., 4] that the heads make of anchors, see `moved_twice`.

    Args:
        heads: the outputs of the network.
        anchors: float32 [A, 4].
        rows: int32 [B, ...], the rows of the anchors; None: all anchors, in order.
        design: `model.design`.
    """
    if rows is None:
        return moved_twice(anchors, heads.__getitem__, design)
    return moved_twice(
        tf.gather(anchors, rows), lambda name: tf.gather(heads[name], rows, batch_dims=1), design
    )


def moved_twice(boxes: tf.Tensor, offsets: Callable[[str], Tensor], design: str) -> tf.Tensor:
    """Moves tiled anchors [..., 4] by the offsets of a head, given by its name (paper, section 3.1).

    The ARM moves the tiled anchor, the ODM moves the refined anchor; without the cascade, the ODM
    moves the tiled anchor. Boxes are not clipped.
    """
    if design == "refinedet":
        boxes = box_ops.decode(tf.cast(offsets("arm_loc"), tf.float32), boxes)
    return box_ops.decode(tf.cast(offsets("odm_loc"), tf.float32), boxes)
