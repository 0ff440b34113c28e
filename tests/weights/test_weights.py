import functools
import io
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from config_of import config_of
from thin_vgg import thin_vgg

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.network import build_model
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


def test_files_of_a_plain_functional_model(tf_test, small_network, tmp_path):
    """A network was one of Keras' own class once: its files and checkpoints fill a `RefineDet`."""
    model = build_model(config_of(2, model={"backbone": "mobilenet_v2", "tcb_channels": 8}))
    plain = keras.Model(model.input, model.output, name="refinedet")
    assert [variable.path for variable in plain.variables] == [variable.path for variable in model.variables]
    expected = values(fill(plain, seed=1))
    plain.save(tmp_path / "old.keras")
    plain.save_weights(tmp_path / "old.weights.h5")
    tf.train.Checkpoint(network=plain).write(str(tmp_path / "old"))

    def read_checkpoint():
        checkpoint = tf.train.Checkpoint(network=model).read(str(tmp_path / "old"))
        checkpoint.assert_consumed().assert_existing_objects_matched()

    files = [tmp_path / "old.keras", tmp_path / "old.weights.h5"]
    for read in [*(functools.partial(load_weights, model, file) for file in files), read_checkpoint]:
        fill(model, seed=2)
        read()
        for path, value in values(model).items():
            tf_test.assertAllEqual(value, expected[path])
    again = keras.models.load_model(tmp_path / "old.keras")
    tf_test.assertAllEqual(again.get_weights()[0], model.get_weights()[0])


def test_only_a_refinedet_is_filled(model, tmp_path):
    plain = keras.Model(model.input, model.output)
    with pytest.raises(
        TypeError, match=r"^load_weights fills a network of build_model\(config\), not a Functional"
    ):
        load_weights(plain, tmp_path / "any.weights.h5")


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


def stored(folder, name):
    """The HDF5 file of the weights of a saved file, as bytes."""
    if name.endswith(".h5"):
        return (folder / name).read_bytes()
    with zipfile.ZipFile(folder / name) as archive:
        return archive.read("model.weights.h5")


def store(file, content):
    """Writes the bytes of an HDF5 file as `.weights.h5` or into a `.keras` file."""
    if file.name.endswith(".h5"):
        file.write_bytes(content)
        return
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("config.json", "[]")
        archive.writestr("model.weights.h5", content)


def arrays_in(file):
    """The names of the datasets of an HDF5 file."""
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names


@pytest.fixture
def changed_file(files, tmp_path):
    """changed_file(name, change): a copy of a saved file whose HDF5 file a function has changed."""

    def write(name, change):
        stream = io.BytesIO(stored(files[0], name))
        with h5py.File(stream, "r+") as file:
            change(file)
        store(tmp_path / name, stream.getvalue())
        return tmp_path / name

    return write


both_formats = pytest.mark.parametrize("name", ["saved.weights.h5", "saved.keras"])


@both_formats
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e38])
def test_values_that_no_network_has(error_of, name, value, model, changed_file):
    """The last array of the file, so that all others are read before it."""

    def change(file):
        file[arrays_in(file)[-1]][..., -1] = value

    message = error_of(model, changed_file(name, change))
    variable = re.search(r": (\S+) holds (-?nan|-?inf|1e\+38) at place \d+, which is ", message)
    assert variable and variable[1] in values(model)
    assert message.endswith("is the file damaged?")


def test_a_kernel_that_is_not_finite_is_named(error_of, model, tmp_path):
    source = thin_vgg(2)
    kernel = next(v for v in source.weights if v.path == "conv4_3/kernel")
    kernel.assign(np.where(np.arange(kernel.shape[-1]) == 3, np.nan, np.array(kernel)))
    for name in ("bad.weights.h5", "bad.keras"):
        source.save_weights(tmp_path / name) if name.endswith("h5") else source.save(tmp_path / name)
        message = error_of(model, tmp_path / name)
        assert f"{name}: conv4_3/kernel holds nan at place 3, which is not finite" in message


def test_negative_variance(error_of, mobilenet, tmp_path):
    path = next(v.path for v in mobilenet.weights if v.name == "moving_variance")
    fill(mobilenet, 1)
    next(v for v in mobilenet.weights if v.path == path).assign_sub(np.float32(5))
    save_weights(mobilenet, tmp_path / "saved.weights.h5")
    with pytest.raises(InputError) as error:
        load_weights(mobilenet, tmp_path / "saved.weights.h5")
    message = str(error.value)
    assert f"holds a negative variance in {path}: is it damaged?" in message


@both_formats
@pytest.mark.parametrize(
    "content",
    [
        np.zeros(3, "S4"),
        np.zeros(3, "c8"),
        np.zeros(3, "i4"),
        "text",
        h5py.Empty("f4"),
        h5py.SoftLink("/nowhere"),
        h5py.ExternalLink("nowhere.h5", "/x"),
    ],
    ids=["texts", "complex", "integers", "text", "empty", "link", "external link"],
)
def test_arrays_of_another_kind(error_of, name, content, model, changed_file):
    """The last array is replaced, so that a reader in one pass would have assigned all others."""

    def change(file):
        array = arrays_in(file)[-1]
        shape = file[array].shape
        del file[array]
        file[array] = np.resize(content, shape) if isinstance(content, np.ndarray) else content

    assert f"{name} " in error_of(model, changed_file(name, change))


@both_formats
@pytest.mark.parametrize("shape", [(2**40,), (2**20, 2**20)])
def test_an_array_larger_than_any_memory(error_of, name, shape, model, changed_file):
    def change(file):
        array = arrays_in(file)[-1]
        del file[array]
        file.create_dataset(array, shape, "f4", chunks=(64,) * len(shape))

    assert "holds weights of another model" in error_of(model, changed_file(name, change))


def test_damage_that_h5py_notices_late(error_of, model, files, tmp_path):
    """The tables that find the arrays in the file are damaged, one after the other."""
    content = (files[0] / "saved.weights.h5").read_bytes()
    starts = [match.start() for match in re.finditer(b"(TREE|HEAP|SNOD|OHDR)", content)]
    assert len(starts) > 100
    file = tmp_path / "damaged.weights.h5"
    for start in starts[:: len(starts) // 12]:
        file.write_bytes(content[:start] + b"\xff" * 24 + content[start + 24 :])
        assert re.search("damaged|another model", error_of(model, file))


@pytest.mark.parametrize("text", ["[]", "7", "null", "{", '{"module": "os", "class_name": "system"}'])
def test_only_the_weights_of_a_keras_file_are_read(tf_test, text, model, files, tmp_path):
    """What describes layers in it is ignored; it could name code to be run."""
    folder, expected = files
    with zipfile.ZipFile(tmp_path / "other.keras", "w") as archive:
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", stored(folder, "saved.keras"))
    fill(model, seed=2)
    load_weights(model, tmp_path / "other.keras")
    for path, value in values(model).items():
        tf_test.assertAllEqual(value, expected[path])


def test_compressed_member_of_a_keras_file(error_of, model, tmp_path):
    """It might decompress to any size."""
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\0" * 10**7)
    assert "model.weights.h5 in it is compressed or cut off" in error_of(model, tmp_path / "bomb.keras")


@pytest.mark.parametrize("files_inside", [(), ("config.json",), ("folder/model.weights.h5",)])
def test_keras_file_without_weights(error_of, files_inside, model, tmp_path):
    with zipfile.ZipFile(tmp_path / "empty.keras", "w") as archive:
        for name in files_inside:
            archive.writestr(name, "{}")
    assert "cannot be read as weights (damaged?)" in error_of(model, tmp_path / "empty.keras")


def test_another_network_without_an_object_detection_module(model, files):
    single = thin_vgg(2, design="single_stage")
    with pytest.raises(InputError, match="holds weights of another model"):
        load_weights(single, files[0] / "saved.weights.h5")


@pytest.mark.parametrize("name", ["x" * 10**6 + ".keras", "a\0b.weights.h5", "\ud800.pth", "x" * 5000])
def test_names_that_no_file_can_have(name, model):
    with pytest.raises(InputError, match="weights not found|weights must be") as error:
        load_weights(model, name)
    assert len(str(error.value)) < 1000
    str(error.value).encode()


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
