"""The length of a training: epochs, the schedule within the steps, and their errors."""

import json

import pytest
from run_files import log_entries

import train
from refinedet_tf.config import IN_EPOCHS, TrainingConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.training.schedule import check_schedule, in_steps, schedule_of


@pytest.mark.parametrize(
    ("epochs", "batch_size", "num_images", "steps"),
    [
        (60.0, 8, 296, 2220),
        (60.0, 8, 297, 2228),  # 2227.5
        (0.1, 8, 80, 1),  # 0.1 as a binary fraction is a little more than a tenth.
        (0.3, 1, 10, 3),
        (0.001, 32, 5, 1),
        (1.5, 4, 7, 3),  # 2.625
    ],
)
def test_steps_of_epochs(epochs, batch_size, num_images, steps):
    config = in_steps(TrainingConfig(epochs=epochs, batch_size=batch_size), num_images)
    assert config.steps == steps
    assert config.epochs is None


def test_all_keys_in_epochs():
    config = TrainingConfig(
        epochs=10.0,
        milestone_epochs=(7.0, 9.05),
        warmup_epochs=0.5,
        validate_every_epochs=2.0,
        batch_size=4,
        seed=3,
    )
    assert set(IN_EPOCHS.values()) == {
        "epochs",
        "milestone_epochs",
        "warmup_epochs",
        "validate_every_epochs",
    }
    expected = TrainingConfig(
        steps=50, milestones=(35, 46), warmup_steps=3, validate_every=10, batch_size=4, seed=3
    )
    assert in_steps(config, 20) == expected
    assert in_steps(expected, 999) is not None and in_steps(expected, 999) == expected


def test_steps_that_are_too_many_or_equal():
    with pytest.raises(
        InputError, match="training.epochs with 1000000000 images are .* steps; 1000000000 is"
    ):
        in_steps(TrainingConfig(epochs=1000.0, batch_size=8), 10**9)
    same = TrainingConfig(milestone_epochs=(0.1, 0.2), batch_size=8)
    with pytest.raises(
        InputError, match=r"milestone_epochs \[0.1, 0.2\] with 8 images are the steps \[1, 1\]"
    ):
        in_steps(same, 8)


def test_schedule_needs_steps():
    with pytest.raises(ValueError, match="must be null here"):
        schedule_of(TrainingConfig(warmup_epochs=1.0))


def check(**training):
    check_schedule(TrainingConfig(**training))


def test_schedule_beyond_the_steps():
    check(steps=10, milestones=(9,), warmup_steps=10)
    check(steps=10, schedule="cosine")
    message = (
        r"^training.milestones: 1700 is not below the 1000 steps of the training, so the learning rate would "
        r"not drop there; give milestones within it, e.g. training.milestones=\[700, 900\]$"
    )
    with pytest.raises(InputError, match=message):
        check(steps=1000, milestones=(500, 1700, 2150))
    with pytest.raises(InputError, match="milestones: 10 is not below the 10 steps"):
        check(steps=10, milestones=(10,))
    message = (
        "^training.warmup_steps 11 exceeds the 10 steps of the training, which would never reach its "
        "learning rate; a tenth of the steps is usual: training.warmup_steps=1$"
    )
    with pytest.raises(InputError, match=message):
        check(steps=10, milestones=(), warmup_steps=11)
    written = TrainingConfig(epochs=3.0, schedule="cosine", warmup_epochs=5.0, batch_size=8)
    message = (
        "^training.warmup_epochs 5, which is 185 steps, exceeds the 111 steps of the training, which would "
        "never reach its learning rate; a tenth of the steps is usual: training.warmup_epochs=0.3$"
    )
    with pytest.raises(InputError, match=message):
        check_schedule(in_steps(written, 296), written)
    written = TrainingConfig(epochs=100.0, milestone_epochs=(60.0, 110.0), batch_size=8)
    message = (
        "^training.milestone_epochs: 110, which is step 4070, is not below the 3700 steps of the training, "
        r"so the learning rate would not drop there; .* e.g. training.milestone_epochs=\[70, 90\]$"
    )
    with pytest.raises(InputError, match=message):
        check_schedule(in_steps(written, 296), written)


def test_cosine(tf_test):
    schedule = schedule_of(TrainingConfig(schedule="cosine", learning_rate=0.4, steps=10, warmup_steps=2))
    rates = [float(schedule(step)) for step in range(11)]
    expected = [0.2, 0.4, 0.4, 0.384776, 0.341421, 0.276537, 0.2, 0.123463, 0.0585786, 0.0152241, 0.0]
    tf_test.assertAllClose(rates, expected, rtol=1e-5, atol=1e-7)
    copy = type(schedule).from_config(schedule.get_config())
    assert [float(copy(step)) for step in range(11)] == rates


def write(folder, name, training, extends=None):
    tree = {"training": training} | ({"extends": extends} if extends else {})
    (folder / name).write_text(json.dumps(tree))
    return folder / name


def test_both_units_are_refused(tmp_path):
    file = write(tmp_path, "mine.json", {"steps": 10, "epochs": 2.0})
    message = "^mine.json: training.steps and training.epochs say the same in two units; give one$"
    with pytest.raises(InputError, match=message):
        load_config(file)
    with pytest.raises(InputError, match="^--set: training.milestones and training.milestone_epochs say"):
        load_config("voc320.json", ["training.milestones=[5]", "training.milestone_epochs=[1.0]"])


def test_the_other_unit_is_replaced(tmp_path):
    write(tmp_path, "parent.json", {"steps": 10, "milestones": [5], "seed": 7})
    child = write(tmp_path, "child.json", {"epochs": 3.0, "warmup_epochs": 0.5}, "parent.json")
    training = load_config(child).training
    assert training == TrainingConfig(epochs=3.0, warmup_epochs=0.5, milestones=(5,), seed=7)
    training = load_config(child, ["training.steps=20"]).training
    assert (training.steps, training.epochs, training.warmup_epochs) == (20, None, 0.5)
    # Null says nothing, so it takes the place of nothing.
    training = load_config(child, ["training.epochs=null"]).training
    assert (training.steps, training.epochs) == (TrainingConfig().steps, None)


def sets(*overrides):
    return [part for override in overrides for part in ("--set", override)]


@pytest.mark.slow
def test_run_by_epochs(tf_test, config_file, command, eagerly, tmp_path):
    """Eight images in batches of four: an epoch has two steps. The run's config holds the steps."""
    arguments = ["--config", config_file, "--output", tmp_path / "run", *sets("data.validation=[]")]
    arguments += sets("training.warmup_epochs=1", "training.milestone_epochs=[2.1]", "training.epochs=3")
    result = command(train, *arguments)
    assert result.code == 0, result.err
    training = load_config(tmp_path / "run").training
    assert (training.steps, training.warmup_steps, training.milestones) == (6, 2, (5,))
    assert all(getattr(training, key) is None for key in IN_EPOCHS.values())
    rates = [entry["learning_rate"] for entry in log_entries(tmp_path / "run")]
    tf_test.assertAllClose(rates, [0.005, *[0.01] * 4, 0.001], rtol=1e-5, atol=0)
    assert "step 6/6  " in result.out
    # The same arguments, whose keys are in epochs, are the config of the run.
    result = command(train, *arguments, "--resume")
    assert result.code == 0 and "all 6 steps are done already" in result.out


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.milestones=[3, 6]"], "training.milestones: 6 is not below the 6 steps of the training"),
        (
            ["training.warmup_epochs=4"],
            "training.warmup_epochs 4, which is 8 steps, exceeds the 6 steps",
        ),
        (["training.patience=3", "data.validation=[]"], "training.patience needs data.validation"),
        (["training.epochs=1", "training.steps=5"], "training.steps and training.epochs say the same"),
    ],
)
def test_run_that_is_refused_leaves_nothing(config_file, refused, tmp_path, overrides, message):
    line = refused(train, "--config", config_file, "--output", tmp_path / "run", *sets(*overrides))
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_steps_of_a_cosine_cannot_change(config_file, command, refused, eagerly, tmp_path):
    arguments = ["--config", config_file, "--output", tmp_path / "run"]
    arguments += sets("data.validation=[]", "training.schedule=cosine")
    assert command(train, *arguments, *sets("training.steps=1")).code == 0
    line = refused(train, *arguments, *sets("training.steps=2"), "--resume")
    assert line == ("error: --resume with another config: training.steps was 1, is 2; start a new --output")
