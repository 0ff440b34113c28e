"""Export as a LiteRT file that MediaPipe Tasks opens, on phones, in browsers and in Python.

MediaPipe's object detector takes files of one subgraph whose last operator is the runtime's
`TFLite_Detection_PostProcess`, and whose metadata name the outputs and the classes.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
from flatbuffers import flexbuffers
from tensorflow.lite.python import schema_py_generated as schema

from refinedet_tf.config import Config
from refinedet_tf.exports import calibration
from refinedet_tf.exports.flatbuffer import Model, add_operator, add_tensor
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.litert_files import check_package, convert, convert_to_int8, frozen, write_file
from refinedet_tf.exports.litert_metadata import OUTPUTS, add_detector_metadata

MEDIAPIPE = "mediapipe.tflite"
"""The name of the file."""
MEDIAPIPE_INT8 = "mediapipe_int8.tflite"
"""The name of the file whose convolutions compute in int8."""
FILES = (MEDIAPIPE, MEDIAPIPE_INT8)
"""The names of the files with suppression by `OPERATOR`."""

OPERATOR = "TFLite_Detection_PostProcess"
"""The suppression that is built into every runtime, although it counts as a custom operator."""


def write_mediapipe(
    graphs: DetectionGraphs,
    config: Config,
    metadata: Mapping[str, str],
    folder: Path,
    calibration_images: np.ndarray | None = None,
) -> None:
    """Writes the files for MediaPipe Tasks.

    They take one image, float32 [1, height, width, 3], RGB 0..255, of the network's size, and return the
    outputs that `litert_metadata.OUTPUTS` names: boxes float32 [1, K, 4], normalised `[ymin, xmin, ymax,
    xmax]` in 0..1; classes float32 [1, K], numbered from 0; scores float32 [1, K], descending; and the number
    of detections float32 [1], after which rows mean nothing. K is `max_detections`.

    Args:
        graphs: the functions of the network in float32.
        config: `name`, `description` and `postprocess` are used.
        metadata: texts by the name of a file, one of which is `litert_metadata.LABELS`; each LiteRT file
            holds them as a zip archive at its end.
        folder: the folder of the files; it is made.
        calibration_images: float32 [n, height, width, 3], RGB 0..255, on which the ranges for int8 are
            measured; None: no file in int8 is written.

    Raises:
        InputError: the package for LiteRT is not installed, or the converter fails on the network.
    """
    check_package()
    size = graphs.image_size

    @tf.function(input_signature=[tf.TensorSpec([1, *size, 3], tf.float32, "images")])
    def candidates(images: tf.Tensor) -> dict[str, tf.Tensor]:
        boxes, scores, labels = graphs.limited_candidates(graphs.heads(images))
        return separated(boxes, scores, labels, len(config.class_names))

    module = frozen(candidates)
    models = {MEDIAPIPE: convert(module, MEDIAPIPE)}
    if calibration_images is not None:
        batches = list(calibration.batches(calibration_images, 1))
        models[MEDIAPIPE_INT8] = convert_to_int8(module, MEDIAPIPE_INT8, batches)
    folder.mkdir(exist_ok=True)
    for name, model in models.items():
        append_suppression(model, config)
        add_detector_metadata(model, config.name, config.description, size)
        write_file(model, metadata, folder / name)


def separated(
    boxes: tf.Tensor, scores: tf.Tensor, labels: tf.Tensor, num_classes: int
) -> dict[str, tf.Tensor]:
    """Returns candidates as the operator takes them, the boxes of each class in a place of their own.

    The operator's suppression within classes ("regular NMS") loses classes where it has several threads
    (tensorflow/tensorflow issue 56058), and MediaPipe chooses the threads. Its other suppression, over all
    classes at once, is exact, and boxes of different classes do not overlap here.

    Args:
        boxes: float32 [1, N, 4], normalised `[ymin, xmin, ymax, xmax]`.
        scores: float32 [1, N], 0 where there is no candidate.
        labels: int32 [1, N], 1..C.
        num_classes: C.

    Returns:
        "encodings" float32 [1, N, 4], centre y, centre x, and the logarithms of height and width; "scores"
        float32 [1, N, C + 1], whose class 0 is the background, which the operator does not read; "shift"
        float32 [4], by which the boxes of a class lie farther than those of the class before.
    """
    low, high = tf.split(boxes, 2, axis=-1)
    shift = (tf.reduce_max(high) - tf.reduce_min(low)) * tf.constant([0.0, 1.0])
    centres = (low + high) / 2 + tf.cast(labels - 1, tf.float32)[..., None] * shift
    of_class = tf.where(labels[..., None] == tf.range(num_classes + 1), scores[..., None], 0.0)
    return {
        "encodings": tf.concat([centres, tf.math.log(high - low)], axis=-1),
        "scores": of_class,
        "shift": tf.tile(shift, [2]),
    }


def append_suppression(model: Model, config: Config) -> None:
    """Puts the suppression after a model, and what brings the boxes back to their places and clips them.

    Args:
        model: a model of one subgraph with the outputs of `separated`. It is changed, and returns then what
            `write_mediapipe` describes.
        config: `postprocess` holds the thresholds and the number of detections.
    """
    (graph,) = model.subgraphs
    (signature,) = model.signatureDefs
    places = {output.name.decode(): output.tensorIndex for output in signature.outputs}
    num_rows, num_classes = graph.tensors[places["scores"]].shape[1:] - np.array([0, 1])
    # The operator moves an anchor that is the whole image, with centre (0, 0) and sides of 1.
    whole_image = np.tile(np.array([0, 0, 1, 1], np.float32), [num_rows, 1])
    anchors = add_tensor(model, "anchors", [num_rows, 4], whole_image)
    limit = config.postprocess.max_detections
    boxes, classes, scores, number = (
        add_tensor(model, name, shape)
        for name, shape in zip(OUTPUTS, ([1, limit, 4], [1, limit], [1, limit], [1]), strict=True)
    )
    suppressed = [places["encodings"], places["scores"], anchors]
    options = _options(config, int(num_classes))
    found = [boxes, classes, scores, number]
    add_operator(model, schema.BuiltinOperator.CUSTOM, suppressed, found, (OPERATOR, options))

    def append(number: int, inputs: list[int], shape: list[int]) -> int:
        result = add_tensor(model, f"boxes {len(graph.tensors)}", shape)
        add_operator(model, number, inputs, [result])
        return result

    column = add_tensor(model, "column", [3], np.array([1, limit, 1], np.int32))
    per_box = append(schema.BuiltinOperator.RESHAPE, [classes, column], [1, limit, 1])
    shifts = append(schema.BuiltinOperator.MUL, [per_box, places["shift"]], [1, limit, 4])
    in_place = append(schema.BuiltinOperator.SUB, [boxes, shifts], [1, limit, 4])
    clipped = append(schema.BuiltinOperator.RELU_0_TO_1, [in_place], [1, limit, 4])
    graph.outputs = [clipped, classes, scores, number]
    signature.outputs = []
    for name, place in zip(OUTPUTS, graph.outputs, strict=True):
        output = schema.TensorMapT()
        output.name, output.tensorIndex = name.encode(), place
        signature.outputs.append(output)


def _options(config: Config, num_classes: int) -> bytes:
    """Returns the options of the suppression: `postprocess` of the config, over all classes at once."""
    postprocess_config = config.postprocess
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", postprocess_config.max_detections)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", postprocess_config.max_detections)
        builder.Bool("use_regular_nms", False)
        # A score of 0 is none; every other one has passed the thresholds.
        builder.Float("nms_score_threshold", float(np.finfo(np.float32).tiny))
        builder.Float("nms_iou_threshold", postprocess_config.nms_iou)
        builder.Int("num_classes", num_classes)
        for scale in ("y_scale", "x_scale", "h_scale", "w_scale"):
            builder.Float(scale, 1.0)
    return bytes(builder.Finish())
