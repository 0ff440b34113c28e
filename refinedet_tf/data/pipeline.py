"""Batches of training samples and of evaluation images, as `tf.data.Dataset`s.

The training data is a function of the sample counter alone: counter i is row `i % batch_size` of
step `i // batch_size`, it lies in epoch `i // N`, and (seed, epoch) fix the epoch's permutation of
the N images, (seed, i) the sample's augmentation. So a run that resumes at any step, on any number
of workers, sees exactly the samples that it would have seen.
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from refinedet_tf.data.augment import augment
from refinedet_tf.data.images import decode_image, warp_image
from refinedet_tf.errors import InputError

_PREFETCH_STEPS = 16
"""How many steps ahead of the training loop an image may fail (prefetching), generously."""


def training_batches(dataset, config, start_step=0, shard=(0, 1)):
    """The endless training batches, each image augmented.

    Args:
        dataset: DetectionDataset.
        config: Config; uses `model.image_size`, `training.batch_size` and `.seed`, `augmentation`,
            and `data`: objects marked difficult are left out if `use_difficult` is false, COCO
            crowd regions always.
        start_step: the first step; batch k of a dataset started at step s is batch s + k of one
            started at 0, bit for bit.
        shard: (index, count): this worker's place among those that share every batch. The workers'
            batches in order of their index, joined, are the batch of one worker alone.

    Returns:
        tf.data.Dataset of {"images": uint8 [b, height, width, 3], "boxes": float32 [b, G, 4]
        normalised [ymin, xmin, ymax, xmax], "labels": int32 [b, G], 1..C, 0 in padding rows,
        "image_indices": int64 [b]}; b = batch_size / count, G = the most objects of any image, at
        least 1. All shapes are static.

    Raises:
        InputError: the dataset is empty, `model.image_size` is null, or the batch size is no
            multiple of the number of shards. While iterating, TensorFlow raises a
            `tf.errors.OpError` for an image that cannot be used: see `explain_failure`.
    """
    _check_not_empty(dataset)
    if config.model.image_size is None:
        raise InputError("model.image_size is null: training needs a size, e.g. [320, 320]")
    index, count = shard
    global_batch = config.training.batch_size
    if global_batch % count:
        raise InputError(
            f"training.batch_size {global_batch} must be a multiple of the number of workers, {count}"
        )
    local_batch = global_batch // count
    load = _image_loader(dataset)
    objects_of = _object_lookup(dataset, _usable_objects(dataset, config))
    max_boxes = max(dataset.max_boxes, 1)

    def sample(local_counter):
        step, row = local_counter // local_batch, local_counter % local_batch
        counter = step * global_batch + index * local_batch + row
        image_index = _image_of(counter, len(dataset), config.training.seed)
        boxes, labels = objects_of(image_index)
        seed = tf.stack([tf.constant(config.training.seed, tf.int64), counter])
        image, boxes, labels = augment(
            load(image_index), boxes, labels, seed, config.model.image_size, config.augmentation
        )
        padding = max_boxes - tf.shape(labels)[0]
        return {
            "images": image,
            "boxes": tf.ensure_shape(tf.pad(boxes, [[0, padding], [0, 0]]), [max_boxes, 4]),
            "labels": tf.ensure_shape(tf.pad(labels, [[0, padding]]), [max_boxes]),
            "image_indices": image_index,
        }

    samples = tf.data.Dataset.counter(start_step * local_batch)
    samples = samples.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finish(samples.batch(local_batch, drop_remainder=True))


def evaluation_batches(dataset, image_size, batch_size):
    """Every image once, in index order, warped to `image_size` and nothing else.

    Args:
        dataset: DetectionDataset.
        image_size: (height, width) in pixels.
        batch_size: images a batch; the last batch may be smaller.

    Returns:
        tf.data.Dataset of {"images": float32 [b, height, width, 3], RGB 0..255, not rounded,
        "image_indices": int64 [b]}.

    Raises:
        InputError: the dataset is empty. While iterating, as `training_batches`.
    """
    _check_not_empty(dataset)
    load = _image_loader(dataset)

    def sample(image_index):
        return {"images": warp_image(load(image_index), image_size), "image_indices": image_index}

    samples = tf.data.Dataset.range(len(dataset))
    samples = samples.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finish(samples.batch(batch_size))


def training_images(dataset, config, step):
    """Indices of the images that training reads at `step` or shortly after it (prefetching).

    Returns:
        int64 [n], each image once.
    """
    first = step * config.training.batch_size
    counters = tf.range(first, first + _PREFETCH_STEPS * config.training.batch_size, dtype=tf.int64)
    images = tf.map_fn(lambda i: _image_of(i, len(dataset), config.training.seed), counters)
    return np.unique(images.numpy())


def explain_failure(dataset, error, image_indices=None):
    """Finds the image behind an error that TensorFlow raised while batches were read.

    TensorFlow's own message names no file, so the candidates are read again, one after another.
    Use: `except tf.errors.OpError as error: raise explain_failure(...) from error`.

    Args:
        dataset: the DetectionDataset whose batches were read.
        error: what was raised.
        image_indices: the candidates (`training_images`); None: all images of the dataset.

    Returns:
        InputError that names the first file that cannot be used and says why; `error` itself if
        the images are not to blame.
    """
    indices: Iterable[int] = range(len(dataset)) if image_indices is None else image_indices
    for index in indices:
        problem = _problem_of(dataset.image_paths[index], dataset.image_sizes[index])
        if problem:
            return InputError(problem)
    return error


def _problem_of(path, annotated_size):
    try:
        contents = tf.io.read_file(path)
    except tf.errors.NotFoundError:
        return f"image {path} does not exist (any more); restore it, or index the data again"
    except tf.errors.OpError as error:
        return f"image {path} cannot be read: {error.message}"
    try:
        height, width, _ = decode_image(contents).shape
    except tf.errors.OpError as error:
        reason = error.message.rpartition("}} ")[2].partition(" [Op:")[0]
        return (
            f"image {path} cannot be decoded: it is truncated, broken, or not a JPEG, PNG, BMP or "
            f"GIF image ({reason})"
        )
    if (height, width) != tuple(annotated_size):
        return (
            f"image {path}: the annotation says {annotated_size[1]}x{annotated_size[0]} (width x height), "
            f"the file is {width}x{height}"
        )
    return None


def _check_not_empty(dataset):
    if not len(dataset):
        raise InputError("the dataset holds no images")


def _image_of(counter, size, seed):
    """The image of a sample: every epoch is a permutation of its own of all images."""
    epoch_seed = tf.stack([tf.constant(seed, tf.int64), counter // size])
    return tf.random.experimental.index_shuffle(counter % size, epoch_seed, tf.constant(size - 1, tf.int64))


def _image_loader(dataset):
    paths = tf.constant(dataset.image_paths)
    sizes = tf.constant(dataset.image_sizes, tf.int32)

    def load(index):
        path = paths[index]
        image = decode_image(tf.io.read_file(path))
        message = ["the annotation's image size (height, width)", sizes[index], "is not that of", path]
        right = tf.reduce_all(tf.shape(image)[:2] == sizes[index])
        with tf.control_dependencies([tf.debugging.Assert(right, message)]):
            return tf.identity(image)

    return load


def _usable_objects(dataset, config):
    """Which objects are trained on, bool [M]."""
    if config.data.use_difficult and config.data.format != "coco":
        return np.ones_like(dataset.difficult)
    return ~dataset.difficult


def _object_lookup(dataset, usable):
    """A function image index -> (boxes [K, 4], labels [K]) of the usable objects."""
    kept_before = np.concatenate([[0], np.cumsum(usable)])
    offsets = tf.constant(kept_before[dataset.offsets], tf.int64)
    boxes = tf.constant(dataset.boxes[usable], tf.float32)
    labels = tf.constant(dataset.labels[usable], tf.int32)

    def objects_of(index):
        rows = slice(offsets[index], offsets[index + 1])
        return boxes[rows], labels[rows]

    return objects_of


def _finish(batches):
    options = tf.data.Options()
    options.deterministic = True
    # Workers are given their shard explicitly.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
