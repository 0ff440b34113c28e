"""The exponential moving average of a network's variables over the steps of a training."""

import contextlib
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.tensors import Tensor


class WeightAverage:
    """Averages all variables of a network: average <- d * average + (1 - d) * variable after each step.

    After step k, counted from 1, d is min(decay, (1 + k) / (10 + k)), so that the initial values do not
    stay in the average of a short training.

    The moving statistics of BatchNorm are averaged in the same way as the weights. A mean over images
    depends, to first order, linearly on the weights, so that the average of the statistics fits the average
    of the weights. The latest statistics fit the latest weights. Variables that are no floating-point
    numbers, such as the states of random generators, are copied.

    It must be made in the scope of the strategy. Each replica updates its own copy, and all copies are equal.

    Args:
        network: the network, whose values are the first average.
        decay: a number above 0 and below 1.

    Attributes:
        values: the averages in the order of the network's variables.
    """

    def __init__(self, network: keras.Model, decay: float) -> None:
        self.network = network
        self.decay = decay
        self.values = [
            tf.Variable(variable.value, trainable=False, name=f"average_{place}")
            for place, variable in enumerate(network.variables)
        ]

    def restart(self) -> None:
        """Sets the average to the network's values, which is right before the first step."""
        for value, variable in zip(self.values, self.network.variables, strict=True):
            value.assign(variable.value)

    def update(self, step: Tensor, healthy: Tensor) -> None:
        """Takes in the network's values after `step` finished steps if `healthy`, a bool scalar, is true."""
        count = tf.cast(step, tf.float32)
        decay = tf.minimum(self.decay, (1.0 + count) / (10.0 + count))

        def take_in() -> None:
            for value, variable in zip(self.values, self.network.variables, strict=True):
                new = tf.convert_to_tensor(variable.value)
                if value.dtype.is_floating:
                    value.assign_add(tf.cast(1.0 - decay, value.dtype) * (new - value))
                else:
                    value.assign(new)

        tf.cond(healthy, take_in, lambda: None)

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Gives the network the averaged values inside the block, and its own ones back at its end."""
        own = [np.array(variable) for variable in self.network.variables]
        try:
            for variable, value in zip(self.network.variables, self.values, strict=True):
                variable.assign(value)
            yield
        finally:
            for variable, before in zip(self.network.variables, own, strict=True):
                variable.assign(before)


def averaged(average: WeightAverage | None) -> contextlib.AbstractContextManager[None]:
    """Returns `average.in_place()`, or a context without effect if there is no average."""
    return contextlib.nullcontext() if average is None else average.in_place()
