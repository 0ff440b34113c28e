"""Names for the types of tensors in signatures; docstrings give shapes and element types."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of Keras' backend or anything that it turns into one: `tf.Tensor`, `jax.Array`, `np.ndarray`.

TensorFlow and Keras state no types that a checker could follow, hence `Any`.
"""

Heads: TypeAlias = Mapping[str, Tensor]
"""The outputs of the network by name, as `build_model` describes them."""
