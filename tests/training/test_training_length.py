"""The length of a training: epochs, the schedule within the steps, and their errors."""

import json
import re

import pytest
from run_files import log_entries
from training_config import sets

import train
from refinedet_tf.config import TrainingConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.training.schedule import check_schedule, in_steps, schedule_of


@pytest.mark.parametrize(
    ("length", "batch_size", "num_images", "steps"),
    [
        ("60 epochs", 8, 296, 2220),
        ("60 epochs", 8, 297, 2228),  # 2227.5
        ("0.1 epochs", 8, 80, 1),  # 0.1 as a binary fraction is a little more than a tenth.
        ("0.3 epochs", 1, 10, 3),
        ("0.001 epochs", 32, 5, 1),
        ("1.5 epochs", 4, 7, 3),  # 2.625
        ("1 epoch", 4, 8, 2),
        (7, 4, 8, 7),
    ],
)
def test_steps_of_a_length(length, batch_size, num_images, steps):
    config = in_steps(TrainingConfig(length=length, batch_size=batch_size), num_images)
    assert config.length == config.steps == steps


def test_all_durations():
    config = TrainingConfig(
        length="10 epochs",
        milestones=("7 epochs", 40, "9.05 epochs"),
        warmup="0.5 epochs",
        checkpoint_every="1 epoch",
        validate_every="2 epochs",
        batch_size=4,
        seed=3,
    )
    expected = TrainingConfig(
        length=50,
        milestones=(35, 40, 46),
        warmup=3,
        checkpoint_every=5,
        validate_every=10,
        batch_size=4,
        seed=3,
    )
    assert in_steps(config, 20) == expected == in_steps(expected, 999)


def test_steps_that_are_too_many_or_equal():
    with pytest.raises(
        InputError, match="training.length: 1000 epochs with 1000000000 images are .* steps; 1000000000 is"
    ):
        in_steps(TrainingConfig(length="1000 epochs", batch_size=8), 10**9)
    same = TrainingConfig(milestones=("0.1 epochs", "0.2 epochs"), batch_size=8)
    message = r"milestones \['0.1 epochs', '0.2 epochs'\] with 8 images are the steps \[1, 1\]"
    with pytest.raises(InputError, match=message):
        in_steps(same, 8)


def test_schedule_needs_steps():
    with pytest.raises(ValueError, match="'1 epoch' is not in steps"):
        schedule_of(TrainingConfig(warmup="1 epoch"))


NEVER_REACHED = "of the training, which would never reach its learning rate; a tenth of the steps is usual: "
NO_DROP = "of the training, so the learning rate would not drop there; give milestones within it, e.g. "


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (
            {"length": 1000, "milestones": (500, 1700, 2150)},
            f"training.milestones: 1700 is not below the 1000 steps {NO_DROP}training.milestones=[700, 900]",
        ),
        (
            {"length": 10, "milestones": (10,)},
            f"training.milestones: 10 is not below the 10 steps {NO_DROP}training.milestones=[7, 9]",
        ),
        (
            {"length": 10, "milestones": (), "warmup": 11},
            f"training.warmup 11 exceeds the 10 steps {NEVER_REACHED}training.warmup=1",
        ),
        (
            {"length": "3 epochs", "schedule": "cosine", "warmup": "5 epochs"},
            "training.warmup 5 epochs, which is 185 steps, exceeds the 111 steps "
            f'{NEVER_REACHED}training.warmup="0.3 epochs"',
        ),
        (
            {"length": "100 epochs", "milestones": ("60 epochs", "110 epochs")},
            "training.milestones: 110 epochs, which is step 4070, is not below the 3700 steps "
            f'{NO_DROP}training.milestones=["70 epochs", "90 epochs"]',
        ),
    ],
)
def test_schedule_beyond_the_steps(written, message):
    config = TrainingConfig(batch_size=8, **written)
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        check_schedule(in_steps(config, 296), config)


def test_schedule_that_ends_with_the_steps():
    check_schedule(TrainingConfig(length=10, milestones=(9,), warmup=10))
    check_schedule(TrainingConfig(length=10, schedule="cosine"))


def test_cosine(tf_test):
    schedule = schedule_of(TrainingConfig(schedule="cosine", learning_rate=0.4, length=10, warmup=2))
    rates = [float(schedule(step)) for step in range(11)]
    expected = [0.2, 0.4, 0.4, 0.384776, 0.341421, 0.276537, 0.2, 0.123463, 0.0585786, 0.0152241, 0.0]
    tf_test.assertAllClose(rates, expected, rtol=1e-5, atol=1e-7)
    copy = type(schedule).from_config(schedule.get_config())
    assert [float(copy(step)) for step in range(11)] == rates


def write(folder, name, training, extends=None):
    tree = {"training": training} | ({"extends": extends} if extends else {})
    (folder / name).write_text(json.dumps(tree))
    return folder / name


MUST_BE = (
    "must be a whole number of steps from 1 to 1000000000, or a number of epochs up to 1000000 such as "
    '"65 epochs", got '
)


@pytest.mark.parametrize(
    "length", [0, -5, 2.5, True, None, "65", "65 epoch s", "-1 epochs", "0 epochs", "1e9 epochs", [5]]
)
def test_what_is_no_duration(length, tmp_path):
    message = f"mine.json: training.length: {MUST_BE}{json.dumps(length)}"
    with pytest.raises(InputError, match=f"^{re.escape(message)}$"):
        load_config(write(tmp_path, "mine.json", {"length": length}))


def test_a_duration_is_spelled_in_one_way():
    same = ("5 epochs", "5.0 epochs", "05 epochs", "5.00 epoch")
    assert {TrainingConfig(length=length).length for length in same} == {"5 epochs"}
    assert TrainingConfig(length="1.0 epochs").length == "1 epoch"
    assert TrainingConfig(length="100 epochs").length == "100 epochs"


@pytest.mark.parametrize(
    "milestones", [[5, 5], [7, 3], ["2 epochs", "1 epoch"], [9, "1 epoch", 8], ["2 epochs", "2.0 epochs"]]
)
def test_milestones_must_increase(milestones, tmp_path):
    with pytest.raises(InputError, match="training: milestones must increase"):
        load_config(write(tmp_path, "mine.json", {"milestones": milestones}))


OLD_AND_NEW = [
    ({"steps": 10}, {"length": 10}),
    ({"epochs": 3}, {"length": "3 epochs"}),
    ({"epochs": 14.0, "warmup_epochs": 0.5}, {"length": "14 epochs", "warmup": "0.5 epochs"}),
    ({"epochs": 0.00001}, {"length": "0.00001 epochs"}),
    ({"epochs": None, "steps": 7}, {"length": 7}),
    ({"epochs": None, "warmup_epochs": None, "milestone_epochs": None}, {}),
    ({"warmup_steps": 5, "milestones": [6]}, {"warmup": 5, "milestones": [6]}),
    ({"milestone_epochs": [7, 9.05]}, {"milestones": ["7 epochs", "9.05 epochs"]}),
    ({"milestone_epochs": []}, {"milestones": []}),
    ({"validate_every_epochs": 2.5}, {"validate_every": "2.5 epochs"}),
]
"""The section `training` with the keys of earlier configs, and with those of today."""


@pytest.mark.parametrize(("old", "new"), OLD_AND_NEW)
def test_old_keys_are_read(old, new, tmp_path):
    """In a file, in a file that extends another one, and on the command line."""
    write(tmp_path, "parent.json", {"length": "8 epochs", "warmup": "1 epoch"} if new else {})
    children = [write(tmp_path, name, keys, "parent.json") for name, keys in (("old", old), ("new", new))]
    expected = load_config(children[1]).training
    assert load_config(children[0]).training == expected
    overrides = [f"training.{key}={json.dumps(value)}" for key, value in old.items()]
    assert load_config(tmp_path / "parent.json", overrides).training == expected


@pytest.mark.parametrize(
    ("training", "both"),
    [
        ({"steps": 10, "epochs": 2.0}, "training.steps and training.epochs"),
        ({"length": 10, "epochs": 2.0}, "training.length and training.epochs"),
        ({"steps": 10, "length": 10}, "training.steps and training.length"),
        ({"milestones": [5], "milestone_epochs": [1.0]}, "training.milestones and training.milestone_epochs"),
        ({"warmup_epochs": 1, "warmup": 0}, "training.warmup_epochs and training.warmup"),
    ],
)
def test_two_keys_that_say_the_same_are_refused(training, both, tmp_path):
    with pytest.raises(InputError, match=f"^mine.json: {both} say the same; give one$"):
        load_config(write(tmp_path, "mine.json", training))
    overrides = [f"training.{key}={json.dumps(value)}" for key, value in training.items()]
    with pytest.raises(InputError, match=f"^--set: {both} say the same; give one$"):
        load_config("voc320.json", overrides)


def test_the_other_unit_is_replaced(tmp_path):
    write(tmp_path, "parent.json", {"steps": 10, "milestones": [5], "seed": 7})
    child = write(tmp_path, "child.json", {"epochs": 3.0, "warmup_epochs": 0.5}, "parent.json")
    training = load_config(child).training
    assert training == TrainingConfig(length="3 epochs", warmup="0.5 epochs", milestones=(5,), seed=7)
    training = load_config(child, ["training.length=20"]).training
    assert (training.length, training.warmup) == (20, "0.5 epochs")
    # Null left the length to the key in steps, which the config has not.
    assert load_config(child, ["training.epochs=null"]).training.length == TrainingConfig().length
    assert load_config(child, ["training.warmup_epochs=null"]).training.warmup == 0
    assert load_config(tmp_path / "parent.json", ["training.epochs=null"]).training.length == 10


@pytest.mark.slow
def test_run_by_epochs(tf_test, config_file, done, eagerly, tmp_path):
    """Eight images in batches of four: an epoch has two steps. The run's config holds the steps."""
    arguments = ["--config", config_file, "--output", tmp_path / "run", *sets("data.validation=[]")]
    arguments += sets(
        "training.warmup=1 epoch", 'training.milestones=["2.1 epochs"]', "training.length=3 epochs"
    )
    result = done(train, *arguments)
    training = load_config(tmp_path / "run").training
    assert (training.steps, training.warmup_steps, training.milestones) == (6, 2, (5,))
    rates = [entry["learning_rate"] for entry in log_entries(tmp_path / "run")]
    tf_test.assertAllClose(rates, [0.005, *[0.01] * 4, 0.001], rtol=1e-5, atol=0)
    assert "step 6/6  " in result.out
    # The same arguments, whose keys are in epochs, are the config of the run.
    result = done(train, *arguments, "--resume")
    assert "all 6 steps are done already" in result.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (sets("training.patience=3", "data.validation=[]"), "training.patience needs data.validation"),
        (["--epochs", 0], 'such as "65 epochs", got "0 epochs"'),
        (["--epochs", 3, *sets("training.warmup=4 epochs")], "which is 8 steps, exceeds the 6 steps"),
    ],
)
def test_run_that_is_refused_leaves_nothing(config_file, refused, tmp_path, options, message):
    assert message in refused(train, "--config", config_file, "--output", tmp_path / "run", *options)
    assert not (tmp_path / "run").exists()
