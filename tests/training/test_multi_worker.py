"""Two processes that share every batch over the network, against one process."""

import json
import re
import shutil

import pytest
from processes import finish, local_cluster, start_workers
from run_files import RUN_FILES, log_entries, weights_in
from small_network import BACKBONE, small_backbone
from training_config import sets

import train
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.portions import ROW
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.training.cluster import read_cluster
from refinedet_tf.weights import save_weights

BROKEN = "val_000001"
"""The image of the second batch, which worker:1 takes."""

RUN = (
    "training.length=3",
    "training.checkpoint_every=2",
    "training.validate_every=2",
    "training.learning_rate=1e-4",
    "training.warmup=2",
    "training.ema_decay=0.5",
)


def arguments_for(config_file, output, *more):
    return ["--config", str(config_file), *sets(*RUN, *more), "--output", str(output)]


DETECTS = (
    "evaluation.batch_size=1",
    "postprocess.score_threshold=0.0",
    "postprocess.objectness_threshold=0.0",
    "postprocess.nms_iou=0.8",
)
"""With them, random weights detect something everywhere; each worker has two batches."""


@pytest.fixture(scope="module")
def workers(config_file, devkit, tmp_path_factory):
    """The run folder, the folder of the evaluations, and what `finish` returns for both processes.

    They train together. Then they evaluate random weights together, first while an image in the share of
    worker:1 is broken. Then the chief evaluates alone.
    """
    folder = tmp_path_factory.mktemp("multi")
    multi = 'training.strategy="multi_worker"'
    training = {"arguments": arguments_for(config_file, folder / "run", multi)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        config = with_classes(load_config(config_file), CLASS_NAMES)
        save_weights(build_model(config), folder / "random.weights.h5")
    broken = folder / "devkit"
    shutil.copytree(devkit, broken)
    (broken / "VOC2007" / "JPEGImages" / f"{BROKEN}.jpg").write_bytes(b"no image")

    def evaluation(name, *overrides):
        options = sets(f"data.classes={json.dumps(CLASS_NAMES)}", *DETECTS, *overrides)
        options += ["--config", str(config_file), "--weights", str(folder / "random.weights.h5")]
        options += ["--json", str(folder / f"{name}.json")]
        return {"evaluate": str(folder / name), "arguments": options}

    both = [training, evaluation("broken", multi, f"data.root={broken}"), evaluation("together", multi)]
    run_lists = [[*both, evaluation("alone")], both]
    return folder / "run", folder, finish(*start_workers(run_lists, local_cluster(2)), seconds=1800)


def test_evaluation_by_two_workers_is_that_of_one(workers):
    _, folder, _ = workers
    together = (folder / "together").read_bytes()
    assert len(together) > 400 * ROW.itemsize
    assert together == (folder / "alone").read_bytes()
    numbers, alone = (json.loads((folder / f"{name}.json").read_text()) for name in ("together", "alone"))
    assert numbers["AP"] == alone["AP"] and numbers["mAP"] == alone["mAP"] >= 0
    shares = [[(work["name"], work["images"]) for work in found["replicas"]] for found in (numbers, alone)]
    assert shares == [[("worker:0 replica 0", 2), ("worker:1 replica 0", 2)], [("replica 0", 4)]]


def test_only_the_chief_prints_an_evaluation(workers):
    *_, ((_, chief_out, _), (_, out, _)) = workers
    assert sum(line.startswith("mAP ") for line in chief_out.splitlines()) == 2
    assert "worker:1 replica 0: 2 images in " in chief_out
    said = [line for line in out.splitlines() if not line.startswith(("waiting for ", "done: "))]
    assert said == ["exit 0", "exit 2", "exit 0"]


def test_a_broken_image_in_one_share_is_named_by_all(workers):
    *_, ((_, _, chief_err), (_, _, err)) = workers
    (chief_line,), (line,) = (
        [line for line in text.splitlines() if BROKEN in line] for text in (chief_err, err)
    )
    assert line.startswith("error: image ") and f"{BROKEN}.jpg cannot be decoded" in line
    assert chief_line == f"error: worker:1 ended: {line.removeprefix('error: ')}"


def test_both_end_well_and_one_speaks(workers):
    *_, ((chief_code, chief_out, chief_err), (code, out, err)) = workers
    assert chief_code == 0, chief_err
    assert code == 0, err
    assert chief_out.count("exit 0") == 3
    assert chief_out.count("\nstep ") == 3 and "2 replica(s)" in chief_out
    assert "step " not in out


def test_run_folder_is_complete(workers):
    folder, *_ = workers
    assert sorted(path.name for path in folder.iterdir()) == RUN_FILES
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-3"]
    assert len(list((folder / "tensorboard").iterdir())) == 1
    assert [entry["step"] for entry in log_entries(folder)] == [1, 2, 2, 3, 3]


def test_two_workers_equal_one_process(tf_test, workers, config_file, done, eagerly, tmp_path):
    """The global batch is the same, so the weights and the statistics of BatchNorm are, too."""
    done(train, *arguments_for(config_file, tmp_path / "alone", "data.validation=[]"))
    found, expected = (weights_in(folder / "final.weights.h5") for folder in (workers[0], tmp_path / "alone"))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        tf_test.assertAllClose(found[name], value, rtol=1e-5, atol=1e-5, msg=name)
    ours, theirs = (
        [entry for entry in log_entries(folder) if "loss" in entry]
        for folder in (workers[0], tmp_path / "alone")
    )
    assert len(theirs) == 3
    for entry, expected in zip(ours, theirs, strict=True):
        assert entry["num_arm_positives"] == expected["num_arm_positives"] > 0
        tf_test.assertAllClose(entry["loss"], expected["loss"], rtol=1e-4, atol=0)


OWN = {"type": "worker", "index": 0}
ADDRESS = "must be an address host:port, got"


@pytest.mark.parametrize(
    ("cluster", "task", "message"),
    [
        ({"ps": ["a:1"]}, OWN, "cluster.ps.[key]: Input should be 'chief' or 'worker', got 'ps'"),
        ({"worker": "a:1"}, OWN, "cluster.worker: Input should be a valid array, got 'a:1'"),
        ({"worker": ["a"]}, OWN, f"cluster.worker.0: {ADDRESS} 'a'"),
        ({"worker": ["a:b"]}, OWN, f"cluster.worker.0: {ADDRESS} 'a:b'"),
        ({"worker": ["a:70000"]}, OWN, f"cluster.worker.0: {ADDRESS} 'a:70000'"),
        ({"worker": [7]}, OWN, "cluster.worker.0: Input should be a valid string, got 7"),
        ({"worker": ["a:1", "a:1"]}, OWN, "cluster lists a:1 twice"),
        ({"chief": ["a:1", "a:2"]}, OWN, "cluster lists more than one chief"),
        ({"worker": ["a:1"]}, None, "task: Input should be an object, got None"),
        ({"worker": ["a:1"]}, {**OWN, "type": "evaluator"}, "task.type: Input should be 'chief' or 'worker'"),
        ({"worker": ["a:1"]}, {**OWN, "index": "0"}, "task.index: Input should be a valid integer, got '0'"),
        ({"worker": ["a:1"]}, {**OWN, "index": True}, "task.index: Input should be a valid integer"),
        ({"worker": ["a:1"]}, {**OWN, "index": 1}, "task worker:1 is none of those that cluster"),
        ({"worker": ["a:1"]}, {**OWN, "index": -1}, "task worker:-1 is none of those that cluster"),
        ({"worker": []}, OWN, "task worker:0 is none of those that cluster lists"),
    ],
)
def test_cluster_that_is_not_described(monkeypatch, cluster, task, message):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": cluster, "task": task}))
    with pytest.raises(InputError, match=f"^TF_CONFIG: {re.escape(message)}"):
        read_cluster()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "training.strategy multi_worker: set TF_CONFIG on every machine, such as {"),
        ("not json", "TF_CONFIG is not valid JSON"),
        ("[]", "TF_CONFIG: all of it: Input should be an object, got []; it must be such as {"),
    ],
)
def test_run_without_a_cluster(config_file, refused, monkeypatch, tmp_path, value, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_CONFIG", value)
    arguments = arguments_for(config_file, tmp_path / "run", 'training.strategy="multi_worker"')
    assert message in refused(train, *arguments)
    assert not (tmp_path / "run").exists()
