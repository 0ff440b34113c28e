"""Int8: the images of the calibration, the accuracy of the files, and the options of the command."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from image_files import noise, save
from small_detector import small_detector

import export_savedmodel
from refinedet_tf.commands import export as export_command
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.evaluator import evaluate
from refinedet_tf.exports import calibration
from refinedet_tf.exports.accuracy import accuracy_lines, evaluate_file
from refinedet_tf.exports.runtimes import MediaPipeFileInLiteRT, OnnxFile
from refinedet_tf.exports.savedmodel import ExportOptions


def test_calibration_images_are_spread_evenly():
    paths = [Path(f"{number}.jpg") for number in range(1000)]
    with pytest.raises(InputError, match="--int8: calibration needs at least 16 images .*, got 15"):
        calibration.choose(paths[:15])
    assert calibration.choose(paths[:16]) == paths[:16]
    assert calibration.choose(paths[:128]) == paths[:128]
    chosen = calibration.choose(paths)
    assert len(chosen) == len(set(chosen)) == 128
    numbers = [int(path.stem) for path in chosen]
    assert (numbers[0], numbers[-1], set(np.diff(numbers))) == (0, 992, {7, 8})


def test_calibration_images_are_those_of_inference(tf_test, tmp_path):
    images = calibration.read_images([save(tmp_path / "a.png", 30, 50)], (20, 40))
    tf_test.assertAllEqual(images, warp_image(noise(30, 50), (20, 40))[None])


def test_batches_have_one_size():
    batches = list(calibration.batches(np.arange(5), 2))
    assert [batch.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 4]]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"int8": [Path("a.jpg")] * 16}, "add --onnx, --litert or --mediapipe"),
        ({"int8": [Path("a.jpg")] * 3, "litert": True}, "got 3"),
        ({"precision": "bfloat16", "onnx": True}, "ONNX files are float32"),
        ({"precision": "bfloat16", "litert": True}, "LiteRT files are float32"),
        ({"precision": "bfloat16", "mediapipe": True}, "MediaPipe files are float32"),
        ({"onnx": True, "onnx_batch": 0}, "the ONNX batch must be at least 1, got 0"),
        ({"litert_batch": 0}, "the LiteRT batch must be at least 1, got 0"),
    ],
)
def test_options_are_refused(options, words):
    with pytest.raises(InputError, match=words):
        ExportOptions(**options)


@pytest.mark.slow
def test_command_measures_int8(command, monkeypatch, config_file, devkit, tmp_path):
    """Export to all forms, with mAP on the labelled validation data."""
    dataset = read_dataset(load_config(config_file).data, "validation")
    classes = json.dumps(list(dataset.class_names))
    config = load_config(config_file, [f"data.classes={classes}"])
    model = small_detector(config)
    monkeypatch.setattr(export_command, "load_model", lambda *_: model)
    images = devkit / "VOC2007" / "JPEGImages"
    more_images = [save(tmp_path / f"{number}.png", seed=number) for number in range(4)]
    common = ("--config", config_file, "--set", f"data.classes={classes}", "--weights", "any")
    result = command(
        export_savedmodel, *common, "--output", tmp_path / "exports", "--litert", "--onnx", "--mediapipe",
        "--int8", images, *more_images, "--check-split", "validation",
    )  # fmt: skip
    assert result.code == 0, result
    assert "calibrating int8 on 16 of 16 images" in result.err
    lines = result.out.splitlines()
    forms = ["heads_int8.onnx", "heads_int8.tflite", "mediapipe_int8.tflite"]
    in_mediapipe = ["mediapipe.tflite in MediaPipe"] if importlib.util.find_spec("mediapipe") else []
    end = 12 + len(in_mediapipe)
    names = [line.split(":")[0].strip() for line in lines[1:end]]
    assert names == [
        "serving_default", "serving_tensor", "serving_heads",
        "detector.onnx", "detector.tflite", "heads.onnx", "heads.tflite", "mediapipe.tflite",
        *in_mediapipe,
        *(f"{form} compared with float32" for form in forms),
    ]  # fmt: skip
    assert lines[end] == "mAP (voc) on 2007/val, 4 images:"
    assert [line.split()[0] for line in lines[end + 1 :]] == ["network", *forms]
    expected = evaluate(model, config, dataset)
    assert lines[end + 1].split()[1:] == [f"{100 * expected.mean_ap:.2f}", "%", "(+0.00", "points)"]
    # A file in float32 has the accuracy of the network.
    folder = tmp_path / "exports" / "1"
    for file in (
        OnnxFile(folder / "onnx" / "heads.onnx"),
        MediaPipeFileInLiteRT(folder / "litert" / "mediapipe.tflite"),
    ):
        same = evaluate_file(file, config, dataset)
        assert same.mean_ap == pytest.approx(expected.mean_ap, abs=1e-6)
    assert accuracy_lines({"network": expected, "x": same})[1].startswith("x        ")


def test_command_refuses(refused, tmp_path):
    common = ("--config", "shapes.json", "--output", tmp_path, "--weights", "any")
    line = refused(export_savedmodel, *common, "--check-split", "test")
    assert line == "error: --check-split measures files in int8: add --int8 IMAGES"
