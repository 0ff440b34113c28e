"""Export as a TensorFlow SavedModel: image bytes in, detections out, nothing else needed."""

import os
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.detector import Detector, network_size
from refinedet_tf.errors import InputError
from refinedet_tf.postprocessing import postprocess

BOX_TOLERANCE = 1e-3
"""Largest accepted difference between SavedModel and `Detector`, in units of the image's sides."""

SCORE_TOLERANCE = 1e-4


class ExportMismatch(RuntimeError):
    """The SavedModel does not detect what the network in this process detects."""


def serving_module(model, config: Config, image_size: tuple[int, int] | None = None) -> tf.Module:
    """The network with all that surrounds it, as two graphs that need neither Keras nor this package.

    Args:
        model: the network, as `build_model(config)` makes it.
        config: `postprocess` and `model.image_size` are used.
        image_size: (height, width) in pixels of the network's input, where `model.image_size` is
            null.

    Returns:
        A module with the functions `serving_default` (image_bytes: string [N], whole JPEG, PNG, BMP
        or GIF files, each of any size) and `serving_tensor` (images: uint8 [N, H, W, 3], RGB, of any
        H and W). Both return the dict of `postprocess`, boxes normalised to the given image.

    Raises:
        InputError: the size is not known, or is not that of the model.
    """
    size = network_size(config, image_size)
    anchors = tile_anchors(size)
    warped = tf.TensorSpec([*size, 3], tf.float32)

    def detect(images):
        return postprocess(model(images, training=False), anchors, config)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes):
        images = tf.map_fn(
            lambda contents: warp_image(decode_image(contents), size),
            image_bytes,
            fn_output_signature=warped,
        )
        return detect(images)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def serving_tensor(images):
        images = tf.map_fn(lambda image: warp_image(image, size), images, fn_output_signature=warped)
        return detect(images)

    module = tf.Module(name="refinedet")
    # The bare variables: a Keras model as attribute would be saved as an object of Keras.
    module.model_variables = [variable.value for variable in model.variables]
    module.serving_default = serving_default
    module.serving_tensor = serving_tensor
    return module


def export_saved_model(
    model,
    config: Config,
    output: str | os.PathLike,
    version: int | None = None,
    image_size: tuple[int, int] | None = None,
) -> tuple[Path, dict]:
    """Writes a SavedModel for TensorFlow Serving and compares it with the network.

    It is written and compared aside and then renamed, so that a server that watches `output` never
    sees half a model or a wrong one. Its signatures are those of `serving_module`; the class names
    are in assets/labels.txt, one a line, label 1 first.

    Args:
        model, config, image_size: as in `serving_module`.
        output: the folder of all versions of this model.
        version: number of the folder in `output`; None: one above the largest there, or 1.

    Returns:
        The path of the version's folder, and what `compare` says.

    Raises:
        InputError: the version exists or is not positive, `output` cannot be written, or a class
            name holds a line break.
        ExportMismatch: the SavedModel does not detect what the network does; nothing is left behind.
    """
    detector = Detector(model, config, image_size)
    labels = _labels(detector.class_names)
    module = serving_module(model, config, image_size)
    folder, aside = _make_folders(Path(output), version)
    try:
        labels_file = aside / "labels.txt"
        labels_file.write_text(labels, encoding="utf-8")
        module.labels = tf.saved_model.Asset(str(labels_file))
        signatures = {name: getattr(module, name) for name in ("serving_default", "serving_tensor")}
        tf.saved_model.save(module, str(aside / "model"), signatures)
        differences = compare(aside / "model", detector)
        (aside / "model").rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder, differences


def _labels(class_names):
    broken = [name for name in class_names if len(name.splitlines()) != 1]
    if broken:
        raise InputError(f"data.classes: {broken[0]!r} must be one line, as labels.txt has a name a line")
    return "".join(f"{name}\n" for name in class_names)


def _make_folders(output, version):
    """The path of the version's folder, not made yet, and a folder to write in, made beside it."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        if version is None:
            versions = [int(path.name) for path in output.iterdir() if re.fullmatch(r"[0-9]+", path.name)]
            version = max(versions, default=0) + 1
        if version < 1:
            raise InputError(f"--version must be at least 1, got {version}")
        folder = output / str(version)
        if folder.exists():
            raise InputError(f"version {version} exists in {output}: name another --version, or none")
        return folder, Path(tempfile.mkdtemp(prefix=".exporting-", dir=output))
    except OSError as error:
        raise InputError(f"--output {output} cannot be written: {error.strerror}") from None


def compare(saved_model: str | os.PathLike, detector: Detector) -> dict:
    """Largest differences between a SavedModel, loaded from its files, and the network in memory.

    Each of a few generated images goes through both signatures and through `detector`. A detection
    of one side is compared with the one of the same class and nearest box and score on the other side.

    Returns:
        {"boxes": largest difference of a coordinate, normalised; "scores": largest difference of a
        score; "detections": how many were compared}.

    Raises:
        ExportMismatch: a difference is above `BOX_TOLERANCE` or `SCORE_TOLERANCE`.
    """
    signatures = tf.saved_model.load(str(saved_model)).signatures
    largest = {"boxes": 0.0, "scores": 0.0, "detections": 0}
    for contents in _sample_files():
        image = decode_image(contents).numpy()
        expected = _as_rows(detector([image])[0])
        served = (
            signatures["serving_default"](image_bytes=tf.constant([contents])),
            signatures["serving_tensor"](images=image[None]),
        )
        for outputs in served:
            actual = _served_rows(outputs)
            largest["detections"] += len(actual[0])
            for one, other in ((expected, actual), (actual, expected)):
                boxes, scores = _differences(one, other)
                largest["boxes"] = max(largest["boxes"], boxes)
                largest["scores"] = max(largest["scores"], scores)
    if not (largest["boxes"] <= BOX_TOLERANCE and largest["scores"] <= SCORE_TOLERANCE):
        raise ExportMismatch(
            f"the SavedModel differs from the network by {largest['boxes']:.2g} in the boxes and "
            f"{largest['scores']:.2g} in the scores; at most {BOX_TOLERANCE:g} and {SCORE_TOLERANCE:g} "
            "are accepted"
        )
    return largest


def _sample_files():
    """Bytes of a JPEG and a PNG of different sizes: coloured rectangles on noise."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((240, 320), (333, 250)):
        image = rng.integers(90, 160, (height, width, 3), np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, height - 60), rng.integers(0, width - 60)
            bottom, right = top + rng.integers(30, 140), left + rng.integers(30, 140)
            image[top:bottom, left:right] = rng.integers(0, 256, 3)
        images.append(image)
    return [tf.io.encode_jpeg(images[0]).numpy(), tf.io.encode_png(images[1]).numpy()]


def _as_rows(result):
    """(boxes normalised, scores, labels) of one result of a `Detector`."""
    height, width = result["image_size"]
    boxes = result["boxes"] / np.array([height, width, height, width], np.float32)
    return boxes, result["scores"], result["labels"]


def _served_rows(outputs):
    """(boxes normalised, scores, labels) of the first image of a signature's outputs."""
    found = slice(int(outputs["num_detections"][0]))
    names = ("detection_boxes", "detection_scores", "detection_classes")
    return tuple(outputs[name][0].numpy()[found] for name in names)


def _differences(one, other):
    """Largest (box, score) difference of the detections `one` to their counterparts in `other`."""
    largest_box = largest_score = 0.0
    for box, score, label in zip(*one, strict=True):
        same = other[2] == label
        if not same.any():
            return np.inf, np.inf
        distances = np.abs(other[0][same] - box).max(axis=1)
        score_distances = np.abs(other[1][same] - score)
        # By both, since several boxes may have been cut to the same part of the image.
        nearest = np.maximum(distances / BOX_TOLERANCE, score_distances / SCORE_TOLERANCE).argmin()
        largest_box = max(largest_box, float(distances[nearest]))
        largest_score = max(largest_score, float(score_distances[nearest]))
    return largest_box, largest_score
