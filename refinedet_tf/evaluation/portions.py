"""The part of a dataset on which one process detects, and the way of its detections to another process.

Batches of `evaluation.batch_size` images are counted in the order of the dataset, and batch k belongs to
process k modulo the number of processes. A batch is never divided; see `inference.replicas`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.evaluation.results import MultiScaleCost, Throughput, TilingCost
from refinedet_tf.inference.detections import DatasetDetections, ImageDetections
from refinedet_tf.inference.image_detector import Cost
from refinedet_tf.inference.replicas import ReplicaWork

ROW = np.dtype([("image", "<i8"), ("label", "<i4"), ("score", "<f4"), ("box", "<f4", 4)])
"""A detection in the bytes that a process gives to another one."""


@dataclasses.dataclass(frozen=True)
class Portion:
    """What one process, or all of them, have detected on a dataset.

    Attributes:
        detections: the detections in the order of the images, whose indices are those of the whole dataset.
        cost: what the detectors have counted and measured; the seconds are without tracing.
        work: what each replica has done.
        passes: the number of passes over each image, or with tiles over each view; 1 for a single scale.
        loss_sums: the sums of the loss, as `evaluation.loss.loss_terms` takes them; () without them.
    """

    detections: DatasetDetections
    cost: Cost
    work: tuple[ReplicaWork, ...]
    passes: int = 1
    loss_sums: tuple[float, ...] = ()

    @property
    def num_images(self) -> int:
        """The number of images of the portion."""
        return sum(work.images for work in self.work)

    def cost_fields(self, config: Config) -> dict[str, Any]:
        """Returns the fields of an `EvaluationResult` that tell the cost: that of one way of detection."""
        network = self.cost.network_seconds / self.num_images
        seconds, plain = (value / self.num_images for value in (self.cost.seconds, self.cost.plain_seconds))
        if self.cost.views:
            cost = TilingCost(self.cost.views / self.num_images, self.passes, seconds, plain)
            return {"work": self.work, "tiling": cost}
        if self.passes > 1:
            return {"work": self.work, "multi_scale": MultiScaleCost(self.passes, seconds, plain)}
        speed = Throughput(config.evaluation.batch_size, network, seconds - network)
        return {"work": self.work, "throughput": speed}

    def facts(self) -> dict[str, Any]:
        """Returns everything but the detections, in values that JSON can hold."""
        work = [dataclasses.astuple(work) for work in self.work]
        return {"cost": dataclasses.asdict(self.cost), "work": work, "loss_sums": self.loss_sums}

    def to_bytes(self) -> bytes:
        """Returns the detections as rows of `ROW`."""
        detections = self.detections
        rows = np.empty(len(detections.images), ROW)
        rows["image"], rows["label"] = detections.images, detections.labels
        rows["score"], rows["box"] = detections.scores, detections.boxes
        return rows.tobytes()


def portion_of(num_images: int, batch_size: int, index: int, count: int) -> np.ndarray:
    """Chooses the images of one process.

    Args:
        num_images: N, the number of images of the dataset.
        batch_size: the images per batch; only the last batch of the dataset may be smaller.
        index: the number of the process, 0..count - 1.
        count: the number of processes.

    Returns:
        int64 [n], ascending indices in 0..N - 1. It is empty where there are fewer batches than processes.
    """
    images = np.arange(num_images, dtype=np.int64)
    return images[images // batch_size % count == index]


def join_images(results: Sequence[ImageDetections], indices: Sequence[int] | np.ndarray) -> DatasetDetections:
    """Joins the detections of images; `indices` are the places of the images in the dataset.

    Raises:
        InputError: a score or a box is not finite.
    """
    counts = [len(result.scores) for result in results]
    boxes = [result.normalized_boxes for result in results]
    # The empty first parts are for a process without images.
    return DatasetDetections(
        images=np.repeat(np.asarray(indices, np.int64), np.asarray(counts, np.int64)),
        labels=np.concatenate([np.zeros(0, np.int32), *(result.labels for result in results)]),
        scores=np.concatenate([np.zeros(0, np.float32), *(result.scores for result in results)]),
        boxes=np.concatenate([np.zeros((0, 4), np.float32), *boxes]),
    )


def join_portions(
    names: Sequence[str], facts: Sequence[dict[str, Any]], parts: Sequence[bytes], passes: int
) -> Portion:
    """Joins the portions of all processes to that of one process with the whole dataset.

    Args:
        names: the name of each process.
        facts: what `Portion.facts` has returned there.
        parts: what `Portion.to_bytes` has returned there.
        passes: `Portion.passes`, which is the same in all processes.
    """
    rows = np.frombuffer(b"".join(parts), ROW)
    # The rows of an image come from one process and keep their order.
    rows = rows[np.argsort(rows["image"], kind="stable")]
    detections = DatasetDetections(
        images=rows["image"].astype(np.int64),
        labels=rows["label"].astype(np.int32),
        scores=rows["score"].astype(np.float32),
        boxes=rows["box"].astype(np.float32),
    )
    work = [
        ReplicaWork(f"{name} {replica}", images, seconds)
        for name, there in zip(names, facts, strict=True)
        for replica, images, seconds in there["work"]
    ]
    costs = [Cost(**there["cost"]) for there in facts]
    loss_sums = tuple(map(sum, zip(*(there["loss_sums"] for there in facts), strict=True)))
    return Portion(detections, sum(costs, Cost()), tuple(work), passes, loss_sums)
