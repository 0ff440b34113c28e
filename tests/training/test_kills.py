"""A run that is killed at random moments ends with the weights of a run that nothing stopped.

The conditions are those of a real run: several threads, optimized graphs, and kernels that need not be
deterministic. SIGKILL comes from outside, at any point of a step, a validation or a checkpoint.
"""

import json
import random
import signal
import time

import pytest
from processes import finish, start_program
from run_files import assert_equal_weights, entries_without_times, last_step, log_entries
from training_config import sets

STEPS = 60


def run_with_kills(arguments, folder, kills, seed, program_arguments=()):
    """Trains twice, the second time with SIGKILL at `kills` random moments and `--resume` after each.

    Returns the folder of the undisturbed run and that of the killed one.
    """
    generator = random.Random(seed)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    runs = [[*arguments, "--output", str(undisturbed)], [*arguments, "--output", str(killed)]]
    for step in sorted(generator.sample(range(1, STEPS - 1), kills)):
        process = start(runs, program_arguments)
        wait_for_step(process, killed, step)
        time.sleep(generator.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        ((code, _, err),) = finish(process)
        assert code == -signal.SIGKILL, err
        runs = [[*arguments, "--output", str(killed), "--resume"]]
    ((code, out, err),) = finish(start(runs, program_arguments))
    assert out.splitlines()[-1] == "exit 0", err
    return undisturbed, killed


def start(runs, program_arguments):
    run_list = json.dumps([{"arguments": run} for run in runs])
    return start_program("training_program.py", run_list, "as-users-run-it", *program_arguments)


def wait_for_step(process, folder, step):
    """Waits until the run's log holds the step, or a later one."""
    while process.poll() is None:
        if last_step(folder) >= step:
            return
        time.sleep(0.005)
    raise AssertionError(f"the run ended before step {step}: {process.communicate()[1]}")


def assert_equal_runs(folder, expected_folder):
    assert [entry["step"] for entry in log_entries(folder) if "loss" in entry] == list(range(1, STEPS + 1))
    assert entries_without_times(folder) == entries_without_times(expected_folder)
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(folder / name, expected_folder / name)


@pytest.mark.slow
def test_two_kills_on_a_small_network(config_file, tmp_path):
    often = sets(f"training.length={STEPS}", "training.checkpoint_every=7", "training.validate_every=20")
    often += sets("training.ema_decay=0.9", "training.patience=9")
    undisturbed, killed = run_with_kills(["--config", str(config_file), *often], tmp_path, kills=2, seed=0)
    assert_equal_runs(killed, undisturbed)


@pytest.mark.slow
def test_twenty_kills_on_the_demo(devkit, tmp_path):
    """MobileNetV2 at 160 x 160 in batches of 8, as `make demo` trains it."""
    demo = ["--config", "shapes.json"] + sets(
        f"data.root={devkit}",
        f"training.length={STEPS}",
        "training.warmup=6",
        "training.milestones=[45, 55]",
        "training.log_every=1",
        "training.checkpoint_every=5",
        "training.validate_every=20",
    )
    undisturbed, killed = run_with_kills(demo, tmp_path, kills=20, seed=1, program_arguments=["whole"])
    assert_equal_runs(killed, undisturbed)
