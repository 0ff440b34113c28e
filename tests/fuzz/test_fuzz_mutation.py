"""The mutations give the same inputs for the same seeds, and every input that they promise."""

import io
import json

import h5py
import numpy as np
from mutation import json_bytes, mutate_bytes, mutate_hdf5, mutate_json

TREE = {"name": "cat", "boxes": [[1, 2.5], [3, 4]], "empty": None}


def hdf5_file():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file["layers/conv/vars/0"] = np.ones((3, 3, 2, 4), np.float32)
        file["layers/conv/vars/1"] = np.zeros(4, np.float32)
    return stream.getvalue()


def test_seeds_repeat_and_differ():
    data = bytes(range(256)) * 8
    for mutate, valid in ((mutate_bytes, data), (json_bytes, TREE), (mutate_hdf5, hdf5_file())):
        first, again = ([mutate(np.random.default_rng(seed), valid) for seed in range(50)] for _ in range(2))
        assert first == again
        assert len(set(first)) > 30


def test_trees_are_copied():
    before = json.dumps(TREE)
    for seed in range(200):
        mutate_json(np.random.default_rng(seed), TREE)
        assert json.dumps(TREE) == before
