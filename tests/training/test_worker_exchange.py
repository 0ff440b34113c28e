"""What three workers tell each other, and what becomes of TensorFlow's errors."""

import json

import pytest
import tensorflow as tf
from processes import finish, local_cluster, start_program

from refinedet_tf.training.cluster import read_cluster
from refinedet_tf.training.workers import Workers

pytestmark = pytest.mark.story


def results_of(ending):
    tf_configs = local_cluster(3)
    programs = [start_program("workers_program.py", ending, TF_CONFIG=tf_config) for tf_config in tf_configs]
    results = finish(*programs, seconds=200)
    return tf_configs, [(code, json.loads(out) if out else None, err) for code, out, err in results]


@pytest.fixture(scope="module")
def found():
    _, results = results_of("fails")
    assert [code for code, _, _ in results] == [0] * 3, results
    return [there for _, there, _ in results]


def test_values_come_in_the_order_of_the_tasks(found):
    values = [[{"sent by": index, "n": n} for index in range(3)] for n in range(3)]
    assert [there["values"] for there in found] == [values] * 3


def test_bytes_of_any_length_reach_all(found):
    assert [there["lengths"] for there in found] == [[5, 2**22 + 7, 0]] * 3
    assert [there["bytes"] for there in found] == [[there["own"] for there in found]] * 3


def test_an_error_on_one_worker_reaches_all(found):
    told = ["InputError", r"worker:1 ended: image caf\udce9.jpg is broken"]
    raised = ["InputError", "image caf\udce9.jpg is broken"]
    assert [there["error"] for there in found] == [told, raised, told]


@pytest.mark.slow
def test_a_worker_that_vanishes():
    tf_configs, results = results_of("vanishes")
    assert [code for code, _, _ in results] == [0, -9, 0]
    for _, there, err in (results[0], results[2]):
        kind, text = there["error"]
        # The second of the others may lose the first of them before it hears of the one that vanished.
        assert kind == "TrainingStopped" and text.endswith(" was lost; restart all workers with --resume")
        assert "Traceback" not in err


GRAPH = "Graph execution error:\n\nDetected at node CollectiveReduceV2\n\nCollective ops is aborted by: "
LOST = "was lost; restart all workers with --resume"


@pytest.mark.parametrize(
    ("kind", "text", "line"),
    [
        (
            tf.errors.UnavailableError,
            f"{GRAPH}Error reported from /job:worker/task:1: The following tasks are unhealthy "
            "(stopped sending heartbeats):\n/job:worker/replica:0/task:1\nThe tasks have crashed.",
            f"worker:1 (b:2) {LOST}",
        ),
        (
            tf.errors.UnavailableError,
            f"{GRAPH}Socket closed\nAdditional GRPC error information from remote target "
            "/job:worker/replica:0/task:2 while calling /tensorflow.WorkerService/RecvBuf:",
            f"worker:2 (c:3) {LOST}",
        ),
        (
            tf.errors.InternalError,
            f"{GRAPH}Collective instance 150 expected type 0",
            f"another worker {LOST}",
        ),
        (
            tf.errors.DeadlineExceededError,
            "Deadline Exceeded\nAdditional GRPC error information from remote target "
            "/job:worker/replica:0/task:0 while calling /tensorflow.CoordinationService/RegisterTask:",
            f"another worker {LOST}",
        ),
        (tf.errors.InternalError, "cuDNN has failed on /job:worker/replica:0/task:1/device:GPU:0", None),
    ],
    ids=["silent", "closed", "mismatch", "this worker", "other error"],
)
def test_errors_of_tensorflow_for_a_lost_worker(monkeypatch, kind, text, line):
    task = {"type": "worker", "index": 0}
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["a:1", "b:2", "c:3"]}, "task": task}))
    error = kind(None, None, text)
    translated = Workers(read_cluster())._translated(error)
    assert translated is error if line is None else str(translated) == line
