"""Export as a TensorFlow SavedModel, with ONNX and LiteRT files in its folder if they are wanted."""

import contextlib
import dataclasses
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.image_header import MAX_PIXELS
from refinedet_tf.errors import InputError, shortened
from refinedet_tf.exports import (
    calibration,
    card,
    litert_files,
    litert_metadata,
    mediapipe_file,
    onnx_files,
)
from refinedet_tf.exports.check import (
    TOLERANCES,
    Comparison,
    Sample,
    check_export,
    check_precision,
    generated_samples,
)
from refinedet_tf.exports.graphs import DetectionGraphs, in_bfloat16
from refinedet_tf.exports.warmup import write_warmup_requests
from refinedet_tf.files import check_utf8, explain_os_errors
from refinedet_tf.inference.detector import Detector
from refinedet_tf.tensors import Heads

LARGEST_MAX_PIXELS = 2**29
"""TensorFlow decodes no PNG with more pixels."""

LARGEST_VERSION = 10**18 - 1
"""TensorFlow Serving reads the name of a version's folder as a number of 64 bits."""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """The options of an export.

    Attributes:
        precision: "float32" or "bfloat16", the type in which kernels are stored and convolutions
            computed. Everything else stays float32.
        xla: whether XLA compiles the network on the server.
        onnx: whether the two ONNX files are also written, in onnx/ of the version's folder.
        onnx_batch: the number of images per call of the ONNX files; None: any number.
        litert: whether the LiteRT files are also written, in litert/ of the version's folder.
        litert_batch: the number of images per call of the LiteRT files.
        mediapipe: whether the LiteRT file for MediaPipe Tasks is also written, in litert/ of the version's
            folder.
        int8: image files on which the ranges for int8 are measured, see `calibration.choose`; None: no
            files in int8 are written.
        max_pixels: the largest number of pixels of an image file. A file with more is answered like a
            file that is no image.

    Raises:
        InputError: ONNX, LiteRT or MediaPipe files are combined with bfloat16, `int8` with none of them or
            with too few images, or a batch or `max_pixels` is out of its range.
    """

    precision: str = "float32"
    xla: bool = False
    onnx: bool = False
    onnx_batch: int | None = None
    max_pixels: int = MAX_PIXELS
    litert: bool = False
    litert_batch: int = 1
    mediapipe: bool = False
    int8: Sequence[Path] | None = None

    def __post_init__(self) -> None:
        for name, wanted in (("ONNX", self.onnx), ("LiteRT", self.litert), ("MediaPipe", self.mediapipe)):
            if wanted and self.precision != "float32":
                raise InputError(f"{name} files are float32: leave out the {name} files or bfloat16")
        for name, batch in (("ONNX", self.onnx_batch), ("LiteRT", self.litert_batch)):
            if batch is not None and batch < 1:
                raise InputError(f"the {name} batch must be at least 1, got {batch}")
        if self.int8 is not None:
            if not (self.onnx or self.litert or self.mediapipe):
                raise InputError(
                    "--int8 is about ONNX, LiteRT and MediaPipe files: add --onnx, --litert or --mediapipe"
                )
            calibration.choose(self.int8)
        if not 1 <= self.max_pixels <= LARGEST_MAX_PIXELS:
            raise InputError(
                f"the limit of pixels must be in 1..{LARGEST_MAX_PIXELS}, got {shortened(self.max_pixels)}"
            )


def serving_signatures(
    graphs: DetectionGraphs,
) -> dict[str, tf.types.experimental.PolymorphicFunction]:
    """Makes the functions that a server can call, by name.

    `serving_default` takes "image_bytes" (string [N], whole JPEG, PNG, BMP or GIF files, each of any
    size). It returns the dict of `postprocess`, and "image_decoded" bool [N], which is false with an
    empty result if a file cannot be decoded or has too many pixels. `serving_tensor` takes "images"
    (uint8 [N, H, W, 3], RGB, of any H and W) and returns the dict of `postprocess`. In both, boxes are
    normalised by the size of the given image. `serving_heads` takes "images" (float32 [N, height, width,
    3], RGB 0..255, of the network's size) and returns the heads as `build_model` describes them.
    """
    network_input = [None, *graphs.image_size, 3]

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def serving_default(image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        return graphs.detect_files(image_bytes)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "images")])
    def serving_tensor(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return graphs.detect(graphs.warp(images))

    @tf.function(input_signature=[tf.TensorSpec(network_input, tf.float32, "images")])
    def serving_heads(images: tf.Tensor) -> Heads:
        return graphs.heads(images)

    return {
        "serving_default": serving_default,
        "serving_tensor": serving_tensor,
        "serving_heads": serving_heads,
    }


def export_saved_model(
    model: keras.Model,
    config: Config,
    output: str | os.PathLike,
    version: int | None = None,
    image_size: tuple[int, int] | None = None,
    options: ExportOptions | None = None,
    measured: dict[str, Any] | None = None,
    samples: Sequence[Sample] | None = None,
    progress: Callable[[str], None] = lambda activity: None,
) -> tuple[Path, list[Comparison]]:
    """Writes a SavedModel for TensorFlow Serving and compares it with the network.

    The files are written and compared in another folder, which is then renamed, so that a server that
    watches `output` never sees an incomplete or a wrong model. The folder of the version holds

    ```
    saved_model.pb, variables/              the signatures, see `serving_signatures`, with the weights
    assets/labels.txt                       one class name per line, label 1 first
    assets/model.json                       see `card.describe`
    assets.extra/tf_serving_warmup_requests one request per signature
    onnx/detector.onnx, heads.onnx          with `options.onnx`, see `onnx_files.write_onnx`
    litert/detector.tflite, heads.tflite    with `options.litert`, see `litert_files.write_litert`
    litert/mediapipe.tflite                 with `options.mediapipe`, see `mediapipe_file.write_mediapipe`
    onnx/heads_int8.onnx, litert/heads_int8.tflite, litert/mediapipe_int8.tflite
                                            those of the three that `options.int8` adds
    ```

    Args:
        model: the network in float32, as `build_model(config)` makes it.
        config: the config of the network; `postprocess` becomes part of the graph.
        output: the folder of all versions of this model.
        version: the number of the folder in `output`; None: one above the largest number there, or 1, when
            the files are complete, so that several exports at once take successive numbers.
        image_size: (height, width) in pixels; it is needed only if `model.image_size` is null.
        options: what is written; None: only a SavedModel in float32.
        measured: the accuracy that model.json states; None: not known.
        samples: the images on which the files are compared with the network; None: generated images.
        progress: is called with the next activity, because a large network takes minutes.

    Returns:
        The path of the version's folder, and a comparison for each signature and file.

    Raises:
        InputError: the version exists or is not positive, `output` cannot be written, or the size or the
            class names are not known.
        ExportMismatch: the files do not detect what the network detects; they are deleted.
    """
    options = options or ExportOptions()
    samples = generated_samples() if samples is None else samples
    labels = card.labels_text(config.class_names)
    served = in_bfloat16(model, config) if options.precision == "bfloat16" else model
    detector = Detector(served, config, image_size)
    graphs = DetectionGraphs(served, config, image_size, options.precision, options.xla, options.max_pixels)
    description = card.describe(config, graphs.image_size, options.precision, measured, options.max_pixels)
    images = None
    if options.int8 is not None:
        chosen = calibration.choose(options.int8)
        progress(f"calibrating int8 on {len(chosen)} of {len(options.int8)} images")
        images = calibration.read_images(chosen, graphs.image_size)
    aside = _make_folder_aside(Path(output), version)
    written = aside / "model"
    try:
        with _explain_write_errors(output):
            # The files in assets/ will have the names of these files.
            graphs.assets = [
                _asset(aside / "labels.txt", labels),
                _asset(aside / "model.json", description),
            ]
            progress("writing the SavedModel")
            tf.saved_model.save(graphs, str(written), serving_signatures(graphs))
            write_warmup_requests(written, graphs.image_size, samples[0].contents)
            # ONNX and LiteRT files cannot contain code that XLA compiles.
            plain = graphs
            if options.xla and (options.onnx or options.litert or options.mediapipe):
                plain = DetectionGraphs(model, config, image_size)
            if options.onnx:
                progress("converting to ONNX")
                onnx_files.write_onnx(plain, description, written / "onnx", options.onnx_batch, images)
            metadata = {"model.json": description, litert_metadata.LABELS: labels}
            folder = written / "litert"
            if options.litert:
                progress("converting to LiteRT")
                litert_files.write_litert(plain, metadata, folder, options.litert_batch, images)
            if options.mediapipe:
                progress("converting for MediaPipe")
                mediapipe_file.write_mediapipe(plain, config, metadata, folder, images)
        progress(f"comparing on {len(samples)} images")
        comparisons = check_export(written, detector, config, samples, TOLERANCES[options.precision])
        if served is not model:
            comparisons.append(check_precision(detector, Detector(model, config, image_size), samples))
        folder = _place(written, Path(output), version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder, comparisons


@contextlib.contextmanager
def _explain_write_errors(output: str | os.PathLike) -> Iterator[None]:
    """Turns the errors of Python and of TensorFlow on a full disk, for example, into an `InputError`."""
    try:
        with explain_os_errors(f"--output {output}"):
            yield
    except tf.errors.OpError as error:
        raise InputError(f"--output {output} cannot be written: {error.message}") from None


def _asset(file: Path, text: str) -> tf.saved_model.Asset:
    file.write_text(text, encoding="utf-8")
    return tf.saved_model.Asset(str(file))


def _make_folder_aside(output: Path, version: int | None) -> Path:
    """Checks the version, before the long work, and returns a new folder in `output`."""
    check_utf8(output)
    with explain_os_errors(f"--output {output}"):
        output.mkdir(parents=True, exist_ok=True)
        _free_folder(output, version)
        return Path(tempfile.mkdtemp(prefix=".exporting-", dir=output))


def _place(written: Path, output: Path, version: int | None) -> Path:
    """Gives a complete model the name of its version, and returns its folder."""
    with explain_os_errors(f"--output {output}"):
        while True:
            folder = _free_folder(output, version)
            try:
                # Nothing is replaced: a folder can only take the place of an empty one.
                written.rename(folder)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                continue  # Another export has taken this version in the meantime.
            return folder


def _free_folder(output: Path, version: int | None) -> Path:
    """Returns the path of the version's folder, which does not exist yet; None: of the next version."""
    if version is None:
        # Longer names are no versions for TensorFlow Serving.
        names = [path.name for path in output.iterdir() if re.fullmatch(r"[0-9]{1,18}", path.name)]
        version = max(map(int, names), default=0) + 1
    if not 1 <= version <= LARGEST_VERSION:
        raise InputError(f"--version must be in 1..{LARGEST_VERSION}, got {shortened(version)}")
    folder = output / str(version)
    if folder.exists():
        raise InputError(f"version {version} exists in {output}: name another --version, or none")
    return folder
