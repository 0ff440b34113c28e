"""Atomic writing, explained errors and listed folders."""

import os

import pytest
from refusals import message_of

from refinedet_tf.errors import InputError
from refinedet_tf.files import (
    check_unused,
    explain_os_errors,
    flush,
    is_file,
    is_folder,
    list_folder,
    write_aside,
    write_text,
)


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


def test_write_text_takes_a_text_or_its_parts(tmp_path):
    write_text(tmp_path / "one", "café\n")
    write_text(tmp_path / "two", (part for part in ("caf", "é\n")))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes() == "café\n".encode()
    with pytest.raises(InputError, match="one cannot be written: the name is not Unicode text"):
        write_text(tmp_path / "one", "\udce9")
    assert (tmp_path / "one").read_text(encoding="utf-8") == "café\n"
    write_text(tmp_path / "one", "\udce9", errors="backslashreplace")
    assert (tmp_path / "one").read_text(encoding="utf-8") == "\\udce9"
    with pytest.raises(InputError, match="nowhere/file cannot be written: No such file or directory"):
        write_text(tmp_path / "nowhere" / "file", "")


def test_an_output_folder_is_new_or_empty(tmp_path):
    check_unused(tmp_path / "new")
    check_unused(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"^--output .* is not empty: name a new folder"):
        check_unused(tmp_path)
    with pytest.raises(InputError, match=r"^--output .*file is not a folder$"):
        check_unused(tmp_path / "file")


def test_missing_places(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_aside(tmp_path / "missing" / "log.txt", lambda path: path.write_text("new"))
    with pytest.raises(FileNotFoundError):
        flush(tmp_path / "missing")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--json a"], PermissionError(13, "Not allowed", "a"), "--json a cannot be written: Not allowed"),
        (["a", "cannot be read"], OSError("the file is cut off"), "a cannot be read: the file is cut off"),
    ],
)
def test_os_errors_become_one_line(arguments, error, message):
    with pytest.raises(InputError) as raised, explain_os_errors(*arguments):
        raise error
    assert str(raised.value) == message
    with pytest.raises(KeyError), explain_os_errors(*arguments):
        raise KeyError("key")


def test_list_folder(tmp_path):
    for name in ("b.jpg", "a.jpg"):
        (tmp_path / name).touch()
    assert sorted(list_folder(tmp_path)) == ["a.jpg", "b.jpg"]
    assert sorted(list_folder(str(tmp_path))) == ["a.jpg", "b.jpg"]
    for name, reason in (("missing", "No such file or directory"), ("a.jpg", "Not a directory")):
        line = message_of(list_folder, tmp_path / name)
        assert line == f"folder {tmp_path / name} cannot be read: {reason}"
    assert len(message_of(list_folder, "x/" * 10_000)) < 600


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\ud800"])
def test_names_that_no_file_can_have(tmp_path, name):
    for exists in (is_file, is_folder):
        assert not exists(tmp_path / name)
    reasons = ("File name too long", "a null character", "not Unicode text")
    assert message_of(list_folder, tmp_path / name).endswith(reasons)


def test_is_file_and_is_folder(tmp_path):
    (tmp_path / "file").touch()
    assert is_file(tmp_path / "file") and not is_file(tmp_path) and not is_file(tmp_path / "none")
    assert is_folder(tmp_path) and not is_folder(tmp_path / "file") and not is_folder(str(tmp_path / "none"))
