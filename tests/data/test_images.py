import io
import itertools
import re

import numpy as np
import pytest
import tensorflow as tf
from gif_files import gif
from image_files import encoded
from image_reader_files import UPRIGHT, photo, readable, turned, unreadable
from PIL import Image

from refinedet_tf.data import images
from refinedet_tf.data.image_formats import ANIMATED_WEBP, UNKNOWN_BMP
from refinedet_tf.data.images import UNKNOWN_FORMAT, decode_image, decode_window, warp_image

WINDOW = tf.function(decode_window)


def quadrants():
    """40x60 pixels in four flat colours, which JPEG keeps almost exactly."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:] = (250, 10, 5), (10, 200, 30)
    pixels[20:, :30], pixels[20:, 30:] = (20, 30, 220), (200, 180, 60)
    return pixels


@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_jpeg_pixels_against_libjpeg(compare, subsampling, in_graph):
    """Pillow leaves libjpeg at its defaults, as OpenCV does, with which the authors read their images."""
    decode = tf.function(decode_image, input_signature=[tf.TensorSpec([], tf.string)])
    decode = decode if in_graph else decode_image
    for quality in (30, 75, 95, 100):
        for height, width in ((64, 96), (61, 93), (1, 1)):
            for options in ({}, {"progressive": True}):
                image = Image.fromarray(photo(height, width))
                contents = encoded(image, "JPEG", quality=quality, subsampling=subsampling, **options)
                expected = np.asarray(Image.open(io.BytesIO(contents)))
                found = decode(tf.constant(contents)).numpy()
                compare.same("pixels", f"JPEG, chroma {subsampling}, quality 30 to 100", found, expected)


@pytest.mark.parametrize(
    ("mode", "file_format"),
    [
        *((mode, "PNG") for mode in ("RGB", "RGBA", "L", "P")),
        *((mode, "BMP") for mode in ("RGB", "L")),
        ("P", "GIF"),
        *((mode, "JPEG") for mode in ("RGB", "L", "CMYK")),
    ],
)
def test_decodes_the_pixels_that_pillow_decodes(tf_test, mode, file_format):
    contents = encoded(Image.fromarray(quadrants()).convert(mode), file_format)
    expected = np.asarray(Image.open(io.BytesIO(contents)).convert("RGB"), np.int32)
    decoded = decode_image(contents)
    tf_test.assertDTypeEqual(decoded, np.uint8)
    difference = np.abs(decoded.numpy() - expected)
    if mode == "CMYK":  # The two convert it to RGB with other formulas.
        assert difference[4:12, 4:24].max() <= 4 and difference[24:32, 36:56].max() <= 4
        assert difference.mean() < 2
    else:
        assert difference.max() == 0


@pytest.mark.parametrize("file_format", ["JPEG", "PNG"])
def test_a_window_of_an_image_of_another_size_is_refused(file_format):
    contents = encoded(Image.fromarray(quadrants()), file_format)
    with pytest.raises(tf.errors.InvalidArgumentError, match="image size"):
        decode_window(contents, tf.constant([0, 0, 8, 8]), tf.constant([40, 61]))


def test_a_jpeg_that_is_cut_off_is_refused_although_the_window_is_there(tf_test):
    contents = encoded(Image.fromarray(photo(200, 200)), "JPEG")
    window, size = tf.constant([0, 0, 8, 8]), tf.constant([200, 200])
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_window(contents[: len(contents) * 3 // 4], window, size)
    # Some cameras and editors append bytes to a complete image.
    appended = decode_window(contents + b"more", window, size)
    tf_test.assertAllEqual(appended, decode_window(contents, window, size))


def check_windows(tf_test, contents, count, generator):
    """Random windows have the pixels of the whole image."""
    whole = decode_image(contents)
    height, width, _ = whole.shape
    for _ in range(count):
        ymin, xmin = generator.integers(0, (height, width))
        ymax, xmax = generator.integers((ymin, xmin), (height, width)) + 1
        part = WINDOW(contents, tf.constant([ymin, xmin, ymax, xmax], tf.int32), tf.constant([height, width]))
        tf_test.assertAllEqual(part, whole[ymin:ymax, xmin:xmax])


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("JPEG", {"subsampling": "4:4:4"}),
        ("JPEG", {"subsampling": "4:2:2"}),
        ("JPEG", {"subsampling": "4:2:0"}),
        ("JPEG", {"subsampling": "4:2:0", "progressive": True}),
        ("PNG", {}),
    ],
)
def test_a_window_has_the_pixels_of_the_whole_image(tf_test, file_format, options):
    generator = np.random.default_rng(1)
    for height, width in ((64, 96), (61, 93), (7, 5), (1, 1)):
        contents = tf.constant(encoded(Image.fromarray(photo(height, width)), file_format, **options))
        check_windows(tf_test, contents, 40, generator)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("JPEG", {"subsampling": "4:2:0"}), ("JPEG", {"subsampling": "4:4:4"}), ("PNG", {}), ("WEBP", {})],
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_window_of_a_turned_image(tf_test, orientation, kind, options):
    contents = tf.constant(turned(orientation, kind, **options))
    assert decode_image(contents).shape == (*UPRIGHT, 3)
    check_windows(tf_test, contents, 25, np.random.default_rng(orientation))


@pytest.mark.parametrize("name", readable())
def test_outside_of_a_graph(tf_test, name):
    contents, pixels = readable()[name]
    tf_test.assertAllEqual(decode_image(contents), pixels)


def bmp(bits, compression=0, mode="RGB"):
    """The bytes of a BMP whose header claims these bits per pixel and this compression."""
    contents = encoded(Image.fromarray(quadrants()).convert(mode), "BMP")
    return contents[:28] + bytes([bits, 0, compression]) + contents[31:]


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        (b"", UNKNOWN_FORMAT),
        (b"no image at all", UNKNOWN_FORMAT),
        (b"RIFF\0\0\0\0WAVE", UNKNOWN_FORMAT),
        (b"BM", UNKNOWN_BMP),
        (bmp(8, compression=1, mode="L"), UNKNOWN_BMP),
        (bmp(24, compression=3), UNKNOWN_BMP),
        (bmp(16), UNKNOWN_BMP),
        (encoded(Image.new("1", (64, 64)), "BMP"), UNKNOWN_BMP),
        (unreadable()["animated WebP"][0], ANIMATED_WEBP),
        (encoded(Image.new("RGB", (64, 64)), "JPEG")[:300], "jpeg::Uncompress failed"),
        (encoded(Image.fromarray(quadrants()), "BMP")[:-1], "Input size should match"),
        (gif((8, 8)), "DecodeGif"),
        (
            b"RIFF\0\0\0\0WEBP" + encoded(Image.new("RGB", (9, 9)), "WEBP", lossless=True)[20:],
            "Input is empty",
        ),
    ],
)
def test_broken_bytes_are_refused(contents, reason):
    with pytest.raises(tf.errors.InvalidArgumentError, match=re.escape(reason)):
        decode_image(contents)


def test_transparent_pixels_of_a_gif_are_black(tf_test):
    frame = Image.new("P", (8, 6), 1)
    frame.putpalette([90, 90, 90, 9, 10, 11])
    frame.putpixel((2, 3), 0)
    expected = np.full((6, 8, 3), [9, 10, 11])
    expected[3, 2] = 0
    tf_test.assertAllEqual(decode_image(encoded(frame, "GIF", transparency=0)), expected)


def bilinear(image, height, width):
    """Half-pixel bilinear interpolation, pixel by pixel."""
    result = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            y = np.clip((row + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
            x = np.clip((column + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
            upper = image[top, left] * (1 - (x - left)) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - (x - left)) + image[bottom, right] * (x - left)
            result[row, column] = upper * (1 - (y - top)) + lower * (y - top)
    return result


@pytest.mark.parametrize("size", [(5, 31), (24, 11), (13, 17)])
def test_warp_is_bilinear_with_half_pixel_centers(tf_test, size):
    image = np.random.default_rng(0).integers(0, 256, (13, 17, 3), dtype=np.uint8)
    warped = warp_image(image, size)
    tf_test.assertDTypeEqual(warped, np.float32)
    tf_test.assertAllClose(warped, bilinear(image.astype(float), *size), rtol=1e-7, atol=1e-3)


def test_no_two_parts_of_the_decoding_run_side_by_side():
    """TensorFlow may report the part that it has cancelled, and not the one that has failed."""
    graph = images._decode.get_concrete_function().graph

    def before(operation, found):
        for other in [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]:
            if other.name not in found:
                found.add(other.name)
                before(other, found)
        return found

    parts = [o for o in graph.get_operations() if o.type.endswith(("If", "Call", "While", "Case"))]
    assert len(parts) > 2
    for first, second in itertools.combinations(parts, 2):
        assert first.name in before(second, set()) or second.name in before(first, set())
