"""What a start from a detector of other classes gains: python benchmarks/fine_tuning.py

Trains the network of shapes.json (MobileNetV2 at 160 x 160) on generated images of five of the six shapes.
Then, for each seed, it trains on 100 other images of all six shapes: once from those weights, and once in the
same way from random weights. Prints one JSON line per run with the mAP on the test split (the images of the
five shapes for the first training), and a last line with the means.

A run that is in the folder already is not trained again, so that a stopped benchmark goes on.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import networks
import numpy as np

from refinedet_tf.commands.terminal import import_tensorflow, run
from refinedet_tf.config.files import load_config
from refinedet_tf.data.shapes import CLASS_NAMES, write_shapes

NEW_CLASS = "star"
"""The shape that the images of the first training do not show."""

IMAGES_OF_A_SEED = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/fine_tuning"), help="of the set and the runs"
    )
    parser.add_argument("--images", type=int, default=2000, help="images, half of which show no star")
    parser.add_argument("--test-images", type=int, default=200, help="images to measure on (default: 200)")
    parser.add_argument("--steps", type=int, default=1600, help="of the first training (default: 1600)")
    parser.add_argument("--tuning-steps", type=int, default=300, help="of each other training (default: 300)")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    options = parser.parse_args(arguments)
    import_tensorflow()

    root = options.folder / "shapes"
    splits = {f"tuning{seed}": IMAGES_OF_A_SEED for seed in range(options.seeds)}
    write_shapes(root, {"train": options.images, "test": options.test_images, **splits})
    num_images = write_split_without(NEW_CLASS, root / "VOC2007", "train")
    write_split_without(NEW_CLASS, root / "VOC2007", "test")
    five = [name for name in CLASS_NAMES if name != NEW_CLASS]
    first = options.folder / "five"
    on_five = ['data.test=["2007/five_test"]']
    show(
        {"run": "five classes", "images": num_images, "steps": options.steps},
        train_and_measure(root, first, "five_train", five, options.steps, on_five),
    )
    results: dict[str, list[float]] = {"transferred": [], "random": []}
    for seed in range(options.seeds):
        for start, weights in (("transferred", first), ("random", None)):
            overrides = [f"training.seed={seed}", f"model.weights={json.dumps(weights and str(weights))}"]
            output, steps = options.folder / f"{start}{seed}", options.tuning_steps
            accuracy = train_and_measure(root, output, f"tuning{seed}", CLASS_NAMES, steps, overrides)
            results[start].append(accuracy[0])
            show({"run": start, "seed": seed, "steps": steps}, accuracy)
    means = {start: round(float(np.mean(values)), 4) for start, values in results.items()}
    print(json.dumps({"mean mAP": means, "gain": round(means["transferred"] - means["random"], 4)}))


def write_split_without(name: str, folder: Path, split: str) -> int:
    """Writes the split five_SPLIT with the images that show no object of a class; returns their number."""
    kept = []
    for image_id in (folder / f"ImageSets/Main/{split}.txt").read_text(encoding="utf-8").split():
        annotation = (folder / f"Annotations/{image_id}.xml").read_text(encoding="utf-8")
        if f"<name>{name}</name>" not in annotation:
            kept.append(image_id)
    (folder / f"ImageSets/Main/five_{split}.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    return len(kept)


def train_and_measure(
    root: Path, output: Path, split: str, classes: Sequence[str], steps: int, overrides: Sequence[str] = ()
) -> tuple[float, dict[str, float]]:
    """Trains in the folder `output`, unless it holds the weights already.

    Returns:
        mAP and the AP of each class on the test split, 0..1.
    """
    from refinedet_tf.data.dataset import read_dataset
    from refinedet_tf.evaluation.evaluator import evaluate

    config = load_config(
        "shapes.json",
        [
            f"data.root={root}",
            f'data.train=["2007/{split}"]',
            "data.validation=[]",
            f"data.classes={json.dumps(list(classes))}",
            f"training.length={steps}",
            f"training.milestones=[{steps * 3 // 4}, {steps * 9 // 10}]",
            f"training.warmup={min(150, steps // 10)}",
            "training.log_every=50",
            *overrides,
        ],
    )
    network = networks.trained_network(config, output)
    test_set = read_dataset(config.data, "test")
    result = evaluate(network, config, test_set)
    return result.mean_ap, {name: class_result.ap for name, class_result in result.classes.items()}


def show(about: dict[str, object], accuracy: tuple[float, dict[str, float]]) -> None:
    """Prints the line of a run."""
    mean_ap, class_ap = accuracy
    rounded = {name: round(ap, 4) for name, ap in class_ap.items()}
    print(json.dumps({**about, "mAP": round(mean_ap, 4), "AP": rounded}), flush=True)


if __name__ == "__main__":
    run(main)
