"""The trained model that the options of a command describe."""

import argparse
import contextlib
import dataclasses
import sys
import warnings
from typing import TYPE_CHECKING

from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.config import Config
from refinedet_tf.config.files import run_folder_of
from refinedet_tf.errors import InputError
from refinedet_tf.files import is_folder
from refinedet_tf.run_folder import RunFolder

if TYPE_CHECKING:
    import keras


def load_model(config: Config, options: argparse.Namespace, on_all_devices: bool = False) -> "keras.Model":
    """Returns the trained model of a config with the weights that `--config` and `--weights` name.

    With `--multi-scale` the model takes any size, and not only the one it was trained at. With
    `on_all_devices`, each of several GPUs, or of several logical CPU devices, holds a copy of the weights.

    Raises:
        InputError: there are no weights, or they do not fit the model.
    """
    weights = options.weights
    if weights is None:
        folder = run_folder_of(options.config)
        if not is_folder(folder):
            raise InputError("--weights: name a weights file, or give a run folder as --config")
        weights = RunFolder(folder).trained_weights()
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.inference.replicas import local_devices
    from refinedet_tf.precision import apply_precision
    from refinedet_tf.refinedet.network import build_model
    from refinedet_tf.weights import load_weights

    apply_precision(config.training)
    any_size = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=None))
    devices = local_devices() if on_all_devices else []
    with tf.distribute.MirroredStrategy(devices).scope() if len(devices) > 1 else contextlib.nullcontext():
        model = build_model(any_size if getattr(options, "multi_scale", False) else config)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        filled = load_weights(model, weights)
    if len(filled) < sum(bool(layer.weights) for layer in model.layers):
        raise InputError(
            f"{weights} holds ImageNet weights of the backbone only, not of a detector; it is a start for "
            "training: train.py --set model.weights=FILE"
        )
    for note in notes:
        if issubclass(note.category, UserWarning):
            print(f"note: {note.message}", file=sys.stderr)
    return model
