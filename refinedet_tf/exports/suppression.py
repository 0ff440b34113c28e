"""The suppression in operators that ONNX and LiteRT have, for files that contain it.

`postprocessing.postprocess` calls a kernel of TensorFlow, which is faster, and finds the same.
"""

import tensorflow as tf

from refinedet_tf.config import PostprocessConfig
from refinedet_tf.refinedet import boxes as box_ops
from refinedet_tf.refinedet.candidates import top_k
from refinedet_tf.refinedet.postprocessing import as_detections

BLOCK = 128
"""The number of candidates of a class that are visited at once in the suppression of many."""


def suppressed(
    boxes: tf.Tensor,
    scores: tf.Tensor,
    labels: tf.Tensor,
    postprocess_config: PostprocessConfig,
    num_classes: int,
) -> dict[str, tf.Tensor]:
    """Returns the dict of `postprocess` for what `limited_candidates` returns.

    Args:
        boxes: float32 [B, N, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped.
        scores: float32 [B, N], 0 where there is no candidate.
        labels: int32 [B, N], 1..C.
        postprocess_config: the limits by which the candidates were chosen, `nms_iou` and `max_detections`.
        num_classes: C.
    """
    iou_threshold, limit = postprocess_config.nms_iou, postprocess_config.max_detections
    if postprocess_config.pre_nms_per_image is not None:
        scores = _non_maximum_suppression(boxes, scores, iou_threshold, labels)
    else:
        of_class = boxes.shape[1] // num_classes
        boxes = tf.reshape(boxes, [-1, num_classes, of_class, 4])
        scores, labels = (tf.reshape(value, [-1, num_classes, of_class]) for value in (scores, labels))
        boxes, scores = _suppress_within_classes(boxes, scores, iou_threshold, limit)
        of_class = min(limit, of_class)
        boxes = tf.reshape(boxes, [-1, num_classes * of_class, 4])
        scores, labels = (
            tf.reshape(value[..., :of_class], [-1, num_classes * of_class]) for value in (scores, labels)
        )
    scores, best = top_k(scores, limit)
    boxes, labels = (tf.gather(value, best, batch_dims=1) for value in (boxes, labels))
    missing = limit - scores.shape[1]
    boxes = tf.pad(boxes, [[0, 0], [0, missing], [0, 0]])
    scores, labels = (tf.pad(value, [[0, 0], [0, missing]]) for value in (scores, labels))
    return as_detections(boxes, scores, labels)


def _non_maximum_suppression(
    boxes: tf.Tensor, scores: tf.Tensor, iou_threshold: float, labels: tf.Tensor | None = None
) -> tf.Tensor:
    """Suppresses greedily among candidates that are sorted by descending score.

    A candidate is kept unless a kept candidate of higher rank overlaps it. Greedy suppression gives the
    only mask for which this holds. The rule is applied to the whole mask until nothing changes, which
    takes as many rounds as the longest chain of suppressions (a handful) instead of one step per
    candidate.

    Args:
        boxes: float32 [B, N, 4].
        scores: float32 [B, N], 0 where there is no candidate.
        iou_threshold: the IoU above which a candidate is suppressed.
        labels: int32 [B, N]; boxes of different classes never suppress each other. None: one class.

    Returns:
        float32 [B, N], the scores, with 0 for the suppressed candidates.
    """
    rank = tf.range(tf.shape(boxes)[1])
    suppresses = (box_ops.pairwise_iou(boxes, boxes) > iou_threshold) & (rank[:, None] < rank)
    if labels is not None:
        suppresses &= labels[:, :, None] == labels[:, None, :]
    suppresses = tf.cast(suppresses, tf.float32)
    is_candidate = tf.cast(scores > 0, tf.float32)

    def apply_definition(kept: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        num_suppressors = tf.squeeze(tf.matmul(kept[:, None, :], suppresses), axis=1)
        new_kept = tf.where(num_suppressors > 0, 0.0, is_candidate)
        return new_kept, tf.reduce_any(new_kept != kept)

    kept, _ = tf.while_loop(lambda _, changed: changed, apply_definition, (is_candidate, True))
    return scores * kept


def _suppress_within_classes(
    boxes: tf.Tensor, scores: tf.Tensor, iou_threshold: float, limit: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls `_best_of_suppression` for each class, with boxes [B, C, M, 4] and scores [B, C, M].

    Because the classes are processed one after another, the overlaps of one of them are in memory.
    """
    # LiteRT needs to know the shapes of what a loop collects.
    batch, candidates = scores.shape[0], scores.shape[2]
    limit = min(limit, candidates)
    boxes, scores = tf.map_fn(
        lambda values: _best_of_suppression(values[0], values[1], iou_threshold, limit),
        (tf.transpose(boxes, [1, 0, 2, 3]), tf.transpose(scores, [1, 0, 2])),
        fn_output_signature=(
            tf.TensorSpec([batch, limit, 4], tf.float32),
            tf.TensorSpec([batch, limit], tf.float32),
        ),
    )
    return tf.transpose(boxes, [1, 0, 2, 3]), tf.transpose(scores, [1, 0, 2])


def _best_of_suppression(
    boxes: tf.Tensor, scores: tf.Tensor, iou_threshold: float, limit: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the best `limit` candidates that a suppression keeps, by descending score.

    The candidates are visited in blocks: those that an earlier one overlaps are dropped, and the others of a
    block suppress each other. The loop ends when all images have `limit` boxes or no candidate is left, so
    that most of the M x M overlaps are not computed.

    Args:
        boxes: float32 [B, M, 4].
        scores: float32 [B, M], in descending order, 0 where there is no candidate.
        iou_threshold: the IoU above which a candidate is suppressed.
        limit: the number N of boxes, at most M.

    Returns:
        Boxes float32 [B, N, 4] and scores float32 [B, N], 0 where there is no box.
    """
    batch = tf.shape(scores)[0]
    num_candidates = tf.reduce_max(tf.math.count_nonzero(scores, axis=1, dtype=tf.int32))

    def is_unfinished(start: tf.Tensor, _: tf.Tensor, kept_scores: tf.Tensor) -> tf.Tensor:
        return (start < num_candidates) & (tf.reduce_min(kept_scores[:, -1]) == 0)

    def visit_block(
        start: tf.Tensor, kept_boxes: tf.Tensor, kept_scores: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        end = tf.minimum(start + BLOCK, num_candidates)
        block_boxes, block_scores = boxes[:, start:end], scores[:, start:end]
        num_kept = tf.reduce_max(tf.math.count_nonzero(kept_scores, axis=1, dtype=tf.int32))
        # In images with fewer boxes the other rows are empty boxes, which overlap nothing.
        overlaps = box_ops.pairwise_iou(kept_boxes[:, :num_kept], block_boxes) > iou_threshold
        block_scores = tf.where(tf.reduce_any(overlaps, axis=1), 0.0, block_scores)
        block_scores = _non_maximum_suppression(block_boxes, block_scores, iou_threshold)
        # No score of the block is above an earlier one, so that this appends the block.
        kept_scores, best = tf.math.top_k(tf.concat([kept_scores, block_scores], axis=1), limit)
        kept_boxes = tf.gather(tf.concat([kept_boxes, block_boxes], axis=1), best, batch_dims=1)
        kept_boxes = tf.where(kept_scores[..., None] > 0, kept_boxes, 0.0)
        return end, kept_boxes, kept_scores

    _, kept_boxes, kept_scores = tf.while_loop(
        is_unfinished, visit_block, (0, tf.zeros([batch, limit, 4]), tf.zeros([batch, limit]))
    )
    return kept_boxes, kept_scores
