"""The time from a command to its first result: python benchmarks/start_up.py

Starts processes: a training up to its first step, a detection on one image, and a server's load of a
SavedModel with one call. Says how the seconds divide into the import of TensorFlow, the other imports,
reading the index, building the network, and so on. With --compare CHECKOUT the same is done with another
checkout, in turns. Prints one JSON line; `ratio` is the seconds of this checkout divided by those of the
other. `cpu` is the processor's time, which other work on the machine hardly changes, and `wall` the time on
the clock.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

COMMANDS = ("train", "detect", "serve")

CLASSES = 'data.classes=["a","b","c","d","e","f"]'

WRITE_WEIGHTS = f"""
import sys
import refinedet_tf
config = refinedet_tf.load_config("shapes.json", overrides=[{CLASSES!r}])
refinedet_tf.build_model(config).save_weights(sys.argv[1] + "/random.weights.h5")
"""

STAGES = {
    "refinedet_tf.data.dataset": {"read_dataset": "index"},
    "refinedet_tf.refinedet.network": {"build_model": "model"},
    "refinedet_tf.weights": {"load_weights": "weights", "load_initial_weights": "weights"},
    "refinedet_tf.training.preparation": {"PreparedRun._open_batches": "first batch"},
    "refinedet_tf.training.pictures": {"batch_picture": "picture"},
    "refinedet_tf.inference.detector": {"Detector.__call__": "trace and detect"},
}
"""Module -> function or method -> the stage to which its time belongs."""


class Stopwatch:
    """Divides the time of a process into stages; a stage inside another one interrupts it."""

    def __init__(self) -> None:
        # Python itself has started before.
        self.seconds: dict[str, list[float]] = {"python": [time.process_time(), 0.0]}
        self._stack = ["other"]
        self._last = (time.process_time(), time.perf_counter())

    def _account(self) -> None:
        now = (time.process_time(), time.perf_counter())
        totals = self.seconds.setdefault(self._stack[-1], [0.0, 0.0])
        for place in range(2):
            totals[place] += now[place] - self._last[place]
        self._last = now

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Counts the time of a block for a stage."""
        self._account()
        self._stack.append(name)
        try:
            yield
        finally:
            self._account()
            self._stack.pop()

    def wrap(self, module: Any, path: str, name: str) -> None:
        """Replaces a function of a module, or a method `Class.method`, by one that counts as a stage."""
        owner, _, attribute = path.rpartition(".")
        holder = getattr(module, owner) if owner else module
        function: Callable[..., Any] = getattr(holder, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.stage(name):
                return function(*arguments, **options)

        setattr(holder, attribute, timed)


class FirstStep(BaseException):
    """The first step of a training is done."""


def run_child(command: str, name: str, folder: Path) -> None:
    """Runs a command in this process up to its first result, and prints the stages as JSON.

    Args:
        command: one of `COMMANDS`.
        name: the name of the checkout, for what it has exported.
        folder: what `prepare` has written.
    """
    watch = Stopwatch()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with watch.stage("import tensorflow and keras"):
        import keras  # noqa: F401
        import tensorflow as tf
    if command == "serve":
        with watch.stage("load"):
            served = tf.saved_model.load(str(folder / f"served-{name}" / "1"))
        with watch.stage("first call"):
            image = (folder / "image.jpg").read_bytes()
            served.signatures["serving_default"](image_bytes=tf.constant([image]))
        print(json.dumps(watch.seconds))
        return
    with watch.stage("imports"):
        program = importlib.import_module(f"refinedet_tf.commands.{command}")
        # The modules are imported from the ground up, so that a later one imports what is wrapped.
        for module_name, functions in STAGES.items():
            module = importlib.import_module(module_name)
            for path, stage in functions.items():
                watch.wrap(module, path, stage)
        if command == "train":
            from refinedet_tf.training import loop
    if command == "detect":
        images = [str(folder / "image.jpg"), "--output", str(folder / f"detections-{os.getpid()}")]
        program.main([*_network(folder), *images])
    else:

        def first_step(*arguments: object) -> None:
            raise FirstStep

        progress_log: Any = loop.ProgressLog
        progress_log.step = first_step
        watch.wrap(loop, "_Loop.steps", "trace and first step")
        try:
            run = str(folder / f"run-{os.getpid()}")
            program.main(
                ["--config", "shapes.json", "--set", f"data.root={folder / 'shapes'}", "--output", run]
            )
        except FirstStep:
            pass
    watch._account()
    # The last line: commands print, too.
    print(json.dumps(watch.seconds))


def prepare(folder: Path) -> None:
    """Writes a generated set, an image, and random weights of MobileNetV2 at 160 pixels."""
    sets = ["--train", "32", "--val", "4", "--test", "4"]
    _run_python(ROOT, "-m", "refinedet_tf", "generate-shapes", str(folder / "shapes"), *sets)
    _run_python(ROOT, "-c", WRITE_WEIGHTS, str(folder))
    image = min((folder / "shapes").rglob("*.jpg"))
    (folder / "image.jpg").write_bytes(image.read_bytes())


def export(checkout: Path, name: str, folder: Path) -> None:
    """Exports the network with a checkout to `folder`/served-`name`/1."""
    _run_python(
        checkout, "export_savedmodel.py", *_network(folder), "--output", str(folder / f"served-{name}")
    )


def _network(folder: Path) -> list[str]:
    """Returns the options that name the network and its weights."""
    return ["--config", "shapes.json", "--set", CLASSES, "--weights", str(folder / "random.weights.h5")]


def _run_python(checkout: Path, *arguments: str) -> str:
    """Runs Python with a checkout's package, in its folder, and returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--compare", type=Path, metavar="CHECKOUT", help="another checkout to compare with")
    parser.add_argument("--commands", nargs="+", choices=COMMANDS, default=list(COMMANDS))
    parser.add_argument("--runs", type=int, default=3, help="measured processes of each (default: 3)")
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="keep the prepared files here")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        command, name, folder = options.child
        run_child(command, name, Path(folder))
        return
    checkouts = {"here": ROOT} | ({"other": options.compare.resolve()} if options.compare else {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.data or Path(temporary)).resolve()
        if not (folder / "image.jpg").is_file():
            prepare(folder)
        if "serve" in options.commands:
            for name, checkout in checkouts.items():
                if not (folder / f"served-{name}").is_dir():
                    export(checkout, name, folder)
        rows = {command: _measure(command, checkouts, folder, options.runs) for command in options.commands}
    print(json.dumps({"runs": options.runs, "commands": rows}))


def _measure(command: str, checkouts: dict[str, Path], folder: Path, runs: int) -> dict[str, Any]:
    """Runs a command in turns with each checkout; returns each one's run of median time, and the ratio."""
    measured: dict[str, list[dict[str, list[float]]]] = {name: [] for name in checkouts}
    for _ in range(runs):
        for name, checkout in checkouts.items():
            program = str(Path(__file__).resolve())
            output = _run_python(checkout, program, "--child", command, name, str(folder))
            measured[name].append(json.loads(output.splitlines()[-1]))
    row: dict[str, Any] = {}
    for name, stages_of_runs in measured.items():
        ordered = sorted(stages_of_runs, key=lambda stages: sum(cpu for cpu, _ in stages.values()))
        stages = ordered[len(ordered) // 2]
        cpu, wall = (round(sum(pair[place] for pair in stages.values()), 2) for place in range(2))
        row[name] = {
            "cpu": cpu,
            "wall": wall,
            "cpu_of_stages": {stage: round(pair[0], 2) for stage, pair in stages.items()},
        }
        print(json.dumps({command: {name: row[name]}}), file=sys.stderr, flush=True)
    if "other" in row:
        row["ratio"] = round(row["here"]["cpu"] / row["other"]["cpu"], 3)
    return row


if __name__ == "__main__":
    main()
