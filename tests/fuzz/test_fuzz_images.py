"""Damaged image files: the size of the header and the pixels, or one line that names the file."""

import hostile_images
import numpy as np
import pytest
from mutation import mutate_bytes, pick

from refinedet_tf.data.image_header import MAX_PIXELS, read_image_header
from refinedet_tf.data.images import read_image

FILES = [contents for contents, _ in hostile_images.readable().values()]
FILES += list(hostile_images.unreadable().values())


@pytest.mark.filterwarnings("error")
def test_headers(fuzz, tmp_path):
    file = tmp_path / "a.jpg"

    def case(rng):
        file.write_bytes(mutate_bytes(rng, pick(rng, FILES)))
        header = read_image_header(file)
        assert header.height >= 1 and header.width >= 1 and header.height * header.width <= MAX_PIXELS
        assert 1 <= header.orientation <= 8

    fuzz(case)


def test_pixels(fuzz, tmp_path):
    file = tmp_path / "a.jpg"

    def case(rng):
        file.write_bytes(mutate_bytes(rng, pick(rng, FILES)))
        pixels = read_image(file)
        assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3

    fuzz(case)
