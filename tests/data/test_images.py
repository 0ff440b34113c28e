import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from refinedet_tf.data.images import decode_image, decode_window, warp_image


def quadrants():
    """40x60 pixels in four flat colours, which JPEG keeps almost exactly."""
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:20, :30], pixels[:20, 30:] = (250, 10, 5), (10, 200, 30)
    pixels[20:, :30], pixels[20:, 30:] = (20, 30, 220), (200, 180, 60)
    return pixels


def encoded(image, file_format, **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def photo(height, width):
    """Smooth colours with noise on them, uint8 [height, width, 3]."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(smooth + generator.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


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
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("L", "PNG"),
        ("P", "PNG"),
        ("RGB", "BMP"),
        ("L", "BMP"),
        ("P", "GIF"),
        ("RGB", "JPEG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
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
    decode = tf.function(decode_window)
    for height, width in ((64, 96), (61, 93), (7, 5), (1, 1)):
        contents = tf.constant(encoded(Image.fromarray(photo(height, width)), file_format, **options))
        whole = decode_image(contents)
        for _ in range(40):
            ymin, xmin = generator.integers(0, (height, width))
            ymax, xmax = generator.integers((ymin, xmin), (height, width)) + 1
            window = tf.constant([ymin, xmin, ymax, xmax], tf.int32)
            part = decode(contents, window, tf.constant([height, width]))
            tf_test.assertAllEqual(part, whole[ymin:ymax, xmin:xmax])


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


def test_16_bit_png_keeps_the_high_byte(tf_test):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    decoded = decode_image(encoded(Image.fromarray(values), "PNG")).numpy()
    tf_test.assertAllEqual(decoded, np.repeat((values >> 8)[..., None], 3, -1))


def test_first_frame_of_an_animation(tf_test):
    frames = [Image.new("P", (8, 6), index) for index in (3, 7)]
    for frame in frames:
        frame.putpalette(list(range(30)) + [0] * 738)
    contents = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    tf_test.assertAllEqual(decode_image(contents), np.full((6, 8, 3), [9, 10, 11]))


def test_exif_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate by 90 degrees to view"
    contents = encoded(Image.fromarray(quadrants()), "JPEG", quality=95, exif=exif)
    assert Image.open(io.BytesIO(contents)).getexif()[0x0112] == 6
    decoded = decode_image(contents).numpy().astype(int)
    assert decoded.shape == (40, 60, 3)
    assert np.abs(decoded[10, 15] - quadrants()[10, 15]).max() <= 4


@pytest.mark.parametrize(
    "contents", [b"", b"no image at all", b"BM", encoded(Image.new("RGB", (64, 64)), "JPEG")[:300]]
)
def test_broken_bytes_are_refused(contents):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_image(contents)


def test_bmp_with_a_color_palette_is_refused():
    contents = encoded(Image.fromarray(quadrants()).convert("P"), "BMP")
    with pytest.raises(tf.errors.InvalidArgumentError, match="palette"):
        decode_image(contents)


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
