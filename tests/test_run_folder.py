"""The files of a run: what is read from a log that something has damaged, and what stands in their places."""

import json
import os
from pathlib import Path

import pytest
from config_of import config_of

from refinedet_tf.config_files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.run_folder import RunFolder

STEP = {"step": 5, "loss": 3.0}
VALIDATION = {
    "step": 5,
    "validation": {
        "mAP": 0.5,
        "AP": {"cat": 0.5, "dog": None},
        "best": True,
        "metric": "voc",
        "data": ["2007/val"],
    },
}


def validation(**changes):
    return json.dumps({**VALIDATION, "validation": {**VALIDATION["validation"], **changes}}).encode()


NO_ENTRIES = [
    *(
        b"7",
        b"null",
        b"[]",
        b'"text"',
        b"{}",
        b'{"loss": 1.0}',
        b'{"step": 1',
        b"",
        b"\xff\xfe",
        b'{"step": "\xff"}',
    ),
    *(
        b'{"step": null}',
        b'{"step": true}',
        b'{"step": 1.5}',
        b'{"step": -1}',
        b'{"step": "5"}',
        b'{"step": [5]}',
    ),
    *(
        b'{"step": 1e999}',
        b'{"step": ' + b"9" * 5000 + b"}",
        b'{"step": ' + b"[" * 100_000,
        b'{"step": 10000000000}',
    ),
    *(b'{"step": 1, "validation": 7}', b'{"step": 1, "validation": {}}', b'{"step": 1, "validation": null}'),
    *(
        b'{"step": 1, "validation": {"AP": {}}}',
        validation(mAP="x"),
        validation(mAP=float("nan")),
        validation(mAP=2),
        validation(mAP=True),
        validation(loss="x"),
        validation(loss=None),
    ),
    *(validation(AP=None), validation(AP=[0.5]), validation(AP={"cat": "x"}), validation(AP={"cat": [0.5]})),
    *(validation(metric=7), validation(data="2007/val"), validation(data=[7])),
]


@pytest.mark.parametrize("line", NO_ENTRIES, ids=range(len(NO_ENTRIES)))
def test_lines_that_are_no_entries_are_left_out(line, tmp_path):
    run = RunFolder(tmp_path)
    run.best_weights.touch()
    whole = [json.dumps(STEP).encode(), json.dumps(VALIDATION).encode(), line]
    run.log.write_bytes(b"\n".join(whole))
    assert run.log_entries() == [STEP, VALIDATION]
    assert run.best_validation() == VALIDATION
    run.cut_log(5, last_validation=5)
    assert run.log.read_bytes() == b"\n".join([*whole[:2], b""])


def test_entries_of_later_steps_are_cut(tmp_path):
    run = RunFolder(tmp_path)
    run.log.write_bytes(b'{"step": 1}\r\n{"step": 3, "x":  "\xc3\xa9"}\n{"step": 4}')
    run.cut_log(3, last_validation=3)
    assert run.log.read_bytes() == b'{"step": 1}\n{"step": 3, "x":  "\xc3\xa9"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_validation_that_is_done_again_is_cut(tmp_path):
    run = RunFolder(tmp_path)
    last_step = {"step": VALIDATION["step"]}
    run.log.write_text(
        "".join(json.dumps(entry) + "\n" for entry in (last_step, VALIDATION)), encoding="utf-8"
    )
    run.cut_log(VALIDATION["step"], last_validation=VALIDATION["step"] - 1)
    assert run.log_entries() == [last_step]


def test_there_may_be_no_log(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.cut_log(3, last_validation=3)
    assert run.log_entries() == []
    assert run.best_validation() is None
    assert not run.path.exists()


def test_what_a_failed_start_left_is_no_obstacle(tmp_path):
    """Such a folder holds no checkpoint and no weights, and what it holds is replaced."""
    run = RunFolder(tmp_path)
    run.create(config_of(2), resume=False)
    run.log.write_text('{"step": 1}\n')
    for file in (run.augmented, run.box_defects, run.path / "dropped_boxes.txt"):
        file.touch()
    run.tensorboard.mkdir()
    (run.tensorboard / "events").touch()
    (run.checkpoints / ".writing-step-4").mkdir(parents=True)
    run.lock.touch()
    for resume in (False, True):
        run.create(config_of(3), resume)
        assert load_config(tmp_path).num_classes == 3
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "checkpoints", "config.json"]


@pytest.mark.parametrize("name", ["best.weights.h5", "final.weights.h5", "notes.txt", "checkpoints/step-4"])
def test_results_and_files_of_others_are_kept(name, tmp_path):
    run = RunFolder(tmp_path)
    run.create(config_of(2), resume=False)
    (tmp_path / name).mkdir(parents=True) if "/" in name else (tmp_path / name).touch()
    before = run.config.read_text()
    for use in (run.check, lambda resume: run.create(config_of(3), resume)):
        with pytest.raises(
            InputError, match="is not empty: continue that run with --resume, or name another"
        ):
            use(resume=False)
    assert run.config.read_text() == before
    run.create(config_of(3), resume=True)
    assert (tmp_path / name).exists()


def test_a_check_writes_nothing(tmp_path):
    RunFolder(tmp_path / "new").check(resume=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    ["config.json", "log.jsonl", "box_defects.json", "augmented.png", "best.weights.h5", "final.weights.h5"]
    + ["curves.png", ".lock"],
)
@pytest.mark.parametrize("put", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(path)])
def test_something_else_in_the_place_of_a_file(name, put, tmp_path):
    put(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a file, but a run keeps one there: remove it"):
        RunFolder(tmp_path).create(config_of(2), resume=True)


@pytest.mark.parametrize("name", ["tensorboard", "checkpoints"])
@pytest.mark.parametrize("put", [Path.touch, os.mkfifo, lambda path: path.symlink_to(path)])
def test_something_else_in_the_place_of_a_folder(name, put, tmp_path):
    put(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a folder, but a run keeps one there: remove it"):
        RunFolder(tmp_path).create(config_of(2), resume=True)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "file/below"])
def test_folders_that_cannot_be(name, tmp_path):
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / name)
    with pytest.raises(InputError, match="holds no weights yet"):
        run.trained_weights()
    with pytest.raises(InputError, match="cannot be written") as error:
        run.create(config_of(2), resume=False)
    str(error.value).encode()
