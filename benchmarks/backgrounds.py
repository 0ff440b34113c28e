"""What photographs without objects teach: python benchmarks/backgrounds.py VOCDEVKIT

Takes the photographs of a VOC devkit, and of its classes one. Trains own_data.json at 96 x 96 on photographs
that show the class and on photographs that do not, for each seed once without `loss.background_negatives` and
once with it. Prints one JSON line per training: the false positives with a
score above 0.5 on other photographs that do not show the class, and recall and AP on others that do. The last
two lines give the means.

A run that is in the folder already is not trained again, so that a stopped benchmark goes on.
"""

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import networks
import numpy as np

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config.files import load_config

SCORE = 0.5
"""The score from which a detection is shown to people."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("voc", type=Path, help="the folder that holds VOC2007")
    parser.add_argument("--train-split", default="trainval", help="default: trainval")
    parser.add_argument("--test-split", default="test", help="default: test")
    parser.add_argument("--class-name", default="person", help="the class to detect (default: person)")
    parser.add_argument("--folder", type=Path, default=Path("runs/backgrounds"), help="of the runs")
    parser.add_argument(
        "--images", type=int, default=300, help="photographs with the class to train on (default: 300)"
    )
    parser.add_argument(
        "--backgrounds",
        type=int,
        default=600,
        help="photographs without it, half of which are trained on (default: 600)",
    )
    parser.add_argument("--steps", type=int, default=400, help="of each training (default: 400)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    parser.add_argument("--negatives", type=int, default=10, help="background_negatives (default: 10)")
    options = parser.parse_args(arguments)
    import_tensorflow()

    write_devkit(options)
    results: dict[int, list[dict[str, float]]] = {0: [], options.negatives: []}
    for seed in range(options.seeds):
        for negatives, found in results.items():
            found.append(train_and_measure(options, seed, negatives))
            print(json.dumps({"background_negatives": negatives, "seed": seed, **found[-1]}), flush=True)
    for negatives, found in results.items():
        means = {name: round(float(np.mean([numbers[name] for numbers in found])), 4) for name in found[0]}
        print(json.dumps({"background_negatives": negatives, "means": means}), flush=True)


def write_devkit(options: argparse.Namespace) -> None:
    """Writes a devkit whose annotations name the class alone, with the splits of the benchmark.

    The split "train" holds the photographs to train on. "background" holds those without the class that no
    training sees, and "test" all others that show the class, so that recall has many objects.
    """
    source, target = options.voc.resolve() / "VOC2007", options.folder / "devkit/VOC2007"
    shows: dict[str, bool] = {}
    for name in ("Annotations", "ImageSets/Main"):
        (target / name).mkdir(parents=True, exist_ok=True)
    if not (target / "JPEGImages").exists():
        (target / "JPEGImages").symlink_to(source / "JPEGImages")

    def read_split(split: str) -> list[str]:
        ids = (source / f"ImageSets/Main/{split}.txt").read_text(encoding="utf-8").split()
        for image_id in ids:
            tree = ElementTree.parse(source / f"Annotations/{image_id}.xml")
            annotation = tree.getroot()
            for found in annotation.findall("object"):
                if found.findtext("name") != options.class_name:
                    annotation.remove(found)
            tree.write(target / f"Annotations/{image_id}.xml")
            shows[image_id] = annotation.find("object") is not None
        return ids

    train, test = read_split(options.train_split), read_split(options.test_split)
    with_class = [image_id for image_id in train if shows[image_id]]
    without = [image_id for image_id in train if not shows[image_id]][: options.backgrounds]
    half = len(without) // 2
    splits = {
        "train": sorted(with_class[: options.images] + without[:half]),
        "background": without[half:],
        "test": with_class[options.images :] + [image_id for image_id in test if shows[image_id]],
    }
    for split, ids in splits.items():
        (target / f"ImageSets/Main/{split}.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    print(json.dumps({"photographs": {split: len(ids) for split, ids in splits.items()}}), flush=True)


def train_and_measure(options: argparse.Namespace, seed: int, negatives: int) -> dict[str, float]:
    """Trains, unless the folder holds the weights already.

    Returns:
        "false_positives", a number; at IoU 0.5, "recall" of all detections, "recall_at_0.5" of those above
        `SCORE`, and "ap", all 0..1.
    """
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation.evaluator import detect_portion, score_detections, timed_replicas
    from refinedet_tf.evaluation.ground_truth import GroundTruth
    from refinedet_tf.reports.errors.matched_detections import match_detections

    config = load_config(
        "own_data.json",
        [
            f"data.root={options.folder / 'devkit'}",
            'data.train=["2007/train"]',
            'data.test=["2007/test"]',
            f"data.classes={json.dumps([options.class_name])}",
            "model.image_size=[96, 96]",
            "training.batch_size=16",
            f"loss.background_negatives={negatives}",
            f"training.length={options.steps}",
            f"training.warmup={options.steps // 10}",
            f"training.seed={seed}",
            "training.log_every=50",
        ],
    )
    network = networks.trained_network(config, options.folder / f"negatives{negatives}_seed{seed}")

    test_set = read_dataset(config.data, "test")
    backgrounds = read_dataset(dataclasses.replace(config.data, test=("2007/background",)), "test")
    replicas = timed_replicas(network, config)
    detections, on_backgrounds = (
        detect_portion(replicas, config, dataset).detections for dataset in (test_set, backgrounds)
    )
    matched = match_detections(detections, GroundTruth.from_dataset(test_set), "always")
    found = matched.true_positive
    objects = int((~test_set.difficult).sum())
    numbers = {
        "recall": found.sum() / objects,
        "recall_at_0.5": (found & (matched.detections.scores > SCORE)).sum() / objects,
        "ap": score_detections(detections, test_set, "voc").mean_ap,
    }
    return {
        "false_positives": int((on_backgrounds.scores > SCORE).sum()),
        **{name: round(float(value), 4) for name, value in numbers.items()},
    }


if __name__ == "__main__":
    run(main)
