"""Every key of a config with its type, default and range; files, inheritance, overrides."""

from refinedet_tf.config.schema import (
    Config,
    EvaluationConfig,
    ExpectedConfig,
    LossConfig,
    ModelConfig,
    PostprocessConfig,
    differences,
    values_by_key,
    with_classes,
)
from refinedet_tf.config.training import AugmentationConfig, DataConfig, TrainingConfig
from refinedet_tf.config.values import MAX_STEPS, STRICT, epochs_of, steps_of

__all__ = [
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
    "epochs_of",
    "steps_of",
    "values_by_key",
    "with_classes",
]
