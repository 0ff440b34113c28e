"""Detection on overlapping tiles of large images, in addition to the whole image.

The network warps a whole photograph to its own size, so that small objects vanish. A tile shows them in the
size that they have in the photograph, or enlarged; the whole image shows the objects that are larger than a
tile.
"""

import time
from collections.abc import Iterable, Sequence

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.detector import Detector, ImageLike, pixel_batches
from refinedet_tf.inference.multiscale import MultiScaleDetector
from refinedet_tf.inference.tiles import Tiling, seen_better_elsewhere, suppress_between_views
from refinedet_tf.pixel_boxes import to_normalized


class TiledDetector:
    """A detector that also sees the tiles of each image; it is called as a `Detector` is.

    ```
    detector = TiledDetector(Detector(model, config), config, Tiling(side=640, overlap=0.25))
    ```

    Attributes:
        tiling: where the tiles lie.
        class_names: the C names, label 1 first.
        num_classes: C, without background.
        passes: the number of passes over each view, 1 without multi-scale testing.
        views: the number of views so far, whole images and tiles.
        seconds: the time that all views have taken so far.
        whole_seconds: the part of `seconds` that the whole images have taken, which is the time without
            tiles.
    """

    def __init__(self, detector: Detector | MultiScaleDetector, config: Config, tiling: Tiling) -> None:
        """Wraps a detector.

        Args:
            detector: detects on whole images and on tiles.
            config: `postprocess.nms_iou` merges the detections of overlapping views.
            tiling: where the tiles lie.
        """
        self.tiling = tiling
        self.class_names, self.num_classes = detector.class_names, detector.num_classes
        self.passes = 2 * len(detector.passes) if isinstance(detector, MultiScaleDetector) else 1
        self.views = 0
        self.seconds = self.whole_seconds = 0.0
        self._detector = detector
        self._nms_iou = config.postprocess.nms_iou

    def __call__(self, images: Iterable[ImageLike], batch_size: int = 8) -> list[ImageDetections]:
        """Detects the objects of each image; arguments, result and errors are those of `Detector`.

        The tiles of up to `batch_size` images share batches of `batch_size` tiles. After the merging the
        number of detections is not limited again; `max_detections` holds for each tile.
        """
        results: list[ImageDetections] = []
        for batch in pixel_batches(images, batch_size):
            results += self._detect(batch, batch_size)
        return results

    @property
    def inputs(self) -> int:
        """The number of images that the network has seen so far, those of all passes over all views."""
        return self._detector.inputs

    @property
    def limited(self) -> np.ndarray:
        """What `Detector.limited` counts, of all passes over all views."""
        return self._detector.limited

    def _detect(self, images: Sequence[np.ndarray], batch_size: int) -> list[ImageDetections]:
        """Returns the merged detections of each image of a batch."""
        if isinstance(self._detector, Detector) and not self._detector.inputs:
            self._detector.warm_up()  # The times do not include tracing.
        whole, whole_seconds = self._run(images, batch_size)
        regions = [self.tiling.regions(image.shape[:2], self._detector.image_size) for image in images]
        tiles = [
            image[top:bottom, left:right]
            for image, image_regions in zip(images, regions, strict=True)
            for top, left, bottom, right in image_regions
        ]
        of_tiles, tile_seconds = self._run(tiles, batch_size)
        self.views += len(images) + len(tiles)
        self.seconds += whole_seconds + tile_seconds
        self.whole_seconds += whole_seconds
        results, first = [], 0
        for of_image, image_regions in zip(whole, regions, strict=True):
            end = first + len(image_regions)
            results.append(self._merge(of_image, of_tiles[first:end], image_regions))
            first = end
        return results

    def _run(self, images: Sequence[np.ndarray], batch_size: int) -> tuple[list[ImageDetections], float]:
        """Returns the detections of each image, and the seconds without tracing."""
        if isinstance(self._detector, MultiScaleDetector):
            # It traces a graph for each size of its input, and leaves that out of its time.
            before = self._detector.seconds
            results = self._detector(images, batch_size)
            return results, self._detector.seconds - before
        start = time.perf_counter()
        return self._detector(images, batch_size), time.perf_counter() - start

    def _merge(
        self, whole: ImageDetections, of_tiles: Sequence[ImageDetections], regions: np.ndarray
    ) -> ImageDetections:
        """Merges the detections of an image and its tiles."""
        if not of_tiles:
            return whole
        size = whole.image_size
        boxes, scores, labels = [whole.normalized_boxes], [whole.scores], [whole.labels]
        views = [np.zeros(len(whole.scores), np.int64)]
        for tile, detections in enumerate(of_tiles):
            moved = detections.boxes + regions[tile, [0, 1, 0, 1]].astype(np.float32)
            kept = ~seen_better_elsewhere(moved, tile, regions, size)
            boxes.append(to_normalized(moved[kept], size))
            scores.append(detections.scores[kept])
            labels.append(detections.labels[kept])
            views.append(np.full(np.count_nonzero(kept), 1 + tile))
        all_boxes, all_scores, all_labels = (np.concatenate(rows) for rows in (boxes, scores, labels))
        rows = suppress_between_views(all_boxes, all_scores, all_labels, np.concatenate(views), self._nms_iou)
        return ImageDetections(all_boxes[rows], all_scores[rows], all_labels[rows], self.class_names, size)
