"""The loss of RefineDet: ARM and ODM, each classification and regression (paper, equation 1)."""

from keras import ops

from refinedet_tf.boxes import decode, encode, pairwise_iou
from refinedet_tf.config import Config, LossConfig
from refinedet_tf.matching import match, mine_hard_negatives

TERMS = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")

SMALLEST_DISTANCE = 1e-12
"""Lower bound of 1 - p_t in the focal loss."""


def refinedet_loss(heads, ground_truth, anchors, config: Config):
    """The four loss terms of a batch.

    Args:
        heads: dict of float32 logits and offsets as `build_model` gives them for the design.
        ground_truth: "boxes" float32 [B, G, 4], normalised `[ymin, xmin, ymax, xmax]`; "labels"
            integer [B, G], 1..C, 0 for padding.
        anchors: float32 [A, 4], of `tile_anchors`.
        config: `loss` and `model.design` are used.

    Returns:
        "arm_loc", "arm_conf", "odm_loc", "odm_conf": float32 scalars, each the sum over the batch
        divided by its module's number of positives in the whole batch, at least 1.
        "num_arm_positives", "num_odm_positives": float32 scalars. The total loss is the sum of the
        four terms. Without positives it is 0 and without gradient, because mining takes negatives
        only beside positives of the same image; the focal loss (`loss.classification`) has no such
        rule: there the negatives of an image without objects count as all others.
        The ODM matches the refined anchors, in the designs "tiled_anchors" and "single_stage" the
        tiled ones; in "single_stage" the ARM's terms and its count are 0 and no negative is filtered.
    """
    sums = loss_sums(heads, ground_truth, anchors, config)
    return normalize(sums, {name: sums[name] for name in ("num_arm_positives", "num_odm_positives")})


def normalize(sums, counts):
    """Divides the sums of `loss_sums` by the numbers of positives, those of all replicas if there
    are several: `counts` holds "num_arm_positives" and "num_odm_positives"."""
    terms = {name: sums[name] / ops.maximum(counts[f"num_{name[:3]}_positives"], 1.0) for name in TERMS}
    return {**terms, **counts}


def loss_sums(heads, ground_truth, anchors, config: Config):
    """As `refinedet_loss`, before the division by the number of positives."""
    heads = {name: ops.cast(value, "float32") for name, value in heads.items()}
    boxes = ops.cast(ground_truth["boxes"], "float32")
    labels = ops.cast(ground_truth["labels"], "int32")
    anchors = ops.convert_to_tensor(anchors, "float32")
    odm_anchors = tiled_anchors = ops.broadcast_to(anchors, ops.shape(heads["odm_loc"]))
    odm_negatives_allowed = everywhere = ops.ones_like(tiled_anchors[..., 0], dtype="bool")
    arm_loc = arm_conf = num_arm = ops.zeros((), "float32")
    if config.model.design != "single_stage":
        arm_loc, arm_conf, num_arm = _module_sums(
            heads["arm_loc"],
            heads["arm_conf"],
            anchors=tiled_anchors,
            boxes=boxes,
            labels=ops.minimum(labels, 1),
            negatives_allowed=everywhere,
            config=config.loss,
        )
        # The authors let no gradient of the ODM reach the ARM heads: its scores and boxes are data here.
        objectness = ops.stop_gradient(ops.softmax(heads["arm_conf"], axis=-1)[..., 1])
        odm_negatives_allowed = objectness >= config.loss.objectness_threshold
    if config.model.design == "refinedet":
        odm_anchors = ops.stop_gradient(decode(heads["arm_loc"], anchors))
    odm_loc, odm_conf, num_odm = _module_sums(
        heads["odm_loc"],
        heads["odm_conf"],
        anchors=odm_anchors,
        boxes=boxes,
        labels=labels,
        negatives_allowed=odm_negatives_allowed,
        config=config.loss,
    )
    return {
        "arm_loc": arm_loc,
        "arm_conf": arm_conf,
        "odm_loc": odm_loc,
        "odm_conf": odm_conf,
        "num_arm_positives": num_arm,
        "num_odm_positives": num_odm,
    }


def _module_sums(offsets, logits, *, anchors, boxes, labels, negatives_allowed, config: LossConfig):
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
    cross_entropy = -ops.take_along_axis(log_probabilities, ops.expand_dims(classes, -1), axis=-1)[..., 0]
    # Unmatched anchors have no overlap of `positive_iou` with anything (`match`): none is ambiguous.
    negative = ops.logical_and(ops.logical_not(positive), negatives_allowed)
    if config.classification == "focal":
        classification = focal_loss(cross_entropy, positive, config.focal_alpha, config.focal_gamma)
    else:
        classification = cross_entropy
        negative = mine_hard_negatives(
            ops.stop_gradient(cross_entropy), negative, num_positives, config.negatives_per_positive
        )
    chosen = ops.logical_or(positive, negative)
    # `where`, not a product: an infinite loss of an anchor that was not chosen must not become NaN.
    return (
        ops.sum(ops.where(positive, regression, 0.0)),
        ops.sum(ops.where(chosen, classification, 0.0)),
        ops.cast(ops.sum(num_positives), "float32"),
    )


def focal_loss(cross_entropy, positive, alpha, gamma):
    """-alpha_t (1 - p_t)^gamma ln p_t of each anchor (Lin et al., ICCV 2017, equation 5).

    Args:
        cross_entropy: float32 [B, A], -ln p_t, p_t the softmax probability of the anchor's class.
        positive: bool [B, A]; alpha_t is `alpha` where it holds and 1 - `alpha` elsewhere.
        alpha: 0..1.
        gamma: at least 0; 0 leaves the weighted cross-entropy.

    Returns:
        float32 [B, A], with finite gradients for every p_t.
    """
    # 1 - p_t keeps its digits near p_t = 1 this way. At 0 the derivative of the power would be infinite
    # (gamma below 1) or 0/0, hence the bound; a loss so near to 0 has none to speak of.
    distance = ops.maximum(-ops.expm1(-cross_entropy), SMALLEST_DISTANCE)
    return ops.where(positive, alpha, 1.0 - alpha) * ops.power(distance, gamma) * cross_entropy


def smooth_l1(difference):
    """0.5 x^2 where |x| < 1, |x| - 0.5 elsewhere (Fast R-CNN, equation 3)."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
