"""The example that trains on Spark, with a worker that is killed once."""

import json
import shutil
import subprocess
import sys

import pytest
from processes import FOLDER, ROOT, finish, local_cluster, start_workers
from run_files import assert_equal_weights, entries_without_times
from training_config import sets

pytestmark = pytest.mark.slow

DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import spark_training
sys.exit(spark_training.run_on_spark(sys.argv[2:], workers=2, attempts=3))
"""


def run_on_spark(*command):
    """The result of the example's function in a process of its own, with another command than `refinedet`."""
    pytest.importorskip("pyspark")
    if shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    arguments = [sys.executable, "-c", DRIVER, str(ROOT / "examples"), *map(str, command)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=1500, cwd=ROOT)


def run_of(config_file, output, **how):
    overrides = (
        'training.strategy="multi_worker"',
        "training.learning_rate=1e-4",
        "training.length=8",
        "training.checkpoint_every=3",
        "training.validate_every=4",
    )
    arguments = ["--config", str(config_file), *sets(*overrides), "--output", str(output), "--resume"]
    return {"arguments": arguments, **how}


def test_a_killed_worker_is_restarted(config_file, tmp_path, monkeypatch):
    """The weights after it are those of a run that nothing has disturbed, bit for bit."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    killed, marker = tmp_path / "killed", tmp_path / "was-killed"
    run = run_of(config_file, killed, signal="SIGKILL", after=5, once=str(marker))
    result = run_on_spark(sys.executable, FOLDER / "training_program.py", json.dumps([run]), "exit-code")
    print(result.stdout, result.stderr)
    assert result.returncode == 0
    assert marker.exists()
    assert "was lost; restart all workers with --resume" in result.stderr
    assert "continuing after step 3" in result.stderr
    runs = [run_of(config_file, tmp_path / "undisturbed")]
    for code, out, err in finish(*start_workers([runs] * 2, local_cluster(2)), seconds=400):
        assert (code, out.splitlines()[-1]) == (0, "exit 0"), err
    assert entries_without_times(killed) == entries_without_times(tmp_path / "undisturbed")
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(killed / name, tmp_path / "undisturbed" / name)


def test_wrong_input_is_not_tried_again():
    """As soon as one worker has ended with code 2, whatever the others have made of it."""
    program = "import json, os, sys; print('started'); "
    program += "sys.exit(1 + json.loads(os.environ['TF_CONFIG'])['task']['index'])"
    result = run_on_spark(sys.executable, "-c", program)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("started") == 2
