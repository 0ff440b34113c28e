"""The suppression in operators of ONNX and LiteRT against TensorFlow's kernel."""

import numpy as np
import pytest
from config_of import config_of
from random_heads import detection_heads

from refinedet_tf.exports import suppression
from refinedet_tf.exports.suppression import suppressed
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.candidates import limited_candidates
from refinedet_tf.refinedet.postprocessing import postprocess

ANCHORS = tile_anchors((64, 64))

CASES = {
    "paper": {},
    "per image": {"pre_nms_per_image": 60, "max_detections": 70, "score_threshold": 0.1},
    "both": {"pre_nms_per_image": 70, "pre_nms_per_class": 30, "nms_iou": 0.3},
    "per class": {"pre_nms_per_image": None, "pre_nms_per_class": 40, "max_detections": 150},
    "few stay": {"pre_nms_per_image": None, "max_detections": 9},
    "as many as a block": {"pre_nms_per_image": None, "max_detections": 32},
    "all stay": {"pre_nms_per_image": None, "max_detections": 1000},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_classes", [1, 5])
def test_finds_what_the_kernel_finds(monkeypatch, case, num_classes):
    """The blocks are smaller than the number of boxes that stay, of about that size, and larger."""
    config = config_of(num_classes, postprocess=CASES[case])
    heads = detection_heads(3, len(ANCHORS), num_classes, seed=num_classes)
    heads["odm_conf"][1, :, 0] += 6  # One image has few candidates, and one has none.
    heads["odm_conf"][2, :, 0] += 60
    expected = postprocess(heads, ANCHORS, config)
    assert expected["num_detections"][0] > 8 and expected["num_detections"][2] == 0
    candidates = limited_candidates(heads, ANCHORS, config)
    for block in (1000, 32, 7):
        monkeypatch.setattr(suppression, "BLOCK", block)
        found = suppressed(*candidates, config.postprocess, num_classes)
        for name, values in expected.items():
            assert np.array(found[name]).tobytes() == np.array(values).tobytes(), (name, block)
