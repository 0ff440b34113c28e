"""The loss of RefineDet: ARM and ODM, each classification and regression (paper, equation 1)."""

from keras import ops

from refinedet_tf.boxes import decode, encode, pairwise_iou
from refinedet_tf.config import Config, LossConfig
from refinedet_tf.matching import match, mine_hard_negatives

TERMS = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")


def refinedet_loss(heads, ground_truth, anchors, config: Config):
    """The four loss terms of a batch.

    Args:
        heads: dict of float32 logits and offsets as `build_model` gives them.
        ground_truth: "boxes" float32 [B, G, 4], normalised `[ymin, xmin, ymax, xmax]`; "labels"
            integer [B, G], 1..C, 0 for padding.
        anchors: float32 [A, 4], of `tile_anchors`.
        config: `loss` is used.

    Returns:
        "arm_loc", "arm_conf", "odm_loc", "odm_conf": float32 scalars, each the sum over the batch
        divided by its module's number of positives in the whole batch, at least 1: 0 and without
        gradient when there are none. "num_arm_positives", "num_odm_positives": float32 scalars.
        The total loss is the sum of the four terms.
    """
    sums = loss_sums(heads, ground_truth, anchors, config.loss)
    return normalize(sums, {name: sums[name] for name in ("num_arm_positives", "num_odm_positives")})


def normalize(sums, counts):
    """Divides the sums of `loss_sums` by the numbers of positives, those of all replicas if there
    are several: `counts` holds "num_arm_positives" and "num_odm_positives"."""
    terms = {name: sums[name] / ops.maximum(counts[f"num_{name[:3]}_positives"], 1.0) for name in TERMS}
    return {**terms, **counts}


def loss_sums(heads, ground_truth, anchors, config: LossConfig):
    """As `refinedet_loss`, before the division by the number of positives."""
    heads = {name: ops.cast(value, "float32") for name, value in heads.items()}
    boxes = ops.cast(ground_truth["boxes"], "float32")
    labels = ops.cast(ground_truth["labels"], "int32")
    anchors = ops.convert_to_tensor(anchors, "float32")
    # The authors let no gradient of the ODM reach the ARM heads: its boxes and scores are data here.
    refined_anchors = ops.stop_gradient(decode(heads["arm_loc"], anchors))
    objectness = ops.stop_gradient(ops.softmax(heads["arm_conf"], axis=-1)[..., 1])
    arm_loc, arm_conf, num_arm = _module_sums(
        heads["arm_loc"],
        heads["arm_conf"],
        anchors=ops.broadcast_to(anchors, ops.shape(refined_anchors)),
        boxes=boxes,
        labels=ops.minimum(labels, 1),
        negatives_allowed=ops.ones_like(objectness, dtype="bool"),
        config=config,
    )
    odm_loc, odm_conf, num_odm = _module_sums(
        heads["odm_loc"],
        heads["odm_conf"],
        anchors=refined_anchors,
        boxes=boxes,
        labels=labels,
        negatives_allowed=objectness >= config.objectness_threshold,
        config=config,
    )
    return {
        "arm_loc": arm_loc,
        "arm_conf": arm_conf,
        "odm_loc": odm_loc,
        "odm_conf": odm_conf,
        "num_arm_positives": num_arm,
        "num_odm_positives": num_odm,
    }


def _module_sums(offsets, logits, *, anchors, boxes, labels, negatives_allowed, config):
    """Localisation sum, classification sum and number of positives of one module."""
    valid = labels > 0
    iou = pairwise_iou(boxes, anchors)
    matches = match(iou, valid, config.positive_iou)
    positive = matches >= 0
    num_positives = ops.sum(ops.cast(positive, "int32"), axis=1)
    matched = ops.maximum(matches, 0)

    target_boxes = ops.take_along_axis(boxes, ops.expand_dims(matched, -1), axis=1)
    targets = ops.stop_gradient(encode(target_boxes, anchors))
    # Of the others, the offsets may be infinite (padding has no area): replaced, not multiplied away.
    targets = ops.where(ops.expand_dims(positive, -1), targets, 0.0)
    regression = ops.sum(smooth_l1(offsets - targets), axis=-1)

    classes = ops.where(positive, ops.take_along_axis(labels, matched, axis=1), 0)
    log_probabilities = ops.log_softmax(logits, axis=-1)
    background_loss = ops.stop_gradient(-log_probabilities[..., 0])
    negative = mine_hard_negatives(
        background_loss,
        ops.logical_and(ops.logical_not(positive), negatives_allowed),
        num_positives,
        config.negatives_per_positive,
    )
    cross_entropy = -ops.take_along_axis(log_probabilities, ops.expand_dims(classes, -1), axis=-1)[..., 0]
    chosen = ops.logical_or(positive, negative)
    # `where`, not a product: an infinite loss of an anchor that was not chosen must not become NaN.
    return (
        ops.sum(ops.where(positive, regression, 0.0)),
        ops.sum(ops.where(chosen, cross_entropy, 0.0)),
        ops.cast(ops.sum(num_positives), "float32"),
    )


def smooth_l1(difference):
    """0.5 x^2 where |x| < 1, |x| - 0.5 elsewhere (Fast R-CNN, equation 3)."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
