"""Loss on the validation set, patience, and the picture of both."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from run_files import assert_equal_weights, entries_without_times, log_entries
from small_network import BACKBONE, small_backbone

import refinedet_tf as rd
import train
from refinedet_tf.backbones import BACKBONES
from refinedet_tf.config_files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.losses import TERMS
from refinedet_tf.training import loop
from refinedet_tf.training.curves import draw_curves
from refinedet_tf.training.validation_loss import ValidationLoss


def loss_image_by_image(network, config, dataset):
    """The loss terms of a data set from the losses of single images without padding."""
    anchors = rd.tile_anchors(config.model.image_size)
    sums, counts = dict.fromkeys(TERMS, 0.0), {"arm": 0.0, "odm": 0.0}
    for index, path in enumerate(dataset.image_paths):
        image = warp_image(decode_image(Path(path).read_bytes()), config.model.image_size)
        rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
        truth = {"boxes": dataset.boxes[None, rows], "labels": dataset.labels[None, rows]}
        terms = rd.refinedet_loss(network(image[None], training=False), truth, anchors, config)
        for module in counts:
            counts[module] += float(terms[f"num_{module}_positives"])
        for name in TERMS:
            sums[name] += float(terms[name]) * max(float(terms[f"num_{name[:3]}_positives"]), 1)
    return {name: sums[name] / max(counts[name[:3]], 1) for name in TERMS}


def test_validation_loss_of_a_run(tf_test, interrupted, monkeypatch):
    """The last validation is that of the final weights. Its four images are one batch, and here two."""
    monkeypatch.setitem(BACKBONES, BACKBONE, small_backbone)
    config = load_config(interrupted.undisturbed, ["evaluation.batch_size=3"])
    network = rd.build_model(config)
    rd.load_weights(network, interrupted.undisturbed / "final.weights.h5")
    dataset = read_dataset(config.data, "validation")
    expected = loss_image_by_image(network, config, dataset)
    logged = log_entries(interrupted.undisturbed)[-1]["validation"]
    measured = ValidationLoss(network, rd.tile_anchors((64, 64)), config, dataset)(lambda: False)
    for name in TERMS:
        tf_test.assertAllClose(logged["loss_terms"][name], expected[name], rtol=1e-4, atol=0, msg=name)
        tf_test.assertAllClose(measured[name], expected[name], rtol=1e-4, atol=0, msg=name)


def test_validation_loss_is_given_up(interrupted, small_network):
    config = load_config(interrupted.undisturbed)
    dataset = read_dataset(config.data, "validation")
    loss = ValidationLoss(rd.build_model(config), rd.tile_anchors((64, 64)), config, dataset)
    assert loss(lambda: True) is None


def scripted(monkeypatch, mean_aps):
    """Lets the validations of a run find these mAPs, by their step."""

    def measure(network, config, dataset, stop, workers):
        step = int(runs[-1].trainer.optimizer.iterations)
        return EvaluationResult("voc", mean_aps[step - 1], {}, len(dataset))

    runs = []
    prepare = loop._Run._prepare_folder

    def noted(self, *arguments):
        runs.append(self)
        return prepare(self, *arguments)

    monkeypatch.setattr(loop._Run, "_prepare_folder", noted)
    monkeypatch.setattr(loop, "measure", measure)


def patient(config_file, folder, patience=2, steps=9):
    overrides = (f"steps={steps}", "validate_every=1", "checkpoint_every=2", f"patience={patience}")
    arguments = ["--config", config_file, "--output", folder, "--set", "training.ema_decay=0.5"]
    return arguments + [part for text in overrides for part in ("--set", f"training.{text}")]


ENDED = (
    "ended after step 6 of 9: 2 validations in a row have not exceeded the best mAP (training.patience 2); "
    "the best is 0.5000 at step 4"
)
MEAN_APS = [0.3, 0.2, float("nan"), 0.5, 0.5, 0.4, 0.6, 0.6]


def test_patience(config_file, command, eagerly, monkeypatch, tmp_path):
    """The second row of two validations without a gain ends the run; an equal mAP is no gain.

    Afterwards a resumed run does nothing, one with more patience goes on, and one that was stopped after
    the first validation without a gain, by a signal, ends in the same state.
    """
    scripted(monkeypatch, [0.3, 0.2, 0.4, *MEAN_APS[3:]])
    folder = tmp_path / "run"
    result = command(train, *patient(config_file, folder))
    assert result.code == 0, result.err
    assert ENDED in result.out.splitlines()
    assert [entry["step"] for entry in log_entries(folder)][-2:] == [6, 6]
    assert (folder / "final.weights.h5").is_file()
    state = json.loads((folder / "checkpoints" / "step-6" / "state.json").read_text())
    assert (state["without_gain"], state["best"]["step"], state["best"]["mAP"]) == (2, 4, 0.5)

    stopped = tmp_path / "stopped"
    shutil.copytree(folder, tmp_path / "copy")
    before = (folder / "log.jsonl").read_bytes(), (folder / "final.weights.h5").read_bytes()
    result = command(train, *patient(config_file, folder), "--resume")
    assert result.code == 0 and ENDED in result.out.splitlines()
    assert before == ((folder / "log.jsonl").read_bytes(), (folder / "final.weights.h5").read_bytes())

    result = command(train, *patient(config_file, tmp_path / "copy", patience=3, steps=7), "--resume")
    assert result.code == 0, result.err
    assert "validation at step 7: mAP 0.6000 (best so far)" in result.out

    report = loop.ProgressLog.step

    def stop_after_five(self, done, *arguments):
        report(self, done, *arguments)
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(loop.ProgressLog, "step", stop_after_five)
        assert command(train, *patient(config_file, stopped)).code == 1
    result = command(train, *patient(config_file, stopped), "--resume")
    assert result.code == 0, result.err
    assert ENDED in result.out.splitlines()
    assert entries_without_times(stopped) == entries_without_times(folder)
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(stopped / name, folder / name)


def test_patience_without_any_mean_ap(config_file, command, eagerly, monkeypatch, tmp_path):
    scripted(monkeypatch, [float("nan")] * 3)
    result = command(train, *patient(config_file, tmp_path / "run"))
    assert result.code == 0, result.err
    assert result.out.splitlines()[-2].endswith("(training.patience 2); there is no best one")


@pytest.mark.parametrize("value", ["-1", '"x"', "true", "1.5"])
def test_another_count_in_the_checkpoint(config_file, interrupted, refused, small_network, tmp_path, value):
    folder = shutil.copytree(interrupted.undisturbed, tmp_path / "run")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"deterministic": true', '"deterministic": false'))
    state = folder / "checkpoints" / "step-6" / "state.json"
    state.write_text(f'{{"step": 6, "best": null, "without_gain": {value}}}')
    line = refused(train, "--config", config_file, "--resume", "--output", folder)
    assert line.startswith(f'error: {state}: "without_gain" must be a number of validations, got ')


def colours(file):
    picture = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    return {tuple(int(part) for part in colour) for colour in np.unique(picture, axis=0)}


def test_curves(tmp_path, interrupted):
    """The picture of a run has the curves of training (blue) and validation (red)."""
    blue, red = (0x44, 0x77, 0xAA), (0xCC, 0x33, 0x11)
    assert {blue, red} <= colours(interrupted.undisturbed / "curves.png")
    entries = log_entries(interrupted.undisturbed)
    draw_curves([entry for entry in entries if "loss" in entry], tmp_path / "training.png")
    assert blue in colours(tmp_path / "training.png") and red not in colours(tmp_path / "training.png")
    of_an_earlier_version = [{"step": 3, "validation": {"mAP": 0.5, "AP": {}, "best": True}}]
    draw_curves(of_an_earlier_version, tmp_path / "old.png")
    assert red in colours(tmp_path / "old.png")
    draw_curves([], tmp_path / "empty.png")
    draw_curves([{"step": 3, "validation": {"mAP": None, "AP": {}, "best": False}}], tmp_path / "none.png")
