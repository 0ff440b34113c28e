"""Multi-scale testing: the "+" rows of the paper's tables.

The network sees each image at several sizes, as it is and mirrored. The detections of all these passes
are merged, class by class, by box voting (VOC) or soft box voting (COCO). The sizes, and the boxes that
count in each pass, are those of the authors' program.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.inference.compiled_detector import network_size
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.image_detector import Cost, ImageDetector, total_cost
from refinedet_tf.inference.merging import Merge, box_voting, soft_box_voting

Rows = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Boxes float32 [n, 4] in pixels of the image, scores float32 [n] and labels int32 [n]."""


@dataclasses.dataclass(frozen=True)
class Pass:
    """One size of the network's input, seen as it is and mirrored.

    Attributes:
        factor: the longer side of the input is int(S * factor) pixels, where S is the size that the
            network was trained at.
        shorter_factor: the shorter side of the input is int(S * shorter_factor) pixels, and the longer
            side of the input is along the longer side of the image; None: the input is a square.
        longer_above: only boxes whose longer side exceeds this count, in pixels of the image.
        shorter_below: only boxes whose shorter side is smaller than this count, in pixels of the image.
        coco_only: whether the pass is made for COCO alone.
    """

    factor: float
    shorter_factor: float | None = None
    longer_above: float = 0.0
    shorter_below: float = float("inf")
    coco_only: bool = False

    def input_size(self, base: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns (height, width) of the network's input.

        Args:
            base: S, in pixels.
            image_size: (height, width) of the image in pixels.
        """
        longer = int(base * self.factor)
        if self.shorter_factor is None:
            return longer, longer
        shorter = int(base * self.shorter_factor)
        height, width = image_size
        return (shorter, longer) if height < width else (longer, shorter)

    def counts(self, boxes: np.ndarray) -> np.ndarray:
        """Returns which boxes count: bool [n] for boxes [n, 4], `[ymin, xmin, ymax, xmax]` in pixels.

        A side is `max - min + 1` long, as in the authors' program.
        """
        sides = boxes[:, 2:] - boxes[:, :2] + 1.0
        return (sides.max(axis=1) > self.longer_above) & (sides.min(axis=1) < self.shorter_below)


PASSES = {
    320: (
        Pass(1.0),
        Pass(1.0, shorter_factor=0.6),
        Pass(0.6, longer_above=32),
        Pass(1.2, shorter_below=160),
        Pass(1.4, shorter_below=128),
        Pass(1.6, shorter_below=96),
        Pass(1.8, shorter_below=64),
        Pass(2.0, shorter_below=48, coco_only=True),
        Pass(2.2, shorter_below=32),
    ),
    512: (
        Pass(1.0),
        Pass(1.0, shorter_factor=0.75),
        Pass(0.5),
        Pass(0.75),
        Pass(1.25, shorter_below=224, coco_only=True),
        Pass(1.5, shorter_below=192),
        Pass(1.75, shorter_below=128),
        Pass(2.0, shorter_below=96, coco_only=True),
        Pass(2.25, shorter_below=64, coco_only=True),
    ),
}
"""The authors' passes, by the size that the network was trained at; the first pass is the single scale."""


class MultiScaleDetector(ImageDetector):
    """A trained network that sees each image in many passes; it is called as a `Detector` is.

    After the merging the number of detections is not limited again; `max_detections` holds for each pass.

    Attributes:
        passes: the passes; each is made as it is and mirrored.
    """

    def __init__(self, model: keras.Model, config: Config, wanted_score: float = 0.0) -> None:
        """Chooses the passes: those of 320 if S is at most 416, otherwise those of 512.

        Args:
            model: the network with free input size, built with `model.image_size` null.
            config: `model.image_size` is the size S that the network was trained at. `postprocess` and
                `model.design` hold for each pass. The `evaluation.metric` "coco" adds passes and merges
                by soft box voting. The class names are used.
            wanted_score: as for `Detector`.

        Raises:
            InputError: S is not known or not square, or the class names are not known.
        """
        height, width = network_size(config)
        if height != width:
            raise InputError(f"multi-scale testing needs a square model.image_size, got {[height, width]}")
        is_coco = config.evaluation.metric == "coco"
        all_passes = PASSES[320 if height <= 416 else 512]
        self.passes = [scale_pass for scale_pass in all_passes if is_coco or not scale_pass.coco_only]
        self.image_size = (height, width)
        self.class_names = config.class_names
        self.num_classes = config.num_classes
        self._plain_seconds = 0.0
        self._merge: Merge = soft_box_voting if is_coco else box_voting
        self._model, self._base = model, height
        self._config = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=None))
        self._wanted_score = wanted_score
        self._detectors: dict[tuple[int, int], Detector] = {}

    @property
    def num_passes(self) -> int:
        """The number of times that the network sees each image, as it is and mirrored."""
        return 2 * len(self.passes)

    @property
    def cost(self) -> Cost:
        """What all passes have cost so far, without tracing."""
        cost = total_cost(self._detectors.values())
        return dataclasses.replace(cost, plain_seconds=self._plain_seconds)

    def _detect(self, images: Iterator[np.ndarray], batch_size: int) -> list[ImageDetections]:
        batch = list(images)
        detections_of_passes: list[list[Rows]] = [[] for _ in batch]
        for scale_pass in self.passes:
            # A pass has two input sizes if the batch holds both upright and wide images.
            sizes = [scale_pass.input_size(self._base, image.shape[:2]) for image in batch]
            for size in sorted(set(sizes)):
                numbers = [number for number, image_size in enumerate(sizes) if image_size == size]
                results = self._run_pass(scale_pass, size, [batch[number] for number in numbers])
                for number, rows in zip(numbers, results, strict=True):
                    detections_of_passes[number].append(rows)
        return [
            self._merge_passes(rows, image) for rows, image in zip(detections_of_passes, batch, strict=True)
        ]

    def _run_pass(self, scale_pass: Pass, size: tuple[int, int], images: Sequence[np.ndarray]) -> list[Rows]:
        """Returns the detections of each image as it is and mirrored, with the network's input of `size`."""
        detector = self._detectors.get(size)
        if detector is None:
            detector = self._detectors[size] = Detector(self._model, self._config, size, self._wanted_score)
            detector.warm_up()  # The times do not include tracing.
        before = detector.cost.seconds
        plain = detector(images, len(images))
        if scale_pass == self.passes[0]:
            self._plain_seconds += detector.cost.seconds - before
        mirrored = detector([image[:, ::-1] for image in images], len(images))
        results: list[Rows] = []
        for image, of_plain, of_mirrored in zip(images, plain, mirrored, strict=True):
            boxes = np.concatenate([of_plain.boxes, mirror(of_mirrored.boxes, image.shape[1])])
            scores = np.concatenate([of_plain.scores, of_mirrored.scores])
            labels = np.concatenate([of_plain.labels, of_mirrored.labels])
            counted = scale_pass.counts(boxes)
            results.append((boxes[counted], scores[counted], labels[counted]))
        return results

    def _merge_passes(self, rows_of_passes: Sequence[Rows], image: np.ndarray) -> ImageDetections:
        """Merges the detections of all passes on an image, class by class."""
        boxes, scores, labels = (np.concatenate(column) for column in zip(*rows_of_passes, strict=True))
        merged = []
        for label in np.unique(labels):
            of_class = labels == label
            merged_boxes, merged_scores = self._merge(boxes[of_class], scores[of_class])
            merged.append((merged_boxes, merged_scores, np.full(len(merged_boxes), label)))
        if merged:
            boxes, scores, labels = (np.concatenate(column) for column in zip(*merged, strict=True))
        order = np.argsort(-scores, kind="stable")
        height, width = image.shape[:2]
        return ImageDetections.from_pixels(
            boxes[order], scores[order], labels[order], self.class_names, (height, width)
        )


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """Moves boxes of a mirrored image to their places in the image as it is.

    Args:
        boxes: float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the mirrored image.
        width: the width of the image in pixels.

    Returns:
        float [n, 4], `[ymin, xmin, ymax, xmax]` in pixels of the image as it is.
    """
    ymin, xmin, ymax, xmax = boxes.T
    return np.stack([ymin, width - xmax, ymax, width - xmin], axis=1)
