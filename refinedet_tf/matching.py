"""Matching anchors to objects, and hard negative mining (paper, sections 3.2 and 3.3).

Everything is batched and runs on the device; padding objects (label 0) match nothing.
"""

from keras import ops

SMALLEST_OVERLAP = 1e-6
"""IoU above which an object may claim its best anchor (the authors' code)."""


def match(iou, valid, positive_iou):
    """Assigns an object to each anchor, or none.

    Greedy bipartite first: the pair of largest IoU among the free anchors and the objects without
    an anchor, again and again, until every object with any overlap has an anchor of its own; ties go
    to the first anchor, then to the first object. Then every other anchor takes its best object if
    their IoU is at least `positive_iou`.

    Args:
        iou: float32 [B, G, A], objects x anchors.
        valid: bool [B, G], false for padding.
        positive_iou: the smallest IoU of the second step, 0.5 in the paper.

    Returns:
        int32 [B, A]: the object's index in 0..G-1, or -1.
    """
    num_objects = iou.shape[1]
    iou = ops.where(ops.expand_dims(valid, -1), iou, 0.0)
    own_anchor = _bipartite(iou)
    best_object = ops.cast(ops.argmax(iou, axis=1), "int32")
    best_iou = ops.where(ops.any(valid, axis=1, keepdims=True), ops.max(iou, axis=1), -1.0)
    matches = ops.where(best_iou >= positive_iou, best_object, -1)
    # Objects are distinct in their own anchors, so at most one claims an anchor.
    anchors = ops.arange(iou.shape[2], dtype="int32")
    claims = ops.expand_dims(own_anchor, -1) == anchors
    numbers = ops.reshape(ops.arange(num_objects, dtype="int32"), (1, num_objects, 1))
    claimed = ops.max(ops.where(claims, numbers, -1), axis=1)
    return ops.where(claimed >= 0, claimed, matches)


def _bipartite(iou):
    """int32 [B, G]: the anchor that each object claims for itself, or -1."""
    num_objects, num_anchors = iou.shape[1:]
    # G - 1 other objects can take at most G - 1 anchors, so an object's choice is among its best G:
    # the loop works on [G, G] candidates instead of [G, A] pairs.
    num_candidates = min(num_objects, num_anchors)
    overlap, anchor = ops.top_k(iou, num_candidates)
    anchor = ops.cast(anchor, "int32")

    def best_pairs(available):
        """Each object's best free candidate: IoU (0 if none) and anchor, both [B, G]."""
        candidates = ops.where(available, overlap, 0.0)
        # Candidates are sorted, equal ones by anchor: the first maximum is the first anchor.
        position = ops.expand_dims(ops.argmax(candidates, axis=-1), -1)
        value = ops.squeeze(ops.take_along_axis(candidates, position, axis=-1), -1)
        return value, ops.squeeze(ops.take_along_axis(anchor, position, axis=-1), -1)

    def unfinished(available, own_anchor):
        return ops.any(ops.where(available, overlap, 0.0) > SMALLEST_OVERLAP)

    def take_best(available, own_anchor):
        value, candidate = best_pairs(available)
        largest = ops.max(value, axis=1, keepdims=True)
        tied = ops.logical_and(value == largest, largest > SMALLEST_OVERLAP)
        first_anchor = ops.min(ops.where(tied, candidate, num_anchors), axis=1, keepdims=True)
        winner = ops.logical_and(tied, candidate == first_anchor)
        first_winner = ops.cast(ops.argmax(ops.cast(winner, "int32"), axis=1), "int32")
        winner = ops.logical_and(
            winner, ops.expand_dims(first_winner, -1) == ops.arange(num_objects, dtype="int32")
        )
        own_anchor = ops.where(winner, candidate, own_anchor)
        taken = ops.logical_or(ops.expand_dims(winner, -1), anchor == ops.expand_dims(first_anchor, -1))
        return ops.logical_and(available, ops.logical_not(taken)), own_anchor

    start = ops.ones_like(overlap, dtype="bool"), ops.full_like(anchor[..., 0], -1)
    _, own_anchor = ops.while_loop(unfinished, take_best, start, maximum_iterations=num_objects)
    return own_anchor


def mine_hard_negatives(loss, candidates, num_positives, negatives_per_positive):
    """The negatives of largest loss, image by image.

    Args:
        loss: float32 [B, A], the background class' cross-entropy.
        candidates: bool [B, A], anchors that may be chosen.
        num_positives: int32 [B].
        negatives_per_positive: at most that many are chosen per positive of the image (3 in the
            paper), so none in an image without positives.

    Returns:
        bool [B, A]. Of equal losses the first anchors are chosen.
    """
    num_candidates = ops.sum(ops.cast(candidates, "int32"), axis=1)
    wanted = ops.cast(ops.cast(num_positives, "float32") * negatives_per_positive, "int32")
    wanted = ops.expand_dims(ops.minimum(wanted, num_candidates), -1)
    score = ops.where(candidates, loss, -1.0)
    descending = -ops.sort(-score, axis=1)
    last_chosen = ops.take_along_axis(descending, ops.maximum(wanted - 1, 0), axis=1)
    above = score > last_chosen
    tied = score == last_chosen
    still_wanted = wanted - ops.sum(ops.cast(above, "int32"), axis=1, keepdims=True)
    among_first = ops.cumsum(ops.cast(tied, "int32"), axis=1) <= still_wanted
    chosen = ops.logical_or(above, ops.logical_and(tied, among_first))
    return ops.logical_and(ops.logical_and(chosen, candidates), wanted > 0)
