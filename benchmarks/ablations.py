"""The paper's ablations (Table 3) at small scale: python benchmarks/ablations.py --output runs/ablations

Trains the four variants, with MobileNetV2 on the generated set or as --config says, each with the same number
of steps and several seeds, measures them on its test images and prints a Markdown table: mean mAP, sample
standard deviation and the mAP of every seed. What is finished already is not trained again, so that a stopped
run goes on. Twelve trainings of 500 steps take about half an hour on two CPU cores.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import networks

from refinedet_tf.commands.terminal import run

NO_FILTER = ["loss.objectness_threshold=0.0", "postprocess.objectness_threshold=0.0"]
VARIANTS: dict[str, list[str]] = {
    "RefineDet": [],
    "without negative anchor filtering": NO_FILTER,
    "also without the cascade": [*NO_FILTER, "model.design=tiled_anchors"],
    "also without transfer connection blocks": [*NO_FILTER, "model.design=single_stage"],
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, trains, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    networks.add_config_options_with_default(parser, "shapes.json")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"), metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, help="trainings per variant (default: 3)")
    parser.add_argument("--steps", type=int, default=500, help="steps per training (default: 500)")
    options = parser.parse_args(arguments)
    budget = {
        "length": options.steps,
        "milestones": [options.steps * 7 // 10, options.steps * 9 // 10],
        "validate_every": options.steps,
        "checkpoint_every": options.steps,
    }
    shared = [f"training.{key}={json.dumps(value)}" for key, value in budget.items()]
    shared += ["data.validation=[]", *options.overrides]
    measured: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for number, (name, overrides) in enumerate(VARIANTS.items()):
            folder = options.output / f"variant{number}_seed{seed}"
            settings = [*shared, *overrides, f"training.seed={seed}"]
            measured[name].append(networks.measured_training(options.config, settings, folder)["mAP"])
            print(f"{name}, seed {seed}: mAP {measured[name][-1]:.4f}", file=sys.stderr, flush=True)
    print(table(measured))


def table(measured: Mapping[str, Sequence[float]]) -> str:
    """A Markdown table of {variant: mAP of each seed}; at least two seeds."""
    lines = ["| variant | mAP | standard deviation | seeds |", "|---|--:|--:|---|"]
    for name, values in measured.items():
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        spread = 100 * statistics.stdev(values)
        lines.append(f"| {name} | {100 * statistics.mean(values):.1f} | {spread:.1f} | {each} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run(main)
