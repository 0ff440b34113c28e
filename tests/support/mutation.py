"""Mutations of valid inputs: bytes, JSON trees and HDF5 files, each with values that break careless readers.

Every function takes a NumPy random generator, so that a seed gives the same input on any machine.
"""

import copy
import io
import json
import re

import h5py
import numpy as np

EXTREME_NUMBERS = (
    *(0, 1, -1, 2, 255, 256, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53),
    *(2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *(0.5, -0.0, 1e-320, 1e38, 1e39, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
EXTREME_TEXTS = (
    *("", " ", "0", "-1", "1e308", "null", "nan", "\0", "a\0b", "\ud800", "\udcff", "\u202e", "é", "²", "🐈"),
    *("/", ".", "..", "../../etc/passwd", "/etc/passwd", "/dev/zero", "a/b", "%s%n", "a\nb", "\x1b[31m"),
)
DEEP, DIGITS, LONG = "@deep@", "@digits@", "@long@"
"""Texts that `json_bytes` replaces by values that Python's own writer cannot write, or that are very long."""

NESTING, DIGIT_COUNT, LENGTH = 100_000, 5_000, 100_000
"""The number of brackets, of digits and of letters of those values."""


def mutate_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    """Returns a copy of `data` with one to four small damages, or seldom something quite different."""
    if rng.random() < 0.02:
        return (b"", rng.bytes(64), data[::-1], data * 2, b"\0" * len(data[:4096]))[rng.integers(5)]
    for _ in range(rng.integers(1, 5)):
        data = _damage_bytes(rng, data)
    return data


def mutate_json(rng: np.random.Generator, tree: object) -> object:
    """Returns a copy of a JSON tree of which one to three values, keys or lists are changed."""
    root = [copy.deepcopy(tree)]
    for _ in range(rng.integers(1, 4)):
        _damage_tree(rng, root)
    return root[0]


def json_bytes(rng: np.random.Generator, tree: object, mutate_text: float = 0.2) -> bytes:
    """Returns a mutated tree as the bytes of a file.

    Args:
        rng: the source of all choices.
        tree: the valid tree; `mutate_json` changes it.
        mutate_text: the probability that the bytes are damaged instead of the tree.
    """
    if rng.random() < mutate_text:
        return mutate_bytes(rng, json.dumps(tree).encode())
    text = json.dumps(mutate_json(rng, tree), ensure_ascii=bool(rng.random() < 0.5))
    text = text.replace(f'"{DEEP}"', "[" * NESTING + "]" * NESTING).replace(f'"{DIGITS}"', "9" * DIGIT_COUNT)
    return text.replace(LONG, "x" * LENGTH).encode("utf-8", "surrogatepass")


def mutate_hdf5(rng: np.random.Generator, data: bytes) -> bytes:
    """Returns the bytes of an HDF5 file whose groups, datasets, values or bytes are changed."""
    if rng.random() < 0.5:
        return mutate_bytes(rng, data)
    stream = io.BytesIO(data)
    with h5py.File(stream, "r+") as file:
        for _ in range(rng.integers(1, 3)):
            _damage_hdf5(rng, file)
    return stream.getvalue()


def pick(rng, items):
    """Returns one of the items; NumPy's `choice` would convert them."""
    return items[rng.integers(len(items))]


def _damage_bytes(rng, data):
    size = len(data)
    # Half of the damages hit the first kilobytes, where the structure of most formats stands.
    start = int(rng.integers(min(size, 4096) if rng.random() < 0.5 else size)) if size else 0
    end = min(size, start + int(rng.integers(1, 65)))
    match rng.integers(10):
        case 0:
            middle = bytes([data[start] ^ (1 << int(rng.integers(8)))]) if size else b""
            return data[:start] + middle + data[start + 1 :]
        case 1:
            byte = pick(rng, (b"\0", b"\xff", b"\x7f", b"\x80", b"<", b'"', b"\n"))
            return data[:start] + byte + data[start + 1 :]
        case 2:
            return data[:start] + rng.bytes(end - start) + data[end:]
        case 3:
            return data[:start] + rng.bytes(end - start) + data[start:]
        case 4:
            return data[:start] + data[end:]
        case 5:
            return data[:end] + data[start:end] * int(rng.integers(1, 9)) + data[end:]
        case 6:
            return data[:start]
        case 7:
            width = int(pick(rng, (2, 4, 8)))
            number = int(pick(rng, (0, 1, 2 ** (8 * width) - 1, 2 ** (8 * width - 1), 2 ** (4 * width))))
            raw = number.to_bytes(width, pick(rng, ("little", "big")))
            return data[:start] + raw + data[start + width :]
        case 8:
            return _change_number(rng, data)
        case _:
            values = np.array([pick(rng, (np.nan, np.inf, -np.inf, 1e38))], "<f4").tobytes()
            start -= start % 4
            return data[:start] + values + data[start + 4 :]


def _change_number(rng, data):
    """Replaces one of the decimal numbers in `data` by an extreme one."""
    numbers = list(re.finditer(rb"-?\d+(?:\.\d+)?", data[:65536]))
    if not numbers:
        return data
    match = pick(rng, numbers)
    new = "9" * DIGIT_COUNT if rng.random() < 0.05 else str(pick(rng, EXTREME_NUMBERS))
    return data[: match.start()] + new.encode() + data[match.end() :]


def _places(tree):
    """Returns every (container, key or index) in a list that holds a tree."""
    places, waiting = [], [tree]
    while waiting:
        container = waiting.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            places.append((container, key))
            if isinstance(container[key], dict | list):
                waiting.append(container[key])
    return places


def _hostile_value(rng, old):
    match rng.integers(8):
        case 0 | 1:
            return pick(rng, EXTREME_NUMBERS)
        case 2:
            return pick(rng, EXTREME_TEXTS)
        case 3:
            return pick(rng, (None, True, False, [], {}, [[]], {"": None}, DEEP, DIGITS, LONG))
        case 4:
            return [old]
        case 5:
            return {"value": old}
        case 6:
            return str(old) if not isinstance(old, str) else old + pick(rng, EXTREME_TEXTS)
        case _:
            return old * 2 if isinstance(old, list | str) else [old, old]


def _damage_tree(rng, root):
    container, key = pick(rng, _places(root))
    old = container[key]
    choice = rng.integers(6)
    if choice == 0 and container is not root:
        del container[key]
    elif choice == 1 and isinstance(container, dict):
        container[pick(rng, (*EXTREME_TEXTS, LONG, key.upper(), key + " "))] = container.pop(key)
    elif choice == 2 and isinstance(container, list) and container is not root:
        container.insert(int(key), _hostile_value(rng, old))
    elif choice == 3 and isinstance(old, list):
        container[key] = old[::-1] if rng.random() < 0.5 else old[: len(old) // 2]
    else:
        container[key] = _hostile_value(rng, old)


def _values(dataset):
    """Returns the numbers of a dataset, or others where it has none or very many."""
    if dataset.dtype.kind != "f" or not dataset.shape or dataset.size > 2**24:
        return np.zeros(3, np.float32)
    return dataset[()]


def _damage_hdf5(rng, file):
    datasets, groups = [], []
    # The visit must return None to go on, as `append` does.
    file.visititems(lambda name, item: (groups if isinstance(item, h5py.Group) else datasets).append(name))
    if not datasets or not groups:
        return
    name = pick(rng, datasets)
    value = _values(file[name])
    match rng.integers(9):
        case 0:
            del file[pick(rng, (name, pick(rng, groups)))]
        case 1:
            value = value.astype(np.float32)
            if value.size:
                value.ravel()[rng.integers(value.size)] = pick(rng, (np.nan, np.inf, -np.inf, 1e38, -1.0))
            _replace(file, name, value)
        case 2:
            kinds = ("f2", "f8", "i4", "i8", "u1", "?", "c8", "S4")
            with np.errstate(all="ignore"):
                _replace(file, name, value.astype(pick(rng, kinds)))
        case 3:
            shapes = (value[None], value.ravel(), value.T, value[..., :1], value[:0], np.float32(0))
            _replace(file, name, pick(rng, shapes))
        case 4:
            links = [h5py.SoftLink(target) for target in ("/nowhere", f"/{name}", f"/{pick(rng, datasets)}")]
            links += [h5py.ExternalLink(target, "/x") for target in ("nowhere.h5", "/dev/zero")]
            del file[name]
            file[name] = pick(rng, links)
        case 5:
            del file[name]
            file.create_group(name)
        case 6:
            # Nothing of this is stored, but whoever reads it needs all the memory.
            shape = pick(rng, ((2**40,), (2**20, 2**20), (2**15, 2**15, 2**5), value.shape))
            del file[name]
            chunks = tuple(min(side, 64) for side in shape)
            file.create_dataset(name, shape, "f4", chunks=chunks if all(chunks) and shape else None)
        case 7:
            new_name = pick(rng, (f"{name}_moved", *EXTREME_TEXTS[2:6]))
            if new_name not in file:
                file.move(name, new_name)
        case _:
            del file[name]
            file[name] = pick(rng, ("text", b"\xff", np.array([b"a", b"b"]), h5py.Empty("f4")))


def _replace(file, name, value):
    del file[name]
    file[name] = value
