"""The EXIF orientation of an image that Pillow has opened, as the exported model applies it."""

import struct

from PIL import Image

ORIENTATION_TAG, SHORT = 0x0112, 3

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes the stored raster upright, by orientation."""


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Returns the (height, width) in pixels of the upright image; `image` needs not be loaded."""
    return (image.width, image.height) if orientation(image) >= 5 else (image.height, image.width)


def turn_upright(image: Image.Image) -> Image.Image:
    """Returns the upright image."""
    turn = _TURNS.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation, 1..8; 1 where there is none.

    It is the first entry of its tag in the EXIF data, if that is one SHORT. Other metadata is ignored:
    `Image.getexif` would also read XMP, which browsers and the model do not.
    """
    exif = image.info.get("exif")
    tiff = exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) else b""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(count):
            tag, kind, number, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == ORIENTATION_TAG:
                return value if (kind, number) == (SHORT, 1) and 1 <= value <= 8 else 1
    except struct.error:  # The data end too early.
        pass
    return 1
