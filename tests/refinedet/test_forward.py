"""Both networks of the authors from file to detections, against the numbers of their program."""

import formula_weights
import numpy as np
import pytest
from caffe_writer import write_caffemodel
from golden_arrays import GOLDEN_FOLDER
from row_order import undo_exchanges

from refinedet_tf.config.files import load_config
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.refinedet.postprocessing import postprocess
from refinedet_tf.weights import load_weights

FOLDER = GOLDEN_FOLDER
CONFIGS = {"vgg16": "voc320.json", "resnet101": "coco320.json"}
TITLES = {"vgg16": "VGG-16, 320 x 320, 21 classes", "resnet101": "ResNet-101, 320 x 320, 81 classes"}
LIMITS = {
    "official": {"pre_nms_per_class": 1000, "max_detections": 500},
    "paper": {"pre_nms_per_class": 400, "max_detections": 200},
}
"""The authors' layer with its own limits, and with the paper's limits applied per class."""


@pytest.fixture(scope="module", params=CONFIGS)
def network(request, tmp_path_factory):
    """(name, golden arrays, heads of the reference image by a model that was read from a .caffemodel)."""
    name = request.param
    file = tmp_path_factory.mktemp(name) / f"{name}.caffemodel"
    write_caffemodel(file, formula_weights.reference_layers(name))
    model = build_model(load_config(CONFIGS[name], [f"model.backbone={name}"]))
    filled = load_weights(model, file)
    file.unlink()
    assert filled == [layer.name for layer in model.layers if layer.weights]
    heads = model(formula_weights.reference_image()[None], training=False)
    return name, np.load(FOLDER / f"forward_{name}_320.npz"), heads


def test_heads_against_the_authors_program(network, compare):
    name, golden, heads = network
    every = int(golden["every"])
    for head, value in heads.items():
        found = np.asarray(value)[0, ::every]
        on = f"{TITLES[name]}, every {every}th anchor"
        compare(f"`{head}`", on, found, golden[head], 1e-4, relative_to=float(golden[f"{head}_largest"]))


@pytest.mark.parametrize("limits", LIMITS)
def test_detections_against_the_authors_program(network, limits, compare):
    name, golden, heads = network
    settings = {"pre_nms_per_image": "null", **LIMITS[limits]}
    overrides = [f"postprocess.{key}={value}" for key, value in settings.items()]
    result = postprocess(heads, tile_anchors((320, 320)), load_config(CONFIGS[name], overrides))
    labels, scores, boxes = (
        np.asarray(result[f"detection_{part}"])[0] for part in ("classes", "scores", "boxes")
    )
    # Theirs come class by class, [image, label, score, xmin, ymin, xmax, ymax], and not clipped.
    rows = golden[f"det_{limits}"]
    assert golden[f"det_{limits}_stable"].all()
    count = int(result["num_detections"][0])
    assert count == len(rows)
    by_class = np.argsort(labels[:count], kind="stable")
    labels, scores, boxes = labels[by_class], scores[by_class], boxes[by_class]
    on = f"{TITLES[name]}, from image to detections, {limits} numbers"
    compare.same("detections, class by class in order", on, labels, rows[:, 1])
    # Of two whose scores lie closer together than the tolerance, rounding decides which one comes first.
    found = np.column_stack([scores, boxes])
    expected = np.column_stack([rows[:, 2], np.clip(rows[:, [4, 3, 6, 5]], 0, 1)])
    found = found[undo_exchanges(found, expected, rows[:, 1], np.full(5, 1e-4))]
    # Through the whole network; from the same heads scores agree within 1e-5 (test_postprocessing). Of
    # their softmax the golden arrays' own rounding is up to 1.2e-4 of its deviation.
    compare("scores", on, found[:, 0], expected[:, 0], 1e-4)
    compare("boxes, theirs clipped", on, found[:, 1:], expected[:, 1:], 1e-4)
