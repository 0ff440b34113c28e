"""How many training images per second one CPU core prepares: python benchmarks/input_pipeline.py

Measures, in one process pinned to one core, (a) reading and decoding alone and (b) the whole training
pipeline (decoding, augmentation, batches of 320 x 320), in turns, and prints one line of JSON. The rates
are the best of the turns; the ratio is that of the medians. On one core they count the time of the
processor, so that other programs disturb them little. With `--all-cores`, it uses all cores, as a training
does. Without `--images` it generates photo-like JPEGs of 640 x 480 pixels in a temporary folder.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config import Config
from refinedet_tf.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from refinedet_tf.data.dataset import DetectionDataset

NUM_GENERATED = 64
MAX_BOXES = 20
NUM_CLASSES = 20
TURNS = 9


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="JPEGs to use (default: generated)")
    parser.add_argument("--all-cores", action="store_true", help="use all cores instead of one")
    parser.add_argument("--quick", action="store_true", help="few images and no repetition, for a test")
    options = parser.parse_args(arguments)
    import_tensorflow()
    if not options.all_cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as scratch:
        if options.images is None:
            generate_photos(Path(scratch), NUM_GENERATED // 8 if options.quick else NUM_GENERATED)
        print(json.dumps(measure(options, Path(scratch))))


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


def measure(options: argparse.Namespace, scratch: Path) -> dict[str, object]:
    """Returns the rates on the JPEGs of `--images`, or on those in the folder `scratch`."""
    import numpy as np
    import tensorflow as tf

    from refinedet_tf.data.images import decode_image
    from refinedet_tf.data.pipeline import training_batches

    threads = tf.data.Options()
    if not options.all_cores:
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
        threads.threading.private_threadpool_size = 1
        threads.threading.max_intra_op_parallelism = 1
    dataset = with_random_objects(options.images or scratch)

    paths = tf.data.Dataset.from_tensor_slices(list(dataset.image_paths)).repeat()
    parallel = tf.data.AUTOTUNE if options.all_cores else None
    decoded = paths.map(lambda path: decode_image(tf.io.read_file(path)), parallel).map(tf.size)
    batches = training_batches(dataset, Config())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    turns = 1 if options.quick else TURNS
    images = 32 if options.quick else max(128, len(dataset)) * (cores or 1)
    batch_size = Config().training.batch_size
    seconds = seconds_in_turns(
        {
            "decode": (decoded.with_options(threads), images),
            "training": (batches.with_options(threads), images // batch_size),
        },
        turns,
        time.perf_counter if options.all_cores else time.process_time,
    )
    per_image = {
        "decode": seconds["decode"] / images,
        "training": seconds["training"] / (images // batch_size * batch_size),
    }
    sizes = [Path(path).stat().st_size for path in dataset.image_paths]
    return {
        "benchmark": "input_pipeline",
        "images": "folder" if options.images else "generated",
        "cores": cores,
        "mean_file_kilobytes": round(sum(sizes) / len(sizes) / 1000),
        "decode_images_per_second": round(1 / per_image["decode"].min(), 1),
        "training_images_per_second": round(1 / per_image["training"].min(), 1),
        "training_to_decode_ratio": round(
            float(np.median(per_image["decode"]) / np.median(per_image["training"])), 3
        ),
    }


def seconds_in_turns(
    elements: Mapping[str, tuple[Iterable, int]], turns: int, clock: Callable[[], float]
) -> dict[str, "np.ndarray"]:
    """Times how long the next `count` elements take, of one iterable after the other in each turn.

    Args:
        elements: for each name an endless iterable and the number of its elements per turn.
        turns: how often each is timed. A quarter of `count` elements go before and do not count.
        clock: what returns the time in seconds.

    Returns:
        For each name the seconds of its turns, float64 [turns].
    """
    import numpy as np

    seconds: dict[str, list[float]] = {name: [] for name in elements}
    for _ in range(turns):
        for name, (iterable, count) in elements.items():
            # It ends with the turn, so that nothing is prefetched in the other's turn.
            iterator = iter(iterable)
            for _ in range(max(1, count // 4)):
                next(iterator)
            start = clock()
            for _ in range(count):
                next(iterator)
            seconds[name].append(clock() - start)
            del iterator
    return {name: np.array(values) for name, values in seconds.items()}


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
        orientations=np.ones(len(paths), np.uint8),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(1, NUM_CLASSES + 1, len(boxes)).astype(np.int32),
        difficult=np.zeros(len(boxes), bool),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


if __name__ == "__main__":
    run(main)
