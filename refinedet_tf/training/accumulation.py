"""Sums over the micro-batches of a training step (gradient accumulation)."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import tensorflow as tf

from refinedet_tf.tensors import Tensor

Structure = TypeVar("Structure")
"""A tensor, or a nest of lists, tuples and dicts of tensors."""


def sum_over_micro_batches(
    function: Callable[[dict[str, Tensor]], Structure],
    batch: Mapping[str, Tensor],
    num_micro_batches: int,
    zeros: Structure,
    unrolled: bool = False,
) -> Structure:
    """Adds the results of a function of each micro-batch of a batch.

    Micro-batch i of n holds the rows i, i + n, i + 2n and so on. Replicas share a batch in blocks of
    rows, so that the rows that micro-batch i holds on all replicas together do not depend on how many
    replicas there are.

    The micro-batches are computed strictly one after the other, so that the intermediate results of
    only one of them are in memory.

    Args:
        function: returns the summands of a micro-batch, which has the names of `batch`.
        batch: tensors [b, ...], whose number of rows b is static and a multiple of `num_micro_batches`.
        num_micro_batches: the number of micro-batches n, at least 1.
        zeros: the result without any micro-batch, of the structure, shapes and dtypes of the summands.
        unrolled: whether a graph holds the function once per micro-batch, and not once in a loop. It
            must if the function sums over the replicas of a strategy, which no loop may contain.

    Returns:
        The sums, added in the order of the micro-batches.
    """

    num_rows = next(iter(batch.values())).shape[0]

    def add_next(index: Tensor | int, sums: Structure) -> tuple[Tensor | int, Structure]:
        rows = tf.range(num_rows // num_micro_batches) * num_micro_batches + index
        summands = function({name: tf.gather(values, rows) for name, values in batch.items()})
        return index + 1, tf.nest.map_structure(tf.add, sums, summands)

    if not unrolled:
        _, sums = tf.while_loop(
            lambda index, _: index < num_micro_batches, add_next, (0, zeros), parallel_iterations=1
        )
        return sums
    sums = zeros
    for index in range(num_micro_batches):
        # Nothing else keeps the executor of a graph from computing all micro-batches at once.
        with tf.control_dependencies(tf.nest.flatten(sums)):
            _, sums = add_next(tf.constant(index), sums)
    return sums
