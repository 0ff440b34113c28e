"""The measurement of a GPU: its quick form on the CPU, and what it notes where something does not run."""

import json
from functools import partial

import gpu
import gpu_tables
import numpy as np
import pytest
from gpu_figures import SMALLEST_RATE, Task, _timed_rows, expected_rows, explain
from processes import ROOT, finish, start_program

from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.network import build_model

FORWARD_VALUE, LOSS = 5.504995, 42.06772
"""The values of the quick form, which come from formulas: equal on every machine but for rounding."""

HEADS = {"arm_loc", "arm_conf", "odm_loc", "odm_conf"}


def quick_run(folder, backend):
    """(result, tables, stderr) of the quick form in a process of its own."""
    arguments = ["--quick", "--backend", backend, "--output", str(folder)]
    ((code, _, errors),) = finish(start_program(ROOT / "benchmarks" / "gpu.py", *arguments))
    assert code == 0, errors
    result = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    return result, (folder / "gpu.md").read_text(encoding="utf-8"), errors


def check_quick_run(result, tables, progress, xla):
    """What holds for every backend."""
    assert result["backend"] == result["device"]["backend"]
    assert result["machine"].keys() >= {"cpu", "cores", "driver", "python", "system", "commit"}
    assert result["device"].keys() >= {"gpu", "cuda", "cudnn", "versions", "memory"}
    assert result["quick"] and result["seconds"] > 0
    golden, forward, step = result["rows"]
    for row in result["rows"]:
        assert (row["network"], row["precision"], row["xla"]) == ("vgg16_64", "float32", xla)
    assert golden["pass"] == "golden" and golden["within_limit"]
    assert golden["head_errors"].keys() == HEADS
    assert all(0 < error < 1e-4 for error in golden["head_errors"].values())
    for row, name, value in ((forward, "forward", FORWARD_VALUE), (step, "training step", LOSS)):
        assert (row["pass"], row["batch"]) == (name, 2)
        assert row["value"] == pytest.approx(value, rel=1e-3)
        milliseconds = row["milliseconds"]
        assert 0 < milliseconds["p10"] <= milliseconds["median"] <= milliseconds["p90"]
        assert row["images_per_second"] == pytest.approx(2000 / milliseconds["median"], rel=0.01)
        assert row["runs"] >= 3
        # The weights alone are 130 MB.
        assert row["memory_mb"] > 130
        assert f"| VGG-16 64 | {name} | 2 | {row['images_per_second']:.4g} ({row['memory_mb']}) |" in tables
    assert forward["images_per_second"] > step["images_per_second"]
    assert f"{golden['head_errors']['odm_conf']:.1e}" in tables
    assert "3/3 vgg16_64, float32, training step, batch 2" in progress


@pytest.mark.slow
def test_quick_form_in_tensorflow(tmp_path):
    result, tables, progress = quick_run(tmp_path, "tensorflow")
    check_quick_run(result, tables, progress, xla=False)
    loader = result["loader"]
    assert loader["training_images_per_second"] > 0 and loader["decode_images_per_second"] > 0
    assert f"prepares {loader['training_images_per_second']:.4g} training images" in tables
    assert {path.name for path in tmp_path.iterdir()} == {"gpu.json", "gpu.md", "log.txt"}


def test_quick_form_in_jax(tmp_path):
    pytest.importorskip("jax")
    from gpu_jax import cuda_version

    assert (cuda_version("PJRT C API\ncuda 12090"), cuda_version("cpu")) == ("12.9", None)
    result, tables, progress = quick_run(tmp_path, "jax")
    check_quick_run(result, tables, progress, xla=True)
    assert "| VGG-16 | float32, XLA |" in tables


@pytest.mark.slow
def test_programs_repeat_their_values(small_network):
    """With and without XLA, the network is the same; steps leave the weights as they are."""
    from config_of import CLASSES, config_of
    from gpu_tensorflow import Programs
    from small_network import BACKBONE, random_batch

    model_config = {"backbone": BACKBONE, "image_size": (64, 64), "tcb_channels": 16}
    config = config_of(CLASSES, model=model_config, training={"learning_rate": SMALLEST_RATE})
    model = build_model(config)
    programs = Programs(model, config, tile_anchors((64, 64)))
    batch = random_batch(config)
    plain, compiled = (programs.forward(batch["images"], xla)() for xla in (False, True))
    assert plain["heads"].keys() == HEADS
    for name, head in plain["heads"].items():
        np.testing.assert_allclose(head, compiled["heads"][name], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plain["value"], compiled["value"], rtol=1e-5)
    before = [variable.numpy() for variable in model.trainable_variables]
    step = programs.training_step(batch, xla=False)
    first, second = (float(step()["value"]) for _ in range(2))
    assert first == pytest.approx(second, rel=1e-6) and first > 0
    for variable, old in zip(model.trainable_variables, before, strict=True):
        np.testing.assert_allclose(variable.numpy(), old, rtol=0, atol=1e-8)


# What does not run


class Programs:
    """Programs that fail where `failures` has an error: {(pass, XLA): error}."""

    def __init__(self, failures):
        self.failures = failures
        self.reset_memory = lambda: None
        self.memory = lambda program: 3 * 2**20
        self.forward = lambda images, xla: partial(self.call, "forward", xla)
        self.training_step = lambda batch, xla: partial(self.call, "training step", xla)

    def call(self, pass_, xla):
        if (pass_, xla) in self.failures:
            raise self.failures[pass_, xla]
        return {"value": np.float32(7)}


@pytest.mark.parametrize("pass_", ["forward", "training step"])
def test_a_size_that_does_not_fit_the_memory_is_noted(pass_):
    """The program without XLA is measured all the same."""
    programs = Programs({(pass_, True): RuntimeError("RESOURCE_EXHAUSTED: failed to allocate 9 GiB")})
    rows = [{"pass": pass_, "batch": 8, "xla": xla} for xla in (False, True)]
    measured, failed = _timed_rows(programs, rows, {"images": None}, seconds=0.01)
    assert measured["images_per_second"] > 0
    assert (measured["value"], measured["memory_mb"], measured["runs"]) == (7.0, 3, 50)
    assert failed == {"pass": pass_, "batch": 8, "xla": True, "error": "out of memory"}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"), "out of memory"),
        (ValueError("no algorithm\nworked"), "ValueError: no algorithm worked"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 200),
    ],
)
def test_errors_become_one_short_line(error, text):
    assert explain(error) == text


TASK = Task("tensorflow", "vgg16_320", "tf32", (1, 8), (False, True), 1.0)


def write_program(folder, text):
    """Writes a program that `gpu.py` starts in place of `gpu_figures.py`."""
    (folder / "gpu_figures.py").write_text(f"import json, os, time\n{text}\n", encoding="utf-8")


def device(gpu_name):
    return {"device": {"backend": "tensorflow", "gpu": gpu_name}}


def test_figures_that_a_crash_took_are_noted(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    first, *others = expected_rows(TASK)
    lines = [device("GPU"), {**first, "head_errors": {}}]
    printed = "".join(f"{json.dumps(line)}\n" for line in lines)
    write_program(tmp_path, f"print({printed!r} + 'noise', flush=True)\nos._exit(7)")
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        rows = list(gpu._rows_of_process(TASK, log))
    assert rows[:2] == lines
    missing = "not measured: the process ended with code 7"
    assert rows[2:] == [{**row, "error": missing} for row in others]
    assert len(others) == 1 + 2 * 2 * 2
    assert (tmp_path / "log.txt").read_text(encoding="utf-8") == "noise\n"


def test_a_process_that_hangs_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu, "PROCESS_LIMIT_SECONDS", 0.2)
    write_program(tmp_path, "time.sleep(60)")
    with (tmp_path / "log.txt").open("w", encoding="utf-8") as log:
        rows = list(gpu._rows_of_process(TASK, log))
    assert [row.pop("error") for row in rows] == ["not measured: the process ended with code -9"] * 10
    assert rows == expected_rows(TASK)


def test_a_machine_without_a_gpu_is_refused(tmp_path, monkeypatch):
    """A CPU would take hours, and the results would not be those of a GPU."""
    monkeypatch.setattr(gpu, "FOLDER", tmp_path)
    write_program(tmp_path, f"print({json.dumps(json.dumps(device(None)))}, flush=True); time.sleep(60)")
    with pytest.raises(InputError, match=r"tensorflow sees no GPU: .*--quick.*--cpu"):
        gpu.main(["--backend", "tensorflow", "--output", str(tmp_path / "results")])


def test_batches_below_1_are_refused(tmp_path):
    with pytest.raises(InputError, match="--batches must be at least 1, got 0"):
        gpu.main(["--batches", "8", "0", "--output", str(tmp_path)])


def test_tables_have_every_row():
    tasks = [
        Task("tensorflow", network, precision, (1, 8, 32), (False, True), 1.0)
        for network in ("vgg16_320", "vgg16_512", "resnet101_320")
        for precision in ("float32", "tf32", "bfloat16")
    ]
    rows = [row for task in tasks for row in expected_rows(task)]
    for number, row in enumerate(rows):
        if row["pass"] == "golden":
            row |= {"head_errors": dict.fromkeys(HEADS, 2e-6), "within_limit": True}
        elif row["network"] == "vgg16_512" and row["batch"] == 32:
            row["error"] = "out of memory"
        else:
            row |= {"images_per_second": 1000.0 + number, "memory_mb": 5}
    speed, golden = gpu_tables._speed_table(rows).split("\n"), gpu_tables._golden_table(rows).split("\n")
    assert speed[0] == (
        "| network | pass | batch | float32 | float32, XLA | TF32 | TF32, XLA | bfloat16 | bfloat16, XLA |"
    )
    assert len(speed) == 2 + 3 * 2 * 3
    assert sum(line.count("(5)") for line in speed) == 6 * (3 * 2 * 3 - 2)
    assert f"| VGG-16 512 | forward | 32 |{' out of memory |' * 6}" in speed
    assert len({line.count("|") for line in speed}) == 1
    assert len(golden) == 2 + 2 * 3 * 2
    assert "| ResNet-101 | TF32, XLA | 2.0e-06 | 2.0e-06 | 2.0e-06 | 2.0e-06 |" in golden
