"""Loss on the validation set, patience, and the picture of both."""

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from run_files import log_entries
from small_network import BACKBONE, small_backbone
from training_config import sets

import refinedet_tf as rd
import train
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.evaluation.evaluator import detect_portion, timed_replicas
from refinedet_tf.evaluation.loss import loss_terms
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.losses import COUNTS, TERMS
from refinedet_tf.training import loop, preparation
from refinedet_tf.training.curves import draw_curves
from refinedet_tf.training.validation import Validation


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
    share = detect_portion(timed_replicas(network, config, dataset), config, dataset)
    measured = loss_terms(share.loss_sums, config)
    for name in TERMS:
        tf_test.assertAllClose(logged["loss_terms"][name], expected[name], rtol=1e-4, atol=0, msg=name)
        tf_test.assertAllClose(measured[name], expected[name], rtol=1e-4, atol=0, msg=name)


class NoBatches:
    """Stands in for the distributed batches."""

    element_spec = dict.fromkeys(loop.STEP_INPUTS)

    def __iter__(self):
        while True:
            yield dict.fromkeys(self.element_spec)


@pytest.fixture
def scripted(monkeypatch, small_network, without_pictures):
    """Runs the loop alone: no step computes anything, and the validations find the mAPs of a list.

    The list begins with the mAP after the first step, and every step is followed by a validation.
    """
    result = {name: tf.constant(1.0) for name in (*TERMS, *COUNTS, "told_to_stop")}
    result |= {"told_to_stop": tf.constant(0.0), "bad_gradients": tf.zeros([1]), "statistics": []}
    monkeypatch.setattr(preparation, "distributed_batches", lambda *_: NoBatches())
    monkeypatch.setattr(loop._Loop, "_compiled_step", lambda *_: lambda batch, told_to_stop: result)
    monkeypatch.setattr(loop._Loop, "_local", lambda self, value: tf.zeros([]))
    report = loop.ProgressLog.step

    def script(mean_aps, signal_after=None):
        done_steps = []

        def step(self, done, *arguments):
            report(self, done, *arguments)
            done_steps.append(done)
            if done == signal_after:
                os.kill(os.getpid(), signal.SIGTERM)

        def measure(network, config, dataset, is_told, workers):
            loss_terms = dict.fromkeys(TERMS, 1.0)
            return Validation(mean_aps[done_steps[-1] - 1], {}, loss_terms), True, is_told()

        monkeypatch.setattr(loop.ProgressLog, "step", step)
        monkeypatch.setattr(loop, "measure", measure)

    return script


def patient(config_file, folder, patience=2, steps=9):
    overrides = (f"length={steps}", "validate_every=1", "checkpoint_every=2", f"patience={patience}")
    return ["--config", config_file, "--output", folder, *sets(*(f"training.{text}" for text in overrides))]


ENDED = (
    "ended after step 5 of 9: 2 validations in a row have not exceeded the best mAP (training.patience 2); "
    "the best is 0.5000 at step 3"
)
MEAN_APS = [0.3, 0.2, 0.5, 0.5, 0.4, 0.6]


def state_after(folder, step):
    return json.loads((folder / "checkpoints" / f"step-{step}" / "state.json").read_text())


def test_patience(config_file, done, scripted, tmp_path):
    """The second row of validations without a gain is long enough; an equal mAP is no gain.

    Afterwards a resumed run does nothing, and one with more patience goes on.
    """
    scripted(MEAN_APS)
    folder = tmp_path / "run"
    result = done(train, *patient(config_file, folder))
    assert ENDED in result.out.splitlines()
    assert [entry["step"] for entry in log_entries(folder)] == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    state = state_after(folder, 5)
    assert (state["without_gain"], state["best"]["step"], state["best"]["mAP"]) == (2, 3, 0.5)
    before = (folder / "log.jsonl").read_bytes(), (folder / "final.weights.h5").read_bytes()

    result = done(train, *patient(config_file, folder), "--resume")
    assert ENDED in result.out.splitlines()
    assert before == ((folder / "log.jsonl").read_bytes(), (folder / "final.weights.h5").read_bytes())

    result = done(train, *patient(config_file, folder, patience=3, steps=6), "--resume")
    assert "validation at step 6: mAP 0.6000 (best so far)" in result.out
    assert state_after(folder, 6)["without_gain"] == 0


def test_patience_of_a_run_that_was_stopped(config_file, command, done, scripted, tmp_path):
    """A signal comes after the first of two validations without a gain; the resumed run counts on."""
    scripted(MEAN_APS, signal_after=4)
    folder = tmp_path / "run"
    assert command(train, *patient(config_file, folder)).code == 1
    assert state_after(folder, 4)["without_gain"] == 1
    scripted([None] * 4 + MEAN_APS[4:])
    result = done(train, *patient(config_file, folder), "--resume")
    assert ENDED in result.out.splitlines()
    assert state_after(folder, 5)["without_gain"] == 2


def test_patience_without_any_mean_ap(config_file, done, scripted, tmp_path):
    scripted([None] * 3)
    result = done(train, *patient(config_file, tmp_path / "run"))
    assert result.out.splitlines()[-2].endswith("(training.patience 2); there is no best one")


def test_another_measurement_begins_a_new_count(config_file, done, scripted, tmp_path):
    """The validations before cannot be compared with the later ones."""
    scripted([0.5, 0.4, 0.3, 0.4, 0.3, 0.2, 0.1])
    arguments = patient(config_file, tmp_path / "run", patience=3)
    result = done(train, *arguments, "--set", "training.length=3")
    assert state_after(tmp_path / "run", 3)["without_gain"] == 2
    result = done(train, *arguments, "--set", "evaluation.metric=voc07", "--resume")
    assert "was measured otherwise" in result.out
    state = state_after(tmp_path / "run", 7)
    assert (state["best"]["step"], state["best"]["mAP"], state["without_gain"]) == (4, 0.4, 3)


def found(mean_ap):
    """Stands in for a validation that finds this mAP."""
    return lambda *_: (Validation(mean_ap, {}, dict.fromkeys(TERMS, 1.0)), True, False)


def test_a_kill_between_the_first_weights_and_their_entry(
    config_file, command, done, scripted, monkeypatch, tmp_path
):
    """There is a checkpoint before there are weights, and the validation is done again."""
    scripted([0.5])
    arguments = [*patient(config_file, tmp_path / "run", steps=2), "--set", "training.checkpoint_every=100"]

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.ProgressLog, "validation", killed)
        assert command(train, *arguments).code == 130
    assert (tmp_path / "run" / "best.weights.h5").exists()
    assert state_after(tmp_path / "run", 1)["validation_is_due"] is True
    monkeypatch.setattr(loop, "measure", found(0.5))
    done(train, *arguments, "--resume")
    assert [entry["step"] for entry in log_entries(tmp_path / "run")] == [1, 1, 2, 2]


def test_a_resume_that_ends_a_run_where_it_was_stopped(config_file, command, scripted, monkeypatch, tmp_path):
    """That step is validated once, and its weights replace those of an earlier end."""
    folder = tmp_path / "run"

    def run(steps, *options, every=100):
        arguments = patient(config_file, folder, patience=9, steps=steps)
        return command(train, *arguments, "--set", f"training.validate_every={every}", *options)

    scripted([None, 0.3])
    assert run(2).code == 0
    scripted([], signal_after=4)
    assert "stopped by SIGTERM after step 4" in run(9, "--resume").err
    weights = (folder / "final.weights.h5").read_bytes()
    (folder / "final.weights.h5").write_bytes(b"those of step 2")
    monkeypatch.setattr(loop, "measure", found(0.2))
    for validated in (True, False):
        result = run(4, "--resume")
        assert result.code == 0 and "all 4 steps are done already" in result.out, result.err
        assert ("validation at step 4: mAP 0.2000" in result.out) == validated
        assert (folder / "final.weights.h5").read_bytes() == weights
        (folder / "final.weights.h5").unlink()
    assert [entry["step"] for entry in log_entries(folder)] == [1, 2, 2, 3, 4, 4]
    assert state_after(folder, 4)["validation_is_due"] is False
    assert state_after(folder, 4)["without_gain"] == 1


def colours(file):
    picture = np.asarray(Image.open(file).convert("RGB")).reshape(-1, 3)
    return {tuple(int(part) for part in colour) for colour in np.unique(picture, axis=0)}


@pytest.mark.slow
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
    edited = [{"step": 1, "loss": value, "learning_rate": 0.1} for value in ("x", None, 10**400, [1])]
    draw_curves(edited, tmp_path / "edited.png")
    draw_curves([{"step": 3, "validation": {"mAP": None, "AP": {}, "best": False}}], tmp_path / "none.png")
