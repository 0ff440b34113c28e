"""What a whole evaluation costs compared with its network alone: python benchmarks/evaluation.py

In turns, the network computes the heads of batches that lie in memory, and `detect_portion` detects on a
dataset of the same batch size, from the files to the detections, without scoring. `ratio` is the median over
the turns of the time per image of the second, divided by that of the first; `processor_ratio` is the same
with the processor's time, which other work on the machine hardly changes. Both times leave out tracing. The
time of the parts that an evaluation adds to the network is measured as well, each part alone. Prints one
JSON line.

Without --images it generates photo-like JPEGs of 640 x 480 pixels in a temporary folder. Without --weights
the weights are random, so that every anchor is a candidate.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import input_pipeline
import networks
import numpy as np

from refinedet_tf.commands.terminal import run
from refinedet_tf.config import Config

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from refinedet_tf.data.dataset import DetectionDataset
    from refinedet_tf.inference.compiled_detector import CompiledDetector

WINDOW = (0.2, 0.9)
"""The part of a pass that is timed: at both ends of it, the reading is ahead of the network."""

RESIDENT_BATCHES = 4
"""Different batches that the network alone takes in turn."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    networks.add_network_options(parser)
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="JPEGs to use (default: generated)")
    parser.add_argument("--batches", type=int, default=40, help="batches per pass (default: 40)")
    parser.add_argument("--turns", type=int, default=5, help="measured turns (default: 5)")
    options = parser.parse_args(arguments)

    config, model = networks.load_network(options)
    with tempfile.TemporaryDirectory() as scratch:
        if options.images is None:
            input_pipeline.generate_photos(Path(scratch))
        dataset = _repeated(
            input_pipeline.with_random_objects(options.images or Path(scratch)),
            config,
            options.batches * config.evaluation.batch_size,
        )
        result = measure(model, config, dataset, options.turns)
    print(json.dumps(result))


def measure(
    model: "keras.Model", config: Config, dataset: "DetectionDataset", turns: int
) -> dict[str, object]:
    """Returns the figures of the line that is printed; the dataset has at least 10 batches."""
    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network

    detector = CompiledDetector(inference_network(model), config)
    batches = _read(dataset, config, RESIDENT_BATCHES)
    for batch in batches:  # The first call traces, and the next ones choose kernels.
        _heads(detector, batch["images"])
    times: dict[str, list[tuple[float, float]]] = {"network": [], "whole": []}
    for _ in range(turns):
        times["network"].append(_network_alone(detector, batches, len(dataset)))
        times["whole"].append(_whole_pass(model, config, dataset))
    network, whole = (np.array(values) for values in times.values())
    ratio, processor_ratio = np.median(whole / network, axis=0).tolist()
    return {
        "config": config.name,
        "backbone": config.model.backbone,
        "image_size": list(detector.image_size),
        "batch": config.evaluation.batch_size,
        "images": len(dataset),
        "turns": turns,
        "ratio": round(ratio, 3),
        "processor_ratio": round(processor_ratio, 3),
        "ms_per_image": {name: _milliseconds(np.array(values)) for name, values in times.items()},
        "parts_ms_per_image": _parts(detector, config, dataset, batches, turns),
        "device": networks.device_name(),
    }


def _network_alone(
    detector: "CompiledDetector", batches: Sequence[dict[str, "tf.Tensor"]], num_images: int
) -> tuple[float, float]:
    """(wall, processor) seconds per image of the network on about `num_images` images."""
    batch_size = len(batches[0]["images"])
    rounds = max(1, round(num_images * (WINDOW[1] - WINDOW[0]) / batch_size / len(batches)))

    def call() -> None:
        for _ in range(rounds):
            for batch in batches:
                _heads(detector, batch["images"])

    return _per_image(call, rounds * len(batches) * batch_size)


def _whole_pass(model: "keras.Model", config: Config, dataset: "DetectionDataset") -> tuple[float, float]:
    """(wall, processor) seconds per image of the middle of a pass through the dataset."""
    from refinedet_tf.evaluation.evaluator import detect_portion, timed_replicas

    stamps: list[tuple[int, float, float]] = []
    replicas = timed_replicas(model, config)
    detect_portion(replicas, config, dataset, lambda done, *_: stamps.append((done, *_clocks())))
    first, last = (stamps[int(share * len(stamps))] for share in WINDOW)
    images = last[0] - first[0]
    return (last[1] - first[1]) / images, (last[2] - first[2]) / images


def _parts(
    detector: "CompiledDetector",
    config: Config,
    dataset: "DetectionDataset",
    batches: Sequence[dict[str, "tf.Tensor"]],
    turns: int,
) -> dict[str, dict[str, float]]:
    """The time per image of each part that an evaluation adds to the network."""
    import tensorflow as tf

    from refinedet_tf.data.images import decode_image, warp_image

    count = len(batches)
    batch_size = config.evaluation.batch_size
    heads = [detector.heads(batch["images"]) for batch in batches]
    outputs = {name: value.numpy() for name, value in detector.detections(heads[0]).items()}
    sizes = [(480, 640)] * batch_size
    decode = tf.function(lambda path: decode_image(tf.io.read_file(path)))
    warp = tf.function(
        lambda image: warp_image(image, detector.image_size),
        input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)],
    )
    paths = [tf.constant(path) for path in dataset.image_paths[: count * batch_size]]
    photos = [decode(path) for path in paths]

    calls: dict[str, Callable[[], object]] = {
        "decode": lambda: [decode(path) for path in paths],
        "warp": lambda: [warp(photo) for photo in photos],
        "reading": lambda: _read(dataset, config, count),
        "post-processing": lambda: [
            detector.detections(values)["num_detections"].numpy() for values in heads
        ],
        "unpacking": lambda: [detector.unpack(outputs, sizes) for _ in batches],
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for turn in range(turns + 1):
        for name, call in calls.items():
            seconds = _per_image(call, count * batch_size)
            if turn:
                times[name].append(seconds)
    return {name: _milliseconds(np.array(values)) for name, values in times.items()}


def _per_image(call: Callable[[], object], num_images: int) -> tuple[float, float]:
    """(wall, processor) seconds per image of a call."""
    wall, processor = _clocks()
    call()
    end_wall, end_processor = _clocks()
    return (end_wall - wall) / num_images, (end_processor - processor) / num_images


def _clocks() -> tuple[float, float]:
    """The clock on the wall and the processor's time of this process, in seconds."""
    return time.perf_counter(), time.process_time()


def _heads(detector: "CompiledDetector", images: "tf.Tensor") -> None:
    """Computes the heads; reading one number of each waits for the device."""
    for head in detector.heads(images).values():
        head[0, 0, 0].numpy()


def _milliseconds(seconds: np.ndarray) -> dict[str, float]:
    """The medians of float64 [n, 2], (wall, processor) seconds."""
    wall, processor = (1e3 * np.median(seconds, axis=0)).tolist()
    return {"wall": round(wall, 3), "processor": round(processor, 3)}


def _read(dataset: "DetectionDataset", config: Config, count: int) -> list[dict[str, "tf.Tensor"]]:
    """The first batches of the dataset, on the device of the network."""
    import tensorflow as tf

    from refinedet_tf.data.pipeline import evaluation_batches
    from refinedet_tf.inference.compiled_detector import network_size

    batch_size = config.evaluation.batch_size
    indices = np.arange(count * batch_size)
    batches = evaluation_batches(dataset, network_size(config), batch_size, indices)
    return [{**batch, "images": tf.identity(batch["images"])} for batch in batches]


def _repeated(dataset: "DetectionDataset", config: Config, num_images: int) -> "DetectionDataset":
    """The images of a dataset, repeated up to `num_images`, without objects; the classes of the config."""
    rows = np.arange(num_images) % len(dataset)
    return dataclasses.replace(
        dataset,
        class_names=tuple(config.class_names),
        image_ids=tuple(str(number) for number in range(num_images)),
        image_paths=tuple(dataset.image_paths[row] for row in rows),
        image_sizes=dataset.image_sizes[rows],
        orientations=dataset.orientations[rows],
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        difficult=np.zeros(0, bool),
        offsets=np.zeros(num_images + 1, np.int64),
    )


if __name__ == "__main__":
    run(main)
