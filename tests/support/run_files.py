"""What a run has written: its log and its weights."""

import json

import h5py

TIMES = ("images_per_second", "data_wait", "seconds_left")
"""The values of a log's entry that differ from run to run."""


RUN_FILES = [".refinedet-run", "augmented.png", "best.weights.h5", "checkpoints", "config.json", "curves.png"]
RUN_FILES += ["final.weights.h5", "log.jsonl", "tensorboard"]
"""What lies in the folder of a run that has ended well."""


def log_entries(folder):
    """The entries of a run's log."""
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def last_step(folder):
    """The step of the last whole line of the log of a run that may go on, or 0."""
    text = (folder / "log.jsonl").read_text() if (folder / "log.jsonl").is_file() else ""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return json.loads(lines[-1])["step"] if lines else 0


def entries_without_times(folder):
    """The entries of a run's log without `TIMES`."""
    return [
        {name: value for name, value in entry.items() if name not in TIMES} for entry in log_entries(folder)
    ]


def weights_in(file):
    """The arrays of a weights file by their path in it."""
    arrays = {}
    with h5py.File(file) as content:
        content.visititems(
            lambda name, item: arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    assert len(arrays) > 50
    return arrays


def assert_equal_weights(file, expected_file):
    """Asserts that two weights files hold the same arrays, bit for bit."""
    found, expected = weights_in(file), weights_in(expected_file)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.tobytes() == expected[name].tobytes(), name
