"""The image files that the arguments of a batch job stand for."""

import glob
import os
from collections import Counter
from collections.abc import Sequence

from batch_files import BatchJobError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".webp")
"""The usual endings of images that can be read. Files of other names are taken if they begin as one."""

OTHER_IMAGE_ENDINGS = (
    *(".heic", ".heif", ".avif", ".tif", ".tiff", ".jp2", ".j2k", ".jxl", ".psd", ".svg", ".ico", ".tga"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".dds", ".pcx", ".dib", ".eps"),
    *(".dng", ".cr2", ".cr3", ".crw", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
)
"""The endings of images that cannot be read."""

_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
"""The first bytes of JPEG, PNG and GIF files."""


def find_images(names: Sequence[str]) -> tuple[list[str], Counter[str]]:
    """Returns the absolute paths of the images that files, folders and patterns stand for.

    Patterns have `*`, `?`, `[]` and `**`; a folder stands for the image files directly in it whose name does
    not begin with a dot. A path comes once, at its first place.

    Returns:
        The paths; and the number of files of formats that cannot be read, by their ending, which are left out
        of folders.

    Raises:
        BatchJobError: a name stands for no image.
    """
    images: dict[str, None] = {}
    left_out: Counter[str] = Counter()
    for name in names:
        # A file may have the letters of a pattern in its name.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH110, PTH207
        files = []
        for match in matches:
            if os.path.isdir(match):  # noqa: PTH112
                inside, others = _list_folder(match)
                files += inside
                left_out += others
            else:
                files.append(match)
        if not files:
            raise BatchJobError(
                f"no image found: {name}; "
                + (describe(left_out) or "name files, folders with images, or patterns")
            )
        images.update(dict.fromkeys(map(os.path.abspath, files)))
    return list(images), left_out


def describe(left_out: Counter[str]) -> str:
    """Returns a text such as "left out: 3 .heic files; convert them to JPEG or PNG"; "" if there are none."""
    kinds = [f"{count} {ending} file{'s' * (count > 1)}" for ending, count in sorted(left_out.items())]
    return f"left out: {', '.join(kinds)}; convert them to JPEG or PNG" if kinds else ""


def _list_folder(folder: str) -> tuple[list[str], Counter[str]]:
    """Returns the images in a folder, and the number of those that cannot be read by their ending."""
    images = []
    left_out: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.path):
            ending = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
            if entry.name.startswith(".") or entry.is_dir():
                continue
            if ending in IMAGE_ENDINGS or (entry.is_file() and _begins_as_image(entry.path)):
                images.append(entry.path)
            elif ending in OTHER_IMAGE_ENDINGS:
                left_out[ending] += 1
    return images, left_out


def _begins_as_image(file: str) -> bool:
    """Says whether the first bytes of a file are those of an image that can be read."""
    try:
        with open(file, "rb") as stream:  # noqa: PTH123
            head = stream.read(16)
    except OSError:
        return False
    is_webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    is_bmp = head.startswith(b"BM") and head[6:10] == bytes(4)
    return head.startswith(_STARTS) or is_webp or is_bmp
