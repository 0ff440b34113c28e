"""A whole run that starts from a detector with other classes and freezes layers."""

import json

import numpy as np
import pytest
from training_config import sets

import evaluate
import train
from refinedet_tf.config import with_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_weights, save_weights


@pytest.fixture
def start(config_file, small_network, tmp_path):
    """A run folder with the weights of a detector of two classes, and the network."""
    network = build_model(with_classes(load_config(config_file), ("ring", "cat")))
    (tmp_path / "start").mkdir()
    save_weights(network, tmp_path / "start/best.weights.h5")
    return tmp_path / "start", network


def arguments(config_file, start, output, freeze, *more):
    overrides = [f"model.weights={start}", f"training.freeze={freeze}", "data.validation=[]", *more]
    return ["--config", config_file, "--output", output, *sets("training.length=1", *overrides)]


@pytest.mark.slow
def test_run_from_other_classes(config_file, start, command, done, refused, eagerly, tmp_path):
    folder, source = start
    output = tmp_path / "run"
    result = done(train, *arguments(config_file, folder, output, "backbone"))
    lines = result.out.splitlines()
    total = len(source.weights)
    place = lines.index(
        f"initial weights: {total - 8} of {total} variables are those of {folder / 'best.weights.h5'}; "
        "trained at 64 x 64 pixels"
    )
    assert lines[place + 1 : place + 4] == [
        "  classes taken over: (background), ring",
        "  new classes, not in the file: circle, cross, rectangle, star, triangle",
        "  classes of the file that are not used: cat",
    ]
    written = (output / "initial_weights.txt").read_text(encoding="utf-8").splitlines()
    assert written[:4] == lines[place : place + 4]
    assert "ring: taken from label 1, ring" in written and "odm_conf4/bias: some rows" in written
    network = build_model(load_config(output))
    load_weights(network, output / "final.weights.h5")
    # The last level and the L2 normalisation are RefineDet's own.
    backbone = ("level3/", "level3_norm", "level4", "level5")
    frozen = {variable.path for variable in network.weights if variable.path.startswith(backbone)}
    for found, old in zip(network.weights, source.weights, strict=True):
        if found.path in frozen:
            np.testing.assert_array_equal(found, old, err_msg=found.path)
        elif "/kernel" in found.path and "odm_conf" not in found.path:
            assert not np.array_equal(found, old), found.path
    trained = network.count_params() - sum(v.numpy().size for v in network.weights if v.path in frozen)
    trained -= sum(v.numpy().size for v in network.weights if "moving_" in v.path and v.path not in frozen)
    line = f"training {trained:,} of {network.count_params():,} parameters; 6 layers are frozen"
    assert f"{line} (training.freeze 'backbone')" in lines
    assert not [line for line in lines if line.startswith("note: frozen layers")]

    message = refused(train, *arguments(config_file, folder, output, "none", "training.length=2"), "--resume")
    assert "training.freeze was 'backbone', is 'none'" in message
    command(train, *arguments(config_file, folder, output, "backbone", "training.length=2"), "--resume")
    assert (output / "initial_weights.txt").read_text(encoding="utf-8").splitlines() == written


@pytest.mark.slow
def test_frozen_layers_with_random_weights(config_file, done, eagerly, tmp_path):
    result = done(train, *arguments(config_file, "null", tmp_path / "run", '["level3", "tcb6"]'))
    expected = "note: frozen layers with random weights: level3, tcb6/TL6_1, tcb6/TL6_1_bn, "
    assert [line for line in result.out.splitlines() if line.startswith(expected)]
    assert not (tmp_path / "run/initial_weights.txt").exists()


def test_names_of_no_layer(config_file, start, refused, tmp_path):
    message = refused(train, *arguments(config_file, start[0], tmp_path / "run", '["conv*"]'))
    assert "training.freeze: no layer has the name 'conv*'; some of " in message and "level3, " in message


def test_evaluation_stays_strict(config_file, start, refused):
    """The evaluation of a file of other classes is refused."""
    weights = start[0] / "best.weights.h5"
    overrides = sets(f"data.classes={json.dumps(CLASS_NAMES)}")
    message = refused(evaluate, "--config", config_file, "--weights", weights, *overrides)
    assert "holds weights for 2 classes, the model has 6" in message
