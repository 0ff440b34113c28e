"""The choice of samples, the part of an image around a small object, and the matched anchors."""

import dataclasses

import numpy as np
import pytest
from inspected_set import CLASSES, TRAIN, write_config, write_voc_set
from small_datasets import dataset_of

from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import training_batches
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.reports.inspection import samples
from refinedet_tf.reports.inspection.samples import annotated_samples, augmented_samples


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return load_config(write_config(folder / "mine.json", write_voc_set(folder / "data")))


def test_objects_of_all_sizes_are_chosen(monkeypatch):
    sizes = [0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6, 0.95, 0.15, 0.55]
    dataset = dataset_of([[(1, 0, 0, size, size)] for size in sizes], class_names=("a",))
    chosen = []
    monkeypatch.setattr(
        samples, "_annotated_sample", lambda _, index, row, side, __: chosen.append((row, side))
    )
    list(annotated_samples(dataset, [3], (100, 100)))
    # Of the 11 that can be read, sorted by size, every (k + 0.5) / 6.
    expected = sorted(size for number, size in enumerate(sizes) if number != 3)
    assert [side for _, side in chosen] == pytest.approx([100 * expected[k] for k in (0, 2, 4, 6, 8, 10)])
    assert [row for row, _ in chosen] == [sizes.index(round(side / 100, 2)) for _, side in chosen]


def test_the_part_around_a_small_object():
    image = np.zeros((1000, 2000, 3), np.uint8)
    image[500:510, 1000:1010] = 255
    boxes = np.array([[0.5, 0.5, 0.51, 0.505], [0.0, 0.0, 0.1, 0.1]], np.float32)
    part, moved, is_part = samples._part_around(image, boxes, boxes[0])
    assert is_part
    assert part.shape == (80, 80, 3)
    top, left, bottom, right = (moved[0] * 80).round().astype(int)
    assert (bottom - top, right - left) == (10, 10)
    assert (part[top:bottom, left:right] == 255).all()
    assert part.astype(int).sum() == 255 * 300
    assert (moved[1] < 0).all()


def test_a_part_stays_within_the_image():
    image = np.zeros((100, 50, 3), np.uint8)
    boxes = np.array([[0.98, 0.0, 1.0, 0.04]], np.float32)
    part, moved, _ = samples._part_around(image, boxes, boxes[0])
    assert part.shape == (64, 50, 3)
    np.testing.assert_allclose(moved[0] * [64, 50, 64, 50], [62, 0, 64, 2], atol=1e-4)
    whole = np.array([[0.0, 0.0, 0.5, 0.05]], np.float32)
    assert samples._part_around(image, whole, whole[0])[2] is False


@pytest.mark.slow
def test_training_samples_are_those_of_the_training(config, monkeypatch):
    """Without the broken image, and with the anchors that overlap their object enough or best."""
    dataset = read_dataset(config.data, "train")
    broken = TRAIN.index("broken")
    drawn = []
    monkeypatch.setattr(
        samples, "draw_anchors", lambda image, anchors, colors: drawn.append((anchors, colors)) or image
    )
    monkeypatch.setattr(samples, "TRAINING_SAMPLES", 4)
    pictures = list(augmented_samples(dataset, {broken: "broken"}, config))
    assert len(pictures) == len(drawn) == 4
    readable = samples._subset(dataset, np.delete(np.arange(len(dataset)), broken))
    assert readable.image_ids == tuple(name for name in TRAIN if name != "broken")
    for new, name in enumerate(readable.image_ids):
        for a, b in zip(
            readable.image_annotations(new), dataset.image_annotations(TRAIN.index(name)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    few = dataclasses.replace(config, training=dataclasses.replace(config.training, batch_size=4))
    batch = next(training_batches(readable, few).as_numpy_iterator())
    anchors = tile_anchors(config.model.image_size)
    for row, (matched, colors) in enumerate(drawn):
        boxes = batch["boxes"][row][batch["labels"][row] > 0]
        sides = np.minimum(anchors[:, None, 2:], boxes[:, 2:]) - np.maximum(
            anchors[:, None, :2], boxes[:, :2]
        )
        inter = np.prod(np.maximum(sides, 0), axis=2)
        areas = [np.prod(a[:, 2:] - a[:, :2], axis=1) for a in (anchors, boxes)]
        ious = inter / (areas[0][:, None] + areas[1] - inter)
        reached = set(np.flatnonzero((ious >= 0.5).any(axis=1)))
        shown = {int(np.flatnonzero((anchors == anchor).all(axis=1))[0]) for anchor in matched}
        assert reached <= shown
        assert len(shown - reached) == sum(color == samples.FORCED_COLOR for color in colors)
        assert len(shown) >= len(boxes)


def test_nothing_to_show(config):
    dataset = read_dataset(config.data, "train")
    everything = range(len(dataset))
    assert list(augmented_samples(dataset, everything, config)) == []
    assert list(annotated_samples(dataset, everything, (128, 128))) == []
    assert dataset.class_names == CLASSES
