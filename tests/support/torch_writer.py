"""Writes PyTorch's checkpoints: byte by byte, sound or not; and with PyTorch itself, the golden ones.

`python tests/support/torch_writer.py` needs PyTorch and writes tests/golden/torch_zip.pth and
torch_legacy.pth.
"""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
from golden_arrays import GOLDEN_FOLDER

GOLDEN = GOLDEN_FOLDER

STORAGES = {"f4": "Float", "f8": "Double", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short"}
STORAGES |= {"i1": "Char", "u1": "Byte", "b1": "Bool"}


class Instructions(bytes):
    """Pickle instructions that stand where a value could."""


def value(content):
    """The instructions that put something made of texts, numbers, None, lists and dicts on the stack."""
    return content if isinstance(content, Instructions) else Instructions(pickle.dumps(content, 2)[2:-1])


def tuple_of(*items):
    return Instructions(b"(" + b"".join(map(value, items)) + b"t")


def named(module, name):
    return Instructions(f"c{module}\n{name}\n".encode())


def call(module, name, *arguments):
    return Instructions(named(module, name) + tuple_of(*arguments) + b"R")


def storage(kind, key, size, *view, module="torch"):
    kind = named(module, f"{kind}Storage")
    return Instructions(tuple_of("storage", kind, key, "cpu", size, *view) + b"Q")


def tensor(source, offset, shape, strides):
    hooks = call("collections", "OrderedDict")
    return call("torch._utils", "_rebuild_tensor_v2", source, offset, shape, strides, False, hooks)


def write_checkpoint(path, content, legacy=False, storages=None, **options):
    """Writes content: dicts, arrays, `Instructions`, and what `value` takes.

    Args:
        path: of the file.
        content: goes into the pickle; arrays become tensors with a storage of their own.
        legacy: the format before PyTorch 1.6.
        storages: arrays by key, of tensors that stand in the content as instructions.
        options: big_endian, a claim only; compression, of the zip archive.
    """
    storages = dict(storages or {})

    def instructions(item):
        if isinstance(item, dict):
            return b"}(" + b"".join(value(key) + instructions(part) for key, part in item.items()) + b"u"
        if not isinstance(item, np.ndarray):
            return value(item)
        key = f"own{len(storages)}"
        storages[key] = item
        strides = tuple(step // item.itemsize for step in np.empty(item.shape, item.dtype).strides)
        return tensor(storage(STORAGES[item.dtype.str[1:]], key, item.size), 0, item.shape, strides)

    program = b"\x80\x02" + instructions(content) + b"."
    write = _write_legacy if legacy else _write_zip
    write(path, program, storages, **options)


def _write_zip(path, program, storages, big_endian=False, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("net/data.pkl", program)
        if big_endian:
            archive.writestr("net/byteorder", "big")
        for key, array in storages.items():
            archive.writestr(f"net/data/{key}", array.tobytes())


def _write_legacy(path, program, storages, big_endian=False):
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": not big_endian}):
        pickle.dump(part, stream, 2)
    stream.write(program)
    pickle.dump(sorted(storages), stream, 2)
    for _, array in sorted(storages.items()):
        stream.write(struct.pack("<q", array.size) + array.tobytes())
    Path(path).write_bytes(stream.getvalue())


def numbers(*shape, start=0):
    """float64 values between -6.25 and 6.25 that a float16 holds exactly."""
    return ((np.arange(start, start + np.prod(shape, dtype=int)) * 37 % 101 - 50) / 8).reshape(shape)


def golden_tensors():
    """What the golden checkpoints hold, without the prefix "module.", in float32."""
    shared = numbers(40, start=7)
    tensors = {
        "vgg.0.weight": numbers(4, 3, 3, 3),
        "transposed": numbers(4, 5, start=1).T,
        "part": shared[5:17].reshape(3, 4),
        "every_third": shared[2::3],
        "double": numbers(6, start=2) / 3,
        "half": numbers(6, start=3),
        "bfloat16": numbers(6, start=4) / 4,
        "bool": np.array([True, False, True]),
        "batches": np.array(123456),
        "none": np.zeros((0, 3)),
        "parameter": numbers(2, 3, start=5),
    }
    return {name: array.astype(np.float32) for name, array in tensors.items()}


def write_golden():
    import collections

    import torch

    shared = torch.tensor(numbers(40, start=7), dtype=torch.float32)
    tensors = {name: torch.tensor(np.array(array)) for name, array in golden_tensors().items()}
    tensors["transposed"] = torch.tensor(numbers(4, 5, start=1), dtype=torch.float32).t()
    tensors["part"] = shared[5:17].view(3, 4)
    tensors["every_third"] = shared[2::3]
    tensors["double"] = torch.tensor(numbers(6, start=2) / 3)
    tensors["half"] = tensors["half"].half()
    tensors["bfloat16"] = tensors["bfloat16"].bfloat16()
    tensors["bool"] = tensors["bool"].bool()
    tensors["batches"] = tensors["batches"].long()
    tensors["parameter"] = torch.nn.Parameter(tensors["parameter"])
    state_dict = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in tensors.items())
    # As Module.state_dict() does.
    state_dict._metadata = collections.OrderedDict({"module": {"version": 1}})
    torch.save(state_dict, GOLDEN / "torch_zip.pth")
    torch.save(state_dict, GOLDEN / "torch_legacy.pth", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    write_golden()
