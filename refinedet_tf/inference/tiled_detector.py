"""Detection on overlapping tiles of large images, in addition to the whole image.

The network warps a whole photograph to its own size, so that small objects vanish. A tile shows them in the
size that they have in the photograph, or enlarged; the whole image shows the objects that are larger than a
tile.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.image_detector import Cost, ImageDetector
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.inference.tiles import Tiling, seen_better_elsewhere, suppress_between_views
from refinedet_tf.pixel_boxes import to_normalized


class TiledDetector(ImageDetector):
    """A detector that also sees the tiles of each image; it is called as a `Detector` is.

    ```
    detector = TiledDetector(Detector(model, config), config, Tiling(side=640, overlap=0.25))
    ```

    The tiles of the images of a batch share batches of their own. After the merging the number of detections
    is not limited again; `max_detections` holds for each view.

    Attributes:
        tiling: where the tiles lie.
    """

    def __init__(self, detector: ImageDetector, config: Config, tiling: Tiling) -> None:
        """Wraps a detector; `postprocess.nms_iou` merges the detections of overlapping views."""
        self.tiling = tiling
        self.class_names, self.num_classes = detector.class_names, detector.num_classes
        self.image_size = detector.image_size
        self._views, self._whole_seconds = 0, 0.0
        self._detector = detector
        self._nms_iou = config.postprocess.nms_iou

    @property
    def num_passes(self) -> int:
        """The number of times that the network sees each view."""
        return self._detector.num_passes

    @property
    def cost(self) -> Cost:
        """What all passes over all views have cost so far, without tracing."""
        return dataclasses.replace(self._detector.cost, views=self._views, plain_seconds=self._whole_seconds)

    def _detect(self, images: Iterator[np.ndarray], batch_size: int) -> list[ImageDetections]:
        batch = list(images)
        if not batch:
            return []
        if not self._views:
            self._detector.warm_up()  # The times do not include tracing.
        before = self._detector.cost.seconds
        whole = self._detector(batch, batch_size)
        self._whole_seconds += self._detector.cost.seconds - before
        regions = [self.tiling.regions(image.shape[:2], self._detector.image_size) for image in batch]
        tiles = [
            image[top:bottom, left:right]
            for image, image_regions in zip(batch, regions, strict=True)
            for top, left, bottom, right in image_regions
        ]
        of_tiles = self._detector(tiles, batch_size)
        self._views += len(batch) + len(tiles)
        results, first = [], 0
        for of_image, image_regions in zip(whole, regions, strict=True):
            end = first + len(image_regions)
            results.append(self._merge(of_image, of_tiles[first:end], image_regions))
            first = end
        return results

    def _merge(
        self, whole: ImageDetections, of_tiles: Sequence[ImageDetections], regions: np.ndarray
    ) -> ImageDetections:
        """Merges the detections of an image and its tiles."""
        if not of_tiles:
            return whole
        size = whole.image_size
        views = [(whole.normalized_boxes, whole.scores, whole.labels, np.zeros(len(whole.scores), np.int64))]
        for tile, detections in enumerate(of_tiles):
            moved = detections.boxes + regions[tile, [0, 1, 0, 1]].astype(np.float32)
            kept = ~seen_better_elsewhere(moved, tile, regions, size)
            boxes, number = to_normalized(moved[kept], size), np.full(np.count_nonzero(kept), 1 + tile)
            views.append((boxes, detections.scores[kept], detections.labels[kept], number))
        boxes, scores, labels, numbers = (np.concatenate(column) for column in zip(*views, strict=True))
        rows = suppress_between_views(boxes, scores, labels, numbers, self._nms_iou)
        return ImageDetections(boxes[rows], scores[rows], labels[rows], self.class_names, size)


def make_detector(
    model: keras.Model,
    config: Config,
    multi_scale: bool = False,
    tiling: Tiling | None = None,
    wanted_score: float = 0.0,
) -> ImageDetector:
    """Makes the detector of a command.

    The model, the config and `wanted_score` are those of `Detector`, or of `MultiScaleDetector`, with which
    the network sees each view in many passes. Without a tiling, only whole images are seen.

    Raises:
        InputError: the reasons are those of `Detector` or `MultiScaleDetector`.
    """
    kind = MultiScaleDetector if multi_scale else Detector
    detector = kind(model, config, wanted_score=wanted_score)
    return detector if tiling is None else TiledDetector(detector, config, tiling)
