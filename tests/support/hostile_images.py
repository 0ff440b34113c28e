"""Image files as they come from the world: odd ones that must be read, broken ones that must be refused."""

import struct

import numpy as np
from image_files import encoded, noise
from PIL import Image

HEIGHT, WIDTH = 40, 60


def _photo():
    return Image.fromarray(noise(HEIGHT, WIDTH))


def _with_bytes(contents, offset, new):
    return contents[:offset] + new + contents[offset + len(new) :]


def readable():
    """{name: (bytes, (height, width))}; of the animation, the first frame counts, which is dark."""
    photo = _photo()
    frames = [Image.new("RGB", (30, 20), (shade, shade, shade)) for shade in (40, 140, 240)]
    deep = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (20, 30)).astype(np.uint16))
    return {
        "jpeg": (encoded(photo, "JPEG"), (HEIGHT, WIDTH)),
        "progressive jpeg": (encoded(photo, "JPEG", progressive=True), (HEIGHT, WIDTH)),
        "gray jpeg": (encoded(photo.convert("L"), "JPEG"), (HEIGHT, WIDTH)),
        "cmyk jpeg": (encoded(photo.convert("CMYK"), "JPEG"), (HEIGHT, WIDTH)),
        "png with alpha": (encoded(photo.convert("RGBA"), "PNG"), (HEIGHT, WIDTH)),
        "png of 16 bits": (encoded(deep, "PNG"), (20, 30)),
        "bmp": (encoded(photo, "BMP"), (HEIGHT, WIDTH)),
        "bmp with a palette": (encoded(photo.convert("P"), "BMP"), (HEIGHT, WIDTH)),
        "webp": (encoded(photo, "WEBP"), (HEIGHT, WIDTH)),
        "webp without loss": (encoded(photo, "WEBP", lossless=True), (HEIGHT, WIDTH)),
        "webp with alpha": (encoded(photo.convert("RGBA"), "WEBP"), (HEIGHT, WIDTH)),
        "gif animation": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), (20, 30)),
        "one pixel": (encoded(Image.new("RGB", (1, 1), (9, 99, 199)), "PNG"), (1, 1)),
    }


def unreadable():
    """{name: bytes}"""
    photo = _photo()
    jpeg, png, bmp = (encoded(photo, kind) for kind in ("JPEG", "PNG", "BMP"))
    frame_size = jpeg.index(b"\xff\xc0") + 5
    return {
        "no bytes": b"",
        "no image": b"not an image",
        "an html page": b"<!doctype html><title>404</title>",
        "jpeg cut short": jpeg[:-100],
        "jpeg cut in its header": jpeg[:300],
        "jpeg that claims 65000 x 65000": _with_bytes(jpeg, frame_size, struct.pack(">HH", 65000, 65000)),
        "png cut short": png[:-100],
        "png with a flipped bit": _with_bytes(png, 40, bytes([png[40] ^ 255])),
        "bmp that claims to be huge": _with_bytes(bmp, 18, struct.pack("<ii", 2_000_000_000, 2_000_000_000)),
        "bmp without pixels": _with_bytes(bmp, 18, struct.pack("<ii", 0, 0)),
        "webp cut short": encoded(photo, "WEBP")[:-100],
        "webp animation": encoded(photo, "WEBP", save_all=True, append_images=[photo.rotate(180)]),
        "webp of 34 bytes that claims 16384 x 16384": b"RIFF\x1a\0\0\0WEBPVP8L\x0e\0\0\0/" + b"\xff" * 13,
        "jpeg xl": b"\xff\x0a" + bytes(40),
        "tiff": encoded(photo, "TIFF"),
    }


def enormous():
    """A JPEG of 12000 x 9000 pixels."""
    return encoded(Image.new("RGB", (12000, 9000), (200, 30, 30)), "JPEG")
