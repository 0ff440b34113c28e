"""Builds the configs that tests need."""

import dataclasses

from refinedet_tf.config import Config

CLASSES = ("cat", "dog", "cow")
CLASSES_OVERRIDE = 'data.classes=["cat","dog","cow"]'
"""The same three classes, as an override of a config file."""

STEPS = 6
"""The steps of `training_tree`, which validates every 3 steps and writes a checkpoint every 4."""


def class_names(num_classes):
    return tuple(f"class {label}" for label in range(1, num_classes + 1))


def config_of(classes=3, **parts):
    """A config with the default values, except for the fields that are given.

        config_of(20, loss={"positive_iou": 0.3}, model={"image_size": None})

    Args:
        classes: the number of classes, which are called "class 1" and so on, or their names.
        parts: for each part of the config, a dict of the fields that differ from the default.
    """
    names = class_names(classes) if isinstance(classes, int) else tuple(classes)
    parts["data"] = {"classes": names, **parts.get("data", {})}
    default = Config()
    return Config(
        **{name: dataclasses.replace(getattr(default, name), **fields) for name, fields in parts.items()}
    )


def training_tree(root):
    """The JSON tree of a config that trains the network of `small_network.py` within seconds.

    Args:
        root: the folder of a VOC devkit with the parts 2007/train and 2007/val.
    """
    return {
        "model": {
            "backbone": "mobilenet_v2",
            "width_multiplier": 0.35,
            "tcb_channels": 16,
            "tcb_batch_norm": True,
            "batch_norm_momentum": 0.9,
            "image_size": [64, 64],
        },
        "data": {
            "root": str(root),
            "train": ["2007/train"],
            "validation": ["2007/val"],
            "test": ["2007/val"],
        },
        # The graph of five interpolation kernels takes long to build.
        "augmentation": {"random_interpolation": False},
        "training": {
            "steps": STEPS,
            "batch_size": 4,
            "learning_rate": 0.01,
            "milestones": [5],
            "warmup_steps": 2,
            "log_every": 1,
            "checkpoint_every": 4,
            "validate_every": 3,
        },
        "evaluation": {"metric": "voc", "batch_size": 4},
    }
