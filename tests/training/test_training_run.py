"""Whole runs of train.py on a small network: what they write, and that they survive being stopped."""

import contextlib
import json
import os
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from run_files import RUN_FILES, assert_equal_weights, entries_without_times, log_entries, weights_in
from training_config import STEPS, sets

import train
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import config_to_json, load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import training_batches
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.training import preparation, validation
from refinedet_tf.training.trainer import make_trainer

STOPPING = "stopping when this step is saved; Ctrl-C again stops at once\n"


def test_config_is_the_resolved_one(interrupted, config_file):
    expected = with_classes(load_config(config_file, ["training.deterministic=true"]), CLASS_NAMES)
    assert (interrupted.undisturbed / "config.json").read_text() == config_to_json(expected)
    assert load_config(interrupted.undisturbed) == expected


def test_log_has_every_step_with_all_numbers(tf_test, interrupted):
    entries = log_entries(interrupted.undisturbed)
    steps = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in steps] == list(range(1, STEPS + 1))
    for entry in steps:
        tf_test.assertAllClose(entry["loss"], sum(entry[name] for name in TERMS), rtol=1e-6, atol=0)
        assert all(entry[name] > 0 for name in (*TERMS, "num_arm_positives", "num_odm_positives"))
        assert entry["images_per_second"] > 0 and 0 <= entry["data_wait"] <= 1
    rates = [entry["learning_rate"] for entry in steps]
    tf_test.assertAllClose(rates, [0.01] * STEPS, rtol=1e-5, atol=0)
    assert steps[-1]["seconds_left"] == 0 < steps[0]["seconds_left"]
    validations = [entry for entry in entries if "validation" in entry]
    assert [entry["step"] for entry in validations] == [3, 6]
    for entry in validations:
        assert list(entry["validation"]["AP"]) == list(CLASS_NAMES)
        loss, terms = entry["validation"]["loss"], entry["validation"]["loss_terms"]
        assert list(terms) == list(TERMS) and all(value > 0 for value in terms.values())
        tf_test.assertAllClose(loss, sum(terms.values()), rtol=1e-12, atol=0)
    assert [entry["step"] for entry in entries] == [1, 2, 3, 3, 4, 5, 6, 6]


def test_terminal_shows_progress(interrupted):
    lines = interrupted.output.splitlines()
    first = next(line for line in lines if line.startswith("step 1/6  "))
    for text in ("loss ", *(f"{name} " for name in TERMS), "lr 1.00e-02", " images/s", "left "):
        assert text in first
    minutes, seconds = first.rpartition("left ")[2].split(":")
    left = log_entries(interrupted.undisturbed)[0]["seconds_left"]
    assert 60 * int(minutes) + int(seconds) == pytest.approx(left, abs=0.6)  # Both are rounded.
    assert sum(line.startswith("step ") for line in lines) == STEPS
    assert any(
        line.startswith("validation at step 3: mAP 0.") and "(best so far)  loss " in line for line in lines
    )
    count = len(read_dataset(load_config(interrupted.undisturbed).data, "train").labels)
    assert f"training images: 8, objects: {count}; {count} boxes, none dropped or clipped" in lines
    assert (
        lines[-1]
        == f"done: {interrupted.undisturbed}; next: python evaluate.py --config {interrupted.undisturbed}"
    )


def test_files_of_a_run(interrupted):
    folder = interrupted.undisturbed
    assert sorted(path.name for path in folder.iterdir()) == RUN_FILES
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-4", "step-6"]
    # Four images of 64 x 64 on a sheet, showing more than one colour.
    picture = np.asarray(Image.open(folder / "augmented.png"))
    assert picture.shape[0] * picture.shape[1] >= 4 * 64 * 64 and picture.std() > 10


def test_best_weights_are_those_of_the_best_validation(interrupted):
    folder = interrupted.undisturbed
    scores = {e["step"]: e["validation"] for e in log_entries(folder) if "validation" in e}
    assert scores[3]["best"] is True
    assert scores[6]["best"] == (scores[6]["mAP"] > scores[3]["mAP"])
    best, final = (weights_in(folder / f"{name}.weights.h5") for name in ("best", "final"))
    same = all(np.array_equal(best[name], final[name]) for name in final)
    assert same == scores[6]["best"]


def test_tensorboard_holds_scalars_and_pictures(interrupted):
    (file,) = (interrupted.undisturbed / "tensorboard").iterdir()
    tags = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            tags.setdefault(value.tag, []).append(event.step)
    every_step = list(range(1, STEPS + 1))
    for name in (*(f"loss/{term}" for term in TERMS), "loss", "learning_rate", "images_per_second"):
        assert tags[name] == every_step, name
    for name in ("validation/mAP", "validation/AP/circle", "validation/loss/odm_conf", "detections"):
        assert tags[name] == [3, 6], name


def test_ctrl_c_leaves_a_checkpoint_and_sigkill_none(interrupted):
    code, out, err = interrupted.killed
    assert code == -signal.SIGKILL
    assert out.count("exit 0") == 1 and out.count("exit 1") == 1
    assert err.count(STOPPING) == 1
    assert "error: stopped by SIGINT after step 2; continue with --resume\n" in err
    # Step 2 is no multiple of `checkpoint_every`; step 5 came after the last checkpoint.
    assert interrupted.checkpoints_left == ["step-2", "step-4"]
    assert "continuing after step 2" in out
    assert "continuing after step 4" in interrupted.resumed[1]


def test_resumed_run_equals_the_undisturbed_one(interrupted):
    """Bit for bit, with deterministic kernels."""
    assert interrupted.resumed[1].count("exit ") == interrupted.resumed[1].count("exit 0") == 1
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(interrupted.disturbed / name, interrupted.undisturbed / name)
    assert entries_without_times(interrupted.disturbed) == entries_without_times(interrupted.undisturbed)


def test_ctrl_c_twice_ends_a_training_at_once(interrupted):
    code, _, err = interrupted.resumed
    assert code == 130 and err.endswith(f"{STOPPING}interrupted\n")
    assert [entry["step"] for entry in log_entries(interrupted.twice)] == [1]
    assert not (interrupted.twice / "checkpoints").exists()


def test_finished_run_says_so(finished, config_file, done, small_network):
    before = (finished / "log.jsonl").read_text(), (finished / "final.weights.h5").read_bytes()
    result = done(train, "--config", config_file, "--resume", "--output", finished)
    assert "all 6 steps are done already" in result.out
    assert before == ((finished / "log.jsonl").read_text(), (finished / "final.weights.h5").read_bytes())


@pytest.mark.slow
def test_resume_does_not_need_the_initial_weights(config_file, command, done, eagerly, tmp_path):
    """The file is gone when the run is resumed. Without a checkpoint the run needs the file."""
    file, folder = tmp_path / "start.weights.h5", tmp_path / "run"
    build_model(with_classes(load_config(config_file), CLASS_NAMES)).save_weights(file)
    arguments = ["--config", config_file, "--output", folder]
    arguments += sets(f"model.weights={file}", "training.checkpoint_every=1", "data.validation=[]")
    result = done(train, *arguments, "--set", "training.length=1")
    file.unlink()

    result = done(train, *arguments, "--set", "training.length=2", "--resume")
    assert "continuing after step 1" in result.out and "step 2/2  " in result.out
    assert load_config(folder).model.weights == str(file)
    assert [entry["step"] for entry in log_entries(folder)] == [1, 2]

    shutil.rmtree(folder / "checkpoints")
    (folder / "final.weights.h5").unlink()
    result = command(train, *arguments, "--set", "training.length=2", "--resume")
    assert result.code == 2
    assert result.err == f"error: weights not found: {file}\n"


def test_resume_with_fewer_steps_than_are_done(finished, config_file, refused, small_network):
    before = (finished / "config.json").read_text()
    line = refused(
        *(train, "--config", config_file, "--resume", "--output", finished, "--set", "training.length=4")
    )
    what = f"training.length is 4, but the run in {finished} has done 6 steps"
    assert line == f"error: {what}: give 6 to end there, or more"
    assert (finished / "config.json").read_text() == before


def with_one_more_image(devkit, root):
    """A copy of the devkit with one image more in 2007/train, which shows what its first one shows."""
    shutil.copytree(devkit, root)
    folder = root / "VOC2007"
    split = folder / "ImageSets" / "Main" / "train.txt"
    first = split.read_text().split()[0]
    shutil.copy(folder / "JPEGImages" / f"{first}.jpg", folder / "JPEGImages" / "more.jpg")
    shutil.copy(folder / "Annotations" / f"{first}.xml", folder / "Annotations" / "more.xml")
    split.write_text(split.read_text() + "more\n")
    return root


def test_resume_with_more_steps_and_other_data(
    finished, interrupted, devkit, config_file, command, done, eagerly, tmp_path
):
    """Other data are refused and change nothing, unless they are accepted. More steps are done."""
    more = with_one_more_image(devkit, tmp_path / "more")
    arguments = ["--config", config_file, "--resume", "--output", finished]
    arguments += sets("data.validation=[]", "training.length=7", f"data.root={more}")
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    result = command(train, *arguments)
    assert result.code == 2
    prefix = "error: --resume with other training data: number of images of the training set was 8, is 9; "
    assert result.err.startswith(prefix + "number of objects of the training set was ")
    assert result.err.endswith(
        "; bring back what was there, or continue on the data as it is now by --accept-changed-data\n"
    )
    assert before == {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    result = done(train, *arguments, "--accept-changed-data")
    assert "continuing after step 6" in result.out and "step 7/7  " in result.out
    assert "note: the training data has changed: number of images of the training set was 8, " in result.out
    assert "; the steps after 6 are those of the data as it is now" in result.out
    state = json.loads((finished / "checkpoints" / "step-7" / "state.json").read_text())
    assert state["data"]["number of images of the training set"] == 9
    assert [entry["step"] for entry in log_entries(finished) if "loss" in entry] == list(range(1, 8))
    assert load_config(finished).training.steps == 7
    old, new = (weights_in(folder / "final.weights.h5") for folder in (interrupted.undisturbed, finished))
    assert any(not np.array_equal(old[name], new[name]) for name in old)

    again = done(train, "--config", config_file, "--resume", "--output", finished)
    assert "all 7 steps are done already" in again.out, again.err
    assert "note: the run goes on with its own config, from which tiny.json differs: " in again.out


@pytest.mark.parametrize("resume", [[], ["--resume"]])
def test_a_folder_of_others_as_output(config_file, refused, monkeypatch, resume, tmp_path):
    """`--output .` next to a config written by hand and the logs of other trainings."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(config_file, tmp_path / "config.json")
    (tmp_path / "log.jsonl").write_text("of another run")
    (tmp_path / "tensorboard" / "others").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    line = refused(train, "--config", "config.json", "--output", ".", *resume)
    assert line == (
        "error: . holds config.json, log.jsonl, tensorboard, but no checkpoint to continue from and no mark "
        "of a training (.refinedet-run); nothing of it is replaced: name another --output"
    )
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "config.json").read_text() == config_file.read_text()


def test_resume_with_another_config(finished, config_file, refused):
    changes = sets("training.batch_size=2", "model.tcb_channels=32", "augmentation.hue=0.0")
    line = refused(train, "--config", config_file, *changes, "--resume", "--output", finished)
    for change in (
        "training.batch_size was 4, is 2",
        "model.tcb_channels was 16, is 32",
        "augmentation.hue was 18.0, is 0.0",
    ):
        assert change in line
    assert line.startswith("error: --resume with another config: ")
    assert line.endswith("; start a new --output")


@pytest.fixture
def signalled(monkeypatch):
    """A context in which each validation begins with a signal to this process."""
    detect_portion = validation.detect_portion

    @contextlib.contextmanager
    def with_signal(number):
        def interrupted(*arguments, **options):
            os.kill(os.getpid(), number)
            return detect_portion(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(validation, "detect_portion", interrupted)
            yield

    return with_signal


@pytest.mark.slow
def test_signal_during_a_validation(config_file, command, done, eagerly, signalled, tmp_path):
    """The validation is given up, and a resumed run does it anew, as if nothing had happened."""
    before = signal.getsignal(signal.SIGTERM)
    folder, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    arguments = ["--config", config_file]
    arguments += sets("training.validate_every=1", "training.length=2")
    for step in (1, 2):
        with signalled(signal.SIGTERM):
            result = command(train, *arguments, "--output", folder, *(["--resume"] if step == 2 else []))
        assert result.code == 1
        told = "stopped by SIGTERM after step 1, before its validation was finished; continue with --resume"
        assert result.err == f"error: {told}\n"
        assert [entry["step"] for entry in log_entries(folder)] == [1]
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-1"]
        assert not (folder / "best.weights.h5").exists()
    assert signal.getsignal(signal.SIGTERM) is before

    done(train, *arguments, "--output", folder, "--resume")
    done(train, *arguments, "--output", undisturbed)
    assert [entry["step"] for entry in log_entries(folder)] == [1, 1, 2, 2]
    assert entries_without_times(folder) == entries_without_times(undisturbed)
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(folder / name, undisturbed / name)


def test_signal_during_the_last_validation(config_file, command, done, eagerly, signalled, tmp_path):
    """The final weights are written when the resumed run has done the validation."""
    arguments = ["--config", config_file, "--set", "training.length=1", "--output", tmp_path / "run"]
    with signalled(signal.SIGINT):
        assert command(train, *arguments).code == 1
    assert not (tmp_path / "run" / "final.weights.h5").exists()
    result = done(train, *arguments, "--resume")
    assert "validation at step 1" in result.out
    assert (tmp_path / "run" / "final.weights.h5").exists()
    assert [list(entry)[1] for entry in log_entries(tmp_path / "run")] == ["loss", "validation"]


def images_of_step(config, step):
    dataset = read_dataset(config.data, "train")
    batch = next(iter(training_batches(dataset, with_classes(config, dataset.class_names), step)))
    return [dataset.image_ids[index] for index in batch["image_indices"].numpy()]


def test_loss_that_is_not_finite_stops_the_run(config_file, command, eagerly, monkeypatch, tmp_path):
    config = with_classes(load_config(config_file), CLASS_NAMES)
    network = build_model(config)
    head = network.get_layer("odm_conf3")
    head.bias.assign(np.where(np.arange(head.bias.shape[0]) == 2, np.nan, 0))
    trainers = []

    def watched(config):
        trainers.append(make_trainer(config))
        return trainers[0]

    monkeypatch.setattr(preparation, "make_trainer", watched)
    # No file of weights could bring the NaN.
    monkeypatch.setattr(
        preparation, "load_initial_weights", lambda model, _: model.set_weights(network.get_weights())
    )
    result = command(train, "--config", config_file, "--output", tmp_path / "run")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith("error: step 1: loss term odm_conf is nan; the gradient of ")
    assert "The weights were not changed. " in line
    assert f"Images: {', '.join(images_of_step(config, 0))}." in line
    assert not (tmp_path / "run" / "checkpoints").exists()
    (trainer,) = trainers
    for ours, theirs in zip(trainer.network.variables, network.variables, strict=True):
        assert ours.numpy().tobytes() == theirs.numpy().tobytes(), ours.path
    assert all(not velocity.numpy().any() for velocity in trainer.optimizer.momentums)


@pytest.mark.slow
def test_largest_seed_and_a_huge_ratio(config_file, done, eagerly, tmp_path):
    arguments = ["--config", config_file, "--output", tmp_path / "run"]
    overrides = ("training.seed=4294967295", "loss.negatives_per_positive=1e9", "training.length=2")
    arguments += sets(*overrides, "data.validation=[]")
    done(train, *arguments)
    assert [entry["step"] for entry in log_entries(tmp_path / "run")] == [1, 2]
    assert all(np.isfinite(entry["loss"]) for entry in log_entries(tmp_path / "run"))


class NotFiniteGradient(keras.layers.Layer):
    def call(self, values):
        @tf.custom_gradient
        def identity(x):
            return tf.identity(x), lambda upstream: upstream * np.inf

        return identity(values)


@pytest.mark.slow
def test_gradient_that_is_not_finite_stops_the_run(config_file, command, eagerly, monkeypatch, tmp_path):
    """The loss is fine, but not the gradients of what leads to the ARM's offsets."""

    def poisoned(config):
        network, layer = build_model(config), NotFiniteGradient()
        call = network.call

        def call_and_poison(*arguments, **options):
            heads = call(*arguments, **options)
            return {**heads, "arm_loc": layer(heads["arm_loc"])}

        monkeypatch.setattr(network, "call", call_and_poison)
        return network

    monkeypatch.setattr("refinedet_tf.training.trainer.build_model", poisoned)
    result = command(train, "--config", config_file, "--output", tmp_path / "run")
    assert result.code == 1
    (line,) = result.err.splitlines()
    assert line.startswith("error: step 1: the loss is finite; the gradient of ")
    assert " is not finite. The weights were not changed." in line
    assert "arm_loc" in line or " more is not finite" in line
