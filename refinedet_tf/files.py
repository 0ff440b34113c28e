"""Reading and writing files, with atomic replacement and one-line errors."""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refinedet_tf.errors import InputError, shortened_text


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike, problem: str = "cannot be written") -> Iterator[None]:
    """Turns an OSError of the block into the error that commands print as one line.

    The same happens to the errors that Python raises for names that no file can have: those with a null
    character, and those that hold half of a character.

    Args:
        path: the file or folder that the block works on; it may be preceded by the name of its option.
        problem: what the block cannot do with it.

    Raises:
        InputError: the block raised such an error; the message gives `path`, the problem and the system's
            reason.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeEncodeError:
        reason = "the name is not Unicode text"
    except ValueError as error:
        if isinstance(error, InputError) or "embedded null" not in str(error):
            raise
        reason = "the name holds a null character"
    else:
        return
    raise InputError(f"{shortened_text(path)} {problem}: {reason}")


def check_utf8(path: str | os.PathLike) -> None:
    """Refuses the path of a folder in which TensorFlow could write nothing.

    Raises:
        InputError: the bytes of the path are not UTF-8.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        raise InputError(
            f"{shortened_text(path)} cannot be written: the name is not UTF-8; choose another"
        ) from None


def is_file(path: str | os.PathLike) -> bool:
    """Returns whether a file exists; `Path.is_file` raises an OSError for a name that is too long."""
    return os.path.isfile(path)  # noqa: PTH113


def is_folder(path: str | os.PathLike) -> bool:
    """Returns whether a folder exists; `Path.is_dir` raises an OSError for a name that is too long."""
    return os.path.isdir(path)  # noqa: PTH112


def read_bytes(file: str | os.PathLike, max_bytes: int | None = None) -> bytes:
    """Reads a file of at most `max_bytes` (None: of any size).

    Raises:
        InputError: the file cannot be read or is larger.
    """
    with explain_os_errors(file, "cannot be read"), Path(file).open("rb") as stream:
        contents = stream.read(-1 if max_bytes is None else max_bytes + 1)
    if max_bytes is not None and len(contents) > max_bytes:
        raise InputError(f"{shortened_text(file)} is larger than {max_bytes:,} bytes")
    return contents


def write_aside(file: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(path)` with another path in the same folder and renames the result to `file`.

    At every moment `file` has either its whole old content or its whole new content.

    Raises:
        OSError: the file cannot be written.
    """
    # The suffix stays the same, because Keras chooses the format by it.
    aside = file.with_name(f".writing-{file.name}")
    try:
        write(aside)
        flush(aside)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def write_text(file: str | Path, text: str | Iterable[str], errors: str = "strict") -> None:
    """Writes a text, or the parts of one, in UTF-8 to a file, which appears whole or not at all.

    Args:
        file: the file to create or replace; its folder exists.
        text: the text, or its parts, which are written one after the other.
        errors: what is done about the bytes of a file name that are not UTF-8: "strict" raises an error, and
            "backslashreplace" writes escapes.

    Raises:
        InputError: the file cannot be written; the message names it.
    """

    def write(aside: Path) -> None:
        with aside.open("w", encoding="utf-8", errors=errors, newline="\n") as stream:
            stream.writelines([text] if isinstance(text, str) else text)

    with explain_os_errors(file):
        write_aside(Path(file), write)


def flush(path: Path) -> None:
    """Makes the operating system write a file or folder to the disk, so that it survives a crash.

    Raises:
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_unused(folder: str | Path) -> None:
    """Checks that the folder of `--output` is new or empty, so that its files are not mixed with others.

    Raises:
        InputError: it holds something, is a file, or cannot be read.
    """
    shown = f"--output {shortened_text(folder)}"
    if is_file(folder):
        raise InputError(f"{shown} is not a folder")
    if is_folder(folder) and list_folder(folder):
        raise InputError(f"{shown} is not empty: name a new folder, or remove what is in it")


def list_folder(folder: str | Path) -> list[str]:
    """Returns the names of the entries of a folder.

    The folder is read at once, because one stat call per image would take hours on a network disk.

    Raises:
        InputError: the folder is missing or cannot be read.
    """
    with explain_os_errors(f"folder {folder}", "cannot be read"), os.scandir(folder) as entries:
        return [entry.name for entry in entries]
