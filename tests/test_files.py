"""Atomic writing, explained errors and listed folders."""

import os

import pytest

from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors, flush, is_file, is_folder, list_folder, write_aside


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_write_aside_keeps_the_old_content_until_the_new_one_is_complete(tmp_path):
    file = tmp_path / "model.weights.h5"
    file.write_text("old")
    seen = []

    def write(path):
        path.write_text("new")
        seen.append((path.parent, path.name.endswith(".weights.h5"), path != file, file.read_text()))

    write_aside(file, write)
    assert seen == [(tmp_path, True, True, "old")]
    assert file.read_text() == "new" and names(tmp_path) == ["model.weights.h5"]


@pytest.mark.parametrize("old", [None, "old"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ValueError("a defect")])
def test_write_aside_changes_nothing_if_the_writer_fails(tmp_path, old, error):
    file = tmp_path / "log.txt"
    if old is not None:
        file.write_text(old)

    def write_half(path):
        path.write_text("half")
        raise error

    with pytest.raises(type(error)) as raised:
        write_aside(file, write_half)
    assert raised.value is error
    assert names(tmp_path) == ([] if old is None else ["log.txt"])
    assert old is None or file.read_text() == old


def test_write_aside_changes_nothing_if_the_disk_fails(tmp_path, monkeypatch):
    file = tmp_path / "log.txt"
    file.write_text("old")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write_aside(file, lambda path: path.write_text("new"))
    assert names(tmp_path) == ["log.txt"] and file.read_text() == "old"


def test_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_aside(tmp_path / "missing" / "log.txt", lambda path: path.write_text("new"))
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "missing")


@pytest.mark.parametrize(
    ("problem", "error", "line"),
    [
        ([], PermissionError(13, "Permission denied", "x"), "--json x cannot be written: Permission denied"),
        (["cannot be read"], OSError("the file is cut off"), "--json x cannot be read: the file is cut off"),
    ],
)
def test_os_errors_become_one_line(problem, error, line):
    with pytest.raises(InputError, match=f"^{line}$"), explain_os_errors("--json x", *problem):
        raise error
    with pytest.raises(KeyError), explain_os_errors("--json x"):
        raise KeyError("key")


def test_list_folder(tmp_path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).touch()
    for folder in (tmp_path, str(tmp_path)):
        assert sorted(list_folder(folder)) == ["a.jpg", "b.jpg"]
        assert is_folder(folder) and not is_file(folder)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "No such file or directory"),
        ("file", "Not a directory"),
        ("x" * 300, "File name too long"),
        ("x/" * 10_000, "File name too long"),
        ("a\0b", "the name holds a null character"),
        ("\ud800", "the name is not Unicode text"),
    ],
    ids=range(6),
)
def test_folders_that_cannot_be_read(tmp_path, name, reason):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=f"^folder .* cannot be read: {reason}$") as raised:
        list_folder(tmp_path / name)
    assert str(raised.value).isprintable() and len(str(raised.value)) < 600
    assert not is_folder(tmp_path / name) and is_file(tmp_path / name) == (name == "file")
