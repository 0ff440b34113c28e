"""The limit of pixels of a served model, read from the headers of image files."""

import io
import struct

import hostile_images
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from refinedet_tf.export import image_headers
from refinedet_tf.export.decoding import decode_batch
from refinedet_tf.export.image_headers import limit_pixels

HEIGHT, WIDTH = 70, 90
PIXELS = HEIGHT * WIDTH


def encoded(kind, **options):
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def animation(num_frames, screen=(1, 1)):
    """A GIF whose frames are larger than its screen (width, height), with palettes and comments."""
    frames = [Image.fromarray(np.full((HEIGHT, WIDTH), shade, np.uint8), "P") for shade in range(num_frames)]
    for shade, frame in enumerate(frames):
        frame.putpalette(np.random.default_rng(shade).integers(0, 256, 768, np.uint8).tobytes())
    parts = []
    for frame in frames:
        file = io.BytesIO()
        frame.save(file, "GIF", comment=b"x" * 600)
        parts.append(file.getvalue())
    # Of a GIF with one frame: header, palette of the file, blocks of the frame, end.
    palette = 3 * 2 ** ((parts[0][10] & 7) + 1)
    head = parts[0][:6] + struct.pack("<HH", *screen) + parts[0][10 : 13 + palette]
    return head + b"".join(part[13 + palette : -1] for part in parts) + b";"


FILES = {
    "jpeg": (encoded("JPEG"), PIXELS),
    "progressive jpeg": (encoded("JPEG", progressive=True), PIXELS),
    "png": (encoded("PNG"), PIXELS),
    "gif": (animation(1), PIXELS),
    "gif of five frames": (animation(5), 5 * PIXELS),
}


def passes(contents, limit):
    try:
        assert tf.function(lambda: limit_pixels(tf.constant(contents), limit))().numpy() == contents
    except tf.errors.InvalidArgumentError as error:
        assert "more pixels than the limit" in str(error)
        return False
    return True


@pytest.mark.parametrize("name", FILES)
def test_the_limit_is_exact(name):
    contents, pixels = FILES[name]
    assert passes(contents, pixels)
    assert not passes(contents, pixels - 1)


def test_the_animation_is_what_tensorflow_decodes():
    """The count of the blocks is right only if all frames are found, and TensorFlow finds as many."""
    frames = tf.io.decode_gif(animation(5, (WIDTH, HEIGHT)))
    assert frames.shape == (5, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize("name", hostile_images.readable())
def test_usual_files_pass(name):
    assert passes(hostile_images.readable()[name][0], 178_956_970)


def test_other_files_are_left_to_the_decoder():
    for contents in (b"", b"no image", b"GIF", b"GIF89a", b"\x89PNG\r\n\x1a\n", FILES["gif"][0][:40]):
        assert passes(contents, PIXELS)


def test_sizes_of_a_png_do_not_overflow():
    png = FILES["png"][0]
    assert not passes(png[:16] + b"\xff" * 8 + png[24:], 2**29)


def test_a_gif_of_endless_blocks_is_refused(monkeypatch):
    """Each block costs time, so their number is limited as well."""
    monkeypatch.setattr(image_headers, "MAX_GIF_BLOCKS", 100)
    head = FILES["gif"][0][:13]
    head = head[:10] + bytes([head[10] & 0x7F]) + head[11:]
    assert passes(head + b"!\xfe" + b"\x01x" * 90 + b"\0;", PIXELS)
    assert not passes(head + b"!\xfe" + b"\x01x" * 110 + b"\0;", PIXELS)


def test_larger_files_are_answered_like_files_that_are_no_images():
    names = [*FILES, "bmp"]
    contents = [contents for contents, _ in FILES.values()] + [encoded("BMP")]
    _, decoded = decode_batch(tf.constant(contents), (32, 32), PIXELS)
    assert dict(zip(names, decoded.numpy().tolist(), strict=True)) == {
        **dict.fromkeys(names, True),
        "gif of five frames": False,
    }
    _, decoded = decode_batch(tf.constant(contents), (32, 32), PIXELS - 1)
    assert dict(zip(names, decoded.numpy().tolist(), strict=True)) == {
        **dict.fromkeys(names, False),
        "bmp": True,
    }
