import colorsys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from config_of import PLAIN
from detections_by_loops import iou
from image_files import noise

from refinedet_tf.config import AugmentationConfig
from refinedet_tf.data import augment as augmentation
from refinedet_tf.data import crop
from refinedet_tf.data.augment import FILL_COLOR, _resize
from refinedet_tf.data.color import (
    DISTORTION_NUMBERS,
    adjust_saturation_and_hue,
    distort_color,
    draw_distortion,
)
from refinedet_tf.data.images import warp_image
from refinedet_tf.data.sample_draw import KERNELS, draw_sample

DEFAULT = AugmentationConfig()
BOXES = np.array([[0.1, 0.2, 0.5, 0.6], [0.3, 0.3, 0.9, 0.95], [0.6, 0.1, 0.7, 0.2]], np.float32)
LABELS = np.array([1, 2, 3], np.int32)
IMAGE = noise(48, 64)


def draw(function, count, dtype=tf.float32, times=1):
    """`function(seed)` for `count` seeds, stacked; with `times`, a list of as many such results."""
    seeds = tf.stack([tf.fill([count], tf.constant(7, tf.int64)), tf.range(count, dtype=tf.int64)], axis=1)
    mapped = tf.function(lambda s: tf.map_fn(function, s, fn_output_signature=dtype))
    results = [tf.nest.map_structure(lambda t: t.numpy(), mapped(seeds)) for _ in range(times)]
    return results if times > 1 else results[0]


def augment(image, boxes, labels, *arguments):
    """Augments the pixels of an image in a file that keeps them."""
    contents, size = tf.io.encode_png(image), tf.constant(image.shape[:2])
    boxes, labels = tf.convert_to_tensor(boxes), tf.convert_to_tensor(labels)
    return augmentation.augment(contents, size, boxes, labels, *arguments)


def uniform(seed, count):
    return tf.random.stateless_uniform([count], seed, alg="philox")


def sample_crop(boxes, seed, config, num_objects=None):
    """A crop of which only the first objects are no padding; by default all."""
    is_object = tf.range(len(boxes)) < (len(boxes) if num_objects is None else num_objects)
    return crop.sample_crop(boxes, is_object, uniform(seed, crop.crop_numbers(config)), config)


def distort(planes, seed, config):
    """Distorts planes [3, H, W]."""
    drawn = draw_distortion(uniform(seed, DISTORTION_NUMBERS), config)
    return tf.stack(distort_color(tf.unstack(planes), drawn))


# Windows


def test_window_coordinates_round_trip(tf_test):
    window = tf.constant([-0.5, -1.0, 1.5, 1.0])
    inside = crop.into_window(tf.constant([[0.0, 0.0, 1.0, 1.0]]), window)
    tf_test.assertAllClose(inside, [[0.25, 0.5, 0.75, 1.0]], rtol=1e-7, atol=0)
    tf_test.assertAllClose(crop.out_of_window(inside, window), [[0, 0, 1, 1]], rtol=1e-7, atol=1e-6)


def test_objects_stay_by_their_centers_and_are_cut(tf_test):
    boxes = tf.constant([[0.0, 0.0, 0.7, 0.8], [0.0, 0.0, 0.4, 0.4], [0.5, 0.5, 1.0, 1.0]])
    moved, keep = crop.boxes_in_window(boxes, tf.constant([0.25, 0.25, 0.75, 0.75]))
    tf_test.assertAllEqual(keep, [True, False, True])
    tf_test.assertAllClose(moved.numpy()[keep], [[0, 0, 0.9, 1], [0.5, 0.5, 1, 1]], rtol=1e-7, atol=1e-6)


def test_expansion_happens_with_its_probability_and_covers_the_image(tf_test):
    windows = draw(lambda seed: crop.sample_expansion(uniform(seed, 4), DEFAULT), 2000)
    height, width = (windows[:, 2:] - windows[:, :2]).T
    tf_test.assertAllClose(height, width, rtol=1e-5, atol=0)
    expanded = height > 1
    assert abs(expanded.mean() - 0.5) < 0.05
    assert height.max() <= 4 + 1e-5
    assert abs(height[expanded].mean() - 2.5) < 0.1
    assert windows[:, :2].max() <= 0 and windows[:, 2:].min() >= 1 - 1e-5
    tf_test.assertAllEqual(windows[~expanded], [[0, 0, 1, 1]] * (~expanded).sum())
    place = -windows[expanded, :2] / (height[expanded, None] - 1)
    tf_test.assertAllClose(place.mean(axis=0), [0.5, 0.5], rtol=1e-7, atol=0.05)


def test_trials_keep_scale_and_aspect_ratio_limits():
    trials = crop._sample_trials(tf.reshape(uniform([1, 2], 8000), [2000, 4]), DEFAULT).numpy()
    height, width = (trials[:, 2:] - trials[:, :2]).T
    scale, aspect = np.sqrt(height * width), width / height
    assert trials.min() >= 0 and trials.max() <= 1 + 1e-6
    assert 0.3 - 1e-5 <= scale.min() < 0.32 and 0.98 < scale.max() <= 1 + 1e-5
    assert 0.5 - 1e-4 <= aspect.min() < 0.52 and 1.95 < aspect.max() <= 2 + 1e-4
    assert (aspect >= scale**2 - 1e-4).all() and (aspect <= 1 / scale**2 + 1e-4).all()


def test_crop_is_drawn_from_the_first_success_of_each_sampler():
    def sample(seed):
        numbers = uniform(seed, crop.crop_numbers(DEFAULT))
        trials = crop._sample_trials(tf.reshape(numbers[:-1], [6, 50, 4]), DEFAULT)
        return sample_crop(tf.constant(BOXES), seed, DEFAULT), trials

    crops, trials = draw(sample, 300, (tf.float32, tf.float32))
    limits = [*DEFAULT.crop_min_ious, -1]
    proposals_made, ranks = [], []
    for chosen, of_samplers in zip(crops, trials, strict=True):
        proposals = [np.array([0, 0, 1, 1])]
        for limit, of_sampler in zip(limits, of_samplers, strict=True):
            good = (t for t in of_sampler if max(iou(t, box) for box in BOXES) >= limit)
            proposals += [p for p in [next(good, None)] if p is not None]
        matches = [np.allclose(chosen, proposal, atol=1e-6) for proposal in proposals]
        assert any(matches)
        proposals_made.append(len(proposals))
        ranks.append(matches.index(True))
    assert min(proposals_made) < 7 == max(proposals_made)
    expected_whole = np.mean(1 / np.array(proposals_made))
    assert abs(np.mean(np.array(ranks) == 0) - expected_whole) < 0.06


@pytest.mark.parametrize(
    ("boxes", "num_objects"),
    [(np.zeros((0, 4)), 0), ([[0.5, 0.5, 0.501, 0.501]], 1), ([[0.5, 0.5, 0.501, 0.501], [0, 0, 1, 1]], 1)],
    ids=["none", "small", "padded"],
)
def test_without_a_crop_that_fits_an_object_whole_or_unconstrained(boxes, num_objects):
    boxes = tf.constant(boxes, tf.float32)
    crops = draw(lambda seed: sample_crop(boxes, seed, DEFAULT, num_objects), 400)
    whole = (crops == [0, 0, 1, 1]).all(axis=1)
    assert abs(whole.mean() - 0.5) < 0.08
    assert (crops[~whole, 2:] - crops[~whole, :2]).min() > 0.2


# Colours


def test_saturation_and_hue_against_colorsys(tf_test):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 9, 3)).astype(np.float32)
    pixels[0] = 128  # gray has no hue
    pixels[1, 0] = 0
    for saturation, hue in [(1.0, 0.0), (1.5, 18.0), (0.5, -18.0), (1.0, 90.0)]:
        expected = np.empty_like(pixels)
        for place in np.ndindex(pixels.shape[:2]):
            h, s, v = colorsys.rgb_to_hsv(*(pixels[place] / 255))
            expected[place] = colorsys.hsv_to_rgb((h + hue / 180) % 1, min(s * saturation, 1), v)
        tf_test.assertAllClose(
            tf.stack(adjust_saturation_and_hue(tf.unstack(pixels, axis=-1), saturation, hue), axis=-1),
            expected * 255,
            rtol=1e-7,
            atol=0.01,
        )


def only(**ranges):
    """Distortion with probability 1, neutral but for `ranges`."""
    neutral = {"brightness": 0.0, "contrast": (1.0, 1.0), "saturation": (1.0, 1.0), "hue": 0.0}
    return AugmentationConfig(distortion_probability=1.0, **{**neutral, **ranges})


def test_each_distortion_keeps_its_range(tf_test):
    pixel = tf.constant([100.0, 80.0, 60.0])[:, None, None]

    def distorted(config):
        return draw(lambda seed: distort(pixel, seed, config)[:, 0, 0], 500)

    added = distorted(only(brightness=32.0)) - [100, 80, 60]
    tf_test.assertAllClose(added, added[:, :1] * np.ones(3), rtol=1e-7, atol=1e-4)
    assert -32 <= added.min() < -30 and 30 < added.max() <= 32
    factor = distorted(only(contrast=(0.5, 1.5))) / [100, 80, 60]
    tf_test.assertAllClose(factor, factor[:, :1] * np.ones(3), rtol=1e-7, atol=1e-5)
    assert 0.5 <= factor.min() < 0.52 and 1.48 < factor.max() <= 1.5
    saturated = np.array([colorsys.rgb_to_hsv(*p) for p in distorted(only(saturation=(0.5, 1.5)))])
    assert 0.2 - 1e-4 <= saturated[:, 1].min() < 0.21 and 0.59 < saturated[:, 1].max() <= 0.6 + 1e-4
    turned = np.array([colorsys.rgb_to_hsv(*p) for p in distorted(only(hue=18.0))])[:, 0]
    turn = (turned - colorsys.rgb_to_hsv(100, 80, 60)[0] + 0.5) % 1 - 0.5
    assert -0.1 - 1e-4 <= turn.min() < -0.095 and 0.095 < turn.max() <= 0.1 + 1e-4


def test_distortions_happen_with_their_probability_and_independently():
    gray = tf.fill([3, 1, 1], 100.0)
    config = replace(only(brightness=32.0, contrast=(1.2, 1.2)), distortion_probability=0.5)
    values = draw(lambda seed: distort(gray, seed, config)[0, 0, 0], 2000)
    nothing, contrast_alone = np.isclose(values, 100).mean(), np.isclose(values, 120).mean()
    assert abs(nothing - 0.25) < 0.04 and abs(contrast_alone - 0.25) < 0.04


def test_contrast_comes_before_saturation_or_after_it_evenly():
    # Red clips at 255 when contrast comes first, so that saturation finds another colour.
    pixel = tf.constant([200.0, 100.0, 50.0])[:, None, None]
    config = only(contrast=(1.5, 1.5), saturation=(0.5, 0.5))
    greens = draw(lambda seed: distort(pixel, seed, config)[1, 0, 0], 1000)
    contrast_first = np.isclose(greens, 255 - (255 - 150) * 0.5)
    contrast_last = np.isclose(greens, (200 - (200 - 100) * 0.5) * 1.5)
    assert (contrast_first | contrast_last).all()
    assert abs(contrast_first.mean() - 0.5) < 0.06


def test_values_are_clipped(tf_test):
    planes = tf.constant([-30.0, 300.0, 128.0])[:, None, None]
    tf_test.assertAllEqual(distort(planes, [0, 0], PLAIN)[:, 0, 0], [0, 255, 128])


# Whole samples


def test_nothing_drawn_is_the_plain_warp(tf_test):
    image, boxes, labels = augment(IMAGE, BOXES, LABELS, [0, 0], (40, 56), PLAIN)
    tf_test.assertDTypeEqual(image, np.uint8)
    tf_test.assertAllEqual(image, np.round(warp_image(IMAGE, (40, 56))))
    tf_test.assertAllClose(boxes, BOXES, rtol=1e-7, atol=1e-6)
    tf_test.assertAllEqual(labels, LABELS)


@pytest.mark.parametrize(("horizontal", "vertical"), [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_flips(tf_test, horizontal, vertical):
    config = replace(PLAIN, horizontal_flip_probability=horizontal, vertical_flip_probability=vertical)
    image, boxes, _ = augment(IMAGE, BOXES, LABELS, [0, 0], (48, 64), config)
    expected, corners = IMAGE, BOXES.copy()
    if horizontal:
        expected, corners[:, [1, 3]] = expected[:, ::-1], 1 - corners[:, [3, 1]]
    if vertical:
        expected, corners[:, [0, 2]] = expected[::-1], 1 - corners[:, [2, 0]]
    tf_test.assertAllEqual(image, expected)
    tf_test.assertAllClose(boxes, corners, rtol=1e-7, atol=1e-6)


def test_horizontal_flip_has_probability_one_half():
    config = replace(PLAIN, horizontal_flip_probability=0.5)
    flips = draw(
        lambda seed: draw_sample(BOXES, LABELS, seed, tf.constant([4, 4]), (4, 4), config).flip, 1000, tf.bool
    )
    assert not flips[:, 0].any() and abs(flips[:, 1].mean() - 0.5) < 0.06


def test_expansion_fills_with_the_mean_color_whatever_the_distortion():
    config = replace(PLAIN, expand_probability=1.0, expand_ratio=(4.0, 4.0), distortion_probability=1.0)
    black = np.zeros((30, 30, 3), np.uint8)
    full = np.array([[0, 0, 1, 1]], np.float32)
    images, boxes = draw(
        lambda seed: augment(black, full, LABELS[:1], seed, (80, 80), config)[:2], 20, (tf.uint8, tf.float32)
    )
    for image, (ymin, xmin, ymax, xmax) in zip(images, np.round(boxes[:, 0] * 80).astype(int), strict=True):
        filled = (image == FILL_COLOR).all(axis=-1)
        assert not filled[ymin:ymax, xmin:xmax].any()
        assert filled.sum() == 80 * 80 - (ymax - ymin) * (xmax - xmin)
        assert 19 <= ymax - ymin <= 21 and 19 <= xmax - xmin <= 21


def test_boxes_bound_their_objects(tf_test):
    image = np.full((90, 120, 3), FILL_COLOR, np.uint8)
    image[30:60, 24:72] = (250, 0, 250)
    box = np.array([[30 / 90, 24 / 120, 60 / 90, 72 / 120]], np.float32)
    config = replace(DEFAULT, distortion_probability=0.0, vertical_flip_probability=0.5)

    def sample(seed):
        pixels, boxes, labels = augment(image, box, LABELS[:1], seed, (160, 160), config)
        return pixels, tf.pad(boxes, [[0, 1 - tf.shape(boxes)[0]], [0, 0]]), tf.size(labels)

    images, boxes, counts = draw(sample, 200, (tf.uint8, tf.float32, tf.int32))
    assert (counts == 1).sum() > 150
    for pixels, corners in zip(images[counts == 1], boxes[counts == 1, 0] * 160, strict=True):
        colored = np.abs(pixels.astype(int) - FILL_COLOR).sum(axis=-1) > 172
        rows, columns = np.flatnonzero(colored.any(axis=1)), np.flatnonzero(colored.any(axis=0))
        seen = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        # An enlarged pixel of the image is at most 6 pixels of the sample wide; its edge is blurred.
        tf_test.assertAllClose(corners, seen, rtol=1e-7, atol=3)


def test_kernels_differ_and_all_five_are_used():
    config = replace(PLAIN, random_interpolation=True)
    images = draw(lambda seed: augment(IMAGE, BOXES, LABELS, seed, (16, 16), config)[0], 60, tf.uint8)
    assert len({image.tobytes() for image in images}) == 5


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_have_the_values_of_tensorflow(tf_test, kernel):
    # Both are traced, because TensorFlow leaves out the kernel where it knows that the size stays.
    resize, of_tensorflow = tf.function(_resize), tf.function(tf.image.resize)
    for height, width in [(48, 64), (1, 1), (7, 33)]:
        image = tf.constant(noise(height, width))
        for size in [(16, 16), (100, 31), (1, 90), (48, 64)]:
            expected = tf.cast(of_tensorflow(image, tf.constant(size), method=kernel), tf.float32)
            # Lanczos weights of a size that stays are rounded otherwise, and TensorFlow takes cubic weights
            # from a table with 1024 steps per pixel, whose errors add up to 0.2 grey values.
            atol = {"lanczos3": 0.005, "bicubic": 0.25}.get(kernel, 0)
            tf_test.assertAllClose(resize(image, tf.constant(size), kernel), expected, rtol=0, atol=atol)


def plain_change(pixels, distortion):
    """The same changes as `distort_color`, by TensorFlow's HSV functions, one after the other."""

    def contrast(pixels):
        return np.clip(pixels * distortion.contrast, 0, 255)

    pixels = np.clip(pixels + distortion.brightness, 0, 255)
    pixels = contrast(pixels) if distortion.contrast_first else pixels
    hue, saturation, value = tf.unstack(tf.image.rgb_to_hsv(pixels / 255), axis=-1)
    hue = (hue + distortion.hue / 180) % 1
    saturation = tf.minimum(saturation * distortion.saturation, 1)
    pixels = tf.image.hsv_to_rgb(tf.stack([hue, saturation, value], axis=-1)).numpy() * 255
    return pixels if distortion.contrast_first else contrast(pixels)


def test_compiled_colors_fill_and_flips_against_tensorflow_without_xla():
    """The window and the kernel are drawn alike, because they do not depend on the other settings."""
    box, same_draws = BOXES[:1], {"expand_probability": 0.7, "random_interpolation": False}
    plain = replace(DEFAULT, **same_draws, distortion_probability=0.0, horizontal_flip_probability=0.0)
    changed = replace(DEFAULT, **same_draws, vertical_flip_probability=0.5)
    for number in range(20):
        before = augment(IMAGE, box, LABELS[:1], [3, number], (32, 40), plain)[0].numpy()
        found = augment(IMAGE, box, LABELS[:1], [3, number], (32, 40), changed)[0].numpy()
        drawn = draw_sample(box, LABELS[:1], [3, number], tf.constant([48, 64]), (32, 40), changed)
        expected, flip = plain_change(before.astype(np.float32), drawn.distortion), drawn.flip
        filled = (before == FILL_COLOR).all(axis=-1, keepdims=True)
        expected = np.where(filled, before, expected)
        for axis in (0, 1):
            expected = np.flip(expected, axis) if flip[axis] else expected
        # `before` is rounded, and contrast and saturation enlarge its error of half a grey value.
        assert np.abs(found - expected).mean() < 1
        filled = np.flip(filled, [axis for axis in (0, 1) if flip[axis]])
        assert (found == FILL_COLOR).all(axis=-1)[filled[..., 0]].all()


def test_samples_are_valid_and_depend_on_the_seed_alone(tf_test):
    def sample(seed):
        pixels, boxes, labels = augment(IMAGE, BOXES, LABELS, seed, (32, 40), DEFAULT)
        padding = 3 - tf.shape(labels)[0]
        return pixels, tf.pad(boxes, [[0, padding], [0, 0]]), tf.pad(labels, [[0, padding]])

    types = (tf.uint8, tf.float32, tf.int32)
    (images, boxes, labels), again = draw(sample, 300, types, times=2)
    assert images.shape == (300, 32, 40, 3)
    real = boxes[labels > 0]
    assert real.min() >= 0 and real.max() <= 1 and (real[:, 2:] > real[:, :2]).all()
    assert set(labels.ravel()) == {0, 1, 2, 3}
    for first, second in zip((images, boxes, labels), again, strict=True):
        tf_test.assertAllEqual(first, second)
    assert len({image.tobytes() for image in images}) > 290


def test_padding_changes_nothing(tf_test):
    boxes, labels = np.pad(BOXES, [[0, 5], [0, 0]]), np.pad(LABELS, [0, 5])
    boxes[3:] = 0, 0, 1, 1
    for number in range(20):
        expected = augment(IMAGE, BOXES, LABELS, [5, number], (32, 40), DEFAULT)
        padded = augment(IMAGE, boxes, labels, [5, number], (32, 40), DEFAULT)
        for value, expected_value in zip(padded, expected, strict=True):
            tf_test.assertAllEqual(value, expected_value)


@pytest.mark.parametrize("config", [PLAIN, DEFAULT])
def test_image_without_objects(config):
    empty = np.zeros((0, 4), np.float32), np.zeros(0, np.int32)
    samples = [augment(IMAGE, *empty, [7, number], (8, 8), config) for number in range(20)]
    assert np.stack([image for image, _, _ in samples]).std() > 10
    for image, boxes, labels in samples:
        assert (image.shape, boxes.shape, labels.shape) == ((8, 8, 3), (0, 4), (0,))


def test_window_that_shows_no_image(tf_test, monkeypatch):
    monkeypatch.setattr(
        "refinedet_tf.data.sample_draw.sample_window", lambda *_: tf.constant([-2.0, 0.0, -1.0, 1.0])
    )
    image, boxes, labels = augment(IMAGE, BOXES, LABELS, [0, 0], (8, 8), PLAIN)
    tf_test.assertAllEqual(image, np.full((8, 8, 3), FILL_COLOR))
    assert boxes.shape == (0, 4) and labels.shape == (0,)
