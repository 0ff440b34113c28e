"""The identity of an image is its file, whatever the format of the data and the spelling of the path."""

import collections
import os
from collections.abc import Callable, Iterable, Sequence

from refinedet_tf.errors import InputError, shortened_text


def name_without_ending(file_name: str) -> str:
    """Returns "street/000005" of "street/000005.jpg"."""
    return os.path.splitext(file_name)[0]  # noqa: PTH122


def image_name(folder: str | os.PathLike, image: str | os.PathLike) -> str:
    """Returns what `Share.holds` takes: the path of an image within its image folder, without the ending.

    Args:
        folder: the image folder of a part.
        image: the file, in any spelling, absolute or relative as `folder` is.
    """
    return name_without_ending(os.path.relpath(image, folder).replace(os.sep, "/"))


def file_keys(paths: Iterable[str]) -> list[str]:
    """Returns one text per path, which is equal for two spellings of the same file.

    Links to folders are followed. Links to files are not, because that would take a system call per image.
    """
    folders: dict[str, str] = {}
    keys = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            folders[folder] = os.path.realpath(folder)
        keys.append(f"{folders[folder]}/{name}")
    return keys


def refuse_repeated_files(paths: Sequence[str], describe: Callable[[int], str]) -> None:
    """Refuses a file that is listed twice, whose entries would have a part of its objects each.

    `describe` returns what a message calls the image of an index.

    Raises:
        InputError: two paths lead to the same file.
    """
    first_of: dict[str, int] = {}
    pairs = []
    for index, key in enumerate(file_keys(paths)):
        first = first_of.setdefault(key, index)
        if first != index:
            pairs.append((first, index))
    if pairs:
        first, second = pairs[0]
        names = dict.fromkeys((describe(first), describe(second)))
        more = f", and so are {len(pairs) - 1:,} more files" if len(pairs) > 1 else ""
        raise InputError(
            f"{shortened_text(paths[second])} is listed twice ({' and '.join(names)}){more}; list each file "
            "once, with all of its objects"
        )


def distinct_ids(names: Sequence[str], *longer: Callable[[int], str]) -> list[str]:
    """Returns the names of N images, with longer ones for those that several images share.

    Args:
        names: the N short names.
        longer: functions from the index of an image to a longer name, from short ones to those that differ.
    """
    ids = list(names)
    for name_of in longer:
        counts = collections.Counter(ids)
        if len(counts) == len(ids):
            break
        ids = [name_of(index) if counts[short] > 1 else short for index, short in enumerate(ids)]
    return ids
