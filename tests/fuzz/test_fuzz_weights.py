"""Mutated files of weights in every format: they fill the whole model with finite values, or nothing."""

import io
import zipfile

import numpy as np
import pytest
from caffe_writer import write_caffemodel
from mutation import mutate_bytes, mutate_hdf5
from random_layers import random_layers
from small_network import BACKBONE, small_backbone
from thin_vgg import thin_vgg
from torch_names import tensors_of
from torch_writer import write_checkpoint

from refinedet_tf.backbones import BACKBONES
from refinedet_tf.config import Config, ModelConfig, with_classes
from refinedet_tf.errors import InputError
from refinedet_tf.model import build_model
from refinedet_tf.weights import load_weights


class Target:
    """A model, and the values that it has before a file is loaded."""

    def __init__(self, model):
        self.model = model
        self.before = model.get_weights()

    def load(self, file):
        """Loads a file and checks that the model was filled with finite values, or not changed."""
        try:
            load_weights(self.model, file)
        except InputError:
            assert all(
                np.array_equal(*pair) for pair in zip(self.model.get_weights(), self.before, strict=True)
            )
            raise
        after = self.model.get_weights()
        self.model.set_weights(self.before)
        assert all(np.isfinite(value).all() for value in after)


@pytest.fixture(scope="module")
def small():
    """A network of few and small arrays, BatchNorm among them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BACKBONES, BACKBONE, small_backbone)
        model_config = ModelConfig(
            backbone=BACKBONE, tcb_channels=4, tcb_batch_norm=True, image_size=(64, 64)
        )
        return Target(build_model(with_classes(Config(model=model_config), ("cat", "dog"))))


@pytest.fixture(scope="module")
def vgg():
    """The network that Caffe's and PyTorch's files fill."""
    return Target(thin_vgg(num_classes=2, channel_order="rgb"))


@pytest.fixture(scope="module")
def keras_file(small, tmp_path_factory):
    """The bytes of a `.weights.h5` file."""
    file = tmp_path_factory.mktemp("keras") / "saved.weights.h5"
    small.model.save_weights(file)
    return file.read_bytes()


def test_weights_h5(fuzz, small, keras_file, tmp_path):
    def case(rng):
        file = tmp_path / "mutated.weights.h5"
        file.write_bytes(mutate_hdf5(rng, keras_file))
        small.load(file)

    fuzz(case)


def test_keras(fuzz, small, keras_file, tmp_path):
    """Damage of the archive, and of the HDF5 file in an archive whose checksums are right."""

    def archive(content):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as file:
            file.writestr("metadata.json", "{}")
            file.writestr("config.json", "{}")
            file.writestr("model.weights.h5", content)
        return stream.getvalue()

    whole = archive(keras_file)

    def case(rng):
        file = tmp_path / "mutated.keras"
        damage_inside = rng.random() < 0.3
        file.write_bytes(archive(mutate_hdf5(rng, keras_file)) if damage_inside else mutate_bytes(rng, whole))
        small.load(file)

    fuzz(case)


@pytest.mark.parametrize("v1", [False, True], ids=["today", "v1"])
def test_caffemodel(fuzz, vgg, v1, tmp_path):
    file = tmp_path / "net.caffemodel"
    write_caffemodel(file, random_layers(vgg.model), v1=v1)
    content = file.read_bytes()

    def case(rng):
        file.write_bytes(mutate_bytes(rng, content))
        vgg.load(file)

    fuzz(case)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_pth(fuzz, vgg, legacy, tmp_path):
    file = tmp_path / "refinedet.pth"
    write_checkpoint(file, tensors_of(random_layers(vgg.model)), legacy=legacy)
    content = file.read_bytes()

    def case(rng):
        file.write_bytes(mutate_bytes(rng, content))
        vgg.load(file)

    fuzz(case)
