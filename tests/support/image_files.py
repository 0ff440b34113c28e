"""Images of noise, and image files."""

import io

import numpy as np
from PIL import Image


def noise(*shape, seed=0):
    """Images of noise, uint8 [*shape, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


def save(path, height=40, width=60, seed=0):
    """Writes noise in the format of the path's ending; makes its folder; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(height, width, seed=seed)).save(path)
    return path


def encoded(image, kind, **options):
    """The bytes of a PIL image, or of pixels uint8 [H, W, 3], in a format of Pillow."""
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def exif_with(orientation):
    """EXIF data with this orientation, 1..8, for the option `exif` of Pillow's `save`."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
