import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from stand_in_model import CLASSES, stand_in_config, stand_in_model

import export_savedmodel
from refinedet_tf import cli
from refinedet_tf.config import Config
from refinedet_tf.detector import Detector
from refinedet_tf.errors import InputError
from refinedet_tf.export import savedmodel


@pytest.fixture(scope="module")
def config():
    return stand_in_config((64, 128))


@pytest.fixture(scope="module")
def model(config):
    return stand_in_model(config)


@pytest.fixture(scope="module")
def exported(model, config, tmp_path_factory):
    """(folder of version 1, what the comparison said)"""
    return savedmodel.export_saved_model(model, config, tmp_path_factory.mktemp("exports"))


@pytest.fixture(scope="module")
def signatures(exported):
    # The variables live as long as the loaded object.
    loaded = tf.saved_model.load(str(exported[0]))
    yield loaded.signatures


def image_of(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def assert_agrees(outputs, row, result):
    n = int(outputs["num_detections"][row])
    assert n == len(result["scores"]) > 3
    height, width = result["image_size"]
    boxes = outputs["detection_boxes"][row, :n].numpy() * [height, width, height, width]
    np.testing.assert_allclose(boxes, result["boxes"], atol=1e-3 * max(height, width))
    np.testing.assert_allclose(outputs["detection_scores"][row, :n], result["scores"], atol=1e-5)
    np.testing.assert_array_equal(outputs["detection_classes"][row, :n], result["labels"])


def test_bytes_of_every_format_and_size(signatures, model, config, tmp_path):
    from PIL import Image

    images = [image_of(50 + 9 * i, 80 - 13 * i, seed=i) for i in range(4)]
    contents = [tf.io.encode_jpeg(images[0], quality=100).numpy(), tf.io.encode_png(images[1]).numpy()]
    for image, ending in zip(images[2:], ("bmp", "gif"), strict=True):
        Image.fromarray(image).save(tmp_path / f"image.{ending}")
        contents.append((tmp_path / f"image.{ending}").read_bytes())
    outputs = signatures["serving_default"](image_bytes=tf.constant(contents))
    files = []
    for number, one in enumerate(contents):
        files.append(tmp_path / str(number))
        files[-1].write_bytes(one)
    for row, result in enumerate(Detector(model, config)(files)):
        assert_agrees(outputs, row, result)


def test_tensors_of_any_size(signatures, model, config):
    detector = Detector(model, config)
    for height, width in ((64, 128), (33, 47)):
        images = np.stack([image_of(height, width, seed) for seed in (1, 2)])
        outputs = signatures["serving_tensor"](images=images)
        for row, result in enumerate(detector(list(images))):
            assert_agrees(outputs, row, result)


def test_signature_names_and_types(signatures):
    assert sorted(signatures) == ["serving_default", "serving_tensor"]
    (bytes_spec,) = signatures["serving_default"].structured_input_signature[1].values()
    (tensor_spec,) = signatures["serving_tensor"].structured_input_signature[1].values()
    assert (bytes_spec.name, bytes_spec.dtype, bytes_spec.shape.rank) == ("image_bytes", tf.string, 1)
    assert (tensor_spec.name, tensor_spec.dtype) == ("images", tf.uint8)
    assert tensor_spec.shape.as_list() == [None, None, None, 3]
    for signature in signatures.values():
        described = {k: (v.dtype.name, v.shape.as_list()) for k, v in signature.structured_outputs.items()}
        assert described == {
            "detection_boxes": ("float32", [None, 200, 4]),
            "detection_scores": ("float32", [None, 200]),
            "detection_classes": ("float32", [None, 200]),
            "num_detections": ("int32", [None]),
        }


def test_undecodable_bytes_are_refused(signatures):
    with pytest.raises(tf.errors.InvalidArgumentError):
        signatures["serving_default"](image_bytes=tf.constant([b"not an image"]))


def test_labels_are_an_asset(exported):
    assert (exported[0] / "assets" / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)


def test_comparison_reports_what_it_compared(exported):
    differences = exported[1]
    assert differences["detections"] > 20
    assert differences["boxes"] <= 1e-5 and differences["scores"] <= 1e-5


SERVE_ALONE = """
import sys
for name in ("keras", "refinedet_tf"):
    sys.modules[name] = None  # Importing it raises ImportError.
import tensorflow as tf
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
outputs = serve(image_bytes=tf.constant([open(sys.argv[2], "rb").read()]))
print(int(outputs["num_detections"][0]), float(outputs["detection_scores"][0, 0]))
"""


def test_loads_without_keras_and_without_this_package(exported, model, config, tmp_path):
    image = tmp_path / "image.png"
    image.write_bytes(tf.io.encode_png(image_of(40, 60)).numpy())
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    child = subprocess.run(
        [sys.executable, "-c", SERVE_ALONE, str(exported[0]), str(image)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 0, child.stderr
    count, score = child.stdout.split()
    (result,) = Detector(model, config)([image])
    assert int(count) == len(result["scores"]) > 3
    assert float(score) == pytest.approx(result["scores"][0], abs=1e-5)


@pytest.fixture
def quick_save(monkeypatch):
    """Replaces writing and comparing, where only the folders matter."""
    monkeypatch.setattr(tf.saved_model, "save", lambda module, path, signatures: Path(path).mkdir())
    monkeypatch.setattr(savedmodel, "compare", lambda *_: {"boxes": 0.0, "scores": 0.0, "detections": 5})


def test_versions(quick_save, model, config, tmp_path):
    def export(version=None):
        return savedmodel.export_saved_model(model, config, tmp_path, version)[0]

    assert export() == tmp_path / "1"
    assert export(12) == tmp_path / "12"
    (tmp_path / "notes").mkdir()
    assert export() == tmp_path / "13"
    with pytest.raises(InputError, match="version 12 exists"):
        export(12)
    with pytest.raises(InputError, match="at least 1, got 0"):
        export(0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "12", "13", "notes"]


def test_nothing_is_left_after_a_failure(monkeypatch, model, config, tmp_path):
    def fail(module, path, signatures):
        (Path(path)).mkdir()
        raise RuntimeError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        savedmodel.export_saved_model(model, config, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_different_network_is_noticed(exported, config):
    with pytest.raises(savedmodel.ExportMismatch, match="differs from the network by"):
        savedmodel.compare(exported[0], Detector(stand_in_model(config, seed=1), config))


@pytest.mark.parametrize(
    ("box_shift", "score_shift", "label"),
    [(2e-3, 0, 1), (0, 2e-4, 1), (0, 0, 2)],
    ids=["box", "score", "class"],
)
def test_differences_in_one_detection_are_measured(box_shift, score_shift, label):
    boxes = np.array([[0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]])
    one = (boxes, np.array([0.9, 0.8]), np.array([1, 1]))
    other = (boxes[:1] + box_shift, np.array([0.9]) + score_shift, np.array([label]))
    box, score = savedmodel._differences(other, one)
    if label == 2:
        assert np.isinf(box) and np.isinf(score)
    else:
        assert (box, score) == pytest.approx((box_shift, score_shift))


def test_equal_boxes_are_told_apart_by_their_scores():
    """As those of objects larger than the image, all cut to the same."""
    boxes = np.array([[0.0, 0, 1, 1]] * 3)
    one = (boxes, np.array([0.9, 0.5, 0.1]), np.ones(3, int))
    other = (boxes + 1e-7, np.array([0.9, 0.5, 0.1]), np.ones(3, int))
    assert savedmodel._differences(one, other) == pytest.approx((1e-7, 0))


def test_class_name_of_two_lines_is_refused(tmp_path):
    config = stand_in_config(classes=("good", "bad\nname"))
    with pytest.raises(InputError, match=r"'bad\\nname' must be one line"):
        savedmodel.export_saved_model(stand_in_model(config), config, tmp_path)


def test_output_that_is_a_file(quick_save, model, config, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        savedmodel.export_saved_model(model, config, tmp_path / "file")


def test_command(quick_save, monkeypatch, model, config, tmp_path, capsys):
    monkeypatch.setattr(cli, "load_model", lambda arguments: (config, model))
    arguments = ["--config", "any", "--output", str(tmp_path / "exports"), "--version", "3"]
    export_savedmodel.main(arguments)
    assert (tmp_path / "exports" / "3").is_dir()
    assert "5 detections" in capsys.readouterr().out


def test_command_fails_loudly(quick_save, monkeypatch, model, config, tmp_path):
    def differ(*_):
        raise savedmodel.ExportMismatch("the SavedModel differs")

    monkeypatch.setattr(cli, "load_model", lambda arguments: (config, model))
    monkeypatch.setattr(savedmodel, "compare", differ)
    with pytest.raises(SystemExit, match="the SavedModel differs; nothing was exported"):
        export_savedmodel.main(["--config", "any", "--output", str(tmp_path)])
    assert list(tmp_path.iterdir()) == []


def test_config_without_classes(model, tmp_path):
    with pytest.raises(InputError, match="data.classes is null"):
        savedmodel.export_saved_model(model, Config(), tmp_path)
