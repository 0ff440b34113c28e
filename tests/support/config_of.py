"""Builds configs from the few values that a test sets."""

import dataclasses

from refinedet_tf.config import AugmentationConfig, Config

CLASSES = ("cat", "dog", "cow")
"""Class names for tests in which the classes themselves do not matter."""

PLAIN = AugmentationConfig(
    distortion_probability=0.0,
    expand_probability=0.0,
    crop_min_ious=(),
    random_interpolation=False,
    horizontal_flip_probability=0.0,
)
"""Augmentation that draws nothing: images are warped to the network's size, boxes stay as they are."""


def config_of(classes=None, **parts):
    """A config with the default values, except for the values that are given.

        config_of(20, loss={"positive_iou": 0.3})
        config_of(("cat", "dog"), model={"image_size": (64, 80)}, augmentation=PLAIN, name="pets")

    Args:
        classes: the names of the classes; or their number, which names them "class 1" and so on; or
            None for no change of `data.classes`.
        parts: a dict of the fields that differ from the default in that part of the config; anything
            that is not a dict is passed to `Config` as it is.
    """
    if isinstance(classes, int):
        classes = [f"class {label}" for label in range(1, classes + 1)]
    if classes is not None:
        parts["data"] = {"classes": tuple(classes), **parts.get("data", {})}
    default = Config()
    for name, fields in parts.items():
        if isinstance(fields, dict):
            parts[name] = dataclasses.replace(getattr(default, name), **fields)
    return Config(**parts)
