"""Matching anchors to objects, and hard negative mining (paper, sections 3.2 and 3.3).

All functions are batched and run on the device. Padding objects (label 0) match nothing.
"""

from keras import ops

from refinedet_tf.tensors import Tensor

SMALLEST_OVERLAP = 1e-6
"""The IoU above which an object may claim its best anchor, as in the authors' code."""

MOST_NEGATIVES = 1e9
"""A bound on the negatives per positive, with which their product with a number of anchors is finite."""


def match(iou: Tensor, valid: Tensor, positive_iou: float) -> Tensor:
    """Assigns an object or none to each anchor.

    The first step is greedy bipartite matching. It repeatedly pairs the anchor and the object of
    largest IoU among the free anchors and the objects without an anchor, until every object with any
    overlap has claimed one anchor. Ties go to the first anchor, then to the first object. In the
    second step, every other anchor takes its best object if their IoU is at least `positive_iou`.

    Args:
        iou: float32 [B, G, A], objects x anchors, G at least 1. In a graph, B and G may be unknown.
        valid: bool [B, G], false for padding.
        positive_iou: the smallest IoU of the second step, 0.5 in the paper.

    Returns:
        int32 [B, A], the index of the object in 0..G-1, or -1.
    """
    iou = ops.where(ops.expand_dims(valid, -1), iou, 0.0)
    claimed_anchor = _bipartite(iou)
    best_object = ops.cast(ops.argmax(iou, axis=1), "int32")
    best_iou = ops.where(ops.any(valid, axis=1, keepdims=True), ops.max(iou, axis=1), -1.0)
    matches = ops.where(best_iou >= positive_iou, best_object, -1)
    # No two objects claim the same anchor.
    anchors = ops.arange(iou.shape[2], dtype="int32")
    claims = ops.expand_dims(claimed_anchor, -1) == anchors
    object_indices = ops.reshape(ops.arange(ops.shape(iou)[1], dtype="int32"), (1, -1, 1))
    claimed = ops.max(ops.where(claims, object_indices, -1), axis=1)
    return ops.where(claimed >= 0, claimed, matches)


def _bipartite(iou: Tensor) -> Tensor:
    """Returns the anchor that each object claims, or -1, as int32 [B, G]."""
    _, num_objects, num_anchors = ops.shape(iou)
    # The other G - 1 objects can claim at most G - 1 anchors, so an object claims one of its best G. The
    # loop therefore works on [G, G] candidates instead of [G, A] pairs.
    if isinstance(num_objects, int):
        num_candidates = min(num_objects, num_anchors)
    else:
        num_candidates = ops.minimum(num_objects, num_anchors)
    overlap, anchor = ops.top_k(iou, num_candidates)
    anchor = ops.cast(anchor, "int32")

    def best_pairs(available: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the IoU (0 if none is free) and anchor of each object's best free candidate, [B, G]."""
        candidates = ops.where(available, overlap, 0.0)
        # Candidates of equal IoU are sorted by anchor, so the first maximum is the first anchor.
        position = ops.expand_dims(ops.argmax(candidates, axis=-1), -1)
        value = ops.squeeze(ops.take_along_axis(candidates, position, axis=-1), -1)
        return value, ops.squeeze(ops.take_along_axis(anchor, position, axis=-1), -1)

    def unfinished(available: Tensor, claimed_anchor: Tensor) -> Tensor:
        return ops.any(ops.where(available, overlap, 0.0) > SMALLEST_OVERLAP)

    def take_best(available: Tensor, claimed_anchor: Tensor) -> tuple[Tensor, Tensor]:
        value, candidate = best_pairs(available)
        largest = ops.max(value, axis=1, keepdims=True)
        tied = ops.logical_and(value == largest, largest > SMALLEST_OVERLAP)
        first_anchor = ops.min(ops.where(tied, candidate, num_anchors), axis=1, keepdims=True)
        winner = ops.logical_and(tied, candidate == first_anchor)
        first_winner = ops.cast(ops.argmax(ops.cast(winner, "int32"), axis=1), "int32")
        winner = ops.logical_and(
            winner, ops.expand_dims(first_winner, -1) == ops.arange(num_objects, dtype="int32")
        )
        claimed_anchor = ops.where(winner, candidate, claimed_anchor)
        taken = ops.logical_or(ops.expand_dims(winner, -1), anchor == ops.expand_dims(first_anchor, -1))
        return ops.logical_and(available, ops.logical_not(taken)), claimed_anchor

    start = ops.ones_like(overlap, dtype="bool"), ops.full_like(anchor[..., 0], -1)
    _, claimed_anchor = ops.while_loop(unfinished, take_best, start, maximum_iterations=num_objects)
    return claimed_anchor


def mine_hard_negatives(
    loss: Tensor,
    candidates: Tensor,
    num_positives: Tensor,
    negatives_per_positive: float,
    further_negatives: Tensor | int = 0,
) -> Tensor:
    """Chooses the negatives of largest loss in each image (paper, section 3.3, "Hard Negative Mining").

    Args:
        loss: float32 [B, A], the cross-entropy of the background class.
        candidates: bool [B, A], anchors that may be chosen.
        num_positives: int32 [B], the number of positives of each image.
        negatives_per_positive: the largest number of negatives per positive of the image, 3 in the
            paper. An image without positives therefore has no negatives but the following.
        further_negatives: int32 [B] or a number, the largest number of negatives of each image that do not
            depend on its positives, 0 in the paper.

    Returns:
        bool [B, A]. Among equal losses the first anchors are chosen.
    """
    num_candidates = ops.sum(ops.cast(candidates, "float32"), axis=1)
    # Both bounds come before the cast, since a large product would not fit into int32.
    wanted = ops.cast(num_positives, "float32") * min(negatives_per_positive, MOST_NEGATIVES)
    wanted = wanted + ops.cast(further_negatives, "float32")
    wanted = ops.expand_dims(ops.cast(ops.minimum(wanted, num_candidates), "int32"), -1)
    score = ops.where(candidates, loss, -1.0)
    descending = -ops.sort(-score, axis=1)
    last_chosen = ops.take_along_axis(descending, ops.maximum(wanted - 1, 0), axis=1)
    above = score > last_chosen
    tied = score == last_chosen
    still_wanted = wanted - ops.sum(ops.cast(above, "int32"), axis=1, keepdims=True)
    among_first = ops.cumsum(ops.cast(tied, "int32"), axis=1) <= still_wanted
    chosen = ops.logical_or(above, ops.logical_and(tied, among_first))
    return ops.logical_and(ops.logical_and(chosen, candidates), wanted > 0)
