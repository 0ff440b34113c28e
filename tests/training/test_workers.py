"""What several workers do when they differ, when one is told to stop, is lost or never comes."""

import json
import random
import re
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest
from processes import finish, free_ports, local_cluster, start_workers
from run_files import assert_equal_weights, entries_without_times, last_step
from training_config import sets

import train
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import image_order
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.training import cluster

MULTI = ('training.strategy="multi_worker"', "training.learning_rate=1e-4", "training.validate_every=100")


def arguments_for(config_file, output, *overrides):
    return ["--config", str(config_file), *sets(*MULTI, *overrides), "--output", str(output)]


def lines_of(err):
    """The lines on stderr without those that TensorFlow prints when it is imported."""
    return [
        line
        for line in err.splitlines()
        if not line.startswith(("WARNING: All log messages", "I0000 ", "To enable the following"))
    ]


def lost(task, tf_config):
    kind, index = task.split(":")
    address = json.loads(tf_config)["cluster"][kind][int(index)]
    return f"error: {task} ({address}) was lost; restart all workers with --resume"


@pytest.fixture(scope="module")
def story(config_file, devkit, tmp_path_factory):
    """A chief and a worker that differ in three ways, then train with a broken image, and without it.

    The worker is told to stop, and later killed.

    Returns:
        The run folder; the lines on stderr of both processes; the checkpoints after the stop; the exit codes
        and lines on stderr of both processes of the resumed run; the seconds from the kill to the end of the
        chief.
    """
    folder = tmp_path_factory.mktemp("workers")
    other = folder / "devkit"
    shutil.copytree(devkit, other)
    file = sorted((other / "VOC2007" / "Annotations").glob("*.xml"))[0]
    text = file.read_text()
    file.write_text(re.sub(r"<object>.*?</object>", "", text, count=1, flags=re.DOTALL))
    assert file.read_text() != text
    alone = folder / "not-shared"
    (alone / "checkpoints" / "step-10").mkdir(parents=True)
    run = arguments_for(config_file, folder / "run", f"data.classes={json.dumps(CLASS_NAMES)}")
    root = without_an_image(folder, devkit, config_file)
    broken = {"arguments": [*run[:-1], str(folder / "broken"), *sets(f"data.root={root}")]}
    chief = [
        {"arguments": run},
        {"arguments": run},
        {"arguments": [*run[:-1], str(alone), "--resume"]},
        broken,
        {"arguments": run},
    ]
    worker = [
        {"arguments": [*run, "--set", "training.learning_rate=2e-4"]},
        {"arguments": [*run, "--set", f"data.root={other}"]},
        {"arguments": [*run[:-1], str(folder / "empty"), "--resume"]},
        broken,
        {"arguments": run, "signal": "SIGTERM", "after": 2},
    ]
    tf_configs = local_cluster(1, chief=True)
    first = finish(*start_workers([chief, worker], tf_configs), seconds=1800)
    left = sorted(path.name for path in (folder / "run" / "checkpoints").iterdir())
    assert not (folder / "empty").exists()
    resumed = {"arguments": [*run, "--resume", "--set", "training.length=1000"]}
    tf_configs = local_cluster(1, chief=True)
    processes = start_workers([[resumed], [{**resumed, "signal": "SIGKILL", "after": 5}]], tf_configs)
    processes[1].wait(1800)
    killed = time.monotonic()
    second = finish(*processes, seconds=400)
    return folder / "run", first, left, second, time.monotonic() - killed, tf_configs[0]


def without_an_image(folder, devkit, config_file):
    """The root of the data, in which the first image of the second step cannot be decoded."""
    root = folder / "broken-devkit"
    shutil.copytree(devkit, root)
    config = load_config(config_file, [f"data.root={root}"])
    dataset = read_dataset(config.data, "train")
    batch_size = config.training.batch_size
    order = list(image_order(len(dataset), config.training.seed, 0).take(2 * batch_size).as_numpy_iterator())
    assert order[batch_size] not in order[:batch_size]
    Path(dataset.image_paths[order[batch_size]]).write_bytes(b"no image")
    return root


def test_workers_that_differ_do_not_begin(story):
    _, ((_, chief_out, chief_err), (_, worker_out, worker_err)), *_ = story
    assert lines_of(chief_err)[:3] == lines_of(worker_err)[:3]
    rate, data, step = lines_of(chief_err)[:3]
    prefix = "error: the workers do not agree: "
    assert rate == f"{prefix}training.learning_rate is 0.0001 on chief:0 and 0.0002 on worker:0"
    assert data.startswith(f"{prefix}number of objects of the training set is ")
    assert step == (
        f"{prefix}the last step in --output, which workers must share, is 10 on chief:0 and 0 on worker:0"
    )
    for out in (chief_out, worker_out):
        assert [line for line in out.splitlines() if line.startswith("exit")] == ["exit 2"] * 4 + ["exit 1"]


def test_all_stop_when_one_is_told_to(story):
    folder, ((_, chief_out, chief_err), (_, worker_out, worker_err)), left, *_ = story
    assert lines_of(chief_err)[4:] == [
        "error: stopped by a signal to another worker after step 3; continue with --resume"
    ]
    assert lines_of(worker_err)[4:] == ["error: stopped by SIGTERM after step 3; continue with --resume"]
    assert left == ["step-3"]
    assert "step 3/" in chief_out and "step 3/" not in worker_out


def test_a_broken_image_of_one_worker_is_named_by_all(story):
    """It is in the batch of a later step, when the next operation of the others is that step."""
    folder, ((_, _, chief_err), (_, _, worker_err)), *_ = story
    lines = [lines_of(err)[3] for err in (chief_err, worker_err)]
    (reader,) = [index for index, line in enumerate(lines) if line.startswith("error: image ")]
    assert "cannot be decoded" in lines[reader]
    name = ("chief:0", "worker:0")[reader]
    assert lines[1 - reader] == f"error: {name} ended: {lines[reader].removeprefix('error: ')}"
    assert last_step(folder.parent / "broken") == 1
    assert not list((folder.parent / "broken").glob("checkpoints/step-*"))


def test_a_killed_worker_is_named(story):
    folder, _, _, ((chief_code, chief_out, chief_err), (code, _, _)), seconds, tf_config = story
    assert "continuing after step 3" in chief_out
    assert code == -signal.SIGKILL
    assert chief_code == 0 and chief_out.splitlines()[-1] == "exit 1"  # The program has ended by itself.
    assert lines_of(chief_err) == [lost("worker:0", tf_config)]
    assert seconds < 150


def test_only_the_chief_writes(story):
    names = {path.name for path in (story[0] / "checkpoints").iterdir()}
    assert not any(name.startswith(".worker") for name in names)
    assert len(list((story[0] / "tensorboard").iterdir())) == 2  # This is one file per process that wrote.


@pytest.mark.parametrize("task", [0, 1])
def test_a_worker_that_never_comes(config_file, command, monkeypatch, tmp_path, task):
    monkeypatch.setattr(cluster, "FIRST_WORD", 0.2)
    tf_config = local_cluster(2)[task]
    monkeypatch.setenv("TF_CONFIG", tf_config)
    arguments = arguments_for(config_file, tmp_path / "run", "training.wait_for_workers=1")
    result = command(train, *arguments)
    missing = f"worker:{1 - task} ({json.loads(tf_config)['cluster']['worker'][1 - task]})"
    assert result.code == 1
    assert result.out == f"waiting for {missing}\n"
    assert result.err == (
        f"error: {missing} did not come up within 1 s (training.wait_for_workers); start all workers again\n"
    )
    assert not (tmp_path / "run").exists()


def test_a_port_in_use(config_file, refused, monkeypatch, tmp_path):
    (port,) = free_ports(1)
    tf_config = {"cluster": {"worker": [f"localhost:{port}"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(tf_config))
    with socket.create_server(("127.0.0.1", port)):
        line = refused(train, *arguments_for(config_file, tmp_path / "run"))
    reason = "Address already in use"
    assert line.startswith(
        f"error: TF_CONFIG: the port of worker:0 (localhost:{port}) cannot be used: {reason}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_a_signal_in_the_validation_of_one_worker(config_file, tmp_path, name):
    """SIGTERM: all give the validation up, and the chief saves. SIGKILL: the chief says who was lost."""
    overrides = ("training.validate_every=2", "evaluation.batch_size=1")
    arguments = arguments_for(config_file, tmp_path / "run", *overrides)
    run_lists = [[{"arguments": arguments}], [{"arguments": arguments, "signal": name, "validation": True}]]
    tf_configs = local_cluster(2)
    (_, out, err), (_, _, worker_err) = finish(*start_workers(run_lists, tf_configs), seconds=400)
    if name == "SIGKILL":
        assert (out.splitlines()[-1], lines_of(err)) == ("exit 1", [lost("worker:1", tf_configs[0])])
        return
    ending = "after step 2, before its validation was finished; continue with --resume"
    assert lines_of(err) == [f"error: stopped by a signal to another worker {ending}"]
    assert lines_of(worker_err) == [f"error: stopped by SIGTERM {ending}"]
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-2"]
    assert not (tmp_path / "run" / "best.weights.h5").exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [2, 3])
def test_kills_of_each_worker_and_restarts(config_file, tmp_path, workers):
    """Each worker is killed once at a random moment; the others name it, and all are started again."""
    generator = random.Random(workers)
    steps = 12 * (workers + 1)
    overrides = (
        f"training.length={steps}",
        "training.batch_size=6",
        "training.checkpoint_every=3",
        "training.validate_every=10",
    )
    undisturbed = [{"arguments": arguments_for(config_file, tmp_path / "undisturbed", *overrides)}]
    for code, out, err in finish(*start_workers([undisturbed] * workers, local_cluster(workers))):
        assert (code, out.splitlines()[-1]) == (0, "exit 0"), err
    killed = tmp_path / "killed"
    runs = [{"arguments": [*arguments_for(config_file, killed, *overrides), "--resume"], "pause": 0.1}]
    victims = list(range(workers))
    generator.shuffle(victims)
    for number, victim in enumerate(victims):
        tf_configs = local_cluster(workers)
        processes = start_workers([runs] * workers, tf_configs)
        until = 12 * number + generator.randrange(2, 12)
        while last_step(killed) < until:
            assert processes[victim].poll() is None, processes[victim].communicate()
            time.sleep(0.01)
        time.sleep(generator.uniform(0, 0.2))
        processes[victim].kill()
        started = time.monotonic()
        results = finish(*processes, seconds=400)
        print(f"{workers} workers, worker:{victim} killed: all ended in {time.monotonic() - started:.1f} s")
        for index, (code, out, err) in enumerate(results):
            if index != victim:
                assert code == 0 and out.splitlines()[-1] == "exit 1"
                # With three workers, one may lose a survivor before it hears of the victim.
                names = [f"worker:{other}" for other in range(workers) if other != index]
                (line,) = lines_of(err)
                assert line in [lost(name, tf_configs[0]) for name in names]
    for code, out, err in finish(*start_workers([runs] * workers, local_cluster(workers))):
        assert (code, out.splitlines()[-1]) == (0, "exit 0"), err
    assert entries_without_times(killed) == entries_without_times(tmp_path / "undisturbed")
    for name in ("final.weights.h5", "best.weights.h5"):
        assert_equal_weights(killed / name, tmp_path / "undisturbed" / name)
