"""Checkpoints: whole or not at all, and what a resumed run makes of damaged ones."""

import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from full_disk import full_disk
from refusals import message_of
from training_config import sets

import train
from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.training import loop
from refinedet_tf.training.averaging import WeightAverage
from refinedet_tf.training.checkpoints import KEEP, Checkpoints
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.state import LoopState, loop_state


@pytest.fixture(params=[None, 0.5], ids=["weights", "averaged"])
def trainer(request):
    """A network with BatchNorm, 40 kB of weights and as much momentum; and with an average as much again."""
    network = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(1000), keras.layers.BatchNormalization()]
    )
    optimizer = CaffeSGD(0.1)
    optimizer.build(network.trainable_variables)
    average = None if request.param is None else WeightAverage(network, request.param)
    return SimpleNamespace(network=network, optimizer=optimizer, average=average)


def variables_of(trainer):
    averages = trainer.average.values if trainer.average else []
    return [*trainer.network.variables, *trainer.optimizer.variables, *averages]


def fill(trainer, value):
    for variable in variables_of(trainer):
        variable.assign(np.full(variable.shape, value))


def values_in(trainer):
    return {float(x) for variable in variables_of(trainer) for x in np.unique(variable.numpy())}


FILES = ["state.json", "variables.data-00000-of-00001", "variables.index"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_everything_comes_back(trainer, tmp_path):
    """Weights, moving statistics, momentum and the solver's step counter."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", trainer)
    assert checkpoints.restore_latest() is None
    fill(trainer, 3)
    checkpoints.save(7, {"best": {"mAP": 0.25, "step": 5}})
    fill(trainer, 4)
    assert values_in(trainer) == {4}
    assert checkpoints.restore_latest() == {"step": 7, "best": {"mAP": 0.25, "step": 5}}
    assert values_in(trainer) == {3}
    assert int(trainer.optimizer.iterations) == 3


def test_the_newest_stay(trainer, tmp_path):
    checkpoints = Checkpoints(tmp_path, trainer)
    for step in (2, 4, 10, 100):
        fill(trainer, step)
        checkpoints.save(step, {})
        assert len(checkpoints.steps()) <= KEEP
    assert names(tmp_path) == ["step-10", "step-100"]
    assert checkpoints.restore_latest()["step"] == 100
    assert values_in(trainer) == {100}


def test_saving_a_step_again_replaces_its_state(trainer, tmp_path):
    checkpoints = Checkpoints(tmp_path, trainer)
    fill(trainer, 1)
    for without_gain in (1, 2):
        checkpoints.save(5, {"without_gain": without_gain})
    fill(trainer, 9)
    assert checkpoints.restore_latest() == {"step": 5, "without_gain": 2}
    assert names(tmp_path) == ["step-5"] and values_in(trainer) == {1}
    assert names(tmp_path / "step-5") == FILES


CHANGES = [(Path, "replace"), (Path, "rename"), (Path, "unlink"), (shutil, "rmtree"), (os, "fsync")]
"""What changes the files of a run."""


def test_a_kill_while_a_step_is_saved_again(trainer, tmp_path, monkeypatch):
    """Before each change of a file, there is a whole checkpoint of that step."""
    checkpoints = Checkpoints(tmp_path, trainer)
    fill(trainer, 1)
    checkpoints.save(5, {"without_gain": 1})
    seen = []

    def seen_before(function):
        def called(*arguments, **options):
            seen.append((checkpoints.steps(), json.loads((tmp_path / "step-5" / "state.json").read_text())))
            return function(*arguments, **options)

        return called

    for owner, name in CHANGES:
        monkeypatch.setattr(owner, name, seen_before(getattr(owner, name)))
    checkpoints.save(5, {"without_gain": 2})
    monkeypatch.undo()
    assert {tuple(steps) for steps, _ in seen} == {(5,)}
    assert [state["without_gain"] for _, state in seen] == sorted(state["without_gain"] for _, state in seen)
    assert seen[0][1]["without_gain"] == 1 and seen[-1][1]["without_gain"] == 2


def test_other_workers_leave_no_files(trainer, tmp_path):
    Checkpoints(tmp_path, trainer, writes=False).save(3, {})
    assert names(tmp_path) == []


def test_half_written_folder_is_ignored(trainer, tmp_path):
    """What a kill in the middle of saving leaves behind."""
    checkpoints = Checkpoints(tmp_path, trainer)
    fill(trainer, 1)
    checkpoints.save(4, {})
    half = tmp_path / ".writing-step-8"
    half.mkdir()
    (half / "variables.data-00000-of-00001").write_bytes(b"half")
    fill(trainer, 2)
    assert checkpoints.steps() == [4]
    assert checkpoints.restore_latest()["step"] == 4
    assert values_in(trainer) == {1}
    fill(trainer, 8)
    checkpoints.save(8, {})
    assert names(tmp_path) == ["step-4", "step-8"]


@pytest.mark.parametrize("left", [0, 10, 20_000])
def test_full_disk_leaves_the_last_good_one(trainer, tmp_path, left):
    checkpoints = Checkpoints(tmp_path, trainer)
    fill(trainer, 1)
    checkpoints.save(4, {"best": None})
    fill(trainer, 2)
    with full_disk(left), pytest.raises(TrainingStopped) as stopped:
        checkpoints.save(8, {"best": None})
    message = str(stopped.value)
    assert message.startswith(f"checkpoint of step 8 cannot be written to {tmp_path}: ")
    assert message.endswith(f"; {tmp_path / 'step-4'} is still good")
    assert names(tmp_path) == ["step-4"]
    assert checkpoints.restore_latest() == {"step": 4, "best": None}
    assert values_in(trainer) == {1}


def test_full_disk_at_the_first_checkpoint(trainer, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(TrainingStopped, match=r"step 8 .*: No space left on device; there is no other$"):
        Checkpoints(tmp_path, trainer).save(8, {})
    assert names(tmp_path) == []


def cut(file):
    file.write_bytes(file.read_bytes()[:-5000])


def flip_a_bit(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 16
    file.write_bytes(content)


def as_folder(file):
    file.unlink()
    file.mkdir()


STATES = ('{"step": 8', "8", "[]", "{}", '{"step": 4}', '{"step": "8"}', "[" * 100_000)
STATES += ('{"step": ' + "9" * 5000 + "}", '{"step": 8, "best": "\udcff"}')


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("variables.data-00000-of-00001", cut),
        ("variables.data-00000-of-00001", flip_a_bit),
        ("variables.index", lambda file: file.write_bytes(b"")),
        *((file, damage) for file in FILES for damage in (Path.unlink, as_folder)),
        *(("state.json", lambda file, text=text: file.write_bytes(os.fsencode(text))) for text in STATES),
    ],
)
def test_damaged_newest_checkpoint_is_named(trainer, tmp_path, file, damage):
    checkpoints = Checkpoints(tmp_path, trainer)
    for step in (4, 8):
        fill(trainer, step)
        checkpoints.save(step, {})
    damage(tmp_path / "step-8" / file)
    fill(trainer, 9)
    message = message_of(checkpoints.restore_latest)
    assert values_in(trainer) == {9}
    assert message.startswith(f"checkpoint {tmp_path / 'step-8'} cannot be restored (")
    assert message.endswith("); remove it to continue from the one before")
    shutil.rmtree(tmp_path / "step-8")
    assert checkpoints.restore_latest()["step"] == 4
    assert values_in(trainer) == {4}


@pytest.mark.parametrize(
    "name", ["step-²", "step-٣", "step-007", "step-", "step-x", "step--9", "step-" + "9" * 100]
)
def test_other_folders_are_no_checkpoints(trainer, tmp_path, name):
    checkpoints = Checkpoints(tmp_path, trainer)
    fill(trainer, 1)
    checkpoints.save(4, {})
    (tmp_path / name).mkdir()
    (tmp_path / "step-9").touch()
    assert checkpoints.steps() == [4]
    assert checkpoints.restore_latest() == {"step": 4}


def test_checkpoint_of_another_network(trainer, tmp_path):
    Checkpoints(tmp_path, trainer).save(4, {})
    network = keras.Sequential([keras.Input((10,)), keras.layers.Dense(7)])
    optimizer = CaffeSGD(0.1)
    optimizer.build(network.trainable_variables)
    other = SimpleNamespace(network=network, optimizer=optimizer, average=None)
    with pytest.raises(InputError, match="step-4 cannot be restored"):
        Checkpoints(tmp_path, other).restore_latest()


@pytest.mark.slow
def test_run_on_a_full_disk(config_file, command, done, eagerly, monkeypatch, tmp_path):
    """One line and exit code 1, twice; with room again the run goes on from the last good checkpoint."""
    folder = tmp_path / "run"
    arguments = ["--config", config_file, "--output", folder]
    arguments += sets("training.length=3", "training.checkpoint_every=1", "data.validation=[]")
    save_checkpoint, save_weights = Checkpoints.save, loop.save_weights

    def save_on_a_full_disk(self, step, state):
        with full_disk(10**9 if step == 1 else 50_000):
            save_checkpoint(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save_on_a_full_disk)
    result = command(train, *arguments)
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith(f"error: checkpoint of step 2 cannot be written to {folder / 'checkpoints'}: ")
    assert line.endswith(f"; {folder / 'checkpoints' / 'step-1'} is still good")
    assert names(folder / "checkpoints") == ["step-1"]

    def save_no_weights(model, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoints, "save", save_checkpoint)
    monkeypatch.setattr(loop, "save_weights", save_no_weights)
    result = command(train, *arguments, "--resume")
    assert "continuing after step 1" in result.out
    assert result.code == 1
    assert result.err == (
        f"error: weights of step 3 cannot be written to {folder / 'final.weights.h5'}: "
        "No space left on device\n"
    )
    # The run does not count as finished, so the weights are written once there is room.
    assert names(folder / "checkpoints") == ["step-1", "step-2"]

    monkeypatch.setattr(loop, "save_weights", save_weights)
    result = done(train, *arguments, "--resume")
    assert "continuing after step 2" in result.out
    assert names(folder / "checkpoints") == ["step-2", "step-3"]
    assert (folder / "final.weights.h5").is_file()
    steps = [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3]


EARLIER = {"step": 6, "best": {"mAP": 0.5, "step": 3}}
"""The state in a checkpoint of an earlier version."""


@pytest.mark.parametrize(
    ("change", "key"),
    [
        *(({"best": best}, "best") for best in (7, "x")),
        *(({"best": best}, "best.mAP") for best in ({}, {"mAP": "x", "step": 3}, {"mAP": np.nan, "step": 3})),
        *(({"without_gain": count}, "without_gain") for count in (-1, "x", True, 1.5)),
        *(({"data": data}, "data") for data in (7, "x", [], True)),
        ({"validation_is_due": 1}, "validation_is_due"),
    ],
)
def test_states_that_the_loop_does_not_write(change, key, tmp_path):
    assert loop_state(EARLIER, tmp_path) == LoopState(**EARLIER)
    line = message_of(loop_state, {**EARLIER, **change}, tmp_path)
    assert line.startswith(f"{tmp_path / 'step-6' / 'state.json'}: {key}: ")
    assert line.endswith("; remove that checkpoint to continue from the one before")


@pytest.mark.parametrize(
    ("file", "damage"),
    [("variables.data-00000-of-00001", cut), ("state.json", lambda file: file.write_text('{"step": 6}'))],
)
def test_run_with_a_damaged_checkpoint(config_file, finished, refused, small_network, file, damage):
    damage(finished / "checkpoints" / "step-6" / file)
    before = (finished / "log.jsonl").read_text()
    line = refused(train, "--config", config_file, "--resume", "--output", finished)
    assert f"{finished / 'checkpoints' / 'step-6'}" in line
    assert line.endswith("to continue from the one before")
    assert (finished / "log.jsonl").read_text() == before
