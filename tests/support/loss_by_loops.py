"""The loss of an image with a single object or none, computed with loops in float64.

It is independent of `refinedet_tf.refinedet.losses` and `refinedet_tf.refinedet.matching`.
"""

import math

import numpy as np

from refinedet_tf.refinedet.boxes import decode, pairwise_iou


def softmax(logits):
    """Probabilities in float64; the classes are the last axis."""
    e = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def offsets_by_hand(box, anchor):
    """The offsets (cx, cy, w, h) that move the anchor to the box, divided by the variances 0.1 and 0.2."""
    (ymin, xmin, ymax, xmax), (a_ymin, a_xmin, a_ymax, a_xmax) = box, anchor
    width, height = a_xmax - a_xmin, a_ymax - a_ymin
    return [
        (xmin + xmax - a_xmin - a_xmax) / 2 / width / 0.1,
        (ymin + ymax - a_ymin - a_ymax) / 2 / height / 0.1,
        math.log((xmax - xmin) / width) / 0.2,
        math.log((ymax - ymin) / height) / 0.2,
    ]


def single_object_loss(
    heads, box, label, anchors, ratio=3, threshold=0.01, positive_iou=0.5, background_negatives=0
):
    """The sums and numbers of positives of both modules for one image.

    Args:
        heads: the outputs of the network for one image, without the batch axis.
        box: normalised `[ymin, xmin, ymax, xmax]` of the object; None: the image has no object.
        label: its class, 1..C.
        anchors: float32 [A, 4].
        ratio: negatives per positive. threshold: objectness that a negative of the ODM needs.
        positive_iou: IoU from which an anchor is positive.
        background_negatives: negatives of an image without an object.

    Returns:
        "arm_loc", "arm_conf", "odm_loc", "odm_conf": sums, not divided by the number of positives;
        "num_arm_positives", "num_odm_positives".
    """
    terms = {}
    refined = np.asarray(decode(heads["arm_loc"], anchors))
    objectness = softmax(heads["arm_conf"])[:, 1]
    modules = {
        "arm": (anchors, 1, np.ones(len(anchors), bool)),
        "odm": (refined, label, objectness >= threshold),
    }
    for module, (boxes, positive_label, allowed) in modules.items():
        positive = np.zeros(len(anchors), bool)
        if box is not None:
            iou = np.asarray(pairwise_iou(boxes, np.array([box], np.float32)))[:, 0]
            positive = iou >= positive_iou
            positive[iou.argmax()] |= iou.max() > 1e-6
        cross_entropy = -np.log(softmax(heads[f"{module}_conf"]))
        negatives = sorted(np.flatnonzero(~positive & allowed), key=lambda a: -cross_entropy[a, 0])
        negatives = negatives[: background_negatives if box is None else int(ratio * positive.sum())]
        of_positives, of_negatives = cross_entropy[positive, positive_label], cross_entropy[negatives, 0]
        terms[f"{module}_conf"] = of_positives.sum() + of_negatives.sum()
        loc = 0.0
        for a in np.flatnonzero(positive):
            for found, wanted in zip(heads[f"{module}_loc"][a], offsets_by_hand(box, boxes[a]), strict=True):
                x = abs(float(found) - wanted)
                loc += 0.5 * x * x if x < 1 else x - 0.5
        terms[f"{module}_loc"] = loc
        terms[f"num_{module}_positives"] = positive.sum()
    return terms


def divided_by_positives(terms):
    """The result of `single_object_loss` as `refinedet_loss` gives it; each module must have positives."""
    counts = {name: value for name, value in terms.items() if name.startswith("num_")}
    assert all(count > 0 for count in counts.values())
    sums = {name: value for name, value in terms.items() if name not in counts}
    return counts | {name: value / counts[f"num_{name[:3]}_positives"] for name, value in sums.items()}
