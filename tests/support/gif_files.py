"""GIF files of any frames on any screen, which Pillow does not write."""

import io
import struct

import numpy as np
from PIL import Image


def gif(screen, *frames, comment=b""):
    """The bytes of a GIF.

    Args:
        screen: (width, height).
        frames: (left, top, pixels uint8 [h, w, 3] of at most 256 colours) of each frame.
        comment: stands before each frame.
    """
    contents = b"GIF89a" + struct.pack("<HH", *screen) + b"\0\0\0"
    for left, top, pixels in frames:
        file = io.BytesIO()
        colors, indices = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        image = Image.fromarray(indices.reshape(pixels.shape[:2]).astype(np.uint8), "P")
        image.putpalette(colors.tobytes())
        image.save(file, "GIF", comment=comment, interlace=False)
        part = file.getvalue()
        # Of a GIF with one frame: header, palette of the file, blocks of the frame, end.
        palette_end = 13 + 3 * 2 ** ((part[10] & 7) + 1)
        sides = struct.pack("<HH", *image.size)
        frame = part.index(b",\0\0\0\0" + sides, palette_end)
        header = b"," + struct.pack("<HH", left, top) + sides + bytes([0x80 | (part[10] & 7)])
        contents += part[palette_end:frame] + header + part[13:palette_end] + part[frame + 10 : -1]
    return contents + b";"
