"""The loss of RefineDet: classification and regression of the ARM and the ODM (paper, equation 1)."""

from collections.abc import Mapping

from keras import ops

from refinedet_tf.config import Config, LossConfig
from refinedet_tf.refinedet.boxes import decode, encode, pairwise_iou
from refinedet_tf.refinedet.matching import match, mine_hard_negatives
from refinedet_tf.tensors import Heads, Tensor

TERMS = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")
"""The names of the loss terms."""

COUNTS = ("num_arm_positives", "num_odm_positives", "num_backgrounds")
"""The names of the numbers by which the sums are divided: positives, and images without objects."""

LEFT_OUT = -1
"""The label of an object that takes no part in the loss, for example a crowd region. An image that has one
is no background."""

SMALLEST_DISTANCE = 1e-12
"""The lower bound of 1 - p_t in the focal loss."""


def refinedet_loss(
    heads: Heads, ground_truth: Mapping[str, Tensor], anchors: Tensor, config: Config
) -> dict[str, Tensor]:
    """Computes the four loss terms of a batch; the total loss is their sum.

    Mining chooses negatives in proportion to the positives of the same image, so that an image without
    objects, a background, has no loss and no gradient (paper, section 3.3). With
    `loss.background_negatives` K, it has its K negatives of largest loss, and counts in N like an image
    with K / `loss.negatives_per_positive` positives. The weight of its negatives so is that of all other
    negatives, whatever else the batch holds. The focal loss (`loss.classification`) needs no such rule:
    with it, the negatives of all images count.
    The ODM matches the refined anchors, and in the designs "tiled_anchors" and "single_stage" the
    tiled ones. In "single_stage" the ARM's terms and its count are 0, and no negative is filtered.

    Args:
        heads: float32 logits and offsets by name, as `build_model` describes them for the design.
        ground_truth: "boxes" float32 [B, G, 4], normalised `[ymin, xmin, ymax, xmax]`; "labels"
            integer [B, G], 1..C, 0 for padding, and `LEFT_OUT`.
        anchors: float32 [A, 4], the result of `tile_anchors`.
        config: `loss` and `model.design` are used.

    Returns:
        "arm_loc", "arm_conf", "odm_loc" and "odm_conf", float32 scalars: each is a sum over the batch
        divided by its module's N, the number of positives in the whole batch (and what its backgrounds
        count), or by 1 if that is less.
        "num_arm_positives", "num_odm_positives" and "num_backgrounds", the number of images without
        objects, float32 scalars.
    """
    sums = loss_sums(heads, ground_truth, anchors, config)
    return normalize(sums, {name: sums[name] for name in COUNTS}, config)


def normalize(sums: Mapping[str, Tensor], counts: Mapping[str, Tensor], config: Config) -> dict[str, Tensor]:
    """Divides loss sums by the numbers of positives.

    Args:
        sums: the result of `loss_sums`.
        counts: the numbers of `COUNTS`; with several replicas, their totals.
        config: `loss` is used.

    Returns:
        The same as `refinedet_loss`.
    """
    of_backgrounds = counts["num_backgrounds"] * _positives_of_background(config.loss)
    terms = {
        name: sums[name] / ops.maximum(counts[f"num_{name[:3]}_positives"] + of_backgrounds, 1.0)
        for name in TERMS
    }
    return {**terms, **counts}


def _positives_of_background(loss_config: LossConfig) -> float:
    """Returns the number of positives as which an image without objects counts."""
    if loss_config.background_negatives == 0 or loss_config.classification == "focal":
        return 0.0
    return loss_config.background_negatives / loss_config.negatives_per_positive


def loss_sums(
    heads: Heads, ground_truth: Mapping[str, Tensor], anchors: Tensor, config: Config
) -> dict[str, Tensor]:
    """Computes what `refinedet_loss` computes, without the division by N."""
    heads = {name: ops.cast(value, "float32") for name, value in heads.items()}
    boxes = ops.cast(ground_truth["boxes"], "float32")
    labels = ops.cast(ground_truth["labels"], "int32")
    if labels.shape[1] == 0:  # One row of padding, because an empty axis has no maximum.
        boxes, labels = ops.pad(boxes, ((0, 0), (0, 1), (0, 0))), ops.pad(labels, ((0, 0), (0, 1)))
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
            loss_config=config.loss,
        )
        # As in the authors' program, no gradient of the ODM reaches the ARM heads: the ARM's scores and
        # boxes are constants here.
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
        loss_config=config.loss,
    )
    return {
        "arm_loc": arm_loc,
        "arm_conf": arm_conf,
        "odm_loc": odm_loc,
        "odm_conf": odm_conf,
        "num_arm_positives": num_arm,
        "num_odm_positives": num_odm,
        "num_backgrounds": ops.sum(ops.cast(_is_background(labels), "float32")),
    }


def _is_background(labels: Tensor) -> Tensor:
    """Returns which images have no object, bool [B], of labels [B, G]."""
    return ops.logical_not(ops.any(labels != 0, axis=1))


def _module_sums(
    offsets: Tensor,
    class_logits: Tensor,
    *,
    anchors: Tensor,
    boxes: Tensor,
    labels: Tensor,
    negatives_allowed: Tensor,
    loss_config: LossConfig,
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes the localisation sum, classification sum and number of positives of the ARM or the ODM.

    Args:
        offsets: float32 [B, A, 4], predicted.
        class_logits: float32 [B, A, C + 1], background first.
        anchors: float32 [B, A, 4].
        boxes: float32 [B, G, 4].
        labels: int32 [B, G], 0 for padding, and `LEFT_OUT`.
        negatives_allowed: bool [B, A], false for anchors that cannot be negatives.
        loss_config: the config's `loss`.
    """
    valid = labels > 0
    iou = pairwise_iou(boxes, anchors)
    matches = match(iou, valid, loss_config.positive_iou)
    positive = matches >= 0
    num_positives = ops.sum(ops.cast(positive, "int32"), axis=1)
    matched = ops.maximum(matches, 0)

    target_boxes = ops.take_along_axis(boxes, ops.expand_dims(matched, -1), axis=1)
    targets = ops.stop_gradient(encode(target_boxes, anchors))
    # Anchors without an object may have infinite offsets, because padding has no area. They are replaced:
    # a product with 0 would be NaN.
    targets = ops.where(ops.expand_dims(positive, -1), targets, 0.0)
    regression = ops.sum(smooth_l1(offsets - targets), axis=-1)

    classes = ops.where(positive, ops.take_along_axis(labels, matched, axis=1), 0)
    log_probabilities = ops.log_softmax(class_logits, axis=-1)
    cross_entropy = -ops.take_along_axis(log_probabilities, ops.expand_dims(classes, -1), axis=-1)[..., 0]
    # All unmatched anchors are negatives: `match` leaves none that overlaps an object by `positive_iou`.
    negative = ops.logical_and(ops.logical_not(positive), negatives_allowed)
    if loss_config.classification == "focal":
        classification = focal_loss(cross_entropy, positive, loss_config.focal_alpha, loss_config.focal_gamma)
    else:
        classification = cross_entropy
        negative = mine_hard_negatives(
            ops.stop_gradient(cross_entropy),
            negative,
            num_positives,
            loss_config.negatives_per_positive,
            ops.where(_is_background(labels), loss_config.background_negatives, 0),
        )
    chosen = ops.logical_or(positive, negative)
    # This is `where` and not a product, so that an infinite loss of an anchor that was not chosen does not
    # become NaN.
    return (
        ops.sum(ops.where(positive, regression, 0.0)),
        ops.sum(ops.where(chosen, classification, 0.0)),
        ops.cast(ops.sum(num_positives), "float32"),
    )


def focal_loss(cross_entropy: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Computes -alpha_t (1 - p_t)^gamma ln p_t of each anchor (Lin et al., ICCV 2017, equation 5).

    Args:
        cross_entropy: float32 [B, A], -ln p_t, where p_t is the softmax probability of the anchor's
            class.
        positive: bool [B, A]; alpha_t is `alpha` where it is true and 1 - `alpha` elsewhere.
        alpha: a number in 0..1.
        gamma: a number of at least 0; 0 gives the weighted cross-entropy.

    Returns:
        float32 [B, A], with finite gradients for every p_t.
    """
    # expm1 keeps the digits of 1 - p_t near p_t = 1. At p_t = 1 the derivative of the power would be
    # infinite (gamma below 1) or 0/0, hence the bound; the gradient of a loss so near to 0 is negligible.
    distance = ops.maximum(-ops.expm1(-cross_entropy), SMALLEST_DISTANCE)
    return ops.where(positive, alpha, 1.0 - alpha) * ops.power(distance, gamma) * cross_entropy


def smooth_l1(difference: Tensor) -> Tensor:
    """Computes 0.5 x^2 where |x| < 1 and |x| - 0.5 elsewhere (Fast R-CNN, equation 3)."""
    size = ops.abs(difference)
    return ops.where(size < 1.0, 0.5 * ops.square(difference), size - 0.5)
