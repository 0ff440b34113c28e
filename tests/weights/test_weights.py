import zipfile

import numpy as np
import pytest
from config_of import config_of
from thin_vgg import thin_vgg

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.model import build_model
from refinedet_tf.weights import load_initial_weights, load_weights, save_weights


def fill(model, seed):
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(generator.uniform(0.1, 1, variable.shape))
    return model


def values(model):
    return {variable.path: np.array(variable) for variable in model.weights}


@pytest.fixture
def error_of(tf_test):
    """error_of(model, path): the message with which a file is refused; the model must not have changed."""

    def message_of(model, path):
        before = values(model)
        with pytest.raises(InputError) as error:
            load_weights(model, path)
        message = str(error.value)
        assert "\n" not in message
        assert str(path) in message
        for name, value in values(model).items():
            tf_test.assertAllEqual(value, before[name])
        return message

    return message_of


@pytest.fixture(scope="module")
def model():
    return thin_vgg(num_classes=2)


@pytest.fixture(scope="module")
def mobilenet():
    model = {"backbone": "mobilenet_v2", "width_multiplier": 0.35, "tcb_batch_norm": True}
    return build_model(config_of(("a", "b"), model=model))


@pytest.fixture(scope="module")
def other_classes():
    return thin_vgg(num_classes=5)


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The same weights in both formats, and what they are."""
    folder = tmp_path_factory.mktemp("weights")
    fill(model, seed=1)
    save_weights(model, folder / "saved.weights.h5")
    model.save(folder / "saved.keras")
    return folder, values(model)


@pytest.mark.parametrize("name", ["saved.weights.h5", "saved.keras"])
def test_every_variable_comes_back(tf_test, name, model, files):
    folder, expected = files
    fill(model, seed=2)
    for path, value in values(model).items():
        assert not (value == expected[path]).any()
    layers = load_weights(model, folder / name)
    for path, value in values(model).items():
        tf_test.assertAllEqual(value, expected[path])
    assert layers == [layer.name for layer in model.layers if layer.weights]
    assert {"conv1_1", "conv4_3_norm", "tcb3", "tcb6", "arm_loc3", "odm_conf6"} <= set(layers)


def test_batch_norm_comes_back(tf_test, mobilenet, tmp_path):
    expected = values(fill(mobilenet, seed=1))
    save_weights(mobilenet, tmp_path / "saved.weights.h5")
    fill(mobilenet, seed=2)
    layers = load_weights(mobilenet, tmp_path / "saved.weights.h5")
    for path, value in values(mobilenet).items():
        tf_test.assertAllEqual(value, expected[path])
    assert {"mobilenet_v2", "extra_1_norm", "tcb3"} <= set(layers)
    assert sum(path.endswith("moving_variance") for path in expected) > 60


def test_weights_fit_another_image_size(tf_test, files):
    folder, expected = files
    free = thin_vgg(2, image_size=(64, 64))
    load_weights(free, str(folder / "saved.weights.h5"))
    for path, value in values(free).items():
        tf_test.assertAllEqual(value, expected[path])


def test_config_names_the_initial_weights(tf_test, files):
    folder, expected = files
    built = thin_vgg(2)
    load_initial_weights(built, ModelConfig(weights=str(folder / "saved.weights.h5")))
    for path, value in values(built).items():
        tf_test.assertAllEqual(value, expected[path])


@pytest.mark.parametrize("name", ["saved.weights.h5", "saved.keras"])
def test_another_number_of_classes(error_of, name, other_classes, files):
    message = error_of(other_classes, files[0] / name)
    assert "holds weights for 2 classes, the model has 5" in message
    assert "use the config that they were trained with" in message


def test_three_classes_share_the_shape_of_the_offsets(error_of, model, tmp_path):
    """3 x (3 + 1) scores are as many channels as 3 x 4 offsets."""
    save_weights(thin_vgg(num_classes=3), tmp_path / "three.weights.h5")
    message = error_of(model, tmp_path / "three.weights.h5")
    assert "holds weights for 3 classes, the model has 2" in message


@pytest.fixture(scope="module")
def wider_file(tmp_path_factory):
    """Weights of a network whose transfer connection blocks have more channels."""
    file = tmp_path_factory.mktemp("wider") / "wider.weights.h5"
    save_weights(thin_vgg(2, tcb_channels=12), file)
    return file


def test_another_network(error_of, model, wider_file):
    message = error_of(model, wider_file)
    # All arrays of four blocks, three of them with an upsampling, and the kernels of their heads.
    count = 4 * 6 + 3 * 2 + 4 * 2
    assert "holds weights of another model" in message
    assert f"{count} arrays are missing (" in message
    assert f"{count} are left over (shapes " in message


def test_only_arrays_that_are_missing_are_named(error_of, model, wider_file):
    """conv3_2 has the shape of the blocks' convolutions, and it is in the file."""
    named = error_of(model, wider_file).split("are missing (")[1].split(")")[0]
    assert "tcb" in named
    assert "conv3" not in named


def test_another_backbone(error_of, mobilenet, files):
    message = error_of(mobilenet, files[0] / "saved.weights.h5")
    assert "holds weights of another model" in message
    assert "arrays are missing (" in message
    assert "left over (shapes " in message


@pytest.mark.parametrize("name", ["saved.weights.h5", "saved.keras"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_truncated_file(error_of, name, share, model, files, tmp_path):
    whole = (files[0] / name).read_bytes()
    file = tmp_path / name
    file.write_bytes(whole[: int(share * len(whole))])
    assert "cannot be read as weights (damaged?)" in error_of(model, file)


def test_damaged_member_of_a_keras_file(error_of, model, files, tmp_path):
    """The directory of the archive is whole, a member is not."""
    file = tmp_path / "damaged.keras"
    content = bytearray((files[0] / "saved.keras").read_bytes())
    with zipfile.ZipFile(files[0] / "saved.keras") as archive:
        start = archive.getinfo("model.weights.h5").header_offset
    content[start + 2000 : start + 4000] = b"\0" * 2000
    file.write_bytes(content)
    assert "cannot be read as weights (damaged?)" in error_of(model, file)


def test_file_of_something_else(error_of, model, tmp_path):
    file = tmp_path / "text.weights.h5"
    file.write_text("not weights")
    assert "cannot be read as weights (damaged?)" in error_of(model, file)


@pytest.mark.parametrize("name", ["weights.h5x", "model.h5", "model.pb", "model", "net.prototxt"])
def test_wrong_ending(error_of, name, model, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    expected = "weights must be a .weights.h5, .keras, .caffemodel or .pth file"
    assert expected in error_of(model, tmp_path / name)


def test_missing_file(error_of, model, tmp_path):
    file = tmp_path / "gone.weights.h5"
    assert error_of(model, file) == f"weights not found: {file}"
    (tmp_path / "folder.keras").mkdir()
    assert "weights not found" in error_of(model, tmp_path / "folder.keras")


def test_the_old_file_stays_when_writing_fails(model, tmp_path, monkeypatch):
    file = tmp_path / "best.weights.h5"
    file.write_bytes(b"old")

    def fail_half_way(path):
        path.write_bytes(b"half of the new")
        raise OSError("no space left on device")

    monkeypatch.setattr(model, "save_weights", fail_half_way)
    with pytest.raises(OSError, match="no space left"):
        save_weights(model, file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_new_file_replaces_the_old_one(tf_test, model, tmp_path):
    file = tmp_path / "best.weights.h5"
    file.write_bytes(b"old")
    expected = values(fill(model, seed=3))
    save_weights(model, file)
    assert list(tmp_path.iterdir()) == [file]
    fill(model, seed=4)
    load_weights(model, file)
    for path, value in values(model).items():
        tf_test.assertAllEqual(value, expected[path])
