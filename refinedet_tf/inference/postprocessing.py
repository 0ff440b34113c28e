"""From heads to detections: filter, decode, non-maximum suppression (paper, section 3.4: inference).

Everything is TensorFlow, float32 and batched, so that it runs inside an exported graph. A candidate
is one (anchor, class) pair, so that one anchor may yield detections of several classes. A score of 0
marks "no candidate" throughout: real candidates lie above the score threshold.
"""

import tensorflow as tf

from refinedet_tf import boxes as box_ops
from refinedet_tf.config import Config


def postprocess(heads, anchors, config: Config):
    """Detections that the heads of the network describe.

    An anchor whose ARM object score is below `objectness_threshold` is dropped, at the threshold it
    stays. A pair whose class score is above `score_threshold` becomes a candidate. Each class keeps
    its best `pre_nms_per_class` candidates, then the image its best `pre_nms_per_image` (null: all).
    Per class and in the order of score, a candidate is suppressed by a kept one of IoU above
    `nms_iou`; boxes are clipped to the image only afterwards. Equal scores of a class keep the order
    of the anchors.

    Args:
        heads: float32 logits and offsets of the network, `{"arm_loc": [B, A, 4], "arm_conf":
            [B, A, 2], "odm_loc": [B, A, 4], "odm_conf": [B, A, C + 1]}`; class 0 is background. Design
            "single_stage" has the "odm" heads alone, and so no object scores.
        anchors: float32 [A, 4], normalised `[ymin, xmin, ymax, xmax]`, from `tile_anchors`.
        config: `config.postprocess` holds the thresholds and limits; the defaults are the paper's.
            `config.model.design` says which anchors the ODM moves: the refined or the tiled ones.

    Returns:
        A dict of tensors, K = `max_detections`, in descending order of score, padded with zeros:
        "detection_boxes" float32 [B, K, 4], normalised `[ymin, xmin, ymax, xmax]` in 0..1;
        "detection_scores" float32 [B, K]; "detection_classes" float32 [B, K], 1..C;
        "num_detections" int32 [B].
    """
    limits = config.postprocess
    scores = _candidate_scores(heads, config)
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    if limits.pre_nms_per_class is None and limits.pre_nms_per_image is not None:
        scores, anchor, label = _best_of_image(scores, limits.pre_nms_per_image)
    else:
        # Both limits null: every candidate of a class may enter the suppression.
        per_class = limits.pre_nms_per_class or scores.shape[1]
        scores, anchor, label = _best_of_each_class(scores, per_class)
        if limits.pre_nms_per_image is not None:
            scores, best = _top_k(_merge_axes(scores), limits.pre_nms_per_image)
            anchor, label = (tf.gather(_merge_axes(value), best, batch_dims=1) for value in (anchor, label))
    boxes = _decode(heads, anchors, anchor, config.model.design)
    if limits.pre_nms_per_image is not None:
        kept = _non_maximum_suppression(boxes, scores, limits.nms_iou, label)
    else:
        kept = _suppress_within_classes(boxes, scores, limits.nms_iou)
        boxes = tf.reshape(boxes, [tf.shape(boxes)[0], -1, 4])
        kept, label = _merge_axes(kept), _merge_axes(label)
    return _best_detections(boxes, kept, label, limits.max_detections)


def candidates(heads, anchors, config: Config):
    """All boxes and scores that enter the suppression, for a runtime that has its own.

    Arguments are those of `postprocess`; the limits of numbers are not applied.

    Returns:
        boxes float32 [B, A, 4], normalised `[ymin, xmin, ymax, xmax]`, not clipped, and scores float32
        [B, A, C] of classes 1..C, 0 where the pair is no candidate.
    """
    anchors = tf.convert_to_tensor(anchors, tf.float32)
    return _decode(heads, anchors, None, config.model.design), _candidate_scores(heads, config)


def _candidate_scores(heads, config):
    """Class scores float32 [B, A, C]; 0 where the pair is no candidate."""
    limits = config.postprocess
    scores = tf.nn.softmax(tf.cast(heads["odm_conf"], tf.float32))[..., 1:]
    accepted = scores > limits.score_threshold
    if config.model.design != "single_stage":
        objectness = tf.nn.softmax(tf.cast(heads["arm_conf"], tf.float32))[..., 1:]
        accepted &= objectness >= limits.objectness_threshold
    return tf.where(accepted, scores, 0.0)


def _top_k(scores, k):
    """`tf.math.top_k` for a k that may exceed the length; equal scores keep their order."""
    return tf.math.top_k(scores, min(k, scores.shape[-1]))


def _best_of_image(scores, limit):
    """The best `limit` pairs of each image, over all classes, by descending score.

    Returns:
        score float32 [B, N], anchor int32 [B, N], label int32 [B, N] (1..C).
    """
    num_classes = scores.shape[2]
    # A pair among the best N belongs to an anchor among the N with the best maximum, so that the
    # long list of A x C pairs need not be searched. Index order keeps ties in the order of anchors.
    _, anchors = _top_k(tf.reduce_max(scores, axis=2), limit)
    anchors = tf.sort(anchors, axis=1)
    pairs = _merge_axes(tf.gather(scores, anchors, batch_dims=1))
    scores, best = _top_k(pairs, limit)
    return scores, tf.gather(anchors, best // num_classes, batch_dims=1), best % num_classes + 1


def _best_of_each_class(scores, limit):
    """The best `limit` pairs of each class of each image, by descending score.

    Returns:
        score float32 [B, C, M], anchor int32 [B, C, M], label int32 [B, C, M] (1..C).
    """
    num_classes = scores.shape[2]
    scores, anchor = _top_k(tf.transpose(scores, [0, 2, 1]), limit)
    label = tf.broadcast_to(tf.range(1, num_classes + 1)[:, None], tf.shape(anchor))
    return scores, anchor, label


def _merge_axes(values):
    """[B, M, N] as [B, M * N]."""
    return tf.reshape(values, [-1, values.shape[1] * values.shape[2]])


def _decode(heads, anchors, index, design):
    """Boxes float32 [B, ..., 4] of the anchors `index` [B, ...]; not clipped (paper, section 3.1).

    The ARM moves the tiled anchor, the ODM moves the refined anchor; without the cascade, the ODM
    moves the tiled anchor. Index None: all anchors, in order.
    """

    def offsets(name):
        values = tf.cast(heads[name], tf.float32)
        return values if index is None else tf.gather(values, index, batch_dims=1)

    boxes = anchors if index is None else tf.gather(anchors, index)
    if design == "refinedet":
        boxes = box_ops.decode(offsets("arm_loc"), boxes)
    return box_ops.decode(offsets("odm_loc"), boxes)


def _non_maximum_suppression(boxes, scores, iou_threshold, label=None):
    """Greedy non-maximum suppression of candidates that are sorted by descending score.

    Greedy suppression is the only mask that agrees with its own definition: a candidate is kept
    unless a kept, better one overlaps it. The definition is applied to the whole mask until nothing
    changes, which takes as many rounds as the longest chain of suppressions (a handful) instead of
    one step a candidate.

    Args:
        boxes: float32 [B, N, 4]. scores: float32 [B, N], 0 for no candidate.
        iou_threshold: a higher IoU suppresses.
        label: int32 [B, N]; boxes of different classes never suppress each other. None: one class.

    Returns:
        float32 [B, N], the scores with 0 for those suppressed.
    """
    rank = tf.range(tf.shape(boxes)[1])
    suppresses = (box_ops.pairwise_iou(boxes, boxes) > iou_threshold) & (rank[:, None] < rank)
    if label is not None:
        suppresses &= label[:, :, None] == label[:, None, :]
    suppresses = tf.cast(suppresses, tf.float32)
    candidates = tf.cast(scores > 0, tf.float32)

    def apply_definition(kept, _):
        num_suppressors = tf.squeeze(tf.matmul(kept[:, None, :], suppresses), axis=1)
        again = tf.where(num_suppressors > 0, 0.0, candidates)
        return again, tf.reduce_any(again != kept)

    kept, _ = tf.while_loop(lambda _, changed: changed, apply_definition, (candidates, True))
    return scores * kept


def _suppress_within_classes(boxes, scores, iou_threshold):
    """`_non_maximum_suppression` of boxes [B, C, M, 4] and scores [B, C, M], class after class.

    One class at a time bounds the memory to its B x M x M overlaps.
    """

    def suppress(values):
        boxes, scores = values
        # Scores are sorted, so that the rows without a candidate in any image end the list.
        length = tf.reduce_max(tf.math.count_nonzero(scores, axis=1, dtype=tf.int32))
        kept = _non_maximum_suppression(boxes[:, :length], scores[:, :length], iou_threshold)
        return tf.pad(kept, [[0, 0], [0, tf.shape(scores)[1] - length]])

    kept = tf.map_fn(
        suppress,
        (tf.transpose(boxes, [1, 0, 2, 3]), tf.transpose(scores, [1, 0, 2])),
        fn_output_signature=tf.TensorSpec([scores.shape[0], None], tf.float32),
    )
    return tf.ensure_shape(tf.transpose(kept, [1, 0, 2]), scores.shape)


def _best_detections(boxes, scores, label, max_detections):
    """The result of `postprocess` from candidates [B, N, ...] with score 0 where suppressed."""
    scores, best = _top_k(scores, max_detections)
    boxes, label = (tf.gather(value, best, batch_dims=1) for value in (boxes, label))
    found = scores > 0
    boxes = tf.where(found[..., None], box_ops.clip(boxes), 0.0)
    label = tf.where(found, tf.cast(label, tf.float32), 0.0)
    missing = max_detections - scores.shape[1]
    return {
        "detection_boxes": tf.pad(boxes, [[0, 0], [0, missing], [0, 0]]),
        "detection_scores": tf.pad(scores, [[0, 0], [0, missing]]),
        "detection_classes": tf.pad(label, [[0, 0], [0, missing]]),
        "num_detections": tf.math.count_nonzero(found, axis=1, dtype=tf.int32),
    }
