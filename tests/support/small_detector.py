"""RefineDet with the small backbone and random weights that detect many objects, for tests of exports."""

from unittest import mock

import keras
import numpy as np
from config_of import config_of
from small_network import BACKBONE, small_backbone
from stand_in_model import CLASSES

from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.network import build_model

SIZE = (96, 128)


def small_config(postprocess=None, **model):
    """A config for images of `SIZE`; `model` holds other values of that part."""
    small = {"backbone": BACKBONE, "image_size": SIZE, "tcb_channels": 32}
    return config_of(CLASSES, model={**small, **model}, postprocess=postprocess or {})


def small_detector(config, seed=0):
    """The network of a config."""
    keras.utils.set_random_seed(seed)
    with mock.patch.dict(BACKBONES, {BACKBONE: small_backbone}):
        model = build_model(config)
    for variable in model.trainable_variables:
        if "conf" in variable.path and "kernel" in variable.path:
            # Decided, but not as much as to have many scores of exactly 1.
            variable.assign(2 * variable)
    return model


def assert_same_detections(outputs, results, tolerance=1e-5):
    """Asserts that a dict of `postprocess` holds the detections that a `Detector` has returned."""
    assert len(outputs["num_detections"]) == len(results)
    for row, result in enumerate(results):
        count = int(outputs["num_detections"][row])
        assert count == len(result.scores) > 3
        boxes, scores, labels = (outputs[f"detection_{name}"][row] for name in ("boxes", "scores", "classes"))
        np.testing.assert_allclose(boxes[:count], result.normalized_boxes, rtol=0, atol=tolerance)
        np.testing.assert_allclose(scores[:count], result.scores, rtol=0, atol=tolerance)
        np.testing.assert_array_equal(labels[:count], result.labels)
