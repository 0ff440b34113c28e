"""Mutated run folders: the config, the log, checkpoints, and what stands in their places."""

import json
import os
import shutil
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from config_of import config_of
from mutation import EXTREME_TEXTS, json_bytes, mutate_bytes, pick

from refinedet_tf.config.files import config_to_json, load_config
from refinedet_tf.errors import InputError
from refinedet_tf.exports.card import validation_of_run
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training.checkpoints import Checkpoints
from refinedet_tf.training.log import ProgressLog
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.state import loop_state

CONFIG = config_of(2, data={"validation": ("2007/val",)})

LOG = [
    {"step": 5, "loss": 3.25, "learning_rate": 1e-3, "seconds_left": 10.0},
    {"step": 5, "validation": {"mAP": 0.5, "AP": {"class 1": 0.25, "class 2": 0.75}, "best": True}},
    {"step": 10, "loss": 2.5, "learning_rate": 1e-3, "seconds_left": 5.0},
    {"step": 10, "validation": {"mAP": None, "AP": {"class 1": None, "class 2": None}, "best": False}},
]

STATE = {"best": {"mAP": 0.5, "step": 3}, "step": 8}


@pytest.fixture(scope="module")
def trainer():
    """A network with BatchNorm and an optimizer with momentum."""
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(20), keras.layers.BatchNormalization()])
    optimizer = CaffeSGD(0.1)
    optimizer.build(network.trainable_variables)
    return SimpleNamespace(network=network, optimizer=optimizer, average=None)


@pytest.fixture(scope="module")
def checkpoint(trainer, tmp_path_factory):
    """The files of a checkpoint: name -> bytes."""
    folder = tmp_path_factory.mktemp("checkpoints")
    Checkpoints(folder, trainer).save(STATE["step"], STATE)
    return {file.name: file.read_bytes() for file in (folder / "step-8").iterdir()}


def test_log(fuzz, tmp_path):
    run = RunFolder(tmp_path)
    run.best_weights.touch()

    def case(rng):
        shutil.rmtree(run.tensorboard, ignore_errors=True)
        lines = [json.dumps(entry).encode() for entry in LOG]
        place = rng.integers(len(lines))
        lines[place] = json_bytes(rng, LOG[place])
        content = b"\n".join(lines)
        run.log.write_bytes(mutate_bytes(rng, content) if rng.random() < 0.3 else content)
        measured = validation_of_run(run, CONFIG)
        json.dumps(measured, allow_nan=False)
        ProgressLog(run, CONFIG, start_step=7)
        assert all(json.loads(line)["step"] <= 7 for line in run.log.read_bytes().splitlines())

    fuzz(case)


def test_checkpoint(fuzz, trainer, checkpoint, tmp_path):
    """A mutated file, or several; the variables are those of the checkpoint then, or unchanged."""
    checkpoints = Checkpoints(tmp_path, trainer)
    variables = [*trainer.network.variables, *trainer.optimizer.variables]

    def case(rng):
        folder = tmp_path / "step-8"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        mutated = rng.permutation(sorted(checkpoint))[: rng.integers(1, 3)]
        for name, content in checkpoint.items():
            if name not in mutated:
                (folder / name).write_bytes(content)
            elif name == "state.json":
                (folder / name).write_bytes(json_bytes(rng, STATE))
            else:
                (folder / name).write_bytes(mutate_bytes(rng, content))
        for variable in variables:
            variable.assign(np.full(variable.shape, 7))
        try:
            state = checkpoints.restore_latest()
        except InputError:
            assert all((np.array(variable) == 7).all() for variable in variables)
            raise
        assert state["step"] == 8
        best = loop_state(state, tmp_path).best
        assert best is None or 0 <= best["mAP"] <= 1

    fuzz(case)


def test_config(fuzz, tmp_path):
    run = RunFolder(tmp_path)
    tree = json.loads(config_to_json(CONFIG))

    def case(rng):
        run.config.write_bytes(json_bytes(rng, tree))
        config_to_json(load_config(run.path))

    fuzz(case)


def test_folder(fuzz, checkpoint, trainer, tmp_path):
    """Folders, files, links and names in places where a run does not leave them."""

    def put(rng, path):
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        match rng.integers(5):
            case 0:
                path.mkdir()
            case 1:
                path.write_bytes(rng.bytes(50))
            case 2:
                path.symlink_to(path)
            case 3:
                path.symlink_to("nowhere")
            case _:
                path.symlink_to("..")

    def case(rng):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        run = RunFolder(folder)
        run.create(CONFIG, resume=False)
        (run.checkpoints / "step-8").mkdir(parents=True)
        for name, content in checkpoint.items():
            (run.checkpoints / "step-8" / name).write_bytes(content)
        run.best_weights.touch()
        names = ["config.json", "log.jsonl", "checkpoints", "tensorboard", "best.weights.h5"]
        names += ["final.weights.h5", "augmented.png", "box_defects.json"]
        for _ in range(rng.integers(1, 3)):
            if rng.random() < 0.6 or not run.checkpoints.is_dir():
                put(rng, folder / pick(rng, names))
                continue
            text = pick(rng, EXTREME_TEXTS)
            name = os.fsencode(f"step-{text}".replace("/", "").replace("\0", "").encode("utf-8", "replace"))
            put(rng, run.checkpoints / os.fsdecode(name[:200]))
        run.create(load_config(folder), resume=True)
        Checkpoints(run.checkpoints, trainer).restore_latest()
        ProgressLog(run, CONFIG, start_step=7)
        run.trained_weights()
        validation_of_run(run, CONFIG)

    fuzz(case)
