"""Keras' files of weights: they fill every variable, or are refused in one line and change nothing."""

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
from network_values import assert_values, filled, refusal, values
from refusals import message_of
from thin_vgg import thin_vgg

from refinedet_tf.config import ModelConfig
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_initial_weights, load_weights, save_weights


@pytest.fixture(scope="module")
def model():
    return thin_vgg(num_classes=2)


@pytest.fixture(scope="module")
def mobilenet():
    model = {"backbone": "mobilenet_v2", "width_multiplier": 0.35, "tcb_batch_norm": True}
    return build_model(config_of(("a", "b"), model=model))


@pytest.fixture(scope="module")
def files(model, tmp_path_factory):
    """The same weights in both formats, and what they are."""
    folder = tmp_path_factory.mktemp("weights")
    save_weights(filled(model), folder / "saved.weights.h5")
    model.save(folder / "saved.keras")
    return folder, values(model)


NAMES = ("saved.weights.h5", "saved.keras")

both_formats = pytest.mark.parametrize("name", NAMES)


@both_formats
def test_every_variable_comes_back(name, model, files):
    folder, expected = files
    filled(model, seed=2)
    for path, value in values(model).items():
        assert not (value == expected[path]).any()
    layers = load_weights(model, folder / name)
    assert_values(model, expected)
    assert layers == [layer.name for layer in model.layers if layer.weights]
    assert {"conv1_1", "conv4_3_norm", "tcb3", "tcb6", "arm_loc3", "odm_conf6"} <= set(layers)


def test_batch_norm_comes_back_and_a_negative_variance_does_not(mobilenet, tmp_path):
    file = tmp_path / "saved.weights.h5"
    expected = values(filled(mobilenet))
    save_weights(mobilenet, file)
    layers = load_weights(filled(mobilenet, seed=2), file)
    assert_values(mobilenet, expected)
    assert {"mobilenet_v2", "extra_1_norm", "tcb3"} <= set(layers)
    assert sum(path.endswith("moving_variance") for path in expected) > 60
    variance = next(v for v in mobilenet.weights if v.name == "moving_variance")
    variance.assign_sub(np.float32(5))
    save_weights(mobilenet, file)
    with pytest.raises(InputError, match=f"holds a negative variance in {variance.path}: is it damaged"):
        load_weights(mobilenet, file)


def test_files_of_a_plain_functional_model(small_network, tmp_path):
    """A network was one of Keras' own class once: its files and checkpoints fill a `RefineDet`."""
    model = build_model(config_of(2, model={"backbone": "mobilenet_v2", "tcb_channels": 8}))
    plain = keras.Model(model.input, model.output, name="refinedet")
    assert [variable.path for variable in plain.variables] == [variable.path for variable in model.variables]
    expected = values(filled(plain))
    plain.save(tmp_path / "old.keras")
    plain.save_weights(tmp_path / "old.weights.h5")
    tf.train.Checkpoint(network=plain).write(str(tmp_path / "old"))

    def read_checkpoint():
        checkpoint = tf.train.Checkpoint(network=model).read(str(tmp_path / "old"))
        checkpoint.assert_consumed().assert_existing_objects_matched()

    files = [tmp_path / "old.keras", tmp_path / "old.weights.h5"]
    for read in [*(functools.partial(load_weights, model, file) for file in files), read_checkpoint]:
        filled(model, seed=2)
        read()
        assert_values(model, expected)
    again = keras.models.load_model(tmp_path / "old.keras")
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_only_a_refinedet_is_filled(model, tmp_path):
    plain = keras.Model(model.input, model.output)
    with pytest.raises(
        TypeError, match=r"^load_weights fills a network of build_model\(config\), not a Functional"
    ):
        load_weights(plain, tmp_path / "any.weights.h5")


def test_weights_fit_another_image_size(files):
    """As the file of `load_weights`, and of `model.weights`."""
    folder, expected = files
    free = thin_vgg(2, image_size=(64, 64))
    load_weights(free, str(folder / "saved.weights.h5"))
    assert_values(free, expected)
    load_initial_weights(filled(free), ModelConfig(weights=str(folder / "saved.weights.h5")))
    assert_values(free, expected)


# All arrays of four transfer connection blocks, three of them with an upsampling, and kernels of their heads.
WIDER = 4 * 6 + 3 * 2 + 4 * 2


@pytest.mark.parametrize(
    ("trained", "built", "message"),
    [
        ({}, {"num_classes": 5}, r"weights for 2 classes, the model has 5: use the config that they were"),
        # 3 x (3 + 1) scores are as many channels as 3 x 4 offsets.
        ({"num_classes": 3}, {}, r"weights for 3 classes, the model has 2"),
        # Only arrays that are missing are named. conv3_2 has the shape of those of a block, but is there.
        (
            {"tcb_channels": 12},
            {},
            rf"weights of another model: {WIDER} arrays are missing \((?!.*conv3).*tcb.*\), {WIDER} are left "
            r"over \(shapes ",
        ),
        ({}, {"design": "single_stage"}, r"weights of another model"),
    ],
)
def test_files_of_other_networks(trained, built, message, tmp_path):
    save_weights(thin_vgg(**{"num_classes": 2, **trained}), tmp_path / "other.weights.h5")
    model = thin_vgg(**{"num_classes": 2, **built})
    assert re.search(f"other.weights.h5 holds {message}", refusal(model, tmp_path / "other.weights.h5"))


def test_another_backbone(mobilenet, files):
    message = refusal(mobilenet, files[0] / "saved.weights.h5")
    assert re.search(r"weights of another model: \d+ arrays are missing \(.*left over \(shapes ", message)


def archive(compression=zipfile.ZIP_STORED, **members):
    """The bytes of a zip archive with some of the members of a `.keras` file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, content in members.items():
            file.writestr({"weights": "model.weights.h5", "config": "config.json"}.get(name, name), content)
    return stream.getvalue()


def damaged_member(whole):
    """The directory of the archive is whole, a member is not."""
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        start = file.getinfo("model.weights.h5").header_offset
    return whole[: start + 2000] + b"\0" * 2000 + whole[start + 4000 :]


DAMAGED = r"cannot be read as weights \(damaged\?\)"

BROKEN = {
    "cut off at 0": ("", lambda whole: b"", DAMAGED),
    "cut off at 50": ("", lambda whole: whole[: len(whole) // 2], DAMAGED),
    "cut off at 99": ("", lambda whole: whole[: len(whole) * 99 // 100], DAMAGED),
    "text": ("", lambda whole: b"not weights", DAMAGED),
    "damaged member": (".keras", damaged_member, DAMAGED),
    "no member": (".keras", lambda whole: archive(), DAMAGED),
    "another member": (".keras", lambda whole: archive(config="{}"), DAMAGED),
    "member in a folder": (".keras", lambda whole: archive(**{"folder/model.weights.h5": "{}"}), DAMAGED),
    # It might decompress to any size.
    "compressed member": (
        ".keras",
        lambda whole: archive(zipfile.ZIP_DEFLATED, weights=b"\0" * 10**7),
        "model.weights.h5 in it is compressed or cut off",
    ),
}


@pytest.mark.parametrize(
    ("name", "damage"),
    [(name, damage) for name in NAMES for damage in BROKEN if name.endswith(BROKEN[damage][0])],
)
def test_broken_files(name, damage, model, files, tmp_path):
    _, change, message = BROKEN[damage]
    (tmp_path / name).write_bytes(change((files[0] / name).read_bytes()))
    assert re.search(message, refusal(model, tmp_path / name))


def stored(folder, name):
    """The HDF5 file of the weights of a saved file, as bytes."""
    if name.endswith(".h5"):
        return (folder / name).read_bytes()
    with zipfile.ZipFile(folder / name) as file:
        return file.read("model.weights.h5")


def value(number):
    def change(file, array):
        file[array][..., -1] = number

    return change


def kind(content):
    def change(file, array):
        shape = file[array].shape
        del file[array]
        file[array] = np.resize(content, shape) if isinstance(content, np.ndarray) else content

    return change


def empty(*shape):
    def change(file, array):
        del file[array]
        file.create_dataset(array, shape, "f4", chunks=(64,) * len(shape))

    return change


CHANGES = {
    "nan": (value(np.nan), r": \S+/bias holds -?nan at place \d+, which is not finite: is the file damaged"),
    "inf": (value(np.inf), r": \S+/bias holds inf at place \d+, which is not finite"),
    "-inf": (value(-np.inf), r": \S+/bias holds -inf at place \d+, which is not finite"),
    "large": (value(1e38), r": \S+/bias holds 1e\+38 at place \d+, which is larger than any weight"),
    "texts": (kind(np.zeros(3, "S4")), DAMAGED),
    "complex": (kind(np.zeros(3, "c8")), DAMAGED),
    "integers": (kind(np.zeros(3, "i4")), DAMAGED),
    "text": (kind("text"), DAMAGED),
    "no shape": (kind(h5py.Empty("f4")), DAMAGED),
    "link": (kind(h5py.SoftLink("/nowhere")), "holds weights of another model"),
    "external link": (kind(h5py.ExternalLink("nowhere.h5", "/x")), "holds weights of another model"),
    "larger than any memory": (empty(2**40), "holds weights of another model"),
    "larger in two axes": (empty(2**20, 2**20), "holds weights of another model"),
}


@both_formats
@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_last_array(name, change, model, files, tmp_path):
    """A reader in one pass would have assigned all others."""
    stream, arrays = io.BytesIO(stored(files[0], name)), []
    with h5py.File(stream, "r+") as file:
        file.visititems(lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None)
        CHANGES[change][0](file, arrays[-1])
    content = stream.getvalue()
    (tmp_path / name).write_bytes(content if name.endswith(".h5") else archive(config="[]", weights=content))
    assert re.search(CHANGES[change][1], refusal(model, tmp_path / name))


def test_damage_that_h5py_notices_late(model, files, tmp_path):
    """The tables that find the arrays in the file are damaged, one after the other."""
    content = (files[0] / "saved.weights.h5").read_bytes()
    starts = [match.start() for match in re.finditer(b"(TREE|HEAP|SNOD|OHDR)", content)]
    assert len(starts) > 100
    file = tmp_path / "damaged.weights.h5"
    for start in starts[:: len(starts) // 12]:
        file.write_bytes(content[:start] + b"\xff" * 24 + content[start + 24 :])
        assert re.search("damaged|another model", refusal(model, file))


@pytest.mark.parametrize("text", ["[]", "7", "null", "{", '{"module": "os", "class_name": "system"}'])
def test_only_the_weights_of_a_keras_file_are_read(text, model, files, tmp_path):
    """What describes layers in it is ignored; it could name code to be run."""
    folder, expected = files
    (tmp_path / "other.keras").write_bytes(archive(config=text, weights=stored(folder, "saved.keras")))
    load_weights(filled(model, seed=2), tmp_path / "other.keras")
    assert_values(model, expected)


@pytest.mark.parametrize("name", ["x" * 10**6 + ".keras", "a\0b.weights.h5", "\ud800.pth", "x" * 5000])
def test_names_that_no_file_can_have(name, model):
    line = message_of(load_weights, model, name)
    assert ("weights not found" in line or "weights must be" in line) and len(line) < 1000


@pytest.mark.parametrize("name", ["weights.h5x", "model.h5", "model.pb", "model", "net.prototxt"])
def test_wrong_ending(name, model, tmp_path):
    (tmp_path / name).write_bytes(b"something")
    expected = "weights must be a .weights.h5, .keras, .caffemodel or .pth file"
    assert expected in refusal(model, tmp_path / name)


def test_missing_file(model, tmp_path):
    (tmp_path / "folder.keras").mkdir()
    for file in (tmp_path / "gone.weights.h5", tmp_path / "folder.keras"):
        assert refusal(model, file) == f"weights not found: {file}"


def test_the_old_file_stays_until_the_new_one_is_whole(model, tmp_path, monkeypatch):
    file = tmp_path / "best.weights.h5"
    file.write_bytes(b"old")

    def fail_half_way(path):
        path.write_bytes(b"half of the new")
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(model, "save_weights", fail_half_way)
        with pytest.raises(OSError, match="no space left"):
            save_weights(model, file)
    assert file.read_bytes() == b"old"
    expected = values(filled(model, seed=3))
    save_weights(model, file)
    assert list(tmp_path.iterdir()) == [file]
    load_weights(filled(model, seed=4), file)
    assert_values(model, expected)
