from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from image_files import noise, save
from stand_in_model import CLASSES, stand_in_config, stand_in_model
from tensorflow.python.eager.polymorphic_function import polymorphic_function

from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.inference.tiled_detector import TiledDetector
from refinedet_tf.inference.tiles import Tiling
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.postprocessing import postprocess


@pytest.fixture(scope="module")
def detector(model, config):
    return Detector(model, config)


def assert_same(tf_test, actual, expected):
    assert actual["names"] == expected["names"]
    assert actual["image_size"] == expected["image_size"]
    tf_test.assertAllEqual(actual["labels"], expected["labels"])
    tf_test.assertAllClose(actual["scores"], expected["scores"], rtol=1e-7, atol=1e-6)
    tf_test.assertAllClose(actual["boxes"], expected["boxes"], rtol=1e-7, atol=1e-3)


def test_result_is_the_postprocessed_network_in_pixels(tf_test, detector, model, config):
    image = noise(50, 90)
    heads = model(warp_image(image, (64, 64))[None], training=False)
    expected = {k: v[0].numpy() for k, v in postprocess(heads, tile_anchors((64, 64)), config).items()}
    n = expected["num_detections"]
    assert n > 3
    result = detector([image])[0]
    tf_test.assertAllClose(result["scores"], expected["detection_scores"][:n], rtol=1e-7, atol=1e-6)
    pixels = expected["detection_boxes"][:n] * [50, 90, 50, 90]
    tf_test.assertAllClose(result["boxes"], pixels, rtol=1e-7, atol=1e-3)
    tf_test.assertAllEqual(result["labels"], expected["detection_classes"][:n])
    assert result["names"] == [CLASSES[label - 1] for label in result["labels"]]
    assert result["image_size"] == (50, 90)
    for name, dtype in (("boxes", np.float32), ("scores", np.float32), ("labels", np.int32)):
        tf_test.assertDTypeEqual(result[name], dtype)


def test_boxes_are_in_pixels_of_the_original_image(tf_test, detector):
    """Repeated pixels give the network the same input, so only the unit of the boxes differs."""
    small = noise(64, 64)
    large = np.repeat(np.repeat(small, 2, axis=0), 3, axis=1)
    of_small, of_large = detector([small, large])
    assert of_large["image_size"] == (128, 192)
    assert len(of_small["boxes"]) > 3
    boxes = of_large["boxes"]
    tf_test.assertAllClose(boxes, of_small["boxes"] * [2, 3, 2, 3], rtol=1e-7, atol=1e-2)
    tf_test.assertAllInRange(boxes[:, ::2], 0, 128)
    tf_test.assertAllInRange(boxes[:, 1::2], 0, 192)


def test_paths_and_arrays_of_many_sizes_in_any_batches(tf_test, detector, tmp_path):
    sizes = [(40 + 7 * i, 90 - 11 * i) for i in range(5)]
    arrays = [noise(*size, seed=i) for i, size in enumerate(sizes)]
    files = [save(tmp_path / f"{i}.png", *size, seed=i) for i, size in enumerate(sizes)]
    mixed = [str(files[0]), arrays[1], files[2], *arrays[3:]]
    alone = [detector([array])[0] for array in arrays]
    for batch_size in (1, 2, 8):
        together = detector(mixed, batch_size=batch_size)
        assert len(together) == 5
        for actual, expected in zip(together, alone, strict=True):
            assert_same(tf_test, actual, expected)


def test_nothing_detected(tf_test, model, config):
    def blind(images, training):
        heads = dict(model(images, training=training))
        return heads | {
            "arm_conf": tf.stack([heads["arm_conf"][..., 0] * 0 + 9, heads["arm_conf"][..., 0] * 0], -1)
        }

    result = Detector(blind, config)([noise(20, 20)])[0]
    tf_test.assertShapeEqual(result["boxes"], np.zeros((0, 4)))
    assert result["names"] == []


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), r"image 1 must be .* got float32 \[8, 8, 3\]"),
        (np.zeros((8, 8), np.uint8), r"image 1 must be .* got uint8 \[8, 8\]"),
        (np.zeros((8, 8, 4), np.uint8), r"got uint8 \[8, 8, 4\]"),
        (np.zeros((0, 8, 3), np.uint8), r"got uint8 \[0, 8, 3\]"),
    ],
)
def test_wrong_images_are_named(detector, image, words):
    with pytest.raises(InputError, match=words):
        detector([noise(8, 8), image])


@pytest.mark.parametrize(
    ("images", "batch_size", "words"),
    [
        ("street.jpg", 1, "images must be a list of images, got the single path street.jpg"),
        (Path("street.jpg"), 1, "images must be a list of images, got the single path street.jpg"),
        (b"street.jpg", 1, "images must be a list of images, got the single path b'street.jpg'"),
        *(
            ([noise(8, 8)], number, f"batch_size must be a whole number of at least 1, got {number}")
            for number in (0, -1, 2.5, True)
        ),
        ([noise(8, 8), "no/such.jpg"], 8, "no/such.jpg cannot be read: No such file"),
        ([noise(8, 8), np.zeros((3, 3))], 8, "image 1 must be"),
    ],
)
def test_wrong_calls_of_every_detector(detector, model, config, images, batch_size, words):
    detectors = (detector, MultiScaleDetector(model, config), TiledDetector(detector, config, Tiling(64)))
    for any_detector in detectors:
        with pytest.raises(InputError, match=words):
            any_detector(images, batch_size)
        assert any_detector([], 8) == []


def test_model_of_any_size_takes_the_given_one(tf_test, detector):
    free = stand_in_config(None)
    image = noise(70, 30)
    assert_same(tf_test, Detector(stand_in_model(free), free, (64, 64))([image])[0], detector([image])[0])


@pytest.mark.slow
def test_detectors_of_many_sizes_do_not_warn_of_tracing(monkeypatch):
    """TensorFlow counts the tracings of a line of code, as if all detectors were one function."""
    manager = polymorphic_function._FrequentTracingDetectorManager()
    monkeypatch.setattr(polymorphic_function, "_frequent_tracing_detector_manager", manager)
    warnings = []
    monkeypatch.setattr(polymorphic_function.logging, "warning", lambda *message: warnings.append(message))
    config = stand_in_config(None)
    model = stand_in_model(config)
    for side in (64, 128, 192, 256, 320, 384):
        (result,) = Detector(model, config, (64, side))([noise(50, 90)])
        assert len(result.scores) > 0
    assert warnings == []
