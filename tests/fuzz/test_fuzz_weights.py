"""Mutated files of weights in every format: they fill the whole model with finite values, or nothing."""

import io
import zipfile

import numpy as np
import pytest
from caffe_writer import write_caffemodel
from frozen_graph import graph_of, random_weights, thin_mobilenet
from mutation import mutate_bytes, mutate_hdf5, pick
from random_layers import random_layers
from small_network import BACKBONE, small_backbone
from thin_vgg import thin_vgg
from torch_names import tensors_of
from torch_writer import write_checkpoint

from refinedet_tf.config import Config, ModelConfig, with_classes
from refinedet_tf.errors import InputError
from refinedet_tf.refinedet.backbones import BACKBONES
from refinedet_tf.refinedet.network import build_model
from refinedet_tf.weights import load_weights
from refinedet_tf.weights.caffe_files import read_caffemodel
from refinedet_tf.weights.torch_files import read_checkpoint


class Target:
    """A model, and the values that it has before a file is loaded."""

    def __init__(self, model):
        self.model = model
        self.before = model.get_weights()

    def load(self, file, **options):
        """Loads a file and checks that the model was filled with finite values, or not changed."""
        try:
            load_weights(self.model, file, **options)
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


def arrays(*shapes):
    """Small arrays of float32 values."""
    generator = np.random.default_rng(0)
    return [generator.normal(0, 0.1, shape).astype(np.float32) for shape in shapes]


LAYERS = [
    ("conv1_1", "Convolution", arrays((8, 3, 3, 3), 8)),
    ("fc", "InnerProduct", arrays((24, 32), 24)),
    ("bn", "BatchNorm", arrays(8, 8, 1)),
    ("P4-up", "Deconvolution", arrays((8, 4, 2, 2))),
]
CAFFE_FORMATS = [{}, {"double": True}, {"old_shapes": True}, {"v1": True}, {"packed": False}]


def test_caffemodel(fuzz, tmp_path):
    """The arrays of small files in each format."""
    file = tmp_path / "net.caffemodel"
    contents = []
    for options in CAFFE_FORMATS:
        write_caffemodel(file, LAYERS, **options)
        contents.append(file.read_bytes())

    def case(rng):
        file.write_bytes(mutate_bytes(rng, pick(rng, contents)))
        for name, blobs in read_caffemodel(file).items():
            assert name.isprintable()
            assert all(np.isfinite(blob).all() for blob in blobs)

    fuzz(case, share=1.4)


def test_pth(fuzz, tmp_path):
    """The arrays of small files in both formats, also with the checksums of a whole archive."""
    file = tmp_path / "refinedet.pth"
    tensors = {f"{layer}.{number}": blob for layer, _, blobs in LAYERS for number, blob in enumerate(blobs)}
    contents = []
    for legacy in (False, True):
        write_checkpoint(file, {"state_dict": tensors, "epoch": 7}, legacy=legacy)
        contents.append(file.read_bytes())
    with zipfile.ZipFile(io.BytesIO(contents[0])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}

    def case(rng):
        if rng.random() < 0.5:
            file.write_bytes(mutate_bytes(rng, pick(rng, contents)))
        else:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in members.items():
                    is_program = name.endswith("data.pkl")
                    archive.writestr(name, mutate_bytes(rng, content) if is_program else content)
        for array in read_checkpoint(file).values():
            assert array.dtype == np.float32
            assert np.isfinite(array).all()

    fuzz(case, share=1.4)


def test_files_of_a_whole_network(fuzz, tmp_path):
    """Caffe's and PyTorch's files fill the authors' network, or leave it as it is."""
    target = Target(thin_vgg(num_classes=2, channel_order="rgb"))
    layers = random_layers(target.model)
    files = [tmp_path / "net.caffemodel", tmp_path / "refinedet.pth"]
    write_caffemodel(files[0], layers)
    write_checkpoint(files[1], tensors_of(layers))
    contents = [file.read_bytes() for file in files]

    def case(rng):
        number = rng.integers(len(files))
        files[number].write_bytes(mutate_bytes(rng, contents[number]))
        target.load(files[number])

    fuzz(case, share=0.2)


def test_frozen_graph(fuzz, tmp_path):
    """A frozen graph fills the backbone, or leaves the model as it is."""
    target = Target(thin_mobilenet())
    weights = random_weights(target.model)
    whole, file = graph_of(weights), tmp_path / "graph.pb"
    names = [node.name.encode() for node in whole.node]
    content = whole.SerializeToString()
    # The beginnings of nodes, where everything but the values stands.
    starts = [content.index(name) for name in names]

    def case(rng):
        if rng.random() < 0.3:
            file.write_bytes(mutate_bytes(rng, content))
        else:
            start = int(rng.choice(starts))
            end = start + 200
            file.write_bytes(content[:start] + mutate_bytes(rng, content[start:end]) + content[end:])
        target.load(file, transfer=True)

    fuzz(case, share=0.2)
