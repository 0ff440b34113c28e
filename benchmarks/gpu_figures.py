"""The figures of one network in one precision, for `gpu.py`, which starts this program in a new process.

Precision is a choice of a whole process, because libraries keep the kernels that they chose before; and a
process of its own lets a crash cost a few figures only. The program prints one JSON object per line: the
device, then each figure as soon as it is measured.
"""

import contextlib
import dataclasses
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from refinedet_tf.commands.terminal import run

PASSES = ("forward", "training step")
"""What is timed. Both start from images on the device, and the forward pass ends with the heads."""

OBJECTS = 20
"""Objects per image; VOC has 2.4 on average, COCO 7.3."""

SMALLEST_RATE = 1e-12
"""A learning rate that leaves the weights as they are, so that every step has the same loss."""

FEWEST_RUNS, MOST_RUNS = 3, 50


NETWORKS = {
    "vgg16_320": ("voc320.json", 320),
    "vgg16_512": ("voc512.json", 512),
    "resnet101_320": ("coco320_resnet101.json", 320),
    "vgg16_64": ("voc320.json", 64),
}
"""The config of each network, and the height and width of its images; "vgg16_64" is for a CPU."""

WITHOUT_GOLDEN = ("vgg16_512",)
"""The networks whose heads are not compared with the golden arrays: they are those of another one."""


@dataclasses.dataclass(frozen=True)
class Task:
    """What one process measures.

    Attributes:
        backend: "tensorflow" or "jax".
        network: a name in `NETWORKS`.
        precision: "float32", "tf32" or "bfloat16".
        batches: numbers of images per batch, in increasing order.
        xla: whether programs run with XLA; both are measured in turns.
        seconds: the time that each figure's measured runs take together.
    """

    backend: str
    network: str
    precision: str
    batches: tuple[int, ...]
    xla: tuple[bool, ...]
    seconds: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures the task that the command line holds as JSON."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    task = Task(**json.loads(text))
    os.environ["KERAS_BACKEND"] = task.backend
    backend = importlib.import_module(f"gpu_{task.backend}")
    backend.set_precision(task.precision)
    _print_row({"device": backend.device_facts()})
    for row in measure(task, backend):
        _print_row({"network": task.network, "precision": task.precision, **row})


def _print_row(row: dict[str, Any]) -> None:
    print(json.dumps(row), flush=True)


def expected_rows(task: Task) -> list[dict[str, Any]]:
    """Returns the rows that a task prints, without their figures."""
    rows: list[dict[str, Any]] = []
    if task.network not in WITHOUT_GOLDEN:
        rows += [{"pass": "golden", "xla": xla} for xla in task.xla]
    for pass_ in PASSES:
        for batch in task.batches:
            rows += [{"pass": pass_, "batch": batch, "xla": xla} for xla in task.xla]
    return [{"network": task.network, "precision": task.precision, **row} for row in rows]


def measure(task: Task, backend: Any) -> Iterator[dict[str, Any]]:
    """Yields a row per figure of `task`; `backend` is the module `gpu_tensorflow` or `gpu_jax`."""
    import golden_heads

    from refinedet_tf.config.files import load_config
    from refinedet_tf.refinedet.anchors import tile_anchors
    from refinedet_tf.refinedet.network import build_model

    config_name, size = NETWORKS[task.network]
    precision = "bfloat16" if task.precision == "bfloat16" else "float32"
    # The model takes images of any size, because those of the golden arrays may have another one.
    overrides = [f"training.precision={precision}", f"training.learning_rate={SMALLEST_RATE}"]
    config = load_config(config_name, ["model.image_size=null", *overrides])
    model = build_model(config)
    golden_heads.fill_by_formula(model, config)
    programs = backend.Programs(model, config, tile_anchors((size, size), config.model.anchors))
    if task.network not in WITHOUT_GOLDEN:
        yield from _golden_rows(programs, config.model.backbone, task.xla)
    for pass_ in PASSES:
        for batch_size in task.batches:
            batch = training_batch(size, batch_size)
            rows = [{"pass": pass_, "batch": batch_size, "xla": xla} for xla in task.xla]
            yield from _timed_rows(programs, rows, batch, task.seconds)


def training_batch(size: int, batch_size: int) -> dict[str, Any]:
    """Returns the reference image, `batch_size` times, each with the same random boxes of 2 to 40 % of it.

    The network's values and the loss are then the same for every batch size.
    """
    import golden_heads
    import numpy as np

    generator = np.random.default_rng(0)
    corner = generator.uniform(0, 0.6, (1, OBJECTS, 2))
    sides = generator.uniform(0.02, 0.4, (1, OBJECTS, 2))
    boxes = np.concatenate([corner, corner + sides], axis=-1).astype(np.float32)
    labels = generator.integers(1, 21, (1, OBJECTS), np.int32)
    return {
        "images": golden_heads.reference_images(size, batch_size),
        "boxes": np.repeat(boxes, batch_size, axis=0),
        "labels": np.repeat(labels, batch_size, axis=0),
    }


def _golden_rows(programs: Any, backbone: str, xla_choices: Sequence[bool]) -> Iterator[dict[str, Any]]:
    import golden_heads

    for xla in xla_choices:
        row: dict[str, Any] = {"pass": "golden", "xla": xla}
        with _noted([row]):
            images = golden_heads.reference_images(golden_heads.GOLDEN_SIZE)
            errors = golden_heads.head_errors(programs.forward(images, xla)()["heads"], backbone)
            if not all(map(math.isfinite, errors.values())):
                raise ArithmeticError("a head is not finite")
            row |= {"head_errors": errors, "within_limit": golden_heads.within_limit(errors)}
        yield row


def _timed_rows(
    programs: Any, rows: Sequence[dict[str, Any]], batch: dict[str, Any], seconds: float
) -> Iterator[dict[str, Any]]:
    """Yields `rows` with their figures. Their programs run in turns, without those that failed before."""
    import numpy as np
    import timing

    ready: dict[str, Callable[[], object]] = {}
    slowest = 1e-6
    for row in rows:
        with _noted([row]):
            call, first_seconds = _warm_up(programs, row, batch)
            ready[str(row["xla"])], slowest = call, max(slowest, first_seconds)
    milliseconds: dict[str, np.ndarray] = {}
    runs = min(MOST_RUNS, max(FEWEST_RUNS, round(seconds / slowest)))
    with _noted(rows):
        milliseconds = timing.measure_in_turns(ready, runs, warm_up_rounds=0)
    for row in rows:
        if str(row["xla"]) in milliseconds:
            times = milliseconds[str(row["xla"])]
            row["images_per_second"] = round(1e3 * row["batch"] / float(np.median(times)), 2)
            row |= {"milliseconds": timing.spread(times), "runs": runs}
        yield row


def _warm_up(programs: Any, row: dict[str, Any], batch: dict[str, Any]) -> tuple[Callable[[], object], float]:
    """Compiles the program of a row, runs it three times, and adds "value" and "memory_mb" to the row.

    Returns:
        What is timed, and the seconds of the third run.
    """
    import timing

    programs.reset_memory()
    if row["pass"] == "forward":
        program = programs.forward(batch["images"], row["xla"])
    else:
        program = programs.training_step(batch, row["xla"])
    value = float(program()["value"])
    (first,) = timing.measure_in_turns({"": lambda: program()["value"]}, runs=1, warm_up_rounds=1)[""]
    memory = programs.memory(program)
    row["value"] = value if math.isfinite(value) else None  # JSON has no NaN.
    row["memory_mb"] = None if memory is None else round(memory / 2**20)
    return lambda: program()["value"], first / 1e3


@contextlib.contextmanager
def _noted(rows: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Adds an error of the block to the rows that have none, as "error", in place of raising it."""
    try:
        yield
    except Exception as error:
        for row in rows:
            row.setdefault("error", explain(error))


def explain(error: Exception) -> str:
    """Returns "out of memory", or the type and the beginning of an error's message on one line."""
    text = " ".join(str(error).split())
    signs = ("RESOURCE_EXHAUSTED", "OOM when allocating", "out of memory", "Out of memory")
    if type(error).__name__ in ("ResourceExhaustedError", "MemoryError") or any(s in text for s in signs):
        return "out of memory"
    return f"{type(error).__name__}: {text[:200]}"


if __name__ == "__main__":
    run(main)
