"""The network that a benchmark measures, and the device that it runs on."""

import argparse
import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from refinedet_tf.commands.options import add_config_options, config_from
from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.commands.trained_model import load_model
from refinedet_tf.config import Config
from refinedet_tf.config.files import run_folder_of
from refinedet_tf.files import is_file, is_folder
from refinedet_tf.run_folder import RunFolder

if TYPE_CHECKING:
    import keras

    from refinedet_tf.training.trainer import RefineDetTrainer


NUM_IMAGES = 1000
"""The images of an epoch, which only the schedule of the learning rate depends on."""


def add_config_options_with_default(parser: argparse.ArgumentParser, config: str = "voc320.json") -> None:
    """Adds `--config`, which may be left out, and `--set`."""
    add_config_options(parser, required=False)
    parser.set_defaults(config=config)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--set` and `--weights`, which may all be left out."""
    add_config_options_with_default(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights (default: the best of a run folder as --config, else random)",
    )


def load_network(options: argparse.Namespace) -> tuple[Config, "keras.Model"]:
    """(config, model) that `--config`, `--set` and `--weights` describe.

    The weights are random if there is neither a file nor a run folder.
    """
    config = config_from(options)
    if options.weights or is_folder(run_folder_of(options.config)):
        return config, load_model(config, options)
    import_tensorflow()
    from refinedet_tf.refinedet.network import build_model

    return config, build_model(config)


def trained_network(config: Config, output: Path) -> "keras.Model":
    """Trains a network, unless the run folder holds its final weights already, and returns it with them."""
    import keras

    from refinedet_tf.refinedet.network import build_model
    from refinedet_tf.training.loop import train
    from refinedet_tf.weights import load_weights

    keras.backend.clear_session()
    folder = RunFolder(output)
    if not is_file(folder.final_weights):
        with contextlib.redirect_stdout(sys.stderr):
            train(config, output, resume=output.exists())
    network = build_model(config)
    load_weights(network, folder.final_weights)
    return network


def measured_training(config: str, overrides: Sequence[str], folder: Path) -> dict[str, float]:
    """Trains, and evaluates on the test images, unless the folder holds the result already.

    Each command is a process of its own, whose memory is free afterwards.

    Returns:
        "mAP" 0..1, and the "minutes" of the training.
    """
    result = folder / "measured.json"
    if not result.is_file():
        changes = [part for override in overrides for part in ("--set", override)]
        start = time.perf_counter()
        _refinedet("train", "--config", config, *changes, "--output", str(folder), "--resume")
        minutes = (time.perf_counter() - start) / 60
        _refinedet("evaluate", "--config", str(folder), "--json", str(folder / "test.json"))
        mean_ap = json.loads((folder / "test.json").read_text(encoding="utf-8"))["mAP"]
        result.write_text(json.dumps({"mAP": mean_ap, "minutes": minutes}) + "\n", encoding="utf-8")
    return json.loads(result.read_text(encoding="utf-8"))


def _refinedet(*arguments: str) -> None:
    command = [sys.executable, "-m", "refinedet_tf", *arguments]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def make_trainer(config: Config) -> "RefineDetTrainer":
    """The trainer of the config's network, with random weights and its optimizer."""
    from refinedet_tf.training import trainer
    from refinedet_tf.training.schedule import in_steps

    return trainer.make_trainer(dataclasses.replace(config, training=in_steps(config.training, NUM_IMAGES)))


def device_name() -> str:
    """TensorFlow's name of the device that it computes on: the first GPU, or else the CPU."""
    import tensorflow as tf

    return (tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("CPU"))[0].name
