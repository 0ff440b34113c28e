"""Reading and writing files: whole or not at all, and one clear line when the disk refuses."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from refinedet_tf.errors import InputError


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike, problem: str = "cannot be written") -> Iterator[None]:
    """Turns an OSError of the block into the error that commands print as one line.

    Args:
        path: the file or folder that the block works on, with the name of its option where there is one.
        problem: what cannot be done with it.

    Raises:
        InputError: `path`, the problem and the system's reason.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} {problem}: {error.strerror or error}") from None


def write_aside(file: Path, write: Callable[[Path], object]) -> None:
    """Calls `write(path)` on a neighbouring path and renames the result to `file`.

    Whatever happens meanwhile, `file` has the old content or the new one, whole.

    Raises:
        OSError: the file cannot be written.
    """
    # The ending stays, because Keras chooses the format by it.
    aside = file.with_name(f".writing-{file.name}")
    try:
        write(aside)
        flush(aside)
        aside.replace(file)
    finally:
        aside.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Has the operating system write a file or folder to the disk, so that a rename means done.

    Raises:
        OSError: it cannot be written.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def list_folder(folder: str | Path) -> list[str]:
    """Names of the files in a folder, read in one go: a stat per image would take hours on a network disk.

    Raises:
        InputError: the folder is missing or cannot be read.
    """
    with explain_os_errors(f"folder {folder}", "cannot be read"), os.scandir(folder) as entries:
        return [entry.name for entry in entries]
