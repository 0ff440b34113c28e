"""From heads to detections: filter, decode, non-maximum suppression (paper, section 3.4: inference).

All functions use TensorFlow, float32 and batches, so that they run inside an exported graph. A candidate
is an (anchor, class) pair, so that an anchor may yield detections of several classes. Throughout, a score
of 0 means that there is no candidate, because the scores of candidates exceed the score threshold.
"""

import tensorflow as tf

from refinedet_tf.config import Config, PostprocessConfig
from refinedet_tf.refinedet import boxes as box_ops
from refinedet_tf.tensors import Heads, Tensor

BLOCK = 128
"""The number of candidates of a class that are visited at once in the suppression of many."""


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
    scores = _candidate_scores(heads, config)
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    all_candidates = scores.shape[1] * scores.shape[2]
    weakest_of_image = tf.zeros([tf.shape(scores)[0]])
    scores, rows, labels, weakest_of_class = _limited(scores, postprocess_config)
    boxes = _decode(heads, anchors, rows, config.model.design)
    if postprocess_config.pre_nms_per_image is not None:
        if postprocess_config.pre_nms_per_image < all_candidates:
            # The scores are sorted, and 0 where there is no candidate.
            weakest_of_image = scores[:, -1]
        scores = _non_maximum_suppression(boxes, scores, postprocess_config.nms_iou, labels)
    else:
        boxes, scores = _suppress_within_classes(
            boxes, scores, postprocess_config.nms_iou, postprocess_config.max_detections
        )
        labels = _merge_axes(labels[..., : scores.shape[2]])
        boxes, scores = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 4]), _merge_axes(scores)
    detections = _best_detections(boxes, scores, labels, postprocess_config.max_detections)
    return detections, tf.stack([weakest_of_image, weakest_of_class], axis=1)


def candidates(heads: Heads, anchors: Tensor, config: Config) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns all boxes and scores that enter the suppression, for a runtime that does the suppression.

    The arguments are those of `postprocess`. The limits on the number of candidates are not applied.

    Returns:
        Boxes float32 [B, A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped, and scores float32
        [B, A, C] of classes 1..C, 0 where the pair is no candidate.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    return _decode(heads, anchors, None, config.model.design), _candidate_scores(heads, config)


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
    scores, rows, labels, _ = _limited(_candidate_scores(heads, config), config.postprocess)
    if config.postprocess.pre_nms_per_image is None:
        scores, rows, labels = map(_merge_axes, (scores, rows, labels))
    return _decode(heads, anchors, rows, config.model.design), scores, labels


def _candidate_scores(heads: Heads, config: Config) -> tf.Tensor:
    """Returns the class scores float32 [B, A, C], 0 where the pair is no candidate."""
    scores = tf.nn.softmax(tf.cast(heads["odm_conf"], tf.float32))[..., 1:]
    accepted = scores > config.postprocess.score_threshold
    if config.model.design != "single_stage":
        objectness = tf.nn.softmax(tf.cast(heads["arm_conf"], tf.float32))[..., 1:]
        accepted &= objectness >= config.postprocess.objectness_threshold
    return tf.where(accepted, scores, 0.0)


def _top_k(scores: tf.Tensor, k: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Calls `tf.math.top_k` for a k that may exceed the length; equal scores keep their order."""
    return tf.math.top_k(scores, min(k, scores.shape[-1]))


def _limited(
    scores: tf.Tensor, postprocess_config: PostprocessConfig
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns the pairs of anchor and class that the limits on their number leave, by descending score.

    Args:
        scores: float32 [B, A, C], 0 where the pair is no candidate.
        postprocess_config: holds the limits.

    Returns:
        Scores float32, rows of the anchors int32 and labels int32 (1..C), all of them [B, N] with
        `pre_nms_per_image`, and [B, C, M] without it; and the weakest score that `pre_nms_per_class` leaves,
        float32 [B], see `postprocess_and_limits`.
    """
    all_of_class = scores.shape[1]
    weakest_of_class = tf.zeros([tf.shape(scores)[0]])
    if postprocess_config.pre_nms_per_class is None and postprocess_config.pre_nms_per_image is not None:
        return *_best_of_image(scores, postprocess_config.pre_nms_per_image), weakest_of_class
    # If both limits are null, every candidate of a class enters the suppression.
    per_class = postprocess_config.pre_nms_per_class or all_of_class
    scores, rows, labels = _best_of_each_class(scores, per_class)
    if per_class < all_of_class:
        weakest_of_class = tf.reduce_max(scores[..., -1], axis=1)
    if postprocess_config.pre_nms_per_image is not None:
        scores, best = _top_k(_merge_axes(scores), postprocess_config.pre_nms_per_image)
        rows, labels = (tf.gather(_merge_axes(value), best, batch_dims=1) for value in (rows, labels))
    return scores, rows, labels, weakest_of_class


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
    _, rows = _top_k(tf.reduce_max(scores, axis=2), limit)
    rows = tf.sort(rows, axis=1)
    pairs = _merge_axes(tf.gather(scores, rows, batch_dims=1))
    scores, best = _top_k(pairs, limit)
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
    scores, rows = _top_k(tf.transpose(scores, [0, 2, 1]), limit)
    labels = tf.broadcast_to(tf.range(1, num_classes + 1)[:, None], tf.shape(rows))
    return scores, rows, labels


def _merge_axes(values: tf.Tensor) -> tf.Tensor:
    """Reshapes [B, M, N] to [B, M * N]."""
    return tf.reshape(values, [-1, values.shape[1] * values.shape[2]])


def _decode(heads: Heads, anchors: tf.Tensor, rows: tf.Tensor | None, design: str) -> tf.Tensor:
    """Returns the boxes float32 [B, ..., 4] that the heads make of anchors (paper, section 3.1).

    The ARM moves the tiled anchor, the ODM moves the refined anchor; without the cascade, the ODM
    moves the tiled anchor. Boxes are not clipped.

    Args:
        heads: the outputs of the network.
        anchors: float32 [A, 4].
        rows: int32 [B, ...], the rows of the anchors; None: all anchors, in order.
        design: `model.design`.
    """

    def offsets(name: str) -> tf.Tensor:
        values = tf.cast(heads[name], tf.float32)
        return values if rows is None else tf.gather(values, rows, batch_dims=1)

    boxes = anchors if rows is None else tf.gather(anchors, rows)
    if design == "refinedet":
        boxes = box_ops.decode(offsets("arm_loc"), boxes)
    return box_ops.decode(offsets("odm_loc"), boxes)


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
    """Calls `_best_of_suppression` for each class.

    Because the classes are processed one after another, the overlaps of one of them are in memory.

    Args:
        boxes: float32 [B, C, M, 4].
        scores: float32 [B, C, M], in descending order, 0 where there is no candidate.
        iou_threshold: the IoU above which a candidate is suppressed.
        limit: the largest number N of candidates that stay per class.

    Returns:
        Boxes float32 [B, C, N, 4] and scores float32 [B, C, N].
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


def _best_detections(
    boxes: tf.Tensor, scores: tf.Tensor, labels: tf.Tensor, max_detections: int
) -> dict[str, tf.Tensor]:
    """Makes the result of `postprocess` from candidates [B, N, ...] with score 0 where suppressed."""
    scores, best = _top_k(scores, max_detections)
    boxes, labels = (tf.gather(value, best, batch_dims=1) for value in (boxes, labels))
    is_detection = scores > 0
    boxes = tf.where(is_detection[..., None], box_ops.clip(boxes), 0.0)
    labels = tf.where(is_detection, tf.cast(labels, tf.float32), 0.0)
    missing = max_detections - scores.shape[1]
    return {
        "detection_boxes": tf.pad(boxes, [[0, 0], [0, missing], [0, 0]]),
        "detection_scores": tf.pad(scores, [[0, 0], [0, missing]]),
        "detection_classes": tf.pad(labels, [[0, 0], [0, missing]]),
        "num_detections": tf.math.count_nonzero(is_detection, axis=1, dtype=tf.int32),
    }
