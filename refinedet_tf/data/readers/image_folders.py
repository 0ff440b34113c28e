"""The files in a folder of images and in the folders below it, and the endings that image files have."""

import os
from collections.abc import Iterator
from pathlib import Path

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import explain_os_errors

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".bmp", ".gif", ".webp")
"""The endings of the image files that are read, in lower case; the format itself is told by the bytes."""

OTHER_IMAGE_ENDINGS = (".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2", ".dng")
"""The endings of image files that are not read. Leaving them out would train on fewer images without a
word."""


def is_image(name: str) -> bool:
    """Returns whether a file name has one of `IMAGE_ENDINGS`, in upper or lower case, and is not hidden."""
    return name.lower().endswith(IMAGE_ENDINGS) and not name.startswith(".")


def refuse_unreadable(file: str | os.PathLike) -> None:
    """Refuses an image file of a format that is not read.

    Raises:
        InputError: the file has one of `OTHER_IMAGE_ENDINGS`.
    """
    if str(file).lower().endswith(OTHER_IMAGE_ENDINGS):
        raise InputError(
            f"{shortened_text(file)}: images must be JPEG, PNG, BMP, GIF or WebP files; convert or remove it"
        )


def walk(folder: str | os.PathLike) -> Iterator[str]:
    """Yields the files in a folder and in the folders below it, as paths within it with slashes.

    The files of a folder come in the order of their names, and after them those of each folder in it. Files
    and folders whose names start with a dot are hidden, such as `.ipynb_checkpoints` and `._photo.jpg`, and
    are left out. Links are followed, each folder once.

    Raises:
        InputError: a folder is missing or cannot be read.
    """
    waiting = [(Path(folder), "")]
    seen = set()
    while waiting:
        current, prefix = waiting.pop()
        real = os.path.realpath(current)
        if real in seen:  # A link leads back.
            continue
        seen.add(real)
        files, folders = files_and_folders(current)
        yield from (prefix + name for name in files)
        waiting += [(current / name, f"{prefix}{name}/") for name in reversed(folders)]


def files_and_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the sorted names of the files and of the folders in a folder, without those that are hidden.

    Raises:
        InputError: the folder is missing or cannot be read.
    """
    files: list[str] = []
    folders: list[str] = []
    with (
        explain_os_errors(f"folder {shortened_text(folder)}", "cannot be read"),
        os.scandir(folder) as entries,
    ):
        for entry in entries:
            if entry.name.startswith("."):
                continue
            # Whether a link leads to a folder takes a stat call, and a set may consist of links to files.
            is_link_to_file = entry.name.lower().endswith((*IMAGE_ENDINGS, ".xml", ".txt"))
            is_folder = entry.is_dir(follow_symlinks=not is_link_to_file)
            (folders if is_folder else files).append(entry.name)
    return sorted(files), sorted(folders)
