"""The post-processing of one image, computed with loops in float64.

It is independent of `refinedet_tf.refinedet.postprocessing`.
"""

import numpy as np
from loss_by_loops import softmax


def decode(offsets, anchor):
    """The box of a single offset (cx, cy, w, h) and a single anchor."""
    dx, dy, dw, dh = (float(v) for v in offsets)
    ymin, xmin, ymax, xmax = (float(v) for v in anchor)
    width, height = xmax - xmin, ymax - ymin
    cx = (xmin + xmax) / 2 + dx * 0.1 * width
    cy = (ymin + ymax) / 2 + dy * 0.1 * height
    width, height = width * np.exp(dw * 0.2), height * np.exp(dh * 0.2)
    return np.array([cy - height / 2, cx - width / 2, cy + height / 2, cx + width / 2])


def iou(a, b):
    height = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    width = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return height * width / (areas - height * width)


def detect_by_loops(heads, anchors, postprocess_config):
    """Rows (label, score, ymin, xmin, ymax, xmax), the boxes clipped, the scores descending.

    Args:
        heads: the outputs of the network for one image, without the batch axis.
        anchors: float32 [A, 4].
    """
    candidates, boxes = [], {}
    for a, anchor in enumerate(anchors):
        if softmax(heads["arm_conf"][a])[1] < postprocess_config.objectness_threshold:
            continue
        scores = softmax(heads["odm_conf"][a])
        boxes[a] = decode(heads["odm_loc"][a], decode(heads["arm_loc"][a], anchor))
        candidates += [
            (score, a, label)
            for label, score in enumerate(scores)
            if label and score > postprocess_config.score_threshold
        ]
    candidates.sort(key=lambda c: -c[0])
    if postprocess_config.pre_nms_per_class is not None:
        seen = {}
        for c in candidates:
            seen.setdefault(c[2], []).append(c)
        allowed = {c for of_class in seen.values() for c in of_class[: postprocess_config.pre_nms_per_class]}
        candidates = [c for c in candidates if c in allowed]
    kept = []
    for score, a, label in candidates[: postprocess_config.pre_nms_per_image]:
        rivals = [k for k in kept if k[2] == label]
        if all(iou(boxes[a], boxes[k[1]]) <= postprocess_config.nms_iou for k in rivals):
            kept.append((score, a, label))
    kept = kept[: postprocess_config.max_detections]
    return np.array([[label, score, *np.clip(boxes[a], 0, 1)] for score, a, label in kept]).reshape(-1, 6)


def rows_of(result, image):
    """The detections of one image in a result of `postprocess`, as `detect_by_loops` returns them.

    Asserts that the scores descend and that the padding is zero.
    """
    n = int(result["num_detections"][image])
    label, score, boxes = (
        np.array(result[f"detection_{name}"][image]) for name in ("classes", "scores", "boxes")
    )
    assert np.all(score[:n] > 0) and np.all(np.diff(score[:n]) <= 0)
    assert not score[n:].any() and not label[n:].any() and not boxes[n:].any()
    return np.concatenate([label[:n, None], score[:n, None], boxes[:n]], axis=1)
