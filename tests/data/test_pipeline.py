import dataclasses
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from config_of import PLAIN, config_of
from PIL import Image
from small_datasets import dataset_of
from tiers import slow

from refinedet_tf.config import Config, ModelConfig
from refinedet_tf.data import pipeline
from refinedet_tf.data.images import warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.losses import LEFT_OUT

OBJECTS_PER_IMAGE = (2, 0, 3, 1, 1)


def pixels_of(index):
    return np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)


def make_dataset(folder):
    """Five PNGs; every third object is difficult."""
    paths = [folder / f"{index}.png" for index in range(len(OBJECTS_PER_IMAGE))]
    for index, path in enumerate(paths):
        Image.fromarray(pixels_of(index)).save(path)
    count = sum(OBJECTS_PER_IMAGE)
    low = np.random.default_rng(0).uniform(0, 0.5, (count, 2))
    rows = np.column_stack([np.arange(count) % 2 + 1, low, low + 0.4])
    return dataset_of(
        np.split(rows, np.cumsum(OBJECTS_PER_IMAGE)[:-1]),
        [pixels_of(index).shape[:2] for index in range(len(paths))],
        ("cat", "dog"),
        paths,
        difficult=np.arange(count) % 3 == 0,
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_dataset(tmp_path_factory.mktemp("images"))


def make_config(augmentation=None, data=None, **training):
    return config_of(
        model={"image_size": (64, 80)},
        augmentation=augmentation or {},
        data=data or {},
        training={"batch_size": 4, **training},
    )


def take(batches, count):
    return list(batches.take(count).as_numpy_iterator())


@pytest.fixture(scope="module")
def batches(dataset):
    """The first 25 batches, which are 20 epochs."""
    return take(pipeline.training_batches(dataset, make_config()), 25)


def assert_equal_batches(tf_test, first, second):
    assert len(first) == len(second) > 0
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for key in a:
            tf_test.assertAllEqual(a[key], b[key])


def test_only_the_number_of_objects_is_no_static_length(dataset):
    batches = pipeline.training_batches(dataset, make_config(PLAIN))
    assert batches.element_spec == {
        "images": tf.TensorSpec((4, 64, 80, 3), tf.uint8),
        "boxes": tf.TensorSpec((4, None, 4), tf.float32),
        "labels": tf.TensorSpec((4, None), tf.int32),
        "image_indices": tf.TensorSpec((4,), tf.int64),
    }
    assert batches.cardinality() == tf.data.INFINITE_CARDINALITY


def test_without_augmentation_images_and_objects_are_those_of_the_index(tf_test, dataset):
    for batch in take(pipeline.training_batches(dataset, make_config(PLAIN)), 3):
        for row, index in enumerate(batch["image_indices"]):
            expected = np.round(warp_image(pixels_of(index), (64, 80)))
            tf_test.assertAllEqual(batch["images"][row], expected)
            boxes, labels, _ = dataset.image_annotations(index)
            count = len(labels)
            tf_test.assertAllClose(batch["boxes"][row, :count], boxes, rtol=1e-7, atol=1e-6)
            tf_test.assertAllEqual(batch["labels"][row, :count], labels)
            assert not batch["boxes"][row, count:].any() and not batch["labels"][row, count:].any()


def test_every_epoch_is_a_permutation_of_its_own(tf_test, batches):
    epochs = np.concatenate([batch["image_indices"] for batch in batches]).reshape(20, 5)
    tf_test.assertAllEqual(np.sort(epochs, axis=1), np.tile(np.arange(5), (20, 1)))
    assert len({tuple(epoch) for epoch in epochs}) > 10


def test_an_image_is_augmented_differently_each_time(batches):
    first_image = [b["images"][row] for b in batches[:10] for row in np.flatnonzero(b["image_indices"] == 0)]
    assert len(first_image) == 8
    assert len({image.tobytes() for image in first_image}) == 8


def test_resuming_is_exact(tf_test, dataset, batches):
    resumed = take(pipeline.training_batches(dataset, make_config(), start_step=3), 4)
    assert_equal_batches(tf_test, resumed, batches[3:7])


def test_workers_share_the_batch(tf_test, dataset, batches):
    parts = [
        take(pipeline.training_batches(dataset, make_config(), start_step=2, shard=(index, 2)), 3)
        for index in range(2)
    ]
    joined = [{key: np.concatenate([a[key], b[key]]) for key in a} for a, b in zip(*parts, strict=True)]
    assert_equal_batches(tf_test, joined, batches[2:5])


def test_only_an_image_without_objects_is_a_background(tf_test, dataset):
    """Image 1 has no object, image 3 only a crowd region. Crops cut off the objects of other images."""
    dataset = dataclasses.replace(dataset, difficult=np.arange(7) == 5)
    config = make_config({"crop_min_ious": (0.1,), "crop_scale": (0.3, 0.5)}, {"format": "coco"})
    cut_off = set()
    for batch in take(pipeline.training_batches(dataset, config), 30):
        labels, indices = batch["labels"], batch["image_indices"]
        tf_test.assertAllEqual((labels == 0).all(axis=1), indices == 1)
        shown = (labels > 0).any(axis=1)
        tf_test.assertAllEqual((labels == LEFT_OUT).sum(axis=1), ~shown & (indices != 1))
        cut_off |= set(indices[~shown].tolist())
    assert {1, 3, 4} <= cut_off
    _, labels = pipeline.PaddedObjects(dataset, config).of(np.arange(5))
    tf_test.assertAllEqual(labels, [[1, 2, 0], [0, 0, 0], [1, 2, 1], [LEFT_OUT, 0, 0], [1, 0, 0]])


def test_data_without_any_object_still_has_a_padding_row(dataset):
    empty = dataclasses.replace(
        dataset,
        boxes=dataset.boxes[:0],
        labels=dataset.labels[:0],
        difficult=dataset.difficult[:0],
        offsets=np.zeros(6, np.int64),
    )
    (batch,) = take(pipeline.training_batches(empty, make_config(PLAIN)), 1)
    assert batch["boxes"].shape == (4, 1, 4) and not batch["boxes"].any() and not batch["labels"].any()


@pytest.mark.parametrize(
    ("images", "data", "labels"),
    [
        ([1], {}, [[0]]),  # No object.
        ([1, 3], {"use_difficult": False}, [[0], [LEFT_OUT]]),  # No object, and a difficult one.
        ([1, 3], {}, [[0], [2]]),
        ([0, 1, 2], {}, [[1, 2, 0], [0, 0, 0], [1, 2, 1]]),
        ([0, 1, 2], {"use_difficult": False}, [[2, 0], [0, 0], [1, 1]]),
        ([0, 1, 2], {"format": "coco"}, [[2, 0], [0, 0], [1, 1]]),
    ],
)
def test_objects_of_a_batch_without_augmentation(tf_test, dataset, images, data, labels):
    """A batch has at least one row, because an empty axis has no maximum."""
    dataset = dataclasses.replace(dataset, difficult=np.array([1, 0, 0, 1, 0, 1, 0], bool))
    config = make_config(data={"use_difficult": True, **data})
    boxes, found = pipeline.PaddedObjects(dataset, config).of(np.array(images))
    assert boxes.shape == (*found.shape, 4) and boxes.dtype == np.float32
    assert found.tolist() == labels
    assert not boxes[found < 1].any()
    for row, image in enumerate(images):
        all_boxes, all_labels, difficult = dataset.image_annotations(image)
        kept = ~difficult if data else np.ones(len(all_labels), bool)
        tf_test.assertAllEqual(boxes[row][found[row] > 0], all_boxes[kept])


@pytest.fixture
def crowded(dataset):
    """The first image has 1,000 objects, the others have 9, 0, 1 and 20."""
    counts = np.array([1000, 9, 0, 1, 20])
    low = np.random.default_rng(0).uniform(0, 0.5, (counts.sum(), 2))
    return dataclasses.replace(
        dataset,
        boxes=np.concatenate([low, low + 0.4], axis=1).astype(np.float32),
        labels=np.ones(counts.sum(), np.int32),
        difficult=np.zeros(counts.sum(), bool),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_batch_is_padded_to_its_own_need(tf_test, crowded, batch_size):
    """An image of 1,000 objects lengthens only the batches that it is in."""
    lengths = {}
    for batch in take(pipeline.training_batches(crowded, make_config(PLAIN, batch_size=batch_size)), 25):
        counts = [len(crowded.image_annotations(index)[1]) for index in batch["image_indices"]]
        lengths.setdefault(max(counts), set()).add(batch["labels"].shape[1])
        assert batch["boxes"].shape[1] == batch["labels"].shape[1]
        tf_test.assertAllEqual((batch["labels"] > 0).sum(axis=1), counts)
        for row, index in enumerate(batch["image_indices"]):
            boxes, _, _ = crowded.image_annotations(index)
            tf_test.assertAllClose(batch["boxes"][row, : len(boxes)], boxes, rtol=1e-7, atol=1e-6)
            assert not batch["boxes"][row, len(boxes) :].any()
    expected = {1000: {1000}, 20: {24}, 9: {12}, 1: {8}, 0: {8}}
    assert lengths == {most: expected[most] for most in lengths} and lengths.keys() >= {1000, 20, 9}
    assert batch_size > 1 or lengths == expected


@pytest.mark.parametrize(
    ("max_boxes", "lengths"),
    [
        (0, [1]),
        (1, [1]),
        (8, [8]),
        (9, [8, 9]),
        (42, [8, 12, 16, 24, 32, 42]),
        (64, [8, 12, 16, 24, 32, 48, 64]),
    ],
)
def test_padded_lengths(max_boxes, lengths):
    assert pipeline.padded_lengths(max_boxes) == lengths


def test_evaluation_reads_every_image_once_in_order(tf_test, dataset):
    batches = take(pipeline.evaluation_batches(dataset, (16, 24), 2), -1)
    assert [batch["image_indices"].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    images = np.concatenate([batch["images"] for batch in batches])
    tf_test.assertDTypeEqual(images, np.float32)
    for index in range(5):
        tf_test.assertAllEqual(images[index], warp_image(pixels_of(index), (16, 24)))


def test_training_images_are_those_of_the_next_steps(dataset, monkeypatch):
    monkeypatch.setattr(pipeline, "_PREFETCH_STEPS", 1)
    config = make_config(PLAIN, batch_size=3)
    batches = take(pipeline.training_batches(dataset, config), 9)
    for step in (0, 3, 8):
        assert pipeline.training_images(dataset, config, step).tolist() == sorted(
            set(batches[step]["image_indices"].tolist())
        )


def truncate(path):
    Path(path).write_bytes(Path(path).read_bytes()[:200])


def save_transposed(path):
    with Image.open(path) as image:
        turned = image.transpose(Image.Transpose.ROTATE_90)
    turned.save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, r"3\.png cannot be decoded: it is truncated"),
        slow(lambda path: Path(path).write_text("no image"), r"3\.png cannot be decoded"),
        slow(lambda path: Path(path).unlink(), r"3\.png does not exist \(any more\)"),
        (save_transposed, r"3\.png: the annotation says 30x23 \(width x height\), the file is 23x30"),
    ],
)
def test_a_failure_names_the_image(tmp_path, damage, message):
    dataset = make_dataset(tmp_path)
    damage(dataset.image_paths[3])
    config = make_config()
    with pytest.raises(tf.errors.OpError) as training_error:
        take(pipeline.training_batches(dataset, config), 2)
    candidates = pipeline.training_images(dataset, config, step=0)
    explained = pipeline.explain_failure(dataset, training_error.value, candidates)
    assert isinstance(explained, InputError)
    with pytest.raises(InputError, match=message):
        raise explained
    with pytest.raises(tf.errors.OpError) as evaluation_error:
        take(pipeline.evaluation_batches(dataset, (16, 24), 2), -1)
    with pytest.raises(InputError, match=message):
        raise pipeline.explain_failure(dataset, evaluation_error.value)


def test_a_failure_that_no_image_caused_is_returned_as_it_is(dataset):
    error = tf.errors.ResourceExhaustedError(None, None, "out of memory")
    assert pipeline.explain_failure(dataset, error) is error


def test_wrong_settings_are_refused(dataset):
    with pytest.raises(InputError, match="training.batch_size 4 must be a multiple .* 3"):
        pipeline.training_batches(dataset, make_config(), shard=(0, 3))
    with pytest.raises(InputError, match="model.image_size is null"):
        pipeline.training_batches(dataset, Config(model=ModelConfig(image_size=None)))
    empty = dataclasses.replace(dataset, image_ids=(), image_paths=(), offsets=np.zeros(1, np.int64))
    with pytest.raises(InputError, match="no images"):
        pipeline.training_batches(empty, make_config())
    with pytest.raises(InputError, match="no images"):
        pipeline.evaluation_batches(empty, (16, 24), 2)
