"""Names for the types of tensors in signatures; docstrings give shapes and element types."""

from collections.abc import Mapping
from typing import Any, TypeAlias

Tensor: TypeAlias = Any
"""A tensor of Keras' backend or anything that it turns into one: `tf.Tensor`, `jax.Array`, `np.ndarray`.

It is `Any` because TensorFlow and Keras declare no types that a type checker could follow.
"""

Heads: TypeAlias = Mapping[str, Tensor]
"""The outputs of the network by name, as `build_model` describes them."""

Shape: TypeAlias = tuple[int | None, ...]
"""The shape of a tensor; None stands for an axis of unknown length."""
