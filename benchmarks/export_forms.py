"""Writes a network in all exported forms, and lists them."""

import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from export_runtimes import Form

from refinedet_tf.config import Config

if TYPE_CHECKING:
    import keras

CALIBRATION_IMAGES = 64
"""The number of generated images for int8 where no images are given."""


def write_forms(
    model: "keras.Model",
    config: Config,
    folder: Path,
    batches: Sequence[int],
    calibration_images: Sequence[Path] | None,
) -> None:
    """Writes the forms.

    ```
    run/        config.json and model.weights.h5
    float32/1/  the folder of a version, as `export_saved_model` writes it
    bfloat16/   the SavedModel of bfloat16 alone
    litert-N/   the LiteRT files for N images per call, unless N is 1
    ```

    Args:
        model: the network in float32.
        config: the config of the network, with `training.precision` "float32".
        folder: the folder of the forms, which is made.
        batches: the numbers of images per call of the LiteRT files.
        calibration_images: image files on which the ranges for int8 are measured; None: generated images.
    """
    import tensorflow as tf

    from refinedet_tf.config.files import config_to_json
    from refinedet_tf.exports import calibration, litert_files
    from refinedet_tf.exports.graphs import DetectionGraphs, in_bfloat16
    from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model, serving_signatures

    run = folder / "run"
    run.mkdir(parents=True)
    (run / "config.json").write_text(config_to_json(config), encoding="utf-8")
    model.save_weights(run / "model.weights.h5")
    paths = calibration_images or _write_scenes(folder / "scenes", CALIBRATION_IMAGES)
    options = ExportOptions(onnx=True, litert=True, int8=paths)
    export_saved_model(model, config, folder / "float32", 1, options=options, progress=_report)
    # An export would refuse bfloat16 with random weights, whose scores all lie near the thresholds.
    narrow = DetectionGraphs(in_bfloat16(model, config), config, kernel_dtype="bfloat16")
    tf.saved_model.save(narrow, str(folder / "bfloat16"), serving_signatures(narrow))
    graphs = DetectionGraphs(model, config)
    images = calibration.read_images(calibration.choose(paths), graphs.image_size)
    for batch in batches:
        if batch != 1:
            _report(f"converting to LiteRT for {batch} images")
            litert_files.write_litert(graphs, {}, folder / f"litert-{batch}", batch, images)


def network_forms(folder: Path, batch: int, threads: int) -> list[Form]:
    """Returns the forms without suppression, the network in TensorFlow first.

    Args:
        folder: the folder that `write_forms` has written.
        batch: the number of images per call, one of those that `write_forms` got.
        threads: the number of threads.
    """
    onnx, litert = folder / "float32" / "1" / "onnx", _litert_folder(folder, batch)
    files = [
        ("model", "float32", folder / "run"),
        ("model", "bfloat16", folder / "run"),
        ("SavedModel", "float32", folder / "float32" / "1"),
        ("SavedModel", "bfloat16", folder / "bfloat16"),
        ("onnxruntime", "float32", onnx / "heads.onnx"),
        ("onnxruntime", "int8", onnx / "heads_int8.onnx"),
        ("OpenVINO", "float32", onnx / "heads.onnx"),
        ("OpenVINO", "bfloat16", onnx / "heads.onnx"),
        ("OpenVINO", "int8", onnx / "heads_int8.onnx"),
        ("LiteRT", "float32", litert / "heads.tflite"),
        ("LiteRT", "int8", litert / "heads_int8.tflite"),
    ]
    return [
        Form(runtime, precision, str(path), "heads", batch, threads)
        for runtime, precision, path in files
        if runtime != "OpenVINO" or has_openvino()
    ]


def whole_forms(folder: Path, batch: int, threads: int) -> list[Form]:
    """Returns the forms of the whole detector in float32; the arguments are those of `network_forms`.

    The LiteRT file is not among them, because it leaves the resizing of the images to the program.
    """
    version = folder / "float32" / "1"
    return [
        Form("model", "float32", str(folder / "run"), "whole", batch, threads),
        Form("SavedModel", "float32", str(version), "whole", batch, threads),
        Form("SavedModel", "float32", str(version), "files", batch, threads),
        Form("onnxruntime", "float32", str(version / "onnx" / "detector.onnx"), "whole", batch, threads),
    ]


def has_openvino() -> bool:
    """Returns whether OpenVINO is installed, which nothing but this benchmark uses."""
    return importlib.util.find_spec("openvino") is not None


def scenes(count: int, size: tuple[int, int]) -> np.ndarray:
    """Returns images of the generated set, uint8 [count, *size, 3]; `size` is (height, width) in pixels."""
    from PIL import Image

    from refinedet_tf.data.shapes import make_image

    images = (Image.fromarray(make_image(0, "benchmark", index)[0]) for index in range(count))
    return np.stack([np.asarray(image.resize(size[::-1])) for image in images])


def _litert_folder(folder: Path, batch: int) -> Path:
    return folder / "float32" / "1" / "litert" if batch == 1 else folder / f"litert-{batch}"


def _write_scenes(folder: Path, count: int) -> list[Path]:
    """Writes images of the generated set as files."""
    from PIL import Image

    folder.mkdir()
    paths = [folder / f"{index:03}.png" for index in range(count)]
    for path, pixels in zip(paths, scenes(count, (320, 320)), strict=True):
        Image.fromarray(pixels).save(path)
    return paths


def _report(activity: str) -> None:
    print(f"{activity} ...", file=sys.stderr, flush=True)
