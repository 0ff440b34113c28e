"""How many objects the anchors reach, and which anchors would reach more."""

import dataclasses

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.config.values import AnchorLevel
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.data.pipeline import training_objects
from refinedet_tf.reports.inspection.anchor_coverage import Coverage, best_ious, coverage
from refinedet_tf.reports.inspection.anchor_fit import fit_anchors

WORTH_A_FINER_LEVEL = 0.02
"""A level of stride 4 is suggested if it lowers the share of objects not reached by at least this."""

WORTH_CHANGING = 0.01
"""Other anchors are advised if they lower that share, or raise the mean of the best IoUs, by this."""


@dataclasses.dataclass(frozen=True)
class AnchorChoice:
    """Some anchors and the objects that they reach."""

    name: str
    """What they are: "configured", "fitted" or "fitted with stride 4"."""
    levels: tuple[AnchorLevel, ...] | None
    """The value for `model.anchors`; None: the paper's anchors."""
    coverage: Coverage


@dataclasses.dataclass(frozen=True)
class AnchorReport:
    """The coverage of the training objects by the configured anchors and by others."""

    choices: tuple[AnchorChoice, ...]
    """The configured anchors first."""
    advised: AnchorChoice | None
    """The choice that is clearly better than the configured anchors, and reaches no fewer objects; None: keep
    those."""
    not_reached: dict[str, float | None]
    """Each class -> the share of its objects, 0..1, that the configured anchors do not reach; None: it has
    no object."""


def inspect_anchors(dataset: DetectionDataset, config: Config, image_size: tuple[int, int]) -> AnchorReport:
    """Measures the configured anchors and fits others to the training objects that training uses.

    The image size is height and width of the network's input in pixels.
    """
    boxes, labels, _ = training_objects(dataset, config)
    model_config, positive_iou = config.model, config.loss.positive_iou

    def choice(name: str, levels: tuple[AnchorLevel, ...] | None) -> AnchorChoice:
        return AnchorChoice(name, levels, coverage(boxes, image_size, levels, positive_iou))

    def fit(name: str, stride_4: bool) -> AnchorChoice:
        return choice(name, fit_anchors(boxes, image_size, stride_4, positive_iou=positive_iou))

    configured, fitted = choice("configured", model_config.anchors), fit("fitted", model_config.has_stride_4)
    choices = [configured, fitted]
    if not model_config.has_stride_4:
        finer = fit("fitted with stride 4", stride_4=True)
        if _share(fitted) - _share(finer) >= WORTH_A_FINER_LEVEL:
            choices.append(finer)
    better = [other for other in choices[1:] if _is_better(other, configured)]
    reached = best_ious(boxes, image_size, model_config.anchors) >= positive_iou
    not_reached = {
        name: float(np.mean(~reached[labels == label])) if (labels == label).any() else None
        for label, name in enumerate(dataset.class_names, start=1)
    }
    return AnchorReport(tuple(choices), better[-1] if better else None, not_reached)


def _is_better(choice: AnchorChoice, configured: AnchorChoice) -> bool:
    """Says whether a choice is no worse than the configured anchors in both numbers, and better in one."""
    gains = _share(configured) - _share(choice), _mean(choice) - _mean(configured)
    return min(gains) >= 0 and max(gains) >= WORTH_CHANGING


def _share(choice: AnchorChoice) -> float:
    return choice.coverage.share_below or 0.0


def _mean(choice: AnchorChoice) -> float:
    return choice.coverage.mean_best_iou or 0.0
