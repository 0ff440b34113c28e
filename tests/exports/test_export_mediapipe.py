"""The LiteRT file for MediaPipe, in LiteRT and, where it is installed, in MediaPipe itself."""

import zipfile

import flatbuffers
import numpy as np
import pytest
from image_files import noise
from small_detector import SIZE, assert_same_detections
from stand_in_model import stand_in_config, stand_in_model
from tensorflow.lite.python import schema_py_generated as schema

from refinedet_tf.data.images import warp_image
from refinedet_tf.exports import check
from refinedet_tf.exports.flatbuffer import operator_name, read_model
from refinedet_tf.exports.graphs import DetectionGraphs
from refinedet_tf.exports.litert_files import read_metadata
from refinedet_tf.exports.litert_metadata import OUTPUTS
from refinedet_tf.exports.mediapipe_file import write_mediapipe
from refinedet_tf.exports.routes import ExportMismatch, Sample
from refinedet_tf.exports.runtimes import MediaPipeFileInLiteRT
from refinedet_tf.inference.detector import Detector

LIMITS = {
    "of the export": None,
    "per class": {"pre_nms_per_image": None, "pre_nms_per_class": 60, "max_detections": 100},
    "both": {"pre_nms_per_image": 150, "pre_nms_per_class": 60},
    "none": {"pre_nms_per_image": None, "score_threshold": 0.0, "objectness_threshold": 0.0},
}
IMAGES = [noise(*size) for size in ((50, 90), SIZE, (200, 100))]


@pytest.fixture(scope="module")
def model(exported):
    return read_model((exported.folder / "litert" / "mediapipe.tflite").read_bytes())


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS)
def test_detections_are_those_of_the_network(exported, tmp_path, limits):
    """For any number of threads, on which the runtime's suppression within classes would depend."""
    folder, detector = exported.folder / "litert", exported.detector
    if limits is not None:
        config = stand_in_config(SIZE, **limits)
        network, folder = stand_in_model(config), tmp_path / "litert"
        write_mediapipe(DetectionGraphs(network, config), config, {"labels.txt": ""}, folder)
        detector = Detector(network, config)
    expected = detector(IMAGES)
    assert len({label for result in expected for label in result.labels}) > 1
    for threads in (1, 2, 3):
        runtime = MediaPipeFileInLiteRT(folder / "mediapipe.tflite", threads)
        for image, result in zip(IMAGES, expected, strict=True):
            assert_same_detections(runtime(warp_image(image[None], SIZE).numpy()), [result])


def test_one_subgraph_that_ends_in_the_suppression(exported, model):
    (graph,) = model.subgraphs
    names = [operator_name(model, operator) for operator in graph.operators]
    custom = [name for name in names if name.startswith("CUSTOM")]
    assert custom == ["CUSTOM TFLite_Detection_PostProcess"] and len(names) - names.index(custom[0]) == 5
    shapes = [list(graph.tensors[output].shape) for output in graph.outputs]
    assert shapes == [[1, 100, 4], [1, 100], [1, 100], [1]]
    assert graph.tensors[graph.inputs[0]].type == schema.TensorType.FLOAT32
    litert = exported.folder / "litert"
    assert read_metadata(litert / "mediapipe.tflite") == read_metadata(litert / "detector.tflite")
    with zipfile.ZipFile(litert / "mediapipe.tflite") as archive:
        assert {entry.compress_type for entry in archive.infolist()} == {zipfile.ZIP_STORED}


def table_of(buffer, place):
    return flatbuffers.table.Table(buffer, place)


def field(table, number):
    """The place of a field's value, as flatbuffers define it."""
    offset = table.Offset(4 + 2 * number)
    assert offset, number
    return table.Pos + offset


def child(table, number):
    return table_of(table.Bytes, table.Indirect(field(table, number)))


def children(table, number):
    start, count = (
        table.Vector(field(table, number) - table.Pos),
        table.VectorLen(field(table, number) - table.Pos),
    )
    return [table_of(table.Bytes, table.Indirect(start + 4 * index)) for index in range(count)]


def text(table, number):
    return table.String(field(table, number)).decode()


def test_metadata_name_what_mediapipe_needs(model):
    """Read field by field, by the numbers of the schema."""
    (entry,) = [entry for entry in model.metadata if entry.name == b"TFLITE_METADATA"]
    buffer = bytearray(model.buffers[entry.buffer].data)
    assert bytes(buffer[4:8]) == b"M001"
    root = table_of(buffer, int.from_bytes(buffer[:4], "little"))
    assert text(root, 7) == "1.2.0"
    (subgraph,) = children(root, 3)
    (image,), outputs = children(subgraph, 2), children(subgraph, 3)
    content = child(image, 3)
    assert buffer[field(content, 0)] == 2  # The image's properties.
    properties = child(content, 1)
    size = child(properties, 1)
    assert buffer[field(properties, 0)] == 1  # RGB.
    uint32 = flatbuffers.number_types.Uint32Flags
    assert [size.Get(uint32, field(size, number)) for number in (0, 1)] == [SIZE[1], SIZE[0]]
    assert [text(output, 0) for output in outputs] == list(OUTPUTS)
    (labels,) = children(outputs[1], 6)
    assert text(labels, 0) == "labels.txt" and buffer[field(labels, 2)] == 3
    box = child(child(outputs[0], 3), 1)
    start = box.Vector(field(box, 0) - box.Pos)
    assert [box.Get(uint32, start + 4 * index) for index in range(4)] == [1, 0, 3, 2]


def test_int8(exported):
    """The convolutions compute in int8, and what follows them in float32."""
    file = exported.folder / "litert" / "mediapipe_int8.tflite"
    whole = read_model(file.read_bytes())
    (graph,) = whole.subgraphs
    types = {
        operator_name(whole, operator): graph.tensors[operator.outputs[0]].type
        for operator in graph.operators
    }
    assert types["CONV_2D"] == schema.TensorType.INT8 and types["SOFTMAX"] == schema.TensorType.FLOAT32
    outputs = MediaPipeFileInLiteRT(file)(IMAGES[1][None].astype(np.float32))
    (expected,) = exported.detector([IMAGES[1]])
    assert abs(outputs["detection_scores"][0, 0] - expected.scores[0]) < 0.1


def test_mediapipe_detects_the_same(exported, monkeypatch):
    """Images of the network's size: whole pixels, and scores. A network of inverted images is refused."""
    pytest.importorskip("mediapipe", reason="mediapipe is not installed")
    samples = [Sample(b"", image) for image in IMAGES]
    (comparison,) = check.check_mediapipe(exported.folder, exported.detector, samples)
    assert comparison.detections > 100 and comparison.lost == 0
    assert comparison.boxes < 2 / SIZE[0] and comparison.scores < 1e-5
    call = Detector.__call__
    monkeypatch.setattr(Detector, "__call__", lambda self, pixels: call(self, [255 - p for p in pixels]))
    with pytest.raises(ExportMismatch, match="two pixels in boxes"):
        check.check_mediapipe(exported.folder, exported.detector, samples)


def test_without_mediapipe_there_is_no_comparison(monkeypatch, tmp_path):
    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: None)
    assert check.check_mediapipe(tmp_path, None, []) == []


def test_a_mediapipe_without_its_libraries_is_a_warning(monkeypatch, tmp_path):
    """On servers, it is often the library of graphics that is missing."""

    def no_library(name):
        raise OSError("libGLESv2.so.2: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(check.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(check.importlib, "import_module", no_library)
    with pytest.warns(UserWarning, match=r"cannot be imported \(libGLESv2.so.2: .*\): mediapipe.tflite was"):
        assert check.check_mediapipe(tmp_path, None, []) == []
