"""The SavedModel: its signatures, and the folder that the export writes."""

import json
import os
import sys
from pathlib import Path

import hostile_images
import numpy as np
import pytest
import tensorflow as tf
from full_disk import full_disk
from image_files import noise, save
from processes import output_without
from small_detector import SIZE, assert_same_detections
from stand_in_model import CLASSES, stand_in_config, stand_in_model
from tensorflow.python.tools import saved_model_cli

import export_savedmodel
from refinedet_tf.commands import export as export_command
from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.exports import savedmodel
from refinedet_tf.exports.routes import ExportMismatch
from refinedet_tf.exports.savedmodel import export_saved_model

SIGNATURES = ["serving_default", "serving_heads", "serving_tensor"]


@pytest.fixture(scope="module")
def signatures(exported):
    return exported.served.signatures


def test_bytes_of_every_format_and_size(signatures, exported, tmp_path):
    contents = [contents for contents, _ in hostile_images.readable().values()]
    outputs = signatures["serving_default"](image_bytes=tf.constant(contents))
    assert outputs["image_decoded"].numpy().all()
    files = [tmp_path / str(number) for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    assert_same_detections(outputs, exported.detector(files))
    num_scores = np.count_nonzero(outputs["detection_scores"].numpy(), axis=1)
    np.testing.assert_array_equal(num_scores, outputs["num_detections"])


def test_a_broken_file_has_an_empty_result_and_the_others_their_own(signatures, exported):
    image = noise(50, 70)
    good = tf.io.encode_png(image).numpy()
    bad = list(hostile_images.unreadable().values())
    outputs = signatures["serving_default"](image_bytes=tf.constant([*bad, good]))
    assert outputs["image_decoded"].numpy().tolist() == [False] * len(bad) + [True]
    for name in ("num_detections", "detection_boxes", "detection_scores", "detection_classes"):
        assert not outputs[name][:-1].numpy().any()
    assert_same_detections({name: value[-1:] for name, value in outputs.items()}, exported.detector([image]))


def test_no_images(signatures):
    outputs = signatures["serving_default"](image_bytes=tf.constant([], tf.string))
    assert outputs["detection_boxes"].shape == (0, 100, 4)


@pytest.mark.parametrize("size", [SIZE, (33, 47), (1, 1)])
def test_tensors_of_any_size(signatures, exported, size):
    images = noise(2, *size, seed=2)
    assert_same_detections(signatures["serving_tensor"](images=images), exported.detector(list(images)))


def test_heads(tf_test, signatures, exported):
    images = warp_image(noise(2, 33, 47), SIZE)
    expected = exported.model(images, training=False)
    heads = signatures["serving_heads"](images=images)
    assert heads.keys() == expected.keys() == {"arm_loc", "arm_conf", "odm_loc", "odm_conf"}
    for name, head in heads.items():
        tf_test.assertAllClose(head, expected[name], rtol=1e-5, atol=1e-5)


def test_signature_names_and_types(signatures):
    assert sorted(signatures) == SIGNATURES
    inputs = {}
    for name, signature in signatures.items():
        (spec,) = signature.structured_input_signature[1].values()
        inputs[name] = (spec.name, spec.dtype.name, spec.shape.as_list())
    assert inputs == {
        "serving_default": ("image_bytes", "string", [None]),
        "serving_tensor": ("images", "uint8", [None, None, None, 3]),
        "serving_heads": ("images", "float32", [None, *SIZE, 3]),
    }
    detections = {
        "detection_boxes": ("float32", [None, 100, 4]),
        "detection_scores": ("float32", [None, 100]),
        "detection_classes": ("float32", [None, 100]),
        "num_detections": ("int32", [None]),
    }
    outputs = {
        name: {k: (v.dtype.name, v.shape.as_list()) for k, v in signature.structured_outputs.items()}
        for name, signature in signatures.items()
    }
    assert outputs["serving_tensor"] == detections
    assert outputs["serving_default"] == detections | {"image_decoded": ("bool", [None])}
    heads = {"arm_loc": 4, "arm_conf": 2, "odm_loc": 4, "odm_conf": 4}
    assert outputs["serving_heads"] == {k: ("float32", [None, 768, depth]) for k, depth in heads.items()}


def test_comparisons(exported):
    of_files = [comparison for comparison in exported.comparisons if "in MediaPipe" not in comparison.name]
    float_files = ["detector.onnx", "detector.tflite", "heads.onnx", "heads.tflite", "mediapipe.tflite"]
    int8_files = ["heads_int8.onnx", "heads_int8.tflite", "mediapipe_int8.tflite"]
    assert [comparison.name for comparison in of_files] == [
        *("serving_default", "serving_tensor", "serving_heads", *float_files),
        *(f"{name} compared with float32" for name in int8_files),
    ]
    for comparison in of_files:
        assert comparison.detections > 200
        if "int8" not in comparison.name:
            assert (comparison.lost, comparison.scores < 1e-5, comparison.boxes < 1e-5) == (0, True, True)


def test_labels_and_description(exported):
    assets = exported.folder / "assets"
    assert (assets / "labels.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    description = json.loads((assets / "model.json").read_text(encoding="utf-8"))
    assert (description["classes"], description["image_size"]) == (list(CLASSES), list(SIZE))
    assert description["postprocess"]["max_detections"] == 100
    assert description["measured"] == {"mAP": 0.5}
    assert description["config"]["training"]["batch_size"] == exported.config.training.batch_size


SERVE_ALONE = """
import sys
import tensorflow as tf
folder, file = sys.argv[1:]
contents = open(file, "rb").read()
results = [tf.saved_model.load(folder).signatures["serving_default"](image_bytes=tf.constant([contents]))]
# TensorFlow Serving runs it in this way.
with tf.compat.v1.Session(graph=tf.Graph()) as session:
    signature = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["serving_default"]
    tensors = {name: output.name for name, output in signature.outputs.items()}
    results.append(session.run(tensors, {signature.inputs["image_bytes"].name: [contents]}))
for outputs in results:
    print(int(outputs["num_detections"][0]), float(outputs["detection_scores"][0, 0]))
"""


def test_loads_without_keras_and_without_this_package(exported, tmp_path):
    image = save(tmp_path / "image.png", 40, 60)
    arguments = ["-c", SERVE_ALONE, exported.folder, image]
    printed, _ = output_without(("keras", "refinedet_tf"), *arguments, folder=tmp_path)
    (result,) = exported.detector([image])
    lines = printed.splitlines()
    assert len(lines) == 2
    for line in lines:
        count, score = line.split()
        assert int(count) == len(result.scores) > 3
        assert float(score) == pytest.approx(result.scores[0], abs=1e-5)


def test_saved_model_cli(exported, monkeypatch, tmp_path):
    image = noise(40, 60)
    np.save(tmp_path / "images.npy", image[None])
    choice = ["--tag_set", "serve", "--signature_def", "serving_tensor"]
    files = ["--inputs", f"images={tmp_path / 'images.npy'}", "--outdir", str(tmp_path)]
    command = ["saved_model_cli", "run", "--dir", str(exported.folder), *choice, *files]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        saved_model_cli.main()
    assert not ended.value.code
    outputs = {file.stem: np.load(file) for file in tmp_path.glob("*.npy")}
    assert_same_detections(outputs, exported.detector([image]))


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_requests_neither_trace_nor_grow(signatures, count):
    from tensorflow.python.eager import context

    def resident():
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def request(number):
        rng = np.random.default_rng(number)
        image = noise(*rng.integers(20, 400, 2), seed=number)
        contents = tf.constant([tf.io.encode_jpeg(image).numpy(), b"no image"])
        outputs = signatures["serving_default"](image_bytes=contents)
        assert outputs["num_detections"][0] > 0 and outputs["num_detections"][1] == 0
        assert signatures["serving_tensor"](images=image[None])["num_detections"][0] > 0

    for number in range(100):
        request(number)
    functions, memory = context.context().list_function_names(), resident()
    for number in range(count // 2):  # A request is made to each of two signatures.
        request(number)
    assert context.context().list_function_names() == functions
    assert resident() - memory < 20


@pytest.fixture(scope="module")
def network():
    """The network and the config of exports of which only the folder matters."""
    config = stand_in_config((64, 128))
    return stand_in_model(config), config


@pytest.fixture
def quick_save(monkeypatch):
    """Replaces writing and comparing, where only the folders matter; holds the last export's signatures."""
    saved = {}

    def save(module, path, signatures):
        Path(path).mkdir()
        saved.update(signatures)

    monkeypatch.setattr(tf.saved_model, "save", save)
    monkeypatch.setattr(savedmodel, "check_export", lambda *_: [])
    return saved


def test_free_image_size(quick_save, tmp_path):
    """A network that takes images of any size is exported for one size."""
    config = stand_in_config(None)
    export_saved_model(stand_in_model(config), config, tmp_path, image_size=(64, 128))
    assert quick_save["serving_heads"].input_signature[0].shape == [None, 64, 128, 3]


def test_versions(quick_save, network, tmp_path):
    def export(version=None):
        return export_saved_model(*network, tmp_path, version)[0]

    assert export() == tmp_path / "1"
    assert export(12) == tmp_path / "12"
    (tmp_path / "notes").mkdir()
    assert export() == tmp_path / "13"
    with pytest.raises(InputError, match="version 12 exists"):
        export(12)
    for version in (0, -1, 10**18, 10**30, 10**5000):
        with pytest.raises(InputError, match=r"--version must be in 1\.\.9{18}, got .{1,200}$"):
            export(version)
    (tmp_path / "99999999999999999999").mkdir()
    assert export() == tmp_path / "14"
    names = ["1", "12", "13", "14", "99999999999999999999", "notes"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_two_exports_at_once(quick_save, monkeypatch, network, tmp_path):
    """The slower one takes the next number; a number that was named is not replaced."""
    exported = []

    def export_meanwhile(*_):
        monkeypatch.setattr(savedmodel, "check_export", lambda *_: [])
        exported.append(export_saved_model(*network, tmp_path)[0])
        return []

    for version in (None, 3):
        monkeypatch.setattr(savedmodel, "check_export", export_meanwhile)
        try:
            exported.append(export_saved_model(*network, tmp_path, version)[0])
        except InputError as error:
            exported.append(str(error))
    refused = f"version 3 exists in {tmp_path}: name another --version, or none"
    assert exported == [tmp_path / "1", tmp_path / "2", tmp_path / "3", refused]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2", "3"]
    assert all((tmp_path / name / "assets.extra").is_dir() for name in "123")


@pytest.mark.parametrize("largest", [10, 1_000, 60_000])
def test_a_full_disk_ends_in_one_line(network, tmp_path, largest):
    message = f"--output {tmp_path} cannot be written: .*File too large"
    with full_disk(largest), pytest.raises(InputError, match=message):
        export_saved_model(*network, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_after_a_failure(monkeypatch, network, tmp_path):
    def fail(module, path, signatures):
        Path(path).mkdir()
        raise RuntimeError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        export_saved_model(*network, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_refusals_before_the_work(network, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file cannot be written"):
        export_saved_model(*network, tmp_path / "file")


# The command.


@pytest.fixture
def command_line(monkeypatch, command, network):
    """Runs the command with the stand-in network."""
    model, config = network
    monkeypatch.setattr(export_command, "config_from", lambda _: config)
    monkeypatch.setattr(export_command, "load_model", lambda *_: model)
    return lambda *arguments: command(export_savedmodel, "--config", "voc320.json", *arguments)


def test_command(command_line, tmp_path):
    for name, side in (("a.png", 50), ("b.png", 70)):
        save(tmp_path / name, 40, side)
    output = tmp_path / "exports"
    result = command_line(
        *("--output", output, "--version", "3", "--weights", "any", "--check", tmp_path / "*.png")
    )
    assert result.code == 0, result.err
    first, *lines = result.out.splitlines()
    assert first == f"{output / '3'}, compared with the network on 2 images:"
    assert result.err.splitlines() == ["writing the SavedModel ...", "comparing on 2 images ..."]
    assert sorted(line.split(":")[0].strip() for line in lines) == SIGNATURES
    assert all(" 0 not found again" in line for line in lines)


def test_command_fails_loudly(quick_save, monkeypatch, command_line, tmp_path):
    def differ(*_):
        raise ExportMismatch("serving_default differs")

    monkeypatch.setattr(savedmodel, "check_export", differ)
    result = command_line("--output", tmp_path, "--weights", "any")
    assert result.code == "error: serving_default differs; nothing was exported"
    assert list(tmp_path.iterdir()) == []


def test_command_refuses(command_line, tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"nothing")
    common = ("--output", tmp_path / "exports", "--weights", "any")
    for arguments, words in {
        ("--check", broken): "broken.jpg cannot be decoded",
        ("--onnx-batch", "0"): "at least 1, got 0",
        ("--evaluation", tmp_path / "none.json"): "none.json cannot be read",
    }.items():
        result = command_line(*common, *arguments)
        assert result.code == 2 and words in result.err, result.err
    assert not (tmp_path / "exports").exists()
