"""Batches of training samples and of evaluation images, as `tf.data.Dataset`s.

The training data is a function of the sample counter alone. Counter i is row `i % batch_size` of step
`i // batch_size` and lies in epoch `i // N`. The seed and the epoch determine the epoch's permutation of
the N images; the seed and the counter determine the sample's augmentation. So a run that resumes at any
step, on any number of workers, sees exactly the samples that it would have seen without the interruption.
"""

import os
from collections.abc import Iterable

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.augment import augment
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.images import decode_annotated, read_image, warp_image
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.losses import LEFT_OUT
from refinedet_tf.tensors import Tensor

_PREFETCH_STEPS = 16
"""An image that cannot be read may fail up to this many steps before the training loop needs it, because
batches are prefetched. The number is generous."""

_AS_IT_IS = tf.autograph.experimental.do_not_convert
"""No function here has a Python condition or loop over tensors; AutoGraph would look for one for seconds."""


def training_batches(
    dataset: DetectionDataset, config: Config, start_step: int = 0, shard: tuple[int, int] = (0, 1)
) -> tf.data.Dataset:
    """Makes the endless training batches, with every image augmented.

    Args:
        dataset: the images and their objects.
        config: `model.image_size`, `training.batch_size`, `training.seed`, `augmentation` and `data`
            are used. Objects marked difficult are left out if `data.use_difficult` is false; COCO
            crowd regions are always left out.
        start_step: the first step. Batch k of the batches that start at step s equals batch s + k of
            those that start at 0, bit for bit.
        shard: (index, count), this worker's place among the workers that share every batch. The
            batches of all workers, joined in the order of their index, equal the batch of a single
            worker.

    Returns:
        tf.data.Dataset of {"images": uint8 [b, height, width, 3], "boxes": float32 [b, G, 4]
        normalised [ymin, xmin, ymax, xmax], "labels": int32 [b, G], 1..C, 0 in padding rows, and one
        `LEFT_OUT` in a sample that shows no object of an image that has some,
        "image_indices": int64 [b]}. b is batch_size / count. G differs between batches: it is the
        smallest of the `padded_lengths` that holds all objects of each image of the batch. All other
        axes are static.

    Raises:
        InputError: the dataset is empty, `model.image_size` is null, or the batch size is no
            multiple of the number of workers. While iterating, TensorFlow raises a
            `tf.errors.OpError` for an image that cannot be used: see `explain_failure`.
    """
    image_size = config.model.image_size
    if image_size is None:
        raise InputError("model.image_size is null: training needs a size, e.g. [320, 320]")
    index, count = shard
    global_batch = config.training.batch_size
    if global_batch % count:
        raise InputError(
            f"training.batch_size {global_batch} must be a multiple of the number of workers, {count}"
        )
    local_batch = global_batch // count
    paths, sizes = _files(dataset)
    all_boxes, all_labels, offsets = map(tf.constant, training_objects(dataset, config))
    has_objects = tf.constant(dataset.objects_per_image > 0)
    lengths = tf.constant(padded_lengths(dataset.max_boxes))
    rows = tf.range(index * local_batch, (index + 1) * local_batch, dtype=tf.int64)

    @_AS_IT_IS
    def rows_of_this_worker(step: tf.Tensor, images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return step * global_batch + rows, tf.gather(images, rows)

    @_AS_IT_IS
    def sample(counter: tf.Tensor, image_index: tf.Tensor) -> dict[str, tf.Tensor]:
        objects = slice(offsets[image_index], offsets[image_index + 1])
        boxes, labels = pad_objects(all_boxes[objects], all_labels[objects], lengths)
        seed = tf.stack([tf.constant(config.training.seed, tf.int64), counter])
        contents, size = tf.io.read_file(paths[image_index]), sizes[image_index]
        image, boxes, labels = augment(contents, size, boxes, labels, seed, image_size, config.augmentation)
        # Its objects are difficult, or cut off and partly shown, so that it is no background.
        left_out = tf.cast(has_objects[image_index] & (tf.size(labels) == 0), tf.int32)
        boxes = tf.pad(boxes, [[0, left_out], [0, 0]])
        labels = tf.pad(labels, [[0, left_out]], constant_values=LEFT_OUT)
        return {"images": image, "boxes": boxes, "labels": labels, "image_indices": image_index}

    @_AS_IT_IS
    def lengthen(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        boxes, labels = pad_objects(batch["boxes"], batch["labels"], lengths)
        return {**batch, "boxes": boxes, "labels": labels}

    order = image_order(len(dataset), config.training.seed, start_step * global_batch)
    images_of_steps = order.batch(global_batch, drop_remainder=True)
    steps = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step), images_of_steps)
    samples = steps.map(rows_of_this_worker).unbatch()
    samples = samples.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    batches = samples.padded_batch(local_batch, drop_remainder=True).map(lengthen)
    return _finish(batches.apply(tf.data.experimental.assert_cardinality(tf.data.INFINITE_CARDINALITY)))


def padded_lengths(max_boxes: int) -> list[int]:
    """Lists the lengths to which the objects of a batch are padded.

    Time and memory of the loss grow with the length, so that a batch is not padded to the most crowded
    image of the dataset. There are few lengths, because XLA compiles the training step for each.

    Args:
        max_boxes: the largest number of objects on one image.

    Returns:
        8, 12, 16, 24, 32, 48 and so on, as far as they are smaller than `max_boxes`; and last
        `max_boxes` or, if it is 0, 1.
    """
    longest = max(max_boxes, 1)
    lengths = [factor * 2**exponent for exponent in range(longest.bit_length()) for factor in (8, 12)]
    return [*(length for length in lengths if length < longest), longest]


def pad_objects(boxes: tf.Tensor, labels: tf.Tensor, lengths: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads boxes [..., G, 4] and labels [..., G] with zeros to the smallest of `lengths` that holds G."""
    objects = tf.shape(labels)[-1]
    added = lengths[tf.searchsorted(lengths, [objects])[0]] - objects
    batch_axes = [[0, 0]] * (labels.shape.rank - 1)
    return tf.pad(boxes, [*batch_axes, [0, added], [0, 0]]), tf.pad(labels, [*batch_axes, [0, added]])


def evaluation_batches(
    dataset: DetectionDataset,
    image_size: tuple[int, int],
    batch_size: int,
    indices: np.ndarray | None = None,
) -> tf.data.Dataset:
    """Makes batches that hold every image once, in the order of the dataset, warped to `image_size`.

    Args:
        dataset: the images.
        image_size: (height, width) in pixels.
        batch_size: the images per batch; the last batch may be smaller.
        indices: int64 [n], the images to take, in this order; None: all images of the dataset.

    Returns:
        tf.data.Dataset of {"images": float32 [b, height, width, 3], RGB 0..255, not rounded,
        "image_indices": int64 [b]}.

    Raises:
        InputError: the dataset is empty. While iterating, TensorFlow raises the errors that
            `training_batches` describes.
    """
    paths, sizes = _files(dataset)

    @_AS_IT_IS
    def sample(image_index: tf.Tensor) -> dict[str, tf.Tensor]:
        image = decode_annotated(tf.io.read_file(paths[image_index]), sizes[image_index])
        return {"images": warp_image(image, image_size), "image_indices": image_index}

    samples = tf.data.Dataset.from_tensor_slices(np.arange(len(dataset)) if indices is None else indices)
    samples = samples.map(sample, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return _finish(samples.batch(batch_size))


def image_order(num_images: int, seed: int, start: int = 0) -> tf.data.Dataset:
    """Makes the endless order of the images, one epoch after another.

    Args:
        num_images: the number of images, at least 1.
        seed: an integer in 0..2^63 - 1.
        start: the position of the first element in the order that begins with epoch 0. The epochs
            before it are not computed.

    Returns:
        tf.data.Dataset of int64 scalars, indices in 0..num_images - 1. It holds one permutation at a
        time.
    """
    first_epoch, position = divmod(start, num_images)

    @_AS_IT_IS
    def rest_of_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        skipped = tf.where(epoch == first_epoch, position, 0)
        return tf.data.Dataset.from_tensor_slices(epoch_permutation(num_images, seed, epoch)[skipped:])

    return tf.data.Dataset.counter(first_epoch).flat_map(rest_of_epoch)


def training_objects(dataset: DetectionDataset, config: Config) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the objects that training uses.

    Returns:
        boxes float32 [K, 4], labels int32 [K], 1..C, and offsets int64 [N + 1]; the objects of image n are
        the rows from offsets[n] to offsets[n + 1].
    """
    usable = ~dataset.difficult
    if config.data.use_difficult and config.data.format != "coco":
        usable = np.ones_like(dataset.difficult)
    kept_before = np.concatenate([[0], np.cumsum(usable)])
    return dataset.boxes[usable], dataset.labels[usable], kept_before[dataset.offsets]


class PaddedObjects:
    """The objects of batches of images that training would use, without augmentation."""

    def __init__(self, dataset: DetectionDataset, config: Config) -> None:
        self._boxes, self._labels, self._offsets = training_objects(dataset, config)
        self._has_objects = dataset.objects_per_image > 0

    def of(self, image_indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the objects of images.

        Args:
            image_indices: int64 [B], indices in the dataset.

        Returns:
            Boxes float32 [B, G, 4], normalised `[ymin, xmin, ymax, xmax]`, and labels int32 [B, G], 1..C, 0
            in padding rows, and one `LEFT_OUT` in an image that has only objects that training does not
            use. G is the largest number of objects on one of the images, at least 1.
        """
        starts, ends = self._offsets[image_indices], self._offsets[image_indices + 1]
        most = max(1, *(ends - starts).tolist())
        boxes = np.zeros((len(image_indices), most, 4), np.float32)
        labels = np.zeros((len(image_indices), most), np.int32)
        labels[self._has_objects[image_indices] & (starts == ends), 0] = LEFT_OUT
        for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
            boxes[row, : end - start] = self._boxes[start:end]
            labels[row, : end - start] = self._labels[start:end]
        return boxes, labels


def epoch_permutation(num_images: int, seed: int, epoch: Tensor) -> tf.Tensor:
    """Draws the order of the images in an epoch, from all bits of the seed and of the epoch.

    Args:
        num_images: the number of images.
        seed: an integer in 0..2^63 - 1.
        epoch: int64 scalar, at least 0.

    Returns:
        int64 [num_images], a permutation of 0..num_images - 1.
    """
    epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
    images = tf.range(num_images, dtype=tf.int64)
    return tf.random.experimental.stateless_shuffle(images, epoch_seed, alg="philox")


def training_images(dataset: DetectionDataset, config: Config, step: int) -> np.ndarray:
    """Finds the images that training reads at `step` or, because of prefetching, shortly after it.

    Returns:
        int64 [n], the indices of the images, each once, in ascending order.
    """
    batch_size = config.training.batch_size
    order = image_order(len(dataset), config.training.seed, step * batch_size)
    images = order.take(_PREFETCH_STEPS * batch_size)
    return np.unique(list(images.as_numpy_iterator()))


def explain_failure(
    dataset: DetectionDataset, error: Exception, image_indices: Iterable[int] | None = None
) -> Exception:
    """Finds the image that caused an error of TensorFlow while batches were read.

    TensorFlow's message names no file, so the candidates, by default all images of the dataset (see also
    `training_images`), are read again, one after another. Callers write `except tf.errors.OpError as error:
    raise explain_failure(...) from error`.

    Returns:
        An `InputError` that names the first file that cannot be used and says why; `error` itself if
        no image is the cause.
    """
    try:
        for index in range(len(dataset)) if image_indices is None else image_indices:
            read_image(dataset.image_paths[index], dataset.image_sizes[index])
    except InputError as problem:
        return problem
    return error


def _files(dataset: DetectionDataset) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns the paths, string [N], and the sizes of the upright images, int32 [N, 2]: height, width."""
    if not len(dataset):
        raise InputError("the dataset holds no images")
    # The bytes of a file name need not be text.
    paths = [os.fsencode(path) for path in dataset.image_paths]
    return tf.constant(paths), tf.constant(dataset.image_sizes, tf.int32)


def _finish(batches: tf.data.Dataset) -> tf.data.Dataset:
    options = tf.data.Options()
    options.deterministic = True
    # `training_batches` is given the shard of its worker, so TensorFlow must not shard once more.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return batches.with_options(options).prefetch(tf.data.AUTOTUNE)
