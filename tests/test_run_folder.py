"""The files of a run: what is read from a log that something has damaged, and what stands in their places."""

import contextlib
import itertools
import json
import os
import shutil
from pathlib import Path

import pytest
from config_of import config_of
from refusals import message_of

from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.run_folder import RunFolder

STEP = {"step": 5, "loss": 3.0}
VALIDATION = {"step": 5, "validation": {"mAP": 0.5, "AP": {"cat": 0.5, "dog": None}, "best": True}}
VALIDATION["validation"] |= {"metric": "voc", "data": ["2007/val"]}


def validation(**changes):
    return json.dumps({**VALIDATION, "validation": {**VALIDATION["validation"], **changes}}).encode()


STEPS = ("", "null", "true", "1.5", "-1", '"5"', "[5]", "1e999", "9" * 5000, "[" * 100_000, "10000000000")
VALIDATIONS = ("7", "{}", "null", '{"AP": {}}')
NO_ENTRIES = [
    *(b"7", b"[]", b"{}", b'{"loss": 1.0}', b'{"step": 1', b"", b"\xff\xfe", b'{"step": "\xff"}'),
    *(f'{{"step": {step}}}'.encode() for step in STEPS),
    *(f'{{"step": 1, "validation": {value}}}'.encode() for value in VALIDATIONS),
    *(validation(mAP=value) for value in ("x", float("nan"), 2, True)),
    *(validation(AP=value) for value in (None, [0.5], {"cat": "x"}, {"cat": [0.5]})),
    *(validation(loss="x"), validation(loss=None)),
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
    """And a validation that is done again."""
    run = RunFolder(tmp_path)
    run.log.write_bytes(b'{"step": 1}\r\n{"step": 3, "x":  "\xc3\xa9"}\n{"step": 4}')
    run.cut_log(3, last_validation=3)
    assert run.log.read_bytes() == b'{"step": 1}\n{"step": 3, "x":  "\xc3\xa9"}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]
    run.log.write_text(f'{{"step": 5}}\n{json.dumps(VALIDATION)}\n', encoding="utf-8")
    run.cut_log(5, last_validation=4)
    assert run.log_entries() == [{"step": 5}]


def test_there_may_be_no_log(tmp_path):
    run = RunFolder(tmp_path / "run")
    run.cut_log(3, last_validation=3)
    assert run.log_entries() == []
    assert run.best_validation() is None
    assert not run.path.exists()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_a_failed_start_left_is_no_obstacle(tmp_path):
    """Such a folder holds no checkpoint and no weights, and what it holds is replaced."""
    run = RunFolder(tmp_path)
    run.create(config_of(2), resume=False)
    run.log.write_text('{"step": 1}\n')
    for file in (run.augmented, run.box_defects):
        file.touch()
    run.tensorboard.mkdir()
    (run.tensorboard / "events").touch()
    (run.checkpoints / ".writing-step-4").mkdir(parents=True)
    run.lock.touch()
    for resume in (False, True):
        run.create(config_of(3), resume)
        assert load_config(tmp_path).num_classes == 3
        assert names(tmp_path) == [".lock", ".refinedet-run", "checkpoints", "config.json"]


def test_a_kill_at_any_moment_of_a_start(tmp_path, monkeypatch):
    """The next start clears what is left, because the mark comes first and stays to the last."""
    run = RunFolder(tmp_path / "run")
    seen = set()
    for operation in range(20):
        for name, (owner, function) in {
            "unlink": (Path, Path.unlink),
            "rmtree": (shutil, shutil.rmtree),
            "replace": (Path, Path.replace),
        }.items():
            monkeypatch.setattr(owner, name, killed_at(operation, function))
        with contextlib.suppress(KeyboardInterrupt):
            run.create(config_of(2), resume=False)
        monkeypatch.undo()
        seen.add(tuple(names(run.path)))
        run.create(config_of(2), resume=operation % 2 == 1)
        run.log.touch()
        run.tensorboard.mkdir()
    assert len(seen) > 3, seen


def killed_at(number, function):
    """A function that does nothing at its call of that number, as the process is killed before it."""
    calls = itertools.count()

    def called(*arguments, **options):
        if next(calls) == number:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return called


OF_OTHERS = {
    "a config, a log and TensorBoard of others": ["config.json", "log.jsonl", "tensorboard/events"],
    "a start of an older version": ["config.json", "tensorboard/"],
    "a finished run without checkpoints": [".refinedet-run", "config.json", "log.jsonl", "best.weights.h5"],
    "one of an older version": ["config.json", "log.jsonl", "final.weights.h5"],
    "weights alone": ["best.weights.h5"],
    "other weights": [".refinedet-run", "log.jsonl", "mine.weights.h5"],
    "curves": ["curves.png", "notes.txt"],
}
"""What a folder holds that no run may clear or replace."""


@pytest.mark.parametrize("files", OF_OTHERS.values(), ids=OF_OTHERS)
def test_what_no_run_may_replace(files, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_text(name)
    before = {path: path.is_dir() or path.read_text() for path in tmp_path.rglob("*")}
    run = RunFolder(tmp_path)
    for use in (run.check, lambda resume: run.create(config_of(3), resume)):
        for resume in (False, True):
            line = message_of(use, resume=resume)
            assert line.startswith(f"{tmp_path} holds ") and "but no checkpoint to continue from" in line
            assert line.endswith("; nothing of it is replaced: name another --output")
            assert ("no mark of a training (.refinedet-run)" in line) == ("weights" not in "".join(files))
    assert before == {path: path.is_dir() or path.read_text() for path in tmp_path.rglob("*")}


def test_files_of_others_next_to_those_of_a_run(tmp_path):
    """A log of the terminal may lie in the folder before the first start with --resume."""
    (tmp_path / "terminal.txt").touch()
    run = RunFolder(tmp_path)
    with pytest.raises(InputError, match=r"is not empty, it holds terminal.txt: name another --output$"):
        run.check(resume=False)
    for num_classes in (2, 3):
        run.create(config_of(num_classes), resume=True)
        assert load_config(tmp_path).num_classes == num_classes
    assert names(tmp_path) == [".refinedet-run", "config.json", "terminal.txt"]


@pytest.mark.parametrize("marked", [False, True])
def test_a_run_with_a_checkpoint_is_kept_and_marked(marked, tmp_path):
    """A run of an older version has no mark before its first resume."""
    run = RunFolder(tmp_path)
    run.create(config_of(2), resume=False)
    if not marked:
        run.mark.unlink()
    (run.checkpoints / "step-4").mkdir(parents=True)
    for file in (run.log, run.best_weights):
        file.touch()
    with pytest.raises(InputError, match="is not empty: continue that run with --resume, or name another"):
        run.create(config_of(3), resume=False)
    assert load_config(tmp_path).num_classes == 2
    run.create(config_of(3), resume=True)
    assert load_config(tmp_path).num_classes == 3
    assert run.log.exists() and run.best_weights.exists() and run.mark.exists()


def test_a_check_writes_nothing(tmp_path):
    RunFolder(tmp_path / "new").check(resume=False)
    assert list(tmp_path.iterdir()) == []


FILES = ("config.json", "log.jsonl", "box_defects.json", "augmented.png", "curves.png", ".lock")
FILES += ("best.weights.h5", "final.weights.h5", ".refinedet-run")
KINDS = {**dict.fromkeys(FILES, "file"), "tensorboard": "folder", "checkpoints": "folder"}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
@pytest.mark.parametrize("put", [None, os.mkfifo, lambda path: path.symlink_to(path)])
def test_something_else_in_its_place(name, kind, put, tmp_path):
    put = put or (Path.mkdir if kind == "file" else Path.touch)
    put(tmp_path / name)
    with pytest.raises(InputError, match=f"{name} is not a {kind}, but a run keeps one there: remove it"):
        RunFolder(tmp_path).create(config_of(2), resume=True)


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300, "file/below"])
def test_folders_that_cannot_be(name, tmp_path):
    (tmp_path / "file").touch()
    run = RunFolder(tmp_path / name)
    with pytest.raises(InputError, match="holds no weights yet"):
        run.trained_weights()
    assert "cannot be written" in message_of(run.create, config_of(2), resume=False)
