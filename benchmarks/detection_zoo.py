"""What a detector of TensorFlow's detection zoo reaches on the test split of a config with VOC's classes:

python benchmarks/detection_zoo.py frozen_inference_graph.pb --config voc2007_test_photos.json

The graph knows COCO's classes; those that VOC has too count under VOC's names, and all others are left out.
Each image enters the graph alone and as it is. Prints one line of JSON: mAP by both of VOC's metrics, AP of
each class, and the median milliseconds per image of the whole graph.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import networks
import numpy as np

from refinedet_tf.commands.options import config_from
from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.weights.class_names import known_set, pair_classes

NO_CATEGORY = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""The numbers from 1 to 90 that COCO has given to no class."""

OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, detects, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("graph", type=Path, metavar="GRAPH.pb")
    networks.add_config_options_with_default(parser, "voc2007_test_photos.json")
    options = parser.parse_args(arguments)
    config = config_from(options)
    import_tensorflow()
    import tensorflow as tf

    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.data.images import read_image
    from refinedet_tf.evaluation.evaluator import score_detections
    from refinedet_tf.inference.detections import DatasetDetections

    definition = tf.compat.v1.GraphDef.FromString(options.graph.read_bytes())
    graph = tf.compat.v1.wrap_function(
        lambda: tf.graph_util.import_graph_def(definition, name=""), signature=[]
    )
    detect = graph.prune("image_tensor:0", [f"{name}:0" for name in OUTPUTS])

    label_of_category = labels_of_categories(config.class_names)
    dataset = read_dataset(config.data, "test")
    rows: list[tuple[np.ndarray, ...]] = []
    seconds = []
    for number, path in enumerate(dataset.image_paths):
        pixels = tf.constant(read_image(path)[None])
        start = time.perf_counter()
        boxes, scores, categories = (output.numpy()[0] for output in detect(pixels))
        seconds.append(time.perf_counter() - start)
        labels = label_of_category[categories.astype(int)]
        known = (labels > 0) & (scores > 0)
        images = np.full(np.count_nonzero(known), number, np.int64)
        rows.append((images, labels[known], scores[known], boxes[known]))
    detections = DatasetDetections(*map(np.concatenate, zip(*rows, strict=True)))
    results = {metric: score_detections(detections, dataset, metric) for metric in ("voc07", "voc")}
    figures = {
        "mAP": {metric: round(result.mean_ap, 4) for metric, result in results.items()},
        "AP": {name: round(found.ap, 4) for name, found in results["voc07"].classes.items()},
        "images": len(dataset),
        "milliseconds": round(1e3 * float(np.median(seconds)), 1),
    }
    print(json.dumps(figures))


def labels_of_categories(class_names: Sequence[str]) -> np.ndarray:
    """The label of each of COCO's category numbers 0..90; 0 where the classes do not have it."""
    known = known_set(80)
    assert known is not None
    categories = [number for number in range(1, 91) if number not in NO_CATEGORY]
    labels = np.zeros(91, np.int32)
    for label, coco_label in pair_classes(class_names, known[1]).items():
        labels[categories[coco_label - 1]] = label
    return labels


if __name__ == "__main__":
    run(main)
