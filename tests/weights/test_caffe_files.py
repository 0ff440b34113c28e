"""Caffe's weight files: every variant of the format, every defect, random damage."""

import struct

import numpy as np
import pytest
from caffe_writer import field, varint, write_caffemodel
from mutation import mutate_bytes
from refusals import message_of

from refinedet_tf.errors import InputError
from refinedet_tf.weights.caffe_files import read_caffemodel
from refinedet_tf.weights.values import LARGEST_VALUE

VARIANTS = [{}, {"double": True}, {"old_shapes": True}, {"v1": True}, {"packed": False}]
VARIANTS += [{"double": True, "packed": False}, {"v1": True, "old_shapes": True, "double": True}]

FINITE = np.float32([0.5, -2.0, 3.0])


def small_net(seed=0):
    """Layers as those of a detector, of 4.6 kB of float32 values."""
    generator = np.random.default_rng(seed)

    def normal(*shape):
        return generator.normal(0, 0.1, shape).astype(np.float32)

    return [
        ("data", "Data", []),
        ("conv1_1", "Convolution", [normal(8, 3, 3, 3), normal(8)]),
        ("relu1_1", "ReLU", []),
        ("fc", "InnerProduct", [normal(24, 32), normal(24)]),
        ("bn", "BatchNorm", [normal(8), normal(8) ** 2, np.float32([999.98])]),
        ("P4-up", "Deconvolution", [normal(8, 4, 2, 2)]),
        ("loss", "SoftmaxWithLoss", []),
    ]


def shape(*sides):
    return field(7, field(1, b"".join(map(varint, sides))))


def data(values, number=5, dtype="<f4"):
    return field(number, np.asarray(values, dtype).tobytes())


def layer(*blobs, name="conv", kind="Convolution"):
    return field(100, field(1, name) + field(2, kind) + b"".join(field(7, blob) for blob in blobs))


GOOD = layer(shape(3) + data(FINITE), name="good")


@pytest.fixture
def read(tmp_path):
    """Reads bytes as a file."""

    def read_bytes(content):
        file = tmp_path / "net.caffemodel"
        file.write_bytes(content)
        return read_caffemodel(file)

    return read_bytes


@pytest.fixture
def refused(read, tmp_path):
    """The message of a file that must be refused, without the file's name."""

    def message(content):
        return without_place(message_of(read, content), tmp_path / "net.caffemodel")

    return message


def without_place(line, file):
    assert str(file) in line
    return line.replace(str(file), "FILE")


def only_blob(layers):
    ((blob,),) = layers.values()
    return blob


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: "-".join(options) or "plain")
def test_round_trip(options, tmp_path):
    file = tmp_path / "net.caffemodel"
    write_caffemodel(file, small_net(), **options)
    found = read_caffemodel(str(file))
    expected = [part for part in small_net() if part[2]]
    assert list(found) == [name for name, _, _ in expected]
    for name, _, arrays in expected:
        for blob, array in zip(found[name], arrays, strict=True):
            leading = (1,) * (4 - array.ndim) if options.get("old_shapes") else ()
            assert blob.dtype == np.float32
            assert blob.shape == leading + array.shape
            np.testing.assert_array_equal(blob.ravel(), array.ravel())


def test_bytes_by_hand(read):
    """Neither this project's writer nor protobuf: bytes written out from the format's description."""
    content = bytes.fromhex(
        "0a 01 6e"  # 1: net name "n"
        "a2 06 1c"  # 100: a layer of 28 bytes
        "0a 02 66 63"  # 1: name "fc"
        "12 05 53 63 61 6c 65"  # 2: type "Scale"
        "3a 0f"  # 7: a blob of 15 bytes
        "3a 03 0a 01 02"  # 7: shape, 1: packed dimensions [2]
        "2a 08 00 00 80 3f 00 00 20 c0"  # 5: packed floats 1.0 and -2.5
    )
    layers = read(content)
    assert list(layers) == ["fc"]
    assert only_blob(layers).tolist() == [1.0, -2.5]


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(shape(3) + data(FINITE[:2]) + data(FINITE[2:]), id="two runs"),
        pytest.param(shape(3) + field(5, 0.5) + field(5, -2.0) + field(5, 3.0), id="single values"),
        pytest.param(data(FINITE) + shape(3), id="shape last"),
        pytest.param(shape(3) + data(FINITE) + data([9, 9, 9], 6), id="gradients too"),
        pytest.param(shape(3) + data(FINITE, 8, "<f8") + data([9] * 3, 9, "<f8"), id="double gradients"),
        pytest.param(field(7, field(1, 3)) + data(FINITE), id="dimension not packed"),
        pytest.param(shape(3) + data(FINITE) + field(5, b""), id="an empty run"),
    ],
)
def test_other_ways_to_write_a_blob(blob, read):
    np.testing.assert_array_equal(only_blob(read(layer(blob))), FINITE)


def test_blob_without_shape_is_a_scalar(read):
    """Caffe writes no shape message for a blob without axes."""
    assert only_blob(read(layer(data([4.0])))) == np.float32(4)


def test_old_numbers_go_before_the_shape(read):
    """Caffe's Blob::FromProto does the same."""
    sides = b"".join(field(number, side) for number, side in enumerate((1, 1, 1, 3), 1))
    assert only_blob(read(layer(sides + shape(3) + data(FINITE)))).shape == (1, 1, 1, 3)


def test_doubled_layers_without_weights_are_no_defect(read):
    assert list(read(layer(name="data") + layer(name="data") + layer(name="") + GOOD)) == ["good"]


def test_largest_value_passes(read):
    assert only_blob(read(layer(shape(2) + data([1e10, -1e10])))).tolist() == [LARGEST_VALUE, -LARGEST_VALUE]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none", "weights not found: FILE"),
        (".", "FILE is a folder, not a .caffemodel file"),
        ("empty", "FILE is empty, not a .caffemodel file"),
        ("huge", "FILE has 2147483648 bytes, a .caffemodel file at most 2147483647"),
    ],
)
def test_missing_folder_empty_huge(name, problem, tmp_path):
    (tmp_path / "empty").touch()
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(2**31)  # takes no room on the disk
    message = message_of(read_caffemodel, tmp_path / name)
    assert without_place(message, tmp_path / name) == problem


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD[:-1], id="truncated"),
        pytest.param(b'name: "VGG"\nlayer {\n', id="prototxt"),
        pytest.param(field(1, 80000) + field(2, "snapshot/net_iter_80000.caffemodel"), id="solverstate"),
        pytest.param(b"\x89HDF\r\n\x1a\n" + bytes(40), id="HDF5"),
        pytest.param(b"<!DOCTYPE html>\n<html>", id="a web page"),
        pytest.param(b"\x0b" * 100_000, id="deep groups"),
    ],
)
def test_other_files(content, refused):
    message = refused(content)
    assert message == "FILE is not a whole .caffemodel file: is it truncated, or a prototxt or a solverstate?"


@pytest.mark.parametrize("content", [field(1, "net"), layer(), layer(kind="ReLU") * 3, field(3, "x") * 9])
def test_no_weights(content, refused):
    assert refused(content) == "FILE holds no weights: is it a prototxt or a solverstate?"


SIGNALLING_NAN = field(5, struct.pack("<2I", 0, 0x7F800001))

NOT_FINITE = "which is not finite: is the file damaged?"
TOO_LARGE = "which is larger than any weight: is the file damaged?"
AT_LEAST_1 = "but dimensions are at least 1"

DEFECTS = {
    "negative": (shape(3, -1) + data(FINITE), f" has the shape [3, -1], {AT_LEAST_1}"),
    "zero": (shape(3, 0), f" has the shape [3, 0], {AT_LEAST_1}"),
    "old zero": (field(4, 3) + data(FINITE), f" has the shape [0, 0, 0, 3], {AT_LEAST_1}"),
    "too few": (shape(2, 2) + data(FINITE), " holds 3 values, its shape [2, 2] wants 4"),
    "too many": (shape(2) + data(FINITE), " holds 3 values, its shape [2] wants 2"),
    "single and run": (shape(3) + field(5, 0.5) + data(FINITE[1:]), " holds 2 values, its shape [3] wants 3"),
    "doubled data": (shape(3) + data(FINITE) * 2, " holds 6 values, its shape [3] wants 3"),
    "doubled shape": (shape(3) * 2 + data(FINITE), " holds 3 values, its shape [3, 3] wants 9"),
    "huge, in 64 bits 0": (
        shape(2**62, 2**62, 4) + data(FINITE),
        f" holds 3 values, its shape [{2**62}, {2**62}, 4] wants {2**126}",
    ),
    "axes": (shape(*[1] * 33) + data([1]), " has 33 dimensions, Caffe's have at most 32"),
    "many axes": (shape(*[2] * 100_000) + data([1]), " has 100000 dimensions, Caffe's have at most 32"),
    "neither": (shape(2, 3), " holds neither data nor double_data, its shape wants 6 values"),
    "nothing": (b"", " holds neither data nor double_data, its shape wants 1 values"),
    "both": (
        shape(3) + data(FINITE) + data(FINITE[:2], 8, "<f8"),
        " holds both data (3 values) and double_data (2): there should be one of them",
    ),
    "bytes": (shape(3) + data(FINITE) + field(5, b"abcde"), ": data has 5 bytes, not a multiple of 4"),
    "double bytes": (shape(1) + field(8, b"abcd"), ": double_data has 4 bytes, not a multiple of 8"),
    "nan": (shape(3) + data([1, np.nan, 1e30]), f" holds nan at place 1, {NOT_FINITE}"),
    "signalling nan": (shape(2) + SIGNALLING_NAN, f" holds nan at place 1, {NOT_FINITE}"),
    "infinite": (shape(2, 1) + data([0, -np.inf], 8, "<f8"), f" holds -inf at place 1, {NOT_FINITE}"),
    "large": (shape(1) + data([-2e10]), f" holds -2e+10 at place 0, {TOO_LARGE}"),
    "beyond float32": (shape(1) + data([1e300], 8, "<f8"), f" holds 1e+300 at place 0, {TOO_LARGE}"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("defect", DEFECTS)
def test_defects_of_a_blob(defect, refused):
    blob, problem = DEFECTS[defect]
    assert refused(GOOD + layer(shape(3) + data(FINITE), blob)) == f"FILE: layer 'conv' blob 1{problem}"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (b"con\xff", ": the name of layer number 1 (from 0) is not valid UTF-8: is the file damaged?"),
        ("", ": the name of layer number 1 (from 0) is empty: is the file damaged?"),
        (
            "a\n\u2028",
            r": the name of layer number 1 (from 0), 'a\n\u2028', holds control characters: "
            "is the file damaged?",
        ),
        ("good", " holds two layers named 'good' with weights: is it damaged?"),
    ],
)
def test_names(name, problem, refused):
    assert refused(GOOD + layer(shape(1) + data([1.0]), name=name)) == f"FILE{problem}"


def test_long_names_are_cut(refused):
    assert len(refused(layer(shape(2), name="x" * 5000))) < 200


def test_both_formats_in_one_file(refused):
    v1 = field(2, field(4, "fc") + field(5, 14) + field(6, shape(1) + data([1.0])))
    assert refused(v1 + GOOD) == "FILE holds layers of the V1 and of today's format: is it damaged?"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("options", [{}, {"v1": True, "old_shapes": True}], ids=["new", "old"])
def test_random_damage_ends_in_one_line_or_in_finite_values(options, read, tmp_path):
    file = tmp_path / "net.caffemodel"
    write_caffemodel(file, small_net(), **options)
    whole, generator, errors = file.read_bytes(), np.random.default_rng(0), 0
    for _ in range(200):
        try:
            layers = read(mutate_bytes(generator, whole))
        except InputError as error:
            assert str(error).isprintable() and str(file) in str(error)
            errors += 1
            continue
        blobs = [blob for found in layers.values() for blob in found]
        assert blobs
        for blob in blobs:
            assert blob.dtype == np.float32
            assert np.all(np.abs(blob) <= LARGEST_VALUE)
    # A damaged byte in the data gives another plausible number most of the time.
    assert 80 < errors < 200
