"""What the header of an image file says: the size of its raster, and how it is turned to stand upright.

This is the only place that reads headers outside a graph.
"""

import contextlib
import os
import struct
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from PIL import Image, UnidentifiedImageError

from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import explain_os_errors
from refinedet_tf.threads import map_in_threads

MAX_PIXELS = 178_956_970
"""The largest number of pixels of an image. Pillow refuses larger ones, because a small file may claim
any number."""

IMAGE_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")
"""The formats of image files that can be decoded, as Pillow calls them."""

UNKNOWN_FORMAT = "it is no JPEG, PNG, BMP, GIF or WebP file"
ANIMATED_WEBP = "it is an animated WebP; save one of its images"

_ORIENTATION_TAG, _SHORT = 0x0112, 3
"""The EXIF tag of the orientation, and the type of its value."""

_THREADS = 8
"""Headers are read in threads, because on a network disk most of the time is waiting."""

_FILES_PER_TASK = 32
_TASKS_AHEAD = 4 * _THREADS


class ImageHeader(NamedTuple):
    """The size of the raster that a file stores, and the turn that makes it upright."""

    height: int
    """In pixels, before the turn."""
    width: int
    """In pixels, before the turn."""
    orientation: int
    """The value of the EXIF tag, 1..8: 1 is upright, 3 is upside down, 6 is to be turned by 90 degrees
    clockwise; 5 to 8 swap the sides. It is 1 where the file has no valid tag."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Height and width in pixels of the upright image."""
        size = (self.height, self.width)
        return size[::-1] if self.orientation >= 5 else size


def read_image_header(path: str | os.PathLike) -> ImageHeader:
    """Reads the header of an image file.

    The orientation is that of the EXIF data of a JPEG, WebP or PNG (there, of a chunk eXIf before the
    pixels). Other metadata, such as XMP, is ignored.

    Raises:
        InputError: the file cannot be read as a JPEG, PNG, BMP, GIF or WebP image, is an animated WebP, or
            claims more than `MAX_PIXELS` pixels.
    """
    with _no_warnings():
        return _read_header(path)


def read_image_headers(paths: Sequence[str]) -> Iterator[ImageHeader | InputError]:
    """Yields the header of each file, or the error of `read_image_header`, in the order of the paths.

    The files are read in threads, with few headers in memory at a time.
    """
    tasks = (paths[start : start + _FILES_PER_TASK] for start in range(0, len(paths), _FILES_PER_TASK))
    # The filters of warnings belong to the process, so that threads must not change them.
    with _no_warnings():
        for headers in map_in_threads(
            lambda task: [*map(_header_or_error, task)], tasks, _THREADS, _TASKS_AHEAD
        ):
            yield from headers


def _header_or_error(path: str) -> ImageHeader | InputError:
    try:
        return _read_header(path)
    except InputError as error:
        return error


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    """Ignores warnings, which concern metadata, and sizes that are unusual but within the limit."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _read_header(path: str | os.PathLike) -> ImageHeader:
    unreadable = f"{shortened_text(path)} cannot be read as an image"
    too_many_pixels = f"{unreadable}: it has more than {MAX_PIXELS:,} pixels"
    with explain_os_errors(path, "cannot be read"), Path(path).open("rb") as stream:
        if _is_animated_webp(stream):
            raise InputError(f"{unreadable}: {ANIMATED_WEBP}")
        try:
            with Image.open(stream, formats=IMAGE_FORMATS) as image:
                height, width = image.height, image.width
                # `Image.getexif` would decode all pixels of a PNG without EXIF data.
                exif = image.info.get("exif")
        except Image.DecompressionBombError:
            raise InputError(too_many_pixels) from None
        except UnidentifiedImageError:
            raise InputError(f"{unreadable}: {UNKNOWN_FORMAT}") from None
        except Exception as error:
            # Pillow has no common class for the errors of damaged headers, metadata and limits.
            raise InputError(f"{unreadable}: {shortened_text(error) or type(error).__name__}") from None
    if height < 1 or width < 1:
        raise InputError(f"{unreadable}: it is {width}x{height} pixels large")
    if height * width > MAX_PIXELS:
        raise InputError(too_many_pixels)
    return ImageHeader(height, width, _orientation(exif))


def _is_animated_webp(stream: BinaryIO) -> bool:
    """Reads the flag of a WebP's extended header; the stream is at its start before and after."""
    head = stream.read(21)
    stream.seek(0)
    return len(head) == 21 and head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and bool(head[20] & 2)


def _orientation(exif: object) -> int:
    """Returns the orientation of EXIF data: 1 unless its first folder has the tag as one valid SHORT."""
    tiff = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(entries):
            tag, kind, count, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == _ORIENTATION_TAG:
                return value if (kind, count) == (_SHORT, 1) and 1 <= value <= 8 else 1
    except struct.error:  # The data end too early.
        return 1
    return 1
