"""Image files of every kind that people have, with the pixels or the refusal that is right for each."""

import io

import numpy as np
from gif_files import gif
from image_files import encoded, exif_with
from PIL import Image, ImageOps

UPRIGHT = (64, 96)
"""Height and width of all upright images."""


def photo(height, width):
    """Smooth colours with noise on them, uint8 [height, width, 3]."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + generator.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def turned(orientation, kind, mode="RGB", **options):
    """A file whose upright image has the size `UPRIGHT` and the EXIF orientation."""
    size = UPRIGHT if orientation < 5 else UPRIGHT[::-1]
    exif = exif_with(orientation)
    exif[0x010F] = "Maker"
    return encoded(Image.fromarray(photo(*size)).convert(mode), kind, exif=exif, **options)


def _squares(height, width):
    """Squares of few colours, uint8 [height, width, 3]."""
    rows, columns = np.arange(height)[:, None] // 5, np.arange(width) // 5
    shade = (7 * rows + 3 * columns) % 64
    return np.stack([4 * shade, 255 - shade, shade], axis=-1).astype(np.uint8)


def _pixels(contents):
    """What Pillow makes of a file: uint8 [H, W, 3]."""
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB"))


def readable():
    """{name: (bytes, upright pixels uint8 [64, 96, 3])}"""
    image = Image.fromarray(photo(*UPRIGHT))
    bmp, gray_bmp = encoded(image, "BMP"), encoded(image.convert("L"), "BMP")
    palette_with_255 = b"".join(bytes([gray, gray, gray, 255]) for gray in range(256))
    files = {f"JPEG, orientation {tag}": turned(tag, "JPEG") for tag in range(1, 9)} | {
        "PNG, orientation 6": turned(6, "PNG"),
        "WebP, orientation 8": turned(8, "WEBP"),
        "WebP with alpha, orientation 3": turned(3, "WEBP", mode="RGBA"),
        "MPO of two images, orientation 6": turned(6, "MPO", save_all=True, append_images=[image]),
        "orientation 6 after 70 kB of other data": turned(6, "JPEG", icc_profile=bytes(70_000)),
        "WebP, lossy": encoded(image, "WEBP"),
        "WebP, lossless": encoded(image, "WEBP", lossless=True),
        "progressive JPEG": encoded(image, "JPEG", progressive=True),
        "BMP with bytes after its pixels": bmp + b"\0\0\0",
        "gray BMP with 255 in its palette": gray_bmp[:54] + palette_with_255 + gray_bmp[54 + 1024 :],
        "BMP with a palette": encoded(image.convert("P"), "BMP"),
    }
    whole = _squares(*UPRIGHT)
    table = {name: (contents, _pixels(contents)) for name, contents in files.items()}
    frame = _squares(20, 25)
    on_screen = np.zeros((*UPRIGHT, 3), np.uint8)
    on_screen[8:28, 30:55] = frame
    larger = np.full((90, 120, 3), 200, np.uint8)
    deep = np.random.default_rng(2).integers(0, 65536, UPRIGHT).astype(np.uint16)
    return table | {
        "GIF smaller than its screen": (gif(UPRIGHT[::-1], (30, 8, frame)), on_screen),
        "GIF of frames of other sizes": (gif(UPRIGHT[::-1], (30, 8, frame), (0, 0, larger)), on_screen),
        "GIF that leaves its screen": (gif((9, 9), (0, 0, whole)), whole),
        "PNG of 16 bits": (
            encoded(Image.fromarray(deep), "PNG"),
            np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2),
        ),
    }


def cmyk():
    """The bytes of a CMYK JPEG with orientation 6; decoders convert it to RGB with different formulas."""
    return turned(6, "JPEG", mode="CMYK")


def unreadable():
    """{name: (bytes, what the index says or None, what decoding says)}"""
    image = Image.fromarray(photo(*UPRIGHT))
    animation = {"save_all": True, "append_images": [image.transpose(Image.Transpose.ROTATE_180)]}
    animated, unknown = "it is an animated WebP; save one", "it is no JPEG, PNG, BMP, GIF or WebP file"
    cut = "it is truncated or broken"
    return {
        "animated WebP": (encoded(image, "WEBP", **animation), animated, animated),
        "truncated JPEG": (turned(6, "JPEG")[:-300], None, cut),
        "truncated WebP": (encoded(image, "WEBP")[:-100], "", cut),
        "truncated GIF": (gif(UPRIGHT[::-1], (0, 0, _squares(*UPRIGHT)))[:-30], None, cut),
        "JPEG XL": (b"\xff\x0a" + bytes(40), unknown, unknown),
    }
