"""The config of a training run that takes seconds."""

CLASSES_OVERRIDE = 'data.classes=["cat","dog","cow"]'
"""An override of the config file, for networks that are built without its data."""

STEPS = 6
"""The steps of `training_tree`, which validates every 3 steps and writes a checkpoint every 4."""


def sets(*overrides):
    """The arguments of a command that override these keys, such as "training.length=2"."""
    return [part for override in overrides for part in ("--set", override)]


def training_tree(root):
    """The JSON tree of a config that trains the network of `small_network.py` within seconds.

    It has no milestones and no warm-up, so that tests may set any number of steps.

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
            "length": STEPS,
            "batch_size": 4,
            "learning_rate": 0.01,
            "milestones": [],
            "log_every": 1,
            "checkpoint_every": 4,
            "validate_every": 3,
        },
        "evaluation": {"metric": "voc", "batch_size": 4},
    }
