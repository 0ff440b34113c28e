"""Multi-scale testing: the "+" rows of the paper's tables.

The network sees each image at several sizes and mirrored, every pass gives detections of its own,
and those of one class are merged by box voting (VOC) or soft box voting (COCO). Which sizes, and
which boxes of a pass count, is that of the authors' program.
"""

import dataclasses
import time
from collections.abc import Iterable

import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.errors import InputError
from refinedet_tf.inference.compiled_detector import network_size
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector, ImageLike, as_pixels
from refinedet_tf.inference.merging import box_voting, soft_box_voting


@dataclasses.dataclass(frozen=True)
class Pass:
    """One size of the network's input, seen as it is and mirrored.

    Attributes:
        factor: the input is a square of int(S * factor), S the size the network was trained at.
        shorter_factor: or, the longer side of the image becomes S * factor and its shorter one
            int(S * shorter_factor); None: a square.
        longer_above: only boxes whose longer side is larger than this count, pixels of the image.
        shorter_below: only boxes whose shorter side is smaller than this.
        coco_only: the pass is made for COCO alone.
    """

    factor: float
    shorter_factor: float | None = None
    longer_above: float = 0.0
    shorter_below: float = float("inf")
    coco_only: bool = False

    def input_size(self, base: int, image_size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of the network's input for an image of (height, width)."""
        longer = int(base * self.factor)
        if self.shorter_factor is None:
            return longer, longer
        shorter = int(base * self.shorter_factor)
        height, width = image_size
        return (shorter, longer) if height < width else (longer, shorter)

    def counts(self, boxes: np.ndarray) -> np.ndarray:
        """bool [n]: which boxes [n, 4] in pixels count; their sides are one pixel longer, as Caffe's."""
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
"""The authors' passes by the size that the network was trained at."""


class MultiScaleDetector:
    """A trained network that looks at each image many times; called as a `Detector` is.

    Attributes:
        seconds: time spent by all passes so far, and `single_seconds` by what a `Detector` does.
    """

    def __init__(self, model: keras.Model, config: Config):
        """
        Args:
            model: the network with free input size, built with `model.image_size` null.
            config: `model.image_size` is the size S that the network was trained at; `postprocess`
                holds for each pass; `evaluation.metric` "coco" adds passes and merges by soft box
                voting; the class names are used. The passes are those of 320 where S is up to 416,
                above that those of 512.

        Raises:
            InputError: S is not known or not square, or the class names are not known.
        """
        height, width = network_size(config)
        if height != width:
            raise InputError(f"multi-scale testing needs a square model.image_size, got {[height, width]}")
        is_coco = config.evaluation.metric == "coco"
        table = PASSES[320 if height <= 416 else 512]
        self.passes = [one for one in table if is_coco or not one.coco_only]
        self.class_names = config.data.classes
        self.num_classes = config.num_classes
        self.seconds = self.single_seconds = 0.0
        self._merge = soft_box_voting if is_coco else box_voting
        self._model, self._base = model, height
        self._config = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=None))
        self._detectors = {}

    def __call__(self, images: Iterable[ImageLike], batch_size: int = 8) -> list[ImageDetections]:
        """Detects the objects of each image: arguments, result and errors are those of `Detector`.

        Detections of one class that overlap have become one, so that there are no limits to their
        number but those of the passes.
        """
        results, batch = [], []
        for number, image in enumerate(images):
            batch.append(as_pixels(image, number))
            if len(batch) == batch_size:
                results += self._detect(batch)
                batch = []
        return results + self._detect(batch)

    def _detect(self, images):
        found = [[] for _ in images]
        for one in self.passes:
            # A pass may have two sizes, of upright and of wide images.
            sizes = [one.input_size(self._base, image.shape[:2]) for image in images]
            for size in sorted(set(sizes)):
                chosen = [number for number, other in enumerate(sizes) if other == size]
                for number, result in zip(chosen, self._pass(one, size, images, chosen), strict=True):
                    found[number].append(result)
        return [self._merged(parts, image) for parts, image in zip(found, images, strict=True)]

    def _pass(self, one, size, images, chosen):
        """(boxes, scores, labels) of each chosen image by one pass, as it is and mirrored."""
        detector = self._detectors.get(size)
        if detector is None:
            detector = self._detectors[size] = Detector(self._model, self._config, size)
            detector([images[chosen[0]]], 1)  # Tracing stays out of the times.
        started = time.perf_counter()
        plain = detector([images[number] for number in chosen], len(chosen))
        middle = time.perf_counter()
        mirrored = detector([images[number][:, ::-1] for number in chosen], len(chosen))
        self.seconds += time.perf_counter() - started
        if one == self.passes[0]:
            self.single_seconds += middle - started
        results = []
        for number, left, right in zip(chosen, plain, mirrored, strict=True):
            boxes = np.concatenate([left.boxes, mirror(right.boxes, images[number].shape[1])])
            kept = one.counts(boxes)
            columns = (
                np.concatenate([getattr(left, name), getattr(right, name)]) for name in ("scores", "labels")
            )
            results.append((boxes[kept], *(column[kept] for column in columns)))
        return results

    def _merged(self, parts, image):
        boxes, scores, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
        merged = []
        for label in np.unique(labels):
            of_class = labels == label
            voted, voted_scores = self._merge(boxes[of_class], scores[of_class])
            merged.append((voted, voted_scores, np.full(len(voted), label)))
        if merged:
            boxes, scores, labels = (np.concatenate(column) for column in zip(*merged, strict=True))
        order = np.argsort(-scores, kind="stable")
        height, width = image.shape[:2]
        return ImageDetections.from_pixels(
            boxes[order], scores[order], labels[order], self.class_names, (height, width)
        )


def mirror(boxes: np.ndarray, width: int) -> np.ndarray:
    """Boxes [n, 4] of the mirrored image, `[ymin, xmin, ymax, xmax]` in pixels, in the image itself."""
    ymin, xmin, ymax, xmax = boxes.T
    return np.stack([ymin, width - xmax, ymax, width - xmin], axis=1)
