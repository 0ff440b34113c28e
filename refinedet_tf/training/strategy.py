"""The devices that share a batch, and the distribution of the data to them."""

import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import training_batches
from refinedet_tf.errors import InputError
from refinedet_tf.inference.replicas import local_devices


def make_strategy(config: Config, of_workers: tf.distribute.Strategy | None = None) -> tf.distribute.Strategy:
    """Makes the strategy of a run, and checks that its replicas can share the batches.

    Args:
        config: the config whose `training` is used.
        of_workers: the strategy of several machines; None: all GPUs of this machine, or its logical CPU
            devices if it has no GPU.

    Raises:
        InputError: the batch cannot be divided evenly, or `jit_compile` is true with several replicas.
    """
    strategy = of_workers or tf.distribute.MirroredStrategy(local_devices())
    replicas = strategy.num_replicas_in_sync
    batch_size, accumulation_steps = config.training.batch_size, config.training.accumulation_steps
    if batch_size % (replicas * accumulation_steps):
        raise InputError(
            f"training.batch_size {batch_size} must be a multiple of {replicas * accumulation_steps}, the "
            f"{replicas} replicas times training.accumulation_steps {accumulation_steps}"
        )
    if config.training.jit_compile and replicas > 1:
        raise InputError(
            f"training.jit_compile works with one replica, here are {replicas}: XLA cannot hold the sums "
            "over replicas; set it to false"
        )
    return strategy


def distributed_batches(
    strategy: tf.distribute.Strategy, dataset: DetectionDataset, config: Config, start_step: int
) -> tf.distribute.DistributedDataset:
    """Returns the training batches after `start_step` steps, each divided over the replicas in order."""
    per_replica = config.training.batch_size // strategy.num_replicas_in_sync

    def pipeline(context: tf.distribute.InputContext) -> tf.data.Dataset:
        shard = (context.input_pipeline_id, context.num_input_pipelines)
        batches = training_batches(dataset, config, start_step, shard)
        if strategy.num_replicas_in_sync > context.num_input_pipelines:
            batches = batches.rebatch(per_replica, drop_remainder=True).prefetch(tf.data.AUTOTUNE)
        return batches

    return strategy.distribute_datasets_from_function(pipeline)
