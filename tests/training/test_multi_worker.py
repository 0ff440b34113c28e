"""Two processes that share every batch over the network, against one process."""

import json
import shutil

import h5py
import pytest
from processes import finish, local_cluster, start_workers
from run_files import log_entries
from small_network import BACKBONE, small_backbone

import train
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.evaluation.portions import ROW
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.network import build_model
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
    overrides = [part for override in (*RUN, *more) for part in ("--set", override)]
    return ["--config", str(config_file), *overrides, "--output", str(output)]


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
        settings = [f"data.classes={json.dumps(CLASS_NAMES)}", *DETECTS, *overrides]
        options = [part for override in settings for part in ("--set", override)]
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
    assert sorted(path.name for path in folder.iterdir()) == [
        ".refinedet-run",
        "augmented.png",
        "best.weights.h5",
        "checkpoints",
        "config.json",
        "curves.png",
        "final.weights.h5",
        "log.jsonl",
        "tensorboard",
    ]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-2", "step-3"]
    for checkpoint in (folder / "checkpoints").iterdir():
        assert sorted(path.name for path in checkpoint.iterdir()) == [
            "state.json",
            "variables.data-00000-of-00001",
            "variables.index",
        ]
    assert len(list((folder / "tensorboard").iterdir())) == 1
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == [1, 2, 2, 3, 3]


def test_two_workers_equal_one_process(tf_test, workers, config_file, command, eagerly, tmp_path):
    """The global batch is the same, so the weights and the statistics of BatchNorm are, too."""
    result = command(train, *arguments_for(config_file, tmp_path / "alone", "data.validation=[]"))
    assert result.code == 0, result.err
    compared = 0
    with (
        h5py.File(workers[0] / "final.weights.h5") as workers_file,
        h5py.File(tmp_path / "alone" / "final.weights.h5") as single_file,
    ):

        def compare(name, item):
            nonlocal compared
            if isinstance(item, h5py.Dataset):
                tf_test.assertAllClose(workers_file[name][()], item[()], rtol=1e-5, atol=1e-5, msg=name)
                compared += 1

        single_file.visititems(compare)
    assert compared > 50
    ours, theirs = (
        [entry for entry in log_entries(folder) if "loss" in entry]
        for folder in (workers[0], tmp_path / "alone")
    )
    assert len(theirs) == 3
    for entry, expected in zip(ours, theirs, strict=True):
        assert entry["num_arm_positives"] == expected["num_arm_positives"] > 0
        tf_test.assertAllClose(entry["loss"], expected["loss"], rtol=1e-4, atol=0)


def task(kind, index):
    return json.dumps({"cluster": {"worker": ["a:1"]}, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "set TF_CONFIG on every machine"),
        ("not json", "set TF_CONFIG on every machine"),
        ("[]", "set TF_CONFIG on every machine"),
        ("[" * 100_000, "set TF_CONFIG on every machine"),
        ("9" * 5_000, "set TF_CONFIG on every machine"),
        ('{"cluster": {"ps": ["a:1"]}}', "set TF_CONFIG on every machine"),
        ('{"cluster": {"worker": []}}', "TF_CONFIG lists no workers"),
        (
            '{"cluster": {"worker": ["a:1"], "evaluator": ["a:2"]}}',
            "cluster lists tasks of type 'evaluator'; a training has only chief and worker",
        ),
        ('{"cluster": {"worker": "a:1"}}', "cluster.worker must be a list of host:port, got 'a:1'"),
        ('{"cluster": {"worker": ["a"]}}', "cluster.worker: 'a' is not an address host:port"),
        ('{"cluster": {"worker": ["a:b"]}}', "cluster.worker: 'a:b' is not an address host:port"),
        ('{"cluster": {"worker": ["a:70000"]}}', "cluster.worker: 'a:70000' is not an address host:port"),
        ('{"cluster": {"worker": [7]}}', "cluster.worker: 7 is not an address host:port"),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', "cluster lists a:1 twice"),
        ('{"cluster": {"chief": ["a:1", "a:2"]}}', "cluster lists 2 chiefs; there must be one"),
        ('{"cluster": {"worker": ["a:1"]}}', "task must hold type and index, got None"),
        (task("evaluator", 0), "task.type 'evaluator' does not train; it must be chief or worker"),
        (task("worker", "0"), "task.index must be a whole number, got '0'"),
        (task("worker", True), "task.index must be a whole number, got True"),
        (task("worker", 1), "task.index 1 is out of range: cluster lists 1 of type worker"),
        (task("worker", -1), "task.index -1 is out of range: cluster lists 1 of type worker"),
    ],
)
def test_cluster_that_is_not_described(config_file, refused, monkeypatch, tmp_path, value, message):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value is not None:
        monkeypatch.setenv("TF_CONFIG", value)
    arguments = arguments_for(config_file, tmp_path / "run", 'training.strategy="multi_worker"')
    assert message in refused(train, *arguments)
    assert not (tmp_path / "run").exists()
