"""A validation during training, which is given up when the run is told to stop."""

import keras

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.evaluator import evaluate
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.training.stop import StopRequest
from refinedet_tf.training.workers import Workers


class _ValidationStopped(Exception):
    """A validation was given up, because the run was told to stop."""


def measure(
    network: keras.Model, config: Config, dataset: DetectionDataset, stop: StopRequest, workers: Workers
) -> EvaluationResult | None:
    """Measures the network on the validation set.

    Args:
        network: the network, as `build_model(config)` makes it.
        config: the config of the run.
        dataset: the validation set.
        stop: the signals to this process; the other workers learn of them.
        workers: all workers, each of which measures.

    Returns:
        The accuracy, or None if this or another worker was told to stop before the last image.
    """

    def stop_if_requested(*_: float) -> None:
        if stop.requested:
            workers.tell_to_stop()
        if workers.told_to_stop:
            raise _ValidationStopped

    try:
        return evaluate(network, config, dataset, stop_if_requested)
    except _ValidationStopped:
        return None
