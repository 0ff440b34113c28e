"""Do fitted anchors and a level of stride 4 find smaller objects: python benchmarks/small_objects.py

Draws a set of shapes of 16 pixels, which are about 8 pixels of the network's input, and trains the same small
network with the paper's anchors, with the anchors that `fit_anchors` suggests for the training images, and
with those it suggests with a level of stride 4. One line of JSON per network: how well the anchors reach the
objects of the test images, and the mAP there. What is finished already is not trained again.
"""

import argparse
import dataclasses
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import networks

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config.files import load_config
from refinedet_tf.config.values import AnchorLevel
from refinedet_tf.data.shapes import write_shapes
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.reports.inspection.anchor_coverage import Coverage, coverage
from refinedet_tf.reports.inspection.anchor_fit import fit_anchors


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, draws, trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser, "shapes.json")
    parser.add_argument("--output", type=Path, default=Path("runs/small_objects"), metavar="FOLDER")
    parser.add_argument("--object-size", type=float, default=16.0, metavar="PIXELS")
    parser.add_argument("--images", type=int, default=600, help="training images (default: 600)")
    parser.add_argument("--steps", type=int, default=600, help="steps per training (default: 600)")
    parser.add_argument("--seeds", type=int, default=1, help="trainings per network (default: 1)")
    options = parser.parse_args(arguments)
    import_tensorflow()
    from refinedet_tf.data.dataset import read_dataset

    root = options.output / "shapes"
    write_shapes(
        root,
        {"train": options.images, "val": 1, "test": 200},
        object_pixels=(options.object_size, options.object_size),
    )
    shared = [
        f"data.root={root.absolute()}",
        "data.validation=[]",
        f"training.length={options.steps}",
        f"training.milestones={json.dumps([options.steps * 7 // 10, options.steps * 9 // 10])}",
        f"training.warmup={options.steps // 10}",
        f"training.validate_every={options.steps}",
        f"training.checkpoint_every={options.steps}",
        *options.overrides,
    ]
    config = load_config(options.config, shared)
    image_size = config.model.image_size
    assert image_size is not None, "model.image_size must not be null"
    train_boxes = read_dataset(config.data, "train", strict=True).boxes
    test_boxes = read_dataset(config.data, "test", strict=True).boxes
    variants: dict[str, Sequence[AnchorLevel] | None] = {
        "the paper's anchors": None,
        "suggested anchors": fit_anchors(train_boxes, image_size),
        "suggested anchors with stride 4": fit_anchors(train_boxes, image_size, stride_4=True),
    }
    for number, (name, levels) in enumerate(variants.items()):
        value = None if levels is None else [dataclasses.asdict(level) for level in levels]
        settings = [*shared, f"model.anchors={json.dumps(value)}"]
        runs = [
            networks.measured_training(
                options.config,
                [*settings, f"training.seed={seed}"],
                options.output / f"variant{number}_seed{seed}",
            )
            for seed in range(options.seeds)
        ]
        row = {
            "network": name,
            "anchors": len(tile_anchors(image_size, levels)),
            **_summary(coverage(test_boxes, image_size, levels)),
            "mAP": round(statistics.mean(result["mAP"] for result in runs), 4),
            "mAP_per_seed": [round(result["mAP"], 4) for result in runs],
            "minutes_per_training": round(statistics.mean(result["minutes"] for result in runs), 1),
            "model.anchors": value,
        }
        print(json.dumps(row), flush=True)


def _summary(measured: Coverage) -> dict[str, Any]:
    """The coverage of all objects, rounded."""
    assert measured.share_below is not None
    assert measured.mean_best_iou is not None
    return {
        "objects": measured.objects,
        "share_below_0.5": round(measured.share_below, 4),
        "mean_best_iou": round(measured.mean_best_iou, 4),
    }


if __name__ == "__main__":
    run(main)
