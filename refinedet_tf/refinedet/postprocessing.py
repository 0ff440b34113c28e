"""From heads to detections: filter, decode, non-maximum suppression (paper, section 3.4: inference).

All functions use TensorFlow, float32 and batches, so that they run inside an exported graph. A candidate
is an (anchor, class) pair, so that an anchor may yield detections of several classes. Throughout, a score
of 0 means that there is no candidate, because the scores of candidates exceed the score threshold.
"""

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config, PostprocessConfig
from refinedet_tf.refinedet import boxes as box_ops
from refinedet_tf.refinedet.candidates import (
    candidate_scores,
    decode_rows,
    limited_pairs,
    moved_twice,
    nth_largest,
    weakest_of_class,
)
from refinedet_tf.tensors import Heads, Tensor

FIRST_ANCHORS = 512
"""The candidates of so many anchors of an image enter the suppression first, if only classes have a limit."""

GROWTH = 4
"""The factor by which they become more until `max_detections` boxes stay."""

FEW_ANCHORS = 2048
"""Where fewer anchors of an image have candidates, all candidates enter at once."""

WIDEST_VECTOR = 16
"""The float32 numbers that a processor computes at once. A rest that fills no such vector is computed by
other instructions, which may round otherwise."""


def postprocess(heads: Heads, anchors: Tensor, config: Config) -> dict[str, tf.Tensor]:
    """Returns the detections that the heads of the network describe.

    An anchor is dropped if its ARM object score is below `objectness_threshold`; it stays if the score
    equals the threshold. An (anchor, class) pair whose class score exceeds `score_threshold` is a
    candidate. Each class keeps its best `pre_nms_per_class` candidates, then the image keeps its best
    `pre_nms_per_image` (null: all). The candidates of each class are then visited in descending order
    of score; each is suppressed if its IoU with a kept candidate exceeds `nms_iou`. Boxes are clipped to
    the image only afterwards. Equal scores of a class keep the order of the anchors.

    Args:
        heads: float32 logits and offsets of the network, `{"arm_loc": [B, A, 4], "arm_conf":
            [B, A, 2], "odm_loc": [B, A, 4], "odm_conf": [B, A, C + 1]}`; class 0 is background. The
            design "single_stage" has only the "odm" heads, and so no object scores.
        anchors: float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`, from `tile_anchors`.
        config: `postprocess` holds the thresholds and limits; the defaults are the paper's.
            `model.design` determines whether the ODM moves the refined or the tiled anchors.

    Returns:
        A dict of tensors, K = `max_detections`, in descending order of score, padded with zeros:
        "detection_boxes" float32 [B, K, 4], normalised `[ymin, xmin, ymax, xmax]` in 0..1;
        "detection_scores" float32 [B, K]; "detection_classes" float32 [B, K], 1..C;
        "num_detections" int32 [B].
    """
    return postprocess_and_limits(heads, anchors, config)[0]


def postprocess_and_limits(
    heads: Heads, anchors: Tensor, config: Config
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Returns what `postprocess` returns, and where its limits on the number of candidates were reached.

    The arguments are those of `postprocess`. A graph that does not use the second value does not compute it.

    Returns:
        The dict of `postprocess`, and float32 [B, 2]: where the image has at least `pre_nms_per_image`
        candidates, the score of the weakest that is used, else 0; and the same for `pre_nms_per_class`, the
        largest such score of its classes. A limit that no image can exceed is never reached.
    """
    postprocess_config = config.postprocess
    scores = candidate_scores(heads, config)
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    class_limit = weakest_of_class(scores, postprocess_config)
    image_limit = tf.zeros_like(class_limit)
    if postprocess_config.pre_nms_per_image is None:
        found = _search(heads, scores, anchors, config)
    else:
        all_candidates = scores.shape[1] * scores.shape[2]
        scores, rows, labels = limited_pairs(scores, postprocess_config)
        if postprocess_config.pre_nms_per_image < all_candidates:
            # The scores are sorted, and 0 where there is no candidate.
            image_limit = scores[:, -1]
        found = _suppress(decode_rows(heads, anchors, rows, config.model.design), scores, labels, config)
    return as_detections(*found), tf.stack([image_limit, class_limit], axis=1)


Found = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
"""Boxes float32 [B, K, 4], not clipped, scores float32 [B, K], which descend and are 0 where there is no
detection, and labels int32 [B, K]."""


def _search(heads: Heads, scores: tf.Tensor, anchors: tf.Tensor, config: Config) -> Found:
    """Returns the detections where no image has a limit, and so perhaps very many candidates.

    The candidates above some score enter the suppression. Where fewer than `max_detections` of them stay, it
    is repeated with a lower score. The detections are those of all candidates, because the weaker ones
    suppress none of the stronger ones.

    Args:
        heads: the outputs of the network.
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        anchors: float32 [A, 4].
        config: the whole config.
    """
    batch, num_anchors, limit = tf.shape(scores)[0], scores.shape[1], config.postprocess.max_detections
    best_of_anchors = tf.reduce_max(scores, axis=2)
    has_few = nth_largest(best_of_anchors, min(FEW_ANCHORS, num_anchors)) == 0

    def suppress_more(num_used: tf.Tensor, is_done: tf.Tensor, *found: tf.Tensor) -> tuple[tf.Tensor, ...]:
        uses_all = has_few | (num_used >= num_anchors)
        lowest = nth_largest(best_of_anchors, tf.minimum(num_used, num_anchors))
        lowest = tf.where(uses_all, 0.0, lowest)
        lowest = tf.where(is_done, np.inf, tf.maximum(lowest, np.finfo(np.float32).tiny))
        new = _suppress_above(lowest, heads, scores, anchors, config)
        boxes, new_scores, labels = (
            tf.where(tf.reshape(is_done, [-1, *[1] * (len(value.shape) - 1)]), old, value)
            for old, value in zip(found, new, strict=True)
        )
        is_done |= uses_all | (new_scores[:, -1] > 0)
        return GROWTH * num_used, is_done, boxes, new_scores, labels

    _, _, *found = tf.while_loop(
        lambda _, is_done, *found: ~tf.reduce_all(is_done),
        suppress_more,
        (
            FIRST_ANCHORS,
            tf.zeros([batch], tf.bool),
            tf.zeros([batch, limit, 4]),
            tf.zeros([batch, limit]),
            tf.zeros([batch, limit], tf.int32),
        ),
        shape_invariants=tuple(
            tf.TensorShape(shape) for shape in ([], [None], [None, limit, 4], [None, limit], [None, limit])
        ),
    )
    return tuple(found)


def _suppress_above(
    lowest: tf.Tensor, heads: Heads, scores: tf.Tensor, anchors: tf.Tensor, config: Config
) -> Found:
    """Returns the detections among the candidates of an image whose score is at least `lowest` [B], above 0.

    The other arguments are those of `_search`. The work depends on the number of these candidates alone.
    """
    num_classes, limit = scores.shape[2], config.postprocess.max_detections
    found = tf.where(scores >= lowest[:, None, None])
    values = tf.gather_nd(scores, found)
    # Sorted by image, class, descending score and anchor. Positive float32 numbers sort as their bits do.
    row = found[:, 0] * num_classes + found[:, 2]
    _, order = tf.math.top_k(tf.cast(tf.bitcast(values, tf.int32), tf.int64) - row * 2**32, tf.size(row))
    found, values, row = (tf.gather(value, order) for value in (found, values, row))
    # After the N candidates comes at least one row that stands for none, with score 0.
    count = tf.size(row)
    missing = WIDEST_VECTOR - count % WIDEST_VECTOR
    values = tf.pad(values, [[0, missing]])
    image, anchor, label = tf.unstack(tf.pad(found, [[0, missing], [0, 0]]), axis=1)
    places = tf.stack([image, anchor], axis=1)
    boxes = moved_twice(
        tf.gather(anchors, anchor), lambda name: tf.gather_nd(heads[name], places), config.model.design
    )

    # One row for each class of an image that has candidates.
    classes, row, num_candidates = tf.unique_with_counts(row, tf.int64)
    most = tf.maximum(tf.reduce_max(num_candidates), 0)  # There may be no row.
    if config.postprocess.pre_nms_per_class is not None:
        most = tf.minimum(most, config.postprocess.pre_nms_per_class)
    table = tf.raw_ops.RaggedTensorToTensor(
        shape=tf.stack([-1, most]),
        values=tf.range(count),
        default_value=count,
        row_partition_tensors=[tf.size(classes, tf.int64), row],
        row_partition_types=["FIRST_DIM_SIZE", "VALUE_ROWIDS"],
    )
    table = tf.pad(table, [[0, 0], [0, 1]], constant_values=count)
    kept = _kept(tf.gather(boxes, table), (table < count)[..., None], config.postprocess)
    kept = tf.gather(table, kept, batch_dims=1)
    none = tf.fill([tf.size(scores[:, 0]), limit], count)
    kept = tf.reshape(tf.tensor_scatter_nd_update(none, classes[:, None], kept), [-1, num_classes * limit])
    best_scores, best = tf.math.top_k(tf.gather(values, kept), limit)
    kept = tf.gather(kept, best, batch_dims=1)
    return tf.gather(boxes, kept), best_scores, tf.cast(tf.gather(label, kept), tf.int32) + 1


def _suppress(boxes: tf.Tensor, scores: tf.Tensor, labels: tf.Tensor, config: Config) -> Found:
    """Returns the detections among all candidates of an image.

    Args:
        boxes: float32 [B, N, 4].
        scores: float32 [B, N], in descending order, 0 where there is no candidate.
        labels: int32 [B, N], 1..C.
        config: `postprocess` and the number of classes are used.
    """
    boxes = tf.pad(boxes, [[0, 0], [0, 1], [0, 0]])
    scores, labels = (tf.pad(value, [[0, 0], [0, 1]]) for value in (scores, labels))
    of_class = (labels[..., None] == tf.range(1, config.num_classes + 1)) & (scores > 0)[..., None]
    kept = _kept(boxes, of_class, config.postprocess)
    return tuple(tf.gather(value, kept, batch_dims=1) for value in (boxes, scores, labels))


def _kept(boxes: tf.Tensor, is_candidate: tf.Tensor, postprocess_config: PostprocessConfig) -> tf.Tensor:
    """Finds what a suppression keeps, in TensorFlow's kernel.

    Args:
        boxes: float32 [R, N, 4], in the order in which they are visited; the last stands for none.
        is_candidate: bool [R, N, C], whether the box is a candidate of a class; boxes of different classes
            never suppress each other.
        postprocess_config: `nms_iou` and `max_detections`, the number K, are used.

    Returns:
        int32 [R, K], the first K boxes of the N that are kept, in their order, then N - 1.
    """
    last = tf.shape(boxes)[1] - 1
    # The kernel does not order equal scores, so it gets the order itself, counted downwards.
    ranks = tf.cast(last - tf.range(last + 1), tf.float32)
    with tf.device("CPU:0"):  # The rounding of the kernel on a GPU was not compared.
        found = tf.raw_ops.CombinedNonMaxSuppression(
            boxes=boxes[:, :, None],
            scores=tf.where(is_candidate, ranks[:, None], 0.0),
            max_output_size_per_class=postprocess_config.max_detections,
            max_total_size=postprocess_config.max_detections,
            iou_threshold=postprocess_config.nms_iou,
            score_threshold=0.0,
            clip_boxes=False,
        )
    return last - tf.cast(found.nmsed_scores, tf.int32)


def as_detections(boxes: tf.Tensor, scores: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
    """Makes the result of `postprocess`.

    Args:
        boxes: float32 [B, K, 4], normalised, not clipped.
        scores: float32 [B, K], in descending order, 0 where there is no detection.
        labels: int32 [B, K], 1..C.
    """
    is_detection = scores > 0
    return {
        "detection_boxes": tf.where(is_detection[..., None], box_ops.clip(boxes), 0.0),
        "detection_scores": scores,
        "detection_classes": tf.where(is_detection, tf.cast(labels, tf.float32), 0.0),
        "num_detections": tf.math.count_nonzero(is_detection, axis=1, dtype=tf.int32),
    }
