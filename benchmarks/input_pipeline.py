"""How many training images per second one CPU core prepares: python benchmarks/input_pipeline.py

Measures, in one process pinned to one core, (a) reading and decoding alone and (b) the whole training
pipeline (decoding, augmentation, batches of 320 x 320), and prints one line of JSON. Without `--images` it
generates photo-like JPEGs of 640 x 480 pixels in a temporary folder.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError

if TYPE_CHECKING:
    from refinedet_tf.data.dataset import DetectionDataset

NUM_GENERATED = 64
MAX_BOXES = 20
NUM_CLASSES = 20
REPEATS = 5


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="JPEGs to use (default: generated)")
    options = parser.parse_args(arguments)
    import_tensorflow()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        if options.images is None:
            generate_photos(Path(scratch))
        print(json.dumps(measure(options.images or Path(scratch), generated=options.images is None)))


def generate_photos(folder: Path, count: int = NUM_GENERATED) -> None:
    """Writes JPEGs with the 1/f spectrum of photographs, which gives them a photograph's file size."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(count):
        total = np.zeros((480, 640, 3), np.float32)
        for octave in range(1, 9):
            cells = rng.integers(0, 256, (3 * 2**octave, 4 * 2**octave, 3), dtype=np.uint8)
            layer = Image.fromarray(cells).resize((640, 480), Image.Resampling.BICUBIC)
            total += (np.asarray(layer, np.float32) - 127.5) / 1.6**octave
        photo = np.clip(total + 127.5, 0, 255).astype(np.uint8)
        Image.fromarray(photo).save(folder / f"{number:03d}.jpg", quality=90)


def measure(folder: Path, generated: bool) -> dict[str, object]:
    """The rates on the JPEGs of a folder; `generated` says whether this program made them."""
    import tensorflow as tf

    from refinedet_tf.data.images import decode_image
    from refinedet_tf.data.pipeline import training_batches

    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    one_thread = tf.data.Options()
    one_thread.threading.private_threadpool_size = 1
    one_thread.threading.max_intra_op_parallelism = 1
    dataset = with_random_objects(folder)

    paths = tf.data.Dataset.from_tensor_slices(list(dataset.image_paths)).repeat()
    decoded = paths.map(lambda path: decode_image(tf.io.read_file(path))).map(tf.size)
    batches = training_batches(dataset, Config())
    images = max(128, len(dataset))
    batch_size = Config().training.batch_size
    decode_rate = rate(decoded.with_options(one_thread), images, 1)
    training_rate = rate(batches.with_options(one_thread), images // batch_size, batch_size)
    sizes = [Path(path).stat().st_size for path in dataset.image_paths]
    return {
        "benchmark": "input_pipeline",
        "images": "generated" if generated else "folder",
        "mean_file_kilobytes": round(sum(sizes) / len(sizes) / 1000),
        "decode_images_per_second": round(decode_rate, 1),
        "training_images_per_second": round(training_rate, 1),
        "training_to_decode_ratio": round(training_rate / decode_rate, 3),
    }


def rate(elements: Iterable, count: int, images_per_element: int) -> float:
    """Images per second: the best of some repetitions, because other programs only ever slow it down."""
    iterator = iter(elements)
    for _ in range(max(1, count // 4)):
        next(iterator)
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        for _ in range(count):
            next(iterator)
        best = min(best, time.perf_counter() - start)
    return count * images_per_element / best


def with_random_objects(folder: Path) -> "DetectionDataset":
    """The JPEGs of a folder as a data set, with random objects."""
    import numpy as np
    from PIL import Image

    from refinedet_tf.data.dataset import DetectionDataset

    paths = sorted(str(path) for path in folder.glob("*.jpg"))
    if not paths:
        raise InputError(f"no .jpg in {folder}")
    rng = np.random.default_rng(0)
    counts = rng.integers(1, MAX_BOXES + 1, len(paths))
    counts[0] = MAX_BOXES
    low = rng.uniform(0, 0.7, (counts.sum(), 2))
    boxes = np.concatenate([low, low + rng.uniform(0.05, 1, low.shape) * (1 - low)], axis=1)
    sizes = []
    for path in paths:
        with Image.open(path) as image:
            sizes.append((image.height, image.width))
    return DetectionDataset(
        class_names=tuple(f"class {label}" for label in range(1, NUM_CLASSES + 1)),
        image_ids=tuple(Path(path).stem for path in paths),
        image_paths=tuple(paths),
        image_sizes=np.array(sizes, np.int32),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(1, NUM_CLASSES + 1, len(boxes)).astype(np.int32),
        difficult=np.zeros(len(boxes), bool),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


if __name__ == "__main__":
    run(main)
