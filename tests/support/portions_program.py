"""Evaluation and detection on several numbers of replicas, on logical CPU devices, compared bit for bit.

    python portions_program.py CONFIG COUNT...

Devices must be set up before TensorFlow starts, so this is a program. It prints one JSON object; the tests
in `test_portions.py` say what its values must be.
"""

import contextlib
import dataclasses
import io
import json
import sys
import tempfile
import threading
from pathlib import Path

from refinedet_tf.commands import terminal  # noqa: F401 - sets TensorFlow's environment

import keras  # isort: skip - after terminal
import numpy as np
import tensorflow as tf
from small_network import use_logical_devices, use_small_backbone

import refinedet_tf as rd
from refinedet_tf.commands.detect import print_work
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import timed_detector
from refinedet_tf.evaluation.evaluator import detect_portion, detect_portion_on_files, timed_replicas
from refinedet_tf.inference import multiscale
from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.photo_detection import detect_photos
from refinedet_tf.inference.replicas import Replicas, local_devices
from refinedet_tf.inference.tiles import Tiling

OVERRIDES = (
    'data.test=["2007/train","2007/val"]',
    "evaluation.batch_size=2",
    "model.image_size=[128,128]",
    # Random weights score low.
    "postprocess.score_threshold=0.0",
    "postprocess.objectness_threshold=0.0",
    "postprocess.max_detections=20",
)


def main(config_file, counts):
    """Detects with all numbers of replicas and prints what was found."""
    use_logical_devices(max(counts))
    use_small_backbone()
    # Two passes are enough: one is square, and one depends on the image.
    multiscale.PASSES = {320: multiscale.PASSES[320][:2]}
    config = load_config(config_file, OVERRIDES)
    dataset = read_dataset(config.data, "test")
    config = with_classes(config, dataset.class_names)
    keras.utils.set_random_seed(0)
    models = {count: replicated(config, count) for count in counts}
    found = {"images": len(dataset)}
    portions = {
        count: detect_portion(timed_replicas(model, config), config, dataset)
        for count, model in models.items()
    }
    found["evaluation"] = compared(portions)
    found["weights"] = devices_of_weights(models[2], config)
    models = {count: replicated(free_size(config), count, models[count]) for count in counts}
    few = load_config(config_file, [*OVERRIDES, 'data.test=["2007/val"]', "evaluation.batch_size=1"])
    few = with_classes(few, dataset.class_names)
    few_images = read_dataset(few.data, "test")
    portions = {
        count: detect_portion_on_files(model, few, few_images, multi_scale=True)
        for count, model in models.items()
    }
    found["multi-scale"] = compared(portions)
    tiling = Tiling(200)
    portions = {
        count: detect_portion_on_files(model, few, few_images, tiling=tiling)
        for count, model in models.items()
    }
    found["tiles"] = compared(portions)
    found["views"] = [portion.cost.views for portion in portions.values()]
    found["limited"] = [portion.cost.limited for portion in portions.values()]
    found["detect"] = [detect(config, models[count], dataset) for count in counts]
    found["errors of others"] = errors_of_others(models[max(counts)])
    print(json.dumps(found))


def free_size(config):
    """The config of a network that takes images of any size."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=None))


def replicated(config, count, source=None):
    """A network with weights that are the same for any number of replicas."""
    with tf.distribute.MirroredStrategy(local_devices()[:count]).scope():
        model = rd.build_model(config)
    if source is not None:
        model.set_weights(source.get_weights())
        return model
    generator = np.random.default_rng(0)
    for variable in model.weights:
        spread = generator.normal(0, 0.3, variable.shape) if "conf" in variable.path else 0.0
        value = generator.normal(0, 0.1, variable.shape) if "kernel" in variable.path else 0.0
        variable.assign(np.asarray(variable) * ("kernel" not in variable.path) + value + spread)
    return model


def compared(portions):
    """What each number of replicas has done, and whether its detections are those of one replica."""
    first = portions[1]
    return {
        "detections": len(first.detections.scores),
        "labels": len(set(first.detections.labels.tolist())),
        "equal": [portion.to_bytes() == first.to_bytes() for portion in portions.values()],
        "work": {count: [[w.name, w.images] for w in portion.work] for count, portion in portions.items()},
    }


def devices_of_weights(model, config):
    """The devices from which the graph of each replica reads its weights."""
    replicas = Replicas(model, lambda: CompiledDetector(inference_network(model), config))

    def captured(detector, _):
        return [sorted({handle.device for handle in detector.heads.get_concrete_function().captured_inputs})]

    return [devices for _, (devices,) in replicas.run(range(2), captured)]


def errors_of_others(model):
    """How many waits of four replicas fail while another thread tries to decode what is no image."""
    stop = threading.Event()

    def fail():
        while not stop.is_set():
            with contextlib.suppress(tf.errors.InvalidArgumentError):
                tf.io.decode_jpeg(b"no image")

    def wait_often(tensor, _):
        errors = 0
        for _ in range(1500):
            try:
                timed_detector._wait_for(tensor)
            except tf.errors.OpError:  # noqa: PERF203 - all of them are counted
                errors += 1
        return [errors]

    failing = threading.Thread(target=fail)
    failing.start()
    replicas = Replicas(model, lambda: tf.zeros([2, 32, 32, 3]))
    errors = sum(count for _, (count,) in replicas.run(range(4), wait_often))
    stop.set()
    failing.join()
    return errors


def detect(config, model, dataset):
    """What detect.py writes and prints for the images, one of which is broken."""
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "broken.jpg"
        broken.write_bytes(b"no image")
        paths = [*map(Path, dataset.image_paths[:5]), broken, *map(Path, dataset.image_paths[5:])]
        output = Path(folder) / "output"
        output.mkdir()
        config = free_size(config)
        replicas = Replicas(model, lambda: Detector(model, config, (128, 128)))
        error, printed = None, io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                try:
                    detect_photos(replicas, paths, output, 0.9, config.evaluation.batch_size)
                finally:
                    print_work(replicas, config)
        except InputError as refused:
            error = str(refused).replace(folder, "")
        text = (output / "detections.json").read_text()
        return {"error": error, "text": text, "printed": printed.getvalue().splitlines()[1:]}


if __name__ == "__main__":
    main(sys.argv[1], [int(count) for count in sys.argv[2:]])
