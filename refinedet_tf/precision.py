"""TensorFloat-32: whether products of float32 numbers may be computed with 10 bits of mantissa.

NVIDIA's GPUs from Ampere on can round the inputs of convolutions and matrix products to 10 bits of
mantissa, which makes them several times faster, and TensorFlow lets them by default. The heads of a
network then differ by up to 4e-3 of the largest value, where float32 differs by 1e-5. TensorFlow has one
switch for the whole process, which these functions set; it changes nothing on other devices.
"""

import contextlib
from collections.abc import Iterator

import tensorflow as tf

from refinedet_tf.config import TrainingConfig


def apply_precision(training_config: TrainingConfig) -> None:
    """Lets the process use TensorFloat-32 if `training.precision` is "tf32", and forbids it otherwise."""
    tf.config.experimental.enable_tensor_float_32_execution(training_config.precision == "tf32")


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Forbids TensorFloat-32 in the whole process while numbers are compared, then restores the switch."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
