"""With --resume the config of the run counts, and --set may change it within limits."""

import json

import pytest
from config_of import config_of

from refinedet_tf.commands.train import config_of_resumed_run
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import config_to_json, load_config
from refinedet_tf.errors import InputError
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training.agreement import check_same_run


@pytest.fixture
def file(tmp_path):
    """A config file."""
    file = tmp_path / "mine.json"
    tree = {"data": {"root": "here", "train": ["2007/train"]}, "training": {"length": 1600, "milestones": []}}
    file.write_text(json.dumps(tree))
    return file


@pytest.fixture
def run(file, tmp_path):
    """The folder of a run that was started with other values by --set, and has a checkpoint."""
    run = RunFolder(tmp_path / "run")
    overrides = ["training.length=60", "training.batch_size=4"]
    run.create(with_classes(load_config(file, overrides), ("cat", "dog")), resume=False)
    (run.checkpoints / "step-20").mkdir(parents=True)
    return run


def resumed(file, run, *overrides):
    return config_of_resumed_run(load_config(file, overrides), run, file, overrides)


def test_what_was_set_at_the_start_need_not_be_repeated(file, run, capsys):
    config = resumed(file, run)
    assert (config.training.steps, config.training.batch_size) == (60, 4)
    assert config == load_config(run.path)
    assert capsys.readouterr().out == (
        "note: the run goes on with its own config, from which mine.json differs: training.length is 60, not "
        "1600; training.batch_size is 4, not 32\n"
    )


def test_repeating_it_says_nothing(file, run, capsys):
    config = resumed(file, run, "training.length=60", "training.batch_size=4")
    assert config == load_config(run.path)
    assert capsys.readouterr().out == ""


def test_the_run_folder_as_config(run, capsys):
    assert resumed(run.path, run) == load_config(run.path)
    assert capsys.readouterr().out == ""


def test_set_changes_what_may_change(file, run):
    config = resumed(file, run, "training.length=90", "data.max_bad_boxes=0.5")
    assert (config.training.steps, config.training.batch_size) == (90, 4)
    check_same_run(load_config(run.path), config)
    assert config.data.max_bad_boxes == 0.5


def test_set_of_what_must_not_change(file, run):
    config = resumed(file, run, "training.batch_size=8")
    with pytest.raises(InputError, match=r"--resume with another config: training\.batch_size was 4, is 8;"):
        check_same_run(load_config(run.path), config)


def test_the_length_of_a_cosine_must_not_change():
    stored, given = (config_of(2, training={"schedule": "cosine", "length": length}) for length in (1, 2))
    with pytest.raises(InputError, match="another config: training.length was 1, is 2; start a new"):
        check_same_run(stored, given)


def test_another_config_file(file, run, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(file.read_text())
    with pytest.raises(InputError, match=r"--resume with another config: training\.batch_size was 4, is 32;"):
        check_same_run(load_config(run.path), resumed(other, run))
    # It differs in nothing that must not change.
    config = resumed(other, run, "training.batch_size=4")
    assert config.training.steps == 60


def test_without_a_checkpoint_the_given_config_counts(file, run):
    (run.checkpoints / "step-20").rmdir()
    assert resumed(file, run) == load_config(file)
    assert resumed(file, RunFolder(run.path / "nowhere")) == load_config(file)


def test_the_data_may_lie_elsewhere_on_each_machine(file, run):
    stored = load_config(run.path, ['training.strategy="multi_worker"'])
    run.config.write_text(config_to_json(stored))
    config = resumed(file, run, "data.root=there", 'training.strategy="multi_worker"')
    assert config.data.root == "there"
    file.write_text(file.read_text().replace("here", "elsewhere"))
    assert resumed(file, run).data.root == "elsewhere"
