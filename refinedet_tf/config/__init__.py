"""Every key of a config with its type, default and range; files, inheritance, overrides."""

from refinedet_tf.config.data import AugmentationConfig, DataConfig
from refinedet_tf.config.schema import (
    Config,
    EvaluationConfig,
    ExpectedConfig,
    LossConfig,
    ModelConfig,
    PostprocessConfig,
    differences,
    with_classes,
)
from refinedet_tf.config.training import IN_EPOCHS, TrainingConfig
from refinedet_tf.config.values import MAX_STEPS, STRICT

__all__ = [
    "IN_EPOCHS",
    "MAX_STEPS",
    "STRICT",
    "AugmentationConfig",
    "Config",
    "DataConfig",
    "EvaluationConfig",
    "ExpectedConfig",
    "LossConfig",
    "ModelConfig",
    "PostprocessConfig",
    "TrainingConfig",
    "differences",
    "with_classes",
]
