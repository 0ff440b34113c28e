"""The fixtures that tests of several folders share."""

import json
import random
import shutil
from types import SimpleNamespace

import pytest

pytest_plugins = ["fidelity"]
"""`fidelity` holds the fixture `compare`."""


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-cases", type=int, metavar="N", help="run N cases of tests/fuzz in total (make fuzz)"
    )


STORY_FOLDERS = ("benchmarks", "commands", "exports", "serving", "training")
"""The folders of tests that run commands, export, serve or train."""

STORY_FIXTURES = {"command", "found", "interrupted", "replicas", "story", "trained", "workers"}
"""The fixtures that run commands, train, or start processes."""

SHARED_FIXTURES = ("interrupted", "exported")
"""The fixtures that take long and that several files use."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the stories, which `make test-fast` leaves out, and groups the tests.

    It keeps each file of tests in one process of pytest-xdist (--dist=loadgroup), and so the files that use
    one of `SHARED_FIXTURES`.
    """
    groups = {item.path: name for item in items for name in SHARED_FIXTURES if name in item.fixturenames}
    for item in items:
        if item.path.parent.name in STORY_FOLDERS or STORY_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.story)
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, item.path.name)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session):
    """Refuses to go on where the groups have no effect: shared fixtures would silently be made many times."""
    if getattr(session.config.option, "loadgroup", False):
        alone = [item.nodeid for item in session.items if "@" not in item.nodeid]
        if alone:
            raise pytest.UsageError(f"this version of pytest-xdist does not group tests, e.g. {alone[0]}")


@pytest.fixture(scope="session", autouse=True)
def float32_is_float32():
    """Forbids TensorFloat-32, which TensorFlow lets a GPU use by default and no tolerance here allows for."""
    import tensorflow as tf

    tf.config.experimental.enable_tensor_float_32_execution(False)


@pytest.fixture(autouse=True)
def seeded():
    """Seeds Python's generator, which gives a seed to every initialiser of Keras that has none."""
    random.seed(87654321)


@pytest.fixture
def tf_test():
    """The assertions of a `tf.test.TestCase`.

        tf_test.assertAllClose(found, expected, rtol=1e-5, atol=0)

    They take tensors, variables and arrays, require equal shapes, and print the elements that differ. The
    test case is not set up, because that seeds TensorFlow, which then prepares every traced function anew.
    """
    from tensor_assertions import TensorAssertions

    return TensorAssertions()


@pytest.fixture(scope="session")
def bfloat16():
    """Skips tests that compute in bfloat16 where TensorFlow cannot.

    On a processor with bfloat16 instructions it relies on oneDNN for them, which an environment variable
    (`ONEDNN_MAX_CPU_ISA`) may forbid to use them; every convolution in bfloat16 fails then.
    """
    import tensorflow as tf

    try:
        tf.nn.conv2d(tf.ones([1, 8, 8, 8], tf.bfloat16), tf.ones([3, 3, 8, 8], tf.bfloat16), 1, "SAME")
    except tf.errors.AbortedError:
        pytest.skip("oneDNN may not use the instructions for bfloat16 that this processor has")


@pytest.fixture(scope="session")
def devkit(tmp_path_factory):
    """A generated VOC devkit: 2007/train with 8 JPEGs, 2007/val with 4, six classes."""
    from refinedet_tf.data.shapes import write_shapes

    root = tmp_path_factory.mktemp("devkit") / "shapes"
    write_shapes(root, {"train": 8, "val": 4})
    return root


@pytest.fixture(scope="session")
def config_file(devkit, tmp_path_factory):
    """A config file for `devkit`, whose backbone the fixture `small_network` replaces."""
    from training_config import training_tree

    file = tmp_path_factory.mktemp("config") / "tiny.json"
    file.write_text(json.dumps(training_tree(devkit)), encoding="utf-8")
    return file


@pytest.fixture
def small_network(monkeypatch):
    """Replaces the backbone "mobilenet_v2" with a small one."""
    from small_network import BACKBONE, small_backbone

    from refinedet_tf.refinedet.backbones import BACKBONES

    monkeypatch.setitem(BACKBONES, BACKBONE, small_backbone)


@pytest.fixture
def without_pictures(monkeypatch):
    """Leaves out the pictures and curves of a run, which take a quarter of the time of a short one."""
    import numpy as np

    from refinedet_tf.training import loop

    gray = np.full((8, 8, 3), 128, np.uint8)
    monkeypatch.setattr(loop, "batch_picture", lambda *_: gray)
    monkeypatch.setattr(loop, "detection_pictures", lambda *_: [gray])
    monkeypatch.setattr(loop, "draw_curves", lambda *_: None)


@pytest.fixture
def eagerly(small_network, without_pictures):
    """Runs the small network without graphs, since tracing them takes most of the time of a short run."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


@pytest.fixture
def command(capsys):
    """Runs a command in this process: `command(train, "--config", ...)` -> code, out, err."""
    from refinedet_tf.commands import terminal

    def run(module, *arguments):
        code = 0
        capsys.readouterr()
        try:
            terminal.run(module.main, [str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        printed = capsys.readouterr()
        return SimpleNamespace(code=code, out=printed.out, err=printed.err)

    return run


@pytest.fixture
def done(command):
    """Runs a command that must end with exit code 0, and returns what `command` does."""

    def run(module, *arguments):
        result = command(module, *arguments)
        assert result.code == 0, result.err
        return result

    return run


@pytest.fixture
def refused(command, monkeypatch):
    """Runs a command that must end with exit code 2 and one line on stderr, and returns that line."""
    from refinedet_tf.progress import ProgressPrinter

    printed = ProgressPrinter.__call__
    # Work that is short prints no progress, and on a slow machine it is no error that it takes long.
    monkeypatch.setattr(
        ProgressPrinter, "__call__", lambda self, done, total, _: printed(self, done, total, 0.0)
    )

    def run(module, *arguments):
        result = command(module, *arguments)
        assert result.code == 2, result
        (line,) = result.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture(scope="session")
def interrupted(config_file, tmp_path_factory):
    """A run that nothing stopped, and one that Ctrl-C and SIGKILL stopped and that was resumed each time.

    Attributes: `undisturbed` and `disturbed`, the run folders; `output`, what the first run printed;
    `killed` and `resumed`, what `finish` returns for the process that ended with SIGKILL and for the
    process after it; `checkpoints_left`, the names of the checkpoint folders between the two; `twice`, the
    folder of a run that the second process began at its end, and that Ctrl-C stopped twice after a step.
    """
    from processes import finish, start_program

    folder = tmp_path_factory.mktemp("runs")
    undisturbed, disturbed, twice = (folder / name for name in ("undisturbed", "disturbed", "twice"))
    deterministic = ["--set", "training.deterministic=true"]
    arguments = ["--config", str(config_file), *deterministic, "--output"]
    again = [*arguments, str(disturbed), "--resume"]
    runs = [
        {"arguments": [*arguments, str(undisturbed)]},
        {"arguments": [*arguments, str(disturbed)], "signal": "SIGINT", "after": 2},
        {"arguments": again, "signal": "SIGKILL", "after": 5},
    ]
    first = finish(start_program("training_program.py", json.dumps(runs)))[0]
    left = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    runs = [
        {"arguments": again},
        {"arguments": [*arguments, str(twice)], "signal": "SIGINT", "after": 1, "times": 2},
    ]
    second = finish(start_program("training_program.py", json.dumps(runs)))[0]
    return SimpleNamespace(
        undisturbed=undisturbed,
        disturbed=disturbed,
        output=first[1].partition("exit 0")[0],
        killed=first,
        checkpoints_left=left,
        resumed=second,
        twice=twice,
    )


@pytest.fixture
def finished(interrupted, tmp_path):
    """A copy of the undisturbed run, without deterministic kernels, which could not be switched off again."""
    folder = shutil.copytree(interrupted.undisturbed, tmp_path / "finished")
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"deterministic": true', '"deterministic": false'))
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A small RefineDet with limits of its own, and its export in all forms, which nobody changes.

    Attributes: `config`, `model`, `detector`; `folder`, that of version 1, and `served`, its SavedModel;
    `comparisons`, those of the export; `logging`, the root logger's state before and after it.
    """
    import logging

    import tensorflow as tf
    from image_files import save
    from small_detector import small_config, small_detector

    from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
    from refinedet_tf.inference.detector import Detector

    limits = {"objectness_threshold": 0.4, "score_threshold": 0.4, "nms_iou": 0.4, "max_detections": 100}
    config = small_config(limits)
    model = small_detector(config)
    images = [save(tmp_path_factory.mktemp("images") / "image.png", 60, 80, seed) for seed in range(16)]
    options = ExportOptions(onnx=True, litert=True, mediapipe=True, int8=images)
    root = logging.getLogger()
    before = root.level, root.handlers[:]
    output = tmp_path_factory.mktemp("exports")
    folder, comparisons = export_saved_model(model, config, output, options=options, measured={"mAP": 0.5})
    return SimpleNamespace(
        config=config,
        model=model,
        detector=Detector(model, config),
        folder=folder,
        served=tf.saved_model.load(str(folder)),
        comparisons=comparisons,
        logging=(before, (root.level, root.handlers[:])),
    )
