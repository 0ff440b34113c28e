"""The loss of heads with its gradients, and the ground truth of a batch."""

import numpy as np
import tensorflow as tf

from refinedet_tf.refinedet.losses import TERMS, refinedet_loss


def padded(objects, batch, max_objects):
    """Turns rows (image, label, ymin, xmin, ymax, xmax) into boxes [B, G, 4] and labels [B, G]."""
    boxes, labels = np.zeros((batch, max_objects, 4), np.float32), np.zeros((batch, max_objects), np.int32)
    filled = [0] * batch
    for image, label, *box in objects:
        index = filled[int(image)]
        boxes[int(image), index], labels[int(image), index] = box, int(label)
        filled[int(image)] += 1
    return {"boxes": boxes, "labels": labels}


def loss_and_gradients(heads, ground_truth, anchors, config):
    """The terms of the loss as numbers, and the gradient of their sum by each head."""
    heads = {name: tf.constant(value) for name, value in heads.items()}
    with tf.GradientTape() as tape:
        tape.watch(heads)
        terms = refinedet_loss(heads, ground_truth, anchors, config)
        total = sum(terms[name] for name in TERMS)
    gradients = tape.gradient(total, heads)
    return (
        {name: float(value) for name, value in terms.items()},
        {name: np.asarray(value) for name, value in gradients.items()},
    )
