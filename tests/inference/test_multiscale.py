import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from row_order import undo_exchanges
from stand_in_model import stand_in_config, stand_in_model
from thin_vgg import thin_vgg
from tiers import slow

from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.inference.merging import box_voting, soft_box_voting
from refinedet_tf.inference.multiscale import PASSES, MultiScaleDetector, Pass, mirror
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.postprocessing import postprocess

SIZES = [(60, 100), (100, 60), (80, 80), (240, 300)]
"""Heights and widths: wide, upright, square, large."""

LISTED = {
    320: [320, (192, 320), 192, 384, 448, 512, 576, 640, 704],
    512: [512, (384, 512), 256, 384, 640, 768, 896, 1024, 1152],
}
"""Sides of the input, or (height, width) for a wide image, by the size of the training."""

TOLERANCES = np.array([1e-4, 0.05, 0.05, 0.05, 0.05])
"""The rounding of a score, where it decides an order, and of a box's sides in pixels."""


def multiscale_config(metric="voc", image_size=(320, 320)):
    return config_of(
        "abc",
        model={"image_size": image_size},
        evaluation={"metric": metric},
        # Random weights score low.
        postprocess={"score_threshold": 0.05, "objectness_threshold": 0.0, "max_detections": 30},
    )


@pytest.fixture(scope="module")
def images():
    """Squares of 16 pixels in random colours."""
    generator = np.random.default_rng(0)
    squares = generator.integers(0, 256, (19, 19, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    return [squares[:height, :width] for height, width in SIZES]


@pytest.fixture(scope="module", params=["one layer", pytest.param("thin VGG-16", marks=pytest.mark.slow)])
def model(request):
    """Heads of a single layer, because the graphs of sixteen passes are traced; or all of RefineDet."""
    if request.param == "one layer":
        return stand_in_model(stand_in_config(image_size=None))
    keras.utils.set_random_seed(0)
    model = thin_vgg(num_classes=3)
    generator = np.random.default_rng(1)
    for variable in model.weights:
        if variable.path.split("/")[0][:4] in ("arm_", "odm_"):
            variable.assign(np.asarray(variable) + generator.normal(0, 0.3, variable.shape))
    return model


def by_hand(model, config, image, base):
    """The merged detections of one image: {label: (boxes, scores)}."""
    height, width = image.shape[:2]
    coco = config.evaluation.metric == "coco"
    upright = (base, int(0.6 * base))
    runs = [((base, base), 0, 1e9), (upright[::-1] if height < width else upright, 0, 1e9)]
    gates = {
        0.6: (32, 1e9),
        1.2: (0, 160),
        1.4: (0, 128),
        1.6: (0, 96),
        1.8: (0, 64),
        2.0: (0, 48),
        2.2: (0, 32),
    }
    runs += [((int(f * base),) * 2, *gate) for f, gate in gates.items() if coco or f != 2.0]
    found = []
    for size, longer_above, shorter_below in runs:
        for flipped in (False, True):
            pixels = image[:, ::-1] if flipped else image
            heads = model(warp_image(tf.constant(pixels), size)[None], training=False)
            result = {
                name: np.asarray(value)[0]
                for name, value in postprocess(heads, tile_anchors(size), config).items()
            }
            for k in range(result["num_detections"]):
                ymin, xmin, ymax, xmax = result["detection_boxes"][k] * [height, width, height, width]
                if flipped:
                    xmin, xmax = width - xmax, width - xmin
                sides = (ymax - ymin + 1, xmax - xmin + 1)
                if max(sides) > longer_above and min(sides) < shorter_below:
                    box = [ymin, xmin, ymax, xmax]
                    found.append((result["detection_classes"][k], result["detection_scores"][k], box))
    merged = {}
    for label in {row[0] for row in found}:
        boxes = np.array([box for other, _, box in found if other == label], np.float32)
        scores = np.array([score for other, score, _ in found if other == label], np.float32)
        merged[int(label)] = (soft_box_voting if coco else box_voting)(boxes, scores)
    return merged


@pytest.mark.parametrize("metric", ["voc", slow("coco")])
def test_equals_a_plain_loop_over_single_passes(tf_test, metric, model, images):
    config = multiscale_config(metric, (64, 64))
    # COCO has the passes of VOC and one more; the first image is wide, the second upright.
    images = images if metric == "coco" else images[:2]
    results = MultiScaleDetector(model, config)(images, batch_size=3)
    for image, result in zip(images, results, strict=True):
        expected = by_hand(model, config, image, base=64)
        assert sum(len(scores) for _, scores in expected.values()) == len(result["scores"]) > 20
        assert (np.diff(result["scores"]) <= 0).all()
        assert result["image_size"] == image.shape[:2]
        assert result["names"] == ["abc"[label - 1] for label in result["labels"]]
        for label, (boxes, scores) in expected.items():
            chosen = result["labels"] == label
            found = np.column_stack([result["scores"][chosen], result["boxes"][chosen]])
            right = np.column_stack([scores, boxes])[np.argsort(-scores, kind="stable")]
            assert len(found) == len(right)
            # Images one by one and in batches go through kernels that round differently.
            found = found[undo_exchanges(found, right, np.full(len(right), label), TOLERANCES)]
            tf_test.assertAllClose(found[:, 0], right[:, 0], rtol=1e-3, atol=1e-5)
            tf_test.assertAllClose(found[:, 1:], right[:, 1:], rtol=1e-7, atol=0.05)


@pytest.mark.parametrize("base", LISTED)
def test_input_sizes(base):
    sizes = [scale_pass.input_size(base, (300, 500)) for scale_pass in PASSES[base]]
    assert sizes == [size if isinstance(size, tuple) else (size, size) for size in LISTED[base]]
    assert PASSES[base][1].input_size(base, (500, 300)) == LISTED[base][1][::-1]
    # A square image is treated as an upright one, as in the authors' program.
    assert PASSES[base][1].input_size(base, (300, 300)) == LISTED[base][1][::-1]


@pytest.mark.parametrize(
    ("metric", "size", "passes"), [("voc07", 320, 8), ("coco", 320, 9), ("voc", 512, 6), ("coco", 512, 9)]
)
def test_number_of_passes(metric, size, passes, model):
    assert len(MultiScaleDetector(model, multiscale_config(metric, (size, size))).passes) == passes


def test_gates_count_one_pixel_more(tf_test):
    boxes = np.array([[0, 0, 31, 10], [0, 0, 31.5, 10], [0, 0, 200, 158], [0, 0, 200, 159]], np.float32)
    tf_test.assertAllEqual(Pass(0.6, longer_above=32).counts(boxes), [False, True, True, True])
    tf_test.assertAllEqual(Pass(1.2, shorter_below=160).counts(boxes), [True, True, True, False])
    assert Pass(1.0).counts(boxes).all()


def test_mirror(tf_test):
    boxes = np.array([[1, 2, 3, 10], [0, 0, 5, 20]], np.float32)
    tf_test.assertAllEqual(mirror(boxes, 20), [[1, 10, 3, 18], [0, 0, 5, 20]])


def test_cost_is_measured(model, images):
    detector = MultiScaleDetector(model, multiscale_config(image_size=(64, 64)))
    detector.passes = detector.passes[:2]
    detector(images[:1])
    assert detector.cost.seconds > detector.cost.plain_seconds > 0
    assert (detector.num_passes, detector.cost.inputs, detector.cost.views) == (4, 4, 0)


def test_refusals(model):
    with pytest.raises(InputError, match=r"needs a square model.image_size, got \[320, 512\]"):
        MultiScaleDetector(model, multiscale_config(image_size=(320, 512)))
    with pytest.raises(InputError, match="model.image_size is null"):
        MultiScaleDetector(model, multiscale_config(image_size=None))
