"""The fixtures that tests of several folders share."""

import json
import random
from types import SimpleNamespace

import pytest

pytest_plugins = ["fidelity"]
"""`fidelity` holds the fixture `compare`."""


def pytest_addoption(parser):
    parser.addoption(
        "--fuzz-cases", type=int, metavar="N", help="run N cases of tests/fuzz in total (make fuzz)"
    )


STORY_FOLDERS = ("benchmarks", "commands", "exports", "serving")
"""The folders of tests that run commands, export or serve."""

STORY_FIXTURES = {"command", "evaluated", "found", "interrupted", "replicas", "story", "wheel", "workers"}
"""The fixtures that run commands, or start processes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Marks the stories, which `make test-fast` leaves out, and groups the tests.

    It keeps each file of tests in one process of pytest-xdist (--dist=loadgroup).

    The files that use `interrupted` share a process, because its runs take the best part of a minute.
    """
    with_runs = {item.path for item in items if "interrupted" in item.fixturenames}
    for item in items:
        if item.path.parent.name in STORY_FOLDERS or STORY_FIXTURES.intersection(item.fixturenames):
            item.add_marker(pytest.mark.story)
        group = "interrupted" if item.path in with_runs else item.path.name
        item.add_marker(pytest.mark.xdist_group(group))


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
def eagerly(small_network):
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
def refused(command):
    """Runs a command that must end with exit code 2 and one line on stderr, and returns that line."""

    def run(module, *arguments):
        result = command(module, *arguments)
        assert result.code == 2, result
        (line,) = result.err.splitlines()
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture(scope="session")
def interrupted(config_file, tmp_path_factory):
    """A run that nothing stopped, and a run that SIGTERM and SIGKILL stopped and that was resumed each time.

    Attributes: `undisturbed` and `disturbed`, the run folders; `output`, what the first run printed;
    `killed` and `resumed`, what `finish` returns for the process that ended with SIGKILL and for the
    process after it; `checkpoints_left`, the names of the checkpoint folders between the two.
    """
    from processes import finish, start_program

    folder = tmp_path_factory.mktemp("runs")
    undisturbed, disturbed = folder / "undisturbed", folder / "disturbed"
    deterministic = ["--set", "training.deterministic=true"]
    arguments = ["--config", str(config_file), *deterministic, "--output"]
    again = [*arguments, str(disturbed), "--resume"]
    runs = [
        {"arguments": [*arguments, str(undisturbed)]},
        {"arguments": [*arguments, str(disturbed)], "signal": "SIGTERM", "after": 2},
        {"arguments": again, "signal": "SIGKILL", "after": 5},
    ]
    first = finish(start_program("training_program.py", json.dumps(runs)))[0]
    left = sorted(path.name for path in (disturbed / "checkpoints").iterdir())
    second = finish(start_program("training_program.py", json.dumps([{"arguments": again}])))[0]
    return SimpleNamespace(
        undisturbed=undisturbed,
        disturbed=disturbed,
        output=first[1].partition("exit 0")[0],
        killed=first,
        checkpoints_left=left,
        resumed=second,
    )
