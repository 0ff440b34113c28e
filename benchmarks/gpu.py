"""Everything about a GPU that the results need: python benchmarks/gpu.py --output gpu-results

Measures VGG-16 at 320 and 512 pixels and ResNet-101 at 320 in float32, TF32 and bfloat16, with and without
XLA: the heads compared with those of the authors' program, the images per second of the forward pass and of
the training step with 1, 8 and 32 images, and the memory. Measures the images per second that the data
pipeline prepares. Takes roughly an hour (an estimate). A size that does not fit the memory is noted as such.

Writes gpu.json (all figures), gpu.md (the tables for docs/results.md) and log.txt (what the libraries say)
into the output folder, again after every figure: please send back the whole folder. Needs TensorFlow, or
else JAX.
"""

import argparse
import dataclasses
import datetime
import functools
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from gpu_figures import NETWORKS, Task, expected_rows
from gpu_tables import markdown

from refinedet_tf import __version__
from refinedet_tf.commands.terminal import run
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors, write_aside
from refinedet_tf.progress import format_duration

FOLDER = Path(__file__).parent

PRECISIONS = ("float32", "tf32", "bfloat16")

QUERIED = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm")
"""What NVIDIA's driver is asked for."""

PROCESS_LIMIT_SECONDS = 1800
"""A process that takes longer is stopped, and its other figures are noted as not measured."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, measures and writes the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), metavar="FOLDER")
    parser.add_argument(
        "--backend", choices=("tensorflow", "jax"), help="default: KERAS_BACKEND, or what is installed"
    )
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, metavar="NAME", help=", ".join(NETWORKS))
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, metavar="NAME")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], metavar="N")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured time per figure (default: 2)")
    parser.add_argument("--cpu", action="store_true", help="measure the CPU if there is no GPU")
    parser.add_argument("--quick", action="store_true", help="a small size in a minute, also on a CPU")
    options = parser.parse_args(arguments)
    backend = options.backend or _installed_backend()
    if options.quick:
        options.cpu, options.precisions, options.batches, options.seconds = True, ["float32"], [2], 0.2
        options.networks = ["vgg16_64"]
    xla = (True,) if backend == "jax" else (False,) if options.quick else (False, True)
    tasks = [
        Task(backend, network, precision, tuple(sorted(set(options.batches))), xla, options.seconds)
        for network in options.networks or [name for name in NETWORKS if name != "vgg16_64"]
        for precision in options.precisions
    ]
    if min(options.batches) < 1:
        raise InputError(f"--batches must be at least 1, got {min(options.batches)}")
    with explain_os_errors(f"--output {options.output}"):
        options.output.mkdir(parents=True, exist_ok=True)
    with (options.output / "log.txt").open("w", encoding="utf-8") as log:
        _measure(tasks, options, backend, log)
    print(f"Please send back the folder {options.output}", file=sys.stderr)


def _installed_backend() -> str:
    """Returns the backend that KERAS_BACKEND names, if it is JAX; else TensorFlow where it is installed."""
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    return "tensorflow" if has_tensorflow and os.environ["KERAS_BACKEND"] != "jax" else "jax"


def _measure(tasks: Sequence[Task], options: argparse.Namespace, backend: str, log: IO[str]) -> None:
    """Measures the loader and all tasks, and writes the files after every figure."""
    start = time.monotonic()
    result: dict[str, Any] = {
        "benchmark": "gpu",
        "backend": backend,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "quick": options.quick,
        "seconds_per_figure": options.seconds,
        "machine": _machine_facts(),
        "device": None,
        "loader": {"error": "not yet"},
        "rows": [],
    }
    total = sum(len(expected_rows(task)) for task in tasks)
    for number, task in enumerate(tasks, 1):
        _say(start, f"process {number} of {len(tasks)}: {task.network}, {task.precision}")
        for row in _rows_of_process(task, log):
            if "device" in row:
                _check_device(row["device"], options.cpu)
                result["device"] = row["device"]
                continue
            result["rows"].append(row)
            _say(start, f"{len(result['rows'])}/{total} {_summary(row)}")
            _write(result, options.output)
    _say(start, "the loader")
    result["loader"] = _loader_rates(options.quick, log)
    result["seconds"] = round(time.monotonic() - start)
    _write(result, options.output)
    _say(start, f"done: {options.output / 'gpu.json'}, {options.output / 'gpu.md'}")


def _machine_facts() -> dict[str, object]:
    """Returns the processor, the operating system, Python, the project's version and NVIDIA's driver."""
    return {
        "refinedet_tf": __version__,
        "commit": _first_line("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "driver": _driver_facts(),
    }


def _driver_facts() -> dict[str, str] | None:
    """Returns what NVIDIA's driver says about the first GPU; None without such a driver."""
    line = _first_line("nvidia-smi", f"--query-gpu={','.join(QUERIED)}", "--format=csv,noheader")
    values = [] if line is None else line.split(", ")
    return dict(zip(QUERIED, values, strict=True)) if len(values) == len(QUERIED) else None


def _first_line(*command: str) -> str | None:
    """Returns the first line that a command prints; None if there is no such command or it fails."""
    if shutil.which(command[0]) is None:
        return None
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return printed.split("\n")[0].strip() or None


def _cpu_name() -> str:
    """Returns the processor's name as Linux knows it, or else as Python does."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _check_device(device: Mapping[str, Any], cpu_is_allowed: bool) -> None:
    if device["gpu"] is None and not cpu_is_allowed:
        raise InputError(
            f"{device['backend']} sees no GPU: install it with CUDA; --quick measures a small size on the "
            "CPU, --cpu everything, in hours"
        )


def _rows_of_process(task: Task, log: IO[str]) -> Iterator[dict[str, Any]]:
    """Yields what a process of `gpu_figures.py` prints, then a row with "error" for each missing figure."""
    missing = expected_rows(task)
    command = [sys.executable, str(FOLDER / "gpu_figures.py"), json.dumps(dataclasses.asdict(task))]
    process = subprocess.Popen(
        command,
        env={**os.environ, "KERAS_BACKEND": task.backend},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    timer = threading.Timer(PROCESS_LIMIT_SECONDS, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if not line.startswith("{"):
                log.write(line)
                continue
            row = json.loads(line)
            missing = [other for other in missing if not other.items() <= row.items()]
            yield row
        code = process.wait()
    finally:
        timer.cancel()
        process.kill()
        process.wait()
    for row in missing:
        yield {**row, "error": f"not measured: the process ended with code {code}"}


def _loader_rates(quick: bool, log: IO[str]) -> dict[str, Any]:
    """Returns what `input_pipeline.py` prints, which needs TensorFlow, or {"error": the reason}."""
    if importlib.util.find_spec("tensorflow") is None:
        return {"error": "it needs TensorFlow"}
    command = [sys.executable, str(FOLDER / "input_pipeline.py"), "--all-cores"]
    # The pipeline works on the CPU, and TensorFlow would take the memory of a GPU that it sees.
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": ""}
    try:
        printed = subprocess.run(
            [*command, "--quick"] if quick else command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            timeout=PROCESS_LIMIT_SECONDS,
            check=True,
        ).stdout
        rates: dict[str, Any] = json.loads(printed.splitlines()[-1])
    except (subprocess.SubprocessError, json.JSONDecodeError, IndexError) as error:
        return {"error": f"{type(error).__name__}, see log.txt"}
    return rates


def _summary(row: Mapping[str, Any]) -> str:
    """Returns a figure as a line of the progress."""
    batch = f", batch {row['batch']}" if "batch" in row else ""
    what = f"{row['network']}, {row['precision']}, {row['pass']}{batch}{', XLA' if row['xla'] else ''}"
    if "error" in row:
        return f"{what}: {row['error']}"
    if row["pass"] == "golden":
        return f"{what}: largest error {max(row['head_errors'].values()):.1e}"
    return f"{what}: {row['images_per_second']} images/s"


def _say(start: float, text: str) -> None:
    print(f"{format_duration(time.monotonic() - start)}  {text}", file=sys.stderr, flush=True)


def _write(result: Mapping[str, Any], folder: Path) -> None:
    for name, text in (("gpu.json", json.dumps(result, indent=1) + "\n"), ("gpu.md", markdown(result))):
        write_aside(folder / name, functools.partial(Path.write_text, data=text, encoding="utf-8"))


if __name__ == "__main__":
    run(main)
