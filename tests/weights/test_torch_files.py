"""PyTorch's checkpoints: both formats, and every way in which they can be wrong."""

import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from mutation import mutate_bytes
from refusals import message_of
from torch_writer import (
    GOLDEN,
    Instructions,
    call,
    golden_tensors,
    named,
    numbers,
    storage,
    tensor,
    tuple_of,
    value,
    write_checkpoint,
)

from refinedet_tf.errors import InputError
from refinedet_tf.weights.torch_files import read_checkpoint

FORMATS = ("torch_zip", "torch_legacy")
FEW = numbers(2, 3).astype("f4")


def assert_same(tensors, expected):
    assert list(tensors) == list(expected)
    for name, array in tensors.items():
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.shape == expected[name].shape
        np.testing.assert_array_equal(array, expected[name].astype(np.float32), err_msg=name)


def refusal(file):
    """The error's line, which must name the file."""
    message = message_of(read_checkpoint, file)
    assert str(file) in message and message.isascii()
    return message


@pytest.fixture(params=[False, True], ids=["zip", "legacy"])
def write(request, tmp_path):
    """Writes content in each of the formats -> the file."""

    def write_to(content, **options):
        write_checkpoint(tmp_path / "net.pth", content, request.param, **options)
        return tmp_path / "net.pth"

    return write_to


@pytest.mark.parametrize("name", FORMATS)
def test_files_that_pytorch_wrote(name):
    """Strides, a storage of several tensors, all sizes of floats, a Parameter, DataParallel's prefix."""
    assert_same(read_checkpoint(GOLDEN / f"{name}.pth"), golden_tensors())


def test_every_kind_of_number(write):
    kinds = ("f2", "f4", "f8", "i1", "i2", "i4", "i8")
    content = {kind: (numbers(3, 2) * 8).astype(kind) for kind in kinds}
    content |= {"u1": np.array([0, 255], "u1"), "b1": np.array(True), "empty": np.zeros((2, 0), "f4")}
    assert_same(read_checkpoint(write(content)), content)


@pytest.mark.parametrize("key", ["state_dict", "model", "model_state_dict", "weight"])
def test_state_dict_inside_the_dict_of_a_training_program(key, write):
    optimizer = {"state": {0: {"momentum": FEW}}, "groups": value([{"lr": 0.1, "params": [0, 1], "x": None}])}
    file = write({"epoch": 3, "best": FEW, "optimizer": optimizer, key: {"b.weight": FEW, "a.bias": FEW[0]}})
    assert_same(read_checkpoint(file), {"b.weight": FEW, "a.bias": FEW[0]})


def test_keys_of_training_programs_as_names_of_tensors(write):
    content = {"weight": FEW, "model": FEW[0]}
    assert_same(read_checkpoint(write(content)), content)


def test_what_is_not_a_tensor_is_left_alone(write):
    other_values = {"version": 2, "size": call("torch", "Size", (1, 2)), "type": named("torch", "float32")}
    other_values["raw"] = storage("Untyped", "raw", 3, module="torch.storage")
    file = write({**other_values, "module.a": FEW}, storages={"raw": np.zeros(3, "u1")})
    assert_same(read_checkpoint(file), {"a": FEW})


def test_forms_of_older_and_newer_pickles(write):
    """Python 2's OrderedDict, texts and tensors; a part of a storage; protocol 4's names."""
    everything = numbers(24).astype("f4")
    old = call("torch._utils", "_rebuild_tensor", storage("Float", "s", 24), 2, (2, 3), (1, 6))
    part = storage("Float", "s", 24, tuple_of("s-part", 8, 6))
    pairs = [
        b"](U\x03old" + old + b"e",
        b"](U\x04part" + tensor(part, 1, (2,), (3,)) + b"e",
        b"](\x8c\x03new" + call("torch._utils", "_rebuild_parameter", old, True, None) + b"e",
    ]
    python2 = call("collections", "OrderedDict", Instructions(b"](" + b"".join(pairs) + b"e"))
    protocol4 = Instructions(b"\x8c\x0bcollections\x8c\x0bOrderedDict\x93\x94)R" + value("a") + old + b"s")
    read = {
        "old": np.lib.stride_tricks.sliding_window_view(everything, 13)[2:4, ::6],
        "part": everything[[9, 12]],
    }
    file = write({"model": python2}, storages={"s": everything})
    assert_same(read_checkpoint(file), {**read, "new": read["old"]})
    file = write({"model": protocol4}, storages={"s": everything})
    assert_same(read_checkpoint(file), {"a": read["old"]})


def archive():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("config.json", "{}")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        (b"", "is empty, not a PyTorch checkpoint"),
        (b"<html>", "is not a PyTorch checkpoint: it begins neither as a zip archive nor as a pickle"),
        (pickle.dumps({"a": 1}), "is a pickle, but not a PyTorch checkpoint"),
        (b"\x80\x02\x8a", "is not a PyTorch checkpoint, or is damaged or cut off"),
        (b"PK\x03\x04", "is not a PyTorch checkpoint, or is damaged or cut off"),
        (archive(), "is a zip archive, but not a PyTorch checkpoint"),
    ],
    ids=["empty", "text", "pickle", "cut off pickle", "cut off zip", "zip"],
)
def test_files_that_are_no_checkpoints(contents, expected, tmp_path):
    file = tmp_path / "net.pth"
    assert "PyTorch checkpoint not found" in refusal(file)
    assert "is a folder, not a PyTorch checkpoint" in refusal(tmp_path)
    file.write_bytes(contents)
    assert expected in refusal(file)


BAD_CONTENT = {
    "no tensors": ({"epoch": 1}, "holds no tensors by name"),
    "no tensors inside": ({"model": {}, "a": FEW}, "holds no tensors by name"),
    "no dict": ([1, 2], "holds no state dict: save model.state_dict()"),
    "numbers as names": ({1: FEW}, "a tensor has no printable name"),
    "line break in a name": ({"a\nb": FEW}, "a tensor has no printable name"),
    "name twice": ({"module.a": FEW, "a": FEW}, "holds a both with and without the prefix module."),
    "not a number": ({"a": FEW, "b": np.array([0, np.nan], "f4")}, "not finite in float32: b"),
    "infinity": ({"a": np.array([-np.inf], "f2")}, "not finite in float32: a"),
    "too large for float32": ({"a": np.array([1e39])}, "not finite in float32: a"),
    "tuple as key": (Instructions(b"}" + value((1, 2)) + b"Ns"), "has a dict with a tuple as a key"),
    "deep key": (Instructions(b"}N" + b"\x85" * 100_000 + b"Ns"), "has a dict with a tuple as a key"),
    "deep content": (Instructions(b"N" + b"\x85" * 100_000), "holds no state dict"),
    "reference": (Instructions(tuple_of("module", "a", "b", "c", 0) + b"Q"), "that is not a storage"),
    "attributes": (Instructions(named("torch._utils", "_rebuild_tensor") + b"}b"), "wants to set attributes"),
    "call of a type": (Instructions(named("torch", "FloatStorage") + b")R"), "damaged or cut off ("),
    "addition to a dict": (Instructions(b"}Na"), "damaged or cut off ("),
    "nothing on the stack": (Instructions(b"0"), "has the pickle instruction POP"),
}

FOUR = storage("Float", "s", 4)
"""The reference to a storage of 4 float32, which the file holds."""

BAD_TENSORS = {
    "shape": (tensor(FOUR, 0, (5,), (1,)), "of 4 elements: shape [5], strides [1], offset 0"),
    "offset": (tensor(FOUR, 1, (2, 2), (2, 1)), "does not fit its storage of 4 elements: shape [2, 2]"),
    "strides": (tensor(FOUR, 0, (2, 2), (3, 1)), "strides [3, 1]"),
    "scalar": (tensor(FOUR, 4, (), ()), "shape [], strides [], offset 4"),
    "negative stride": (tensor(FOUR, 3, (4,), (-1,)), "is not a whole number from 0"),
    "negative shape": (tensor(FOUR, 0, (-4,), (1,)), "is not a whole number from 0"),
    "fraction": (tensor(FOUR, 0.5, (1,), (1,)), "is not a whole number from 0"),
    "axes": (tensor(FOUR, 0, (2, 2), (1,)), "not a stride for each axis"),
    "no storage": (tensor("s", 0, (4,), (1,)), "a tensor has no storage"),
    "part of a storage": (tensor(storage("Float", "s", 4, tuple_of("v", 2, 3)), 0, (3,), (1,)), "cut off"),
    "size of the storage": (tensor(storage("Double", "s", 9), 0, (4,), (1,)), "cut off"),
    "key": (tensor(storage("Float", "x", 4), 0, (4,), (1,)), "damaged or cut off ("),
    "complex": (tensor(storage("ComplexFloat", "s", 2), 0, (2,), (1,)), "torch.ComplexFloatStorage; refused"),
}


@pytest.mark.parametrize("name", BAD_CONTENT)
def test_bad_content(name, write):
    content, expected = BAD_CONTENT[name]
    assert expected in refusal(write(content))


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(name, write):
    instructions, expected = BAD_TENSORS[name]
    storages = {"s": np.zeros(4, "f4")}
    sound = {"sound": tensor(FOUR, 0, (4,), (1,))}
    assert_same(read_checkpoint(write(sound, storages=storages)), {"sound": storages["s"]})
    assert expected in refusal(write({**sound, "a": instructions}, storages=storages))


def test_big_endian(write):
    assert "comes from a big-endian machine" in refusal(write({"a": FEW}, big_endian=True))


def test_compressed_archive(tmp_path):
    write_checkpoint(tmp_path / "net.pth", {"a": FEW}, compression=zipfile.ZIP_DEFLATED)
    assert "data.pkl is compressed" in refusal(tmp_path / "net.pth")


def test_whole_models(write):
    for module, name in [("torch.nn.modules.container", "Sequential"), ("models.refinedet", "RefineDet")]:
        message = refusal(write(Instructions(named(module, name) + b")\x81}b")))
        assert f"wants to run {module}.{name}; refused" in message and "save model.state_dict()" in message


def test_programs_are_refused_and_not_run(write, tmp_path):
    """Calls by either kind of name, of builtins, and by making an object."""
    victim = tmp_path / "victim"
    run = tuple_of(f"touch {victim}")
    programs = {
        "os.system": named("os", "system") + run + b"R",
        "posix.system": value("posix") + value("system") + b"\x93" + run + b"R",
        "builtins.eval": named("builtins", "eval") + tuple_of(f"open({str(victim)!r}, 'w')") + b"R",
        "pathlib.Path": named("pathlib", "Path") + tuple_of(str(victim)) + b"\x81",
        "torch._utils.os.system": named("torch._utils", "os.system") + run + b"R",
    }
    for name, program in programs.items():
        content = {"a": FEW, "b": Instructions(program)}
        assert f"wants to run {name}; refused" in refusal(write(content))
        assert not victim.exists()
    # Instructions that Python itself carries out, in its own way of naming, would do it.
    pickle.loads(b"\x80\x02" + programs["os.system"] + b".")
    assert victim.exists()


def memorised(number, program):
    """The instructions that make an object and note it, and those that name it again."""
    index = number.to_bytes(4, "little")
    return program + b"r" + index, b"j" + index


def many_times(reference, number=5000):
    return b"](" + reference * number + b"e"


LONG_LIST, AGAIN = memorised(500_000, many_times(b"K\x01"))
PAIRS, PAIRS_AGAIN = memorised(
    500_001, b"](" + b"".join(value(f"{key}") + b"N\x86" for key in range(2000)) + b"e"
)
DICT, DICT_AGAIN = memorised(500_002, named("collections", "OrderedDict"))
STORAGE, STORAGE_AGAIN = memorised(500_003, FOUR)
TENSOR, TENSOR_AGAIN = memorised(500_004, named("torch._utils", "_rebuild_tensor"))
"""Objects of a few kilobytes, and instructions of a few bytes that name them again."""


@pytest.mark.parametrize(
    "program",
    [
        Instructions(b"(" + LONG_LIST + DICT + many_times(AGAIN, 1000) + b"\x85Rt"),
        Instructions(PAIRS + DICT + many_times(DICT_AGAIN + PAIRS_AGAIN + b"\x85R", 5000) + b"\x87"),
        Instructions(
            b"("
            + LONG_LIST
            + STORAGE
            + TENSOR
            + (TENSOR_AGAIN + b"(" + STORAGE_AGAIN + b"K\x00" + AGAIN + AGAIN + b"tR") * 5000
            + b"t"
        ),
        tensor(FOUR, 0, (10**6, 10**6), (0, 0)),
        tensor(FOUR, 0, (0, 2**62), (1, 1)),
        tensor(storage("Float", "s", 2**60), 0, (2**50,), (1,)),
        Instructions(b"\x8e" + (2**40).to_bytes(8, "little")),
        Instructions(b"\x8b" + (2**31 - 1).to_bytes(4, "little")),
        Instructions(b"\x96" + (2**36).to_bytes(8, "little")),
        Instructions(b"r\xff\xff\xff\xff" + tensor(FOUR, 4, (4,), (1,))),
    ],
    ids=[
        *("a list in pairs", "pairs in dicts", "a list as shape", "strides 0", "empty", "storage", "bytes"),
        *("number", "bytearray", "memo"),
    ],
)
def test_sizes_out_of_all_proportion_take_no_memory(program, write):
    file = write({"b": FEW, "a": program}, storages={"s": np.zeros(4, "f4")})
    tracemalloc.start()
    try:
        refusal(file)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", FORMATS)
def test_cut_off_anywhere(name, tmp_path):
    whole, file = (GOLDEN / f"{name}.pth").read_bytes(), tmp_path / "net.pth"
    for length in [*range(0, len(whole), 11), len(whole) - 1]:
        file.write_bytes(whole[:length])
        refusal(file)


@pytest.mark.parametrize("name", FORMATS)
def test_random_corruptions_end_in_one_line_or_in_finite_arrays(name, tmp_path):
    whole, generator = (GOLDEN / f"{name}.pth").read_bytes(), np.random.default_rng(0)
    file, errors = tmp_path / "net.pth", 0
    for _ in range(200):
        file.write_bytes(mutate_bytes(generator, whole))
        try:
            tensors = read_checkpoint(file)
        except InputError:
            errors += 1
            refusal(file)
        else:
            assert tensors and all(np.isfinite(array).all() for array in tensors.values())
            assert {array.dtype for array in tensors.values()} == {np.dtype(np.float32)}
    assert errors > 50
