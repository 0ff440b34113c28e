"""The paper's ablations (Table 3) at small scale: python benchmarks/ablations.py --output runs/ablations

Trains the four variants with MobileNetV2 on the generated set, each with the same steps and several
seeds, measures them on its test images and prints a Markdown table: mean mAP, sample standard deviation
and every seed. What is finished already is not trained again, so that a stopped run goes on. Twelve
trainings of 500 steps take about half an hour on two CPU cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from refinedet_tf import cli

NO_FILTER = ["loss.objectness_threshold=0.0", "postprocess.objectness_threshold=0.0"]
VARIANTS = {
    "RefineDet": [],
    "without negative anchor filtering": NO_FILTER,
    "also without the cascade": [*NO_FILTER, "model.design=tiled_anchors"],
    "also without transfer connection blocks": [*NO_FILTER, "model.design=single_stage"],
}


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    cli.add_config_options(parser, required=False)
    parser.set_defaults(config="shapes.json")
    parser.add_argument("--output", type=Path, default=ROOT / "runs" / "ablations", metavar="FOLDER")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each variant (default: 3)")
    parser.add_argument("--steps", type=int, default=500, help="steps of each training (default: 500)")
    options = parser.parse_args(arguments)
    budget = {
        "steps": options.steps,
        "milestones": [options.steps * 7 // 10, options.steps * 9 // 10],
        "validate_every": options.steps,
        "checkpoint_every": options.steps,
    }
    shared = [f"training.{key}={json.dumps(value)}" for key, value in budget.items()]
    shared += ["data.validation=[]", *options.overrides]
    measured = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for number, (name, overrides) in enumerate(VARIANTS.items()):
            folder = options.output / f"variant{number}_seed{seed}"
            settings = [*shared, *overrides, f"training.seed={seed}"]
            measured[name].append(_mean_ap(options.config, settings, folder))
            print(f"{name}, seed {seed}: mAP {measured[name][-1]:.4f}", file=sys.stderr, flush=True)
    print(table(measured))


def table(measured: dict[str, list[float]]) -> str:
    """A Markdown table of {variant: mAP of each seed}; at least two seeds."""
    lines = ["| variant | mAP | standard deviation | seeds |", "|---|--:|--:|---|"]
    for name, values in measured.items():
        each = ", ".join(f"{100 * value:.1f}" for value in values)
        spread = 100 * statistics.stdev(values)
        lines.append(f"| {name} | {100 * statistics.mean(values):.1f} | {spread:.1f} | {each} |")
    return "\n".join(lines)


def _mean_ap(config: str, overrides: list[str], folder: Path) -> float:
    result = folder / "test.json"
    if not result.is_file():
        changes = [part for override in overrides for part in ("--set", override)]
        arguments = ["--config", config, *changes, "--output", str(folder), "--resume"]
        _run("train.py", *arguments)
        _run("evaluate.py", "--config", str(folder), "--json", str(result))
    return json.loads(result.read_text(encoding="utf-8"))["mAP"]


def _run(script: str, *arguments: str) -> None:
    subprocess.run([sys.executable, str(ROOT / script), *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    cli.run(main)
