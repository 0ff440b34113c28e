"""Evaluation that all workers share, and a validation during training, which a stop gives up."""

import dataclasses
import math
from collections.abc import Sequence

from refinedet_tf.config import Config
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.evaluation.evaluator import detect_share, score_detections
from refinedet_tf.evaluation.limits import reached_limits
from refinedet_tf.evaluation.loss import loss_terms
from refinedet_tf.evaluation.shares import Share, join_shares
from refinedet_tf.evaluation.timed_detector import TimedDetector
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.training.stop import StopRequest
from refinedet_tf.training.workers import Workers


@dataclasses.dataclass(frozen=True)
class Validation:
    """The accuracy and the loss on the validation set, the same on all workers."""

    mean_ap: float | None
    """The mean average precision (mAP), 0..1; None if the set has no objects."""
    class_ap: dict[str, float | None]
    """The AP by class name; None for a class without objects."""
    loss_terms: dict[str, float]
    """The loss terms by name, whose sum is the loss, without augmentation."""
    notes: Sequence[str] = ()
    """Lines for the terminal on limits that the detections have reached."""


class _ValidationStopped(Exception):
    """A validation was given up, because the run was told to stop."""


def measure(
    replicas: Replicas[TimedDetector] | None,
    config: Config,
    dataset: DetectionDataset | None,
    stop: StopRequest,
    workers: Workers,
) -> tuple[Validation | None, bool, bool]:
    """Measures the network on the validation set, of which every worker takes a part.

    The chief scores the detections and tells the others the numbers, so that no worker computes another
    last digit and takes other weights for the best ones.

    Args:
        replicas: the detectors, with the loss on `dataset`; None if there is nothing to measure.
        config: the config of the run.
        dataset: the validation set; None: there is nothing to measure.
        stop: the signals to this process; the other workers learn of them.
        workers: all workers, each of which calls this function.

    Returns:
        The accuracy, or None; whether the validation was finished on all workers; whether any worker was told
        to stop. All workers return the same.
    """

    def tell_if_requested() -> None:
        if stop.requested:
            workers.tell_to_stop()

    def stop_if_requested(*_: float) -> None:
        workers.check()
        tell_if_requested()
        if workers.told_to_stop:
            raise _ValidationStopped

    share, finished = None, True
    if replicas is not None and dataset is not None:
        try:
            part = (workers.index, len(workers.names))
            share = detect_share(replicas, config, dataset, stop_if_requested, part)
        except _ValidationStopped:
            finished = False
    told = stop.requested is not None or workers.told_to_stop
    # The others may be at work for long, where this worker had a smaller share.
    outcomes = workers.exchange([finished, told], tell_if_requested)
    told_to_stop = any(told for _, told in outcomes)
    if not all(finished for finished, _ in outcomes):
        return None, False, told_to_stop
    if dataset is None or share is None:
        return None, True, told_to_stop
    return _score_on_chief(gather_shares(share, workers), config, dataset, workers), True, told_to_stop


def gather_shares(share: Share, workers: Workers) -> Share | None:
    """Joins the shares of all workers on the chief.

    Args:
        share: the share of this worker.
        workers: all workers, each of which calls this function.

    Returns:
        On the chief, the share of a single process with the whole dataset; None elsewhere. A process that is
        alone has its share returned.
    """
    if workers.alone:
        return share
    facts = workers.exchange(share.facts())
    parts = workers.gather_on_chief(share.to_bytes())
    return join_shares(workers.names, facts, parts, share.passes) if workers.index == 0 else None


def _score_on_chief(
    share: Share | None, config: Config, dataset: DetectionDataset, workers: Workers
) -> Validation:
    """Returns on all workers what the chief, which has the share of all, measures."""
    numbers = None
    if share is not None:
        result = score_detections(share.detections, dataset, config.evaluation.metric)
        class_ap = {name: _or_none(class_result.ap) for name, class_result in result.classes.items()}
        notes = reached_limits(share.cost.limited, share.cost.inputs, share.num_images, config)
        numbers = [_or_none(result.mean_ap), class_ap, loss_terms(share.loss_sums, config), notes]
    return Validation(*workers.exchange(numbers)[0])


def _or_none(ap: float) -> float | None:
    """Returns an AP, or None in the place of nan."""
    return None if math.isnan(ap) else float(ap)
