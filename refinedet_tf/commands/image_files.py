"""The image files that the arguments of a command stand for."""

import glob
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from refinedet_tf.data.readers.image_folders import OTHER_IMAGE_ENDINGS, is_image
from refinedet_tf.errors import InputError, shortened_text

LEFT_OUT_ENDINGS = (
    *OTHER_IMAGE_ENDINGS,
    *(".j2k", ".jxl", ".psd", ".svg", ".ico", ".tga", ".ppm", ".pgm", ".pbm", ".pnm", ".exr", ".hdr", ".dds"),
    *(".pcx", ".dib", ".eps"),
    *(".cr2", ".cr3", ".crw", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
)
"""The endings of images that cannot be read, which are named when they are left out of a folder."""

_STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
"""The first bytes of JPEG, PNG and GIF files."""


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that `names` (files, folders, patterns with `*`, `?`, `[]`, `**`) stand for.

    A folder stands for the image files directly in it whose name does not begin with a dot. Each file comes
    once, in the given order. Images of formats that cannot be read are left out of a folder, which one line
    on stderr says.

    Raises:
        InputError: a name stands for no image that can be read.
    """
    images: list[Path] = []
    left_out: list[Path] = []
    for name in names:
        # Path.glob refuses absolute patterns, and Path.exists raises for a name that no file can have.
        matches = [name] if os.path.exists(name) else sorted(glob.glob(name, recursive=True))  # noqa: PTH110, PTH207
        files, others = [], []
        for path in map(Path, matches):
            if path.is_dir():
                for file in sorted(path.iterdir()):
                    if file.name.startswith(".") or not file.is_file():
                        continue
                    if _can_be_read(file):
                        files.append(file)
                    elif file.suffix.lower() in LEFT_OUT_ENDINGS:
                        others.append(file)
            else:
                files.append(path)
        if not files:
            advice = _describe(others) if others else "name files, folders with images, or patterns"
            raise InputError(f"no image found: {shortened_text(name)}; {advice}")
        images += files
        left_out += others
    if left_out:
        print(f"note: {_describe(left_out)}", file=sys.stderr)
    return list({os.path.realpath(path): path for path in reversed(images)}.values())[::-1]


def _can_be_read(file: Path) -> bool:
    """Says whether a file is called as an image that can be read, or begins as one."""
    if is_image(file.name):
        return True
    try:
        with file.open("rb") as stream:
            head = stream.read(16)
    except OSError:
        return False
    is_webp = head.startswith(b"RIFF") and head[8:12] == b"WEBP"
    is_bmp = head.startswith(b"BM") and head[6:10] == bytes(4)
    return head.startswith(_STARTS) or is_webp or is_bmp


def _describe(left_out: Iterable[Path]) -> str:
    """Returns a text such as "left out: 3 .heic files, e.g. in/a.heic; convert them to JPEG or PNG"."""
    by_ending: dict[str, list[Path]] = {}
    for file in left_out:
        by_ending.setdefault(file.suffix.lower(), []).append(file)
    kinds = [
        f"{len(files)} {ending} file{'s' * (len(files) > 1)}, e.g. {shortened_text(files[0], 200)}"
        for ending, files in sorted(by_ending.items())
    ]
    return f"left out: {', '.join(kinds)}; convert them to JPEG or PNG"
