"""Configs from the few values that a test sets."""

from refinedet_tf.config import (
    AugmentationConfig,
    Config,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    TrainingConfig,
)

PLAIN = AugmentationConfig(
    distortion_probability=0.0,
    expand_probability=0.0,
    crop_min_ious=(),
    random_interpolation=False,
    horizontal_flip_probability=0.0,
)
"""Augmentation that draws nothing: images are warped to the network's size, boxes stay as they are."""

SECTIONS = {
    "data": DataConfig,
    "model": ModelConfig,
    "augmentation": AugmentationConfig,
    "training": TrainingConfig,
    "evaluation": EvaluationConfig,
}


def config_of(classes=None, **sections):
    """A config of some classes: config_of(("cat", "dog"), model={"image_size": (64, 80)}, name="pets").

    A section is given as its values, which replace the defaults, or as the section itself; everything
    else is passed to `Config` as it is.
    """
    if classes is not None:
        sections["data"] = {"classes": tuple(classes), **sections.get("data", {})}
    for name, section in SECTIONS.items():
        if isinstance(sections.get(name), dict):
            sections[name] = section(**sections[name])
    return Config(**sections)
