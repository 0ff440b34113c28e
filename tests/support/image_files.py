"""Image files of noise."""

import numpy as np
from PIL import Image


def save(path, height=40, width=60, seed=0):
    """Writes an RGB image in the format of the path's ending; makes its folder; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path
