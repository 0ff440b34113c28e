"""Sums whose terms are added in a fixed order, so that equal runs have equal weights."""

import contextlib
from collections.abc import Iterator

import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2
from tensorflow.python.eager import context


@contextlib.contextmanager
def sums_in_fixed_order() -> Iterator[None]:
    """Switches TensorFlow's memory optimizer off for the functions that this thread calls inside the block.

    Where a graph needs more than 80 % of what TensorFlow takes for the memory of a device (always 256 MiB
    for a CPU), the memory optimizer replaces a sum of three or more tensors, such as the gradients of a
    feature map that feeds three layers, by an accumulation in the order in which the terms are ready. With
    several threads this order, and with it the last bit of the sum, is another one in each run. All other
    optimizers of graphs stay as they are, and the time per step does not change
    (`benchmarks/fixed_sums.py`). They pass over a graph once and not twice: the second pass takes seconds
    before the first step and makes no step faster.

    A function keeps the options of its calls: one that is called inside and outside the block is
    optimized twice. TensorFlow's public `tf.config.optimizer.set_experimental_options` has no key for the
    memory optimizer, so this uses the options of function calls, which are not public.
    """
    eager = context.context()
    before = eager.function_call_options
    config = tf.compat.v1.ConfigProto.FromString(before.config_proto_serialized)
    rewriting = config.graph_options.rewrite_options
    rewriting.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    eager.function_call_options = context.FunctionCallOptions(before.executor_type, config)
    try:
        yield
    finally:
        eager.function_call_options = before
