"""Loading weights of all supported file formats into a model."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.config import ModelConfig
from refinedet_tf.config.files import run_folder_of
from refinedet_tf.errors import InputError, listed, shortened_text
from refinedet_tf.files import is_file, is_folder
from refinedet_tf.refinedet.backbones.applications import APPLICATIONS
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.weights.blobs import ARM_SOURCES, Blob, assign_blobs
from refinedet_tf.weights.caffe_files import read_caffemodel
from refinedet_tf.weights.frozen_graphs import load_frozen_graph
from refinedet_tf.weights.imagenet import (
    assign_imagenet,
    is_classifier,
    is_keras_file,
    load_application_weights,
    load_keras_imagenet,
)
from refinedet_tf.weights.keras_files import load_keras_weights
from refinedet_tf.weights.lite_packages import CHECKPOINTS, load_lite_weights
from refinedet_tf.weights.sources import blob_source, keras_source
from refinedet_tf.weights.torch_files import read_checkpoint
from refinedet_tf.weights.transfer import InitialWeights, transfer

ENDINGS = (".weights.h5", ".keras", ".caffemodel", ".pth")
"""The endings of file names that `load_weights` accepts."""

FROZEN_GRAPH = ".pb"
"""The ending of the files that are only a start of a training."""

BLOB_ENDINGS = (".caffemodel", ".pth")
"""The endings of the files whose arrays have the names of the authors' layers."""

TORCH_VGG = (
    {0: "conv1_1", 2: "conv1_2", 5: "conv2_1", 7: "conv2_2", 10: "conv3_1", 12: "conv3_2", 14: "conv3_3"}
    | {17: "conv4_1", 19: "conv4_2", 21: "conv4_3", 24: "conv5_1", 26: "conv5_2", 28: "conv5_3"}
    | {31: "fc6", 33: "fc7"}
)
"""The layers by their numbers in RefineDet.PyTorch's `vgg`."""


def _torch_layers() -> dict[str, str]:
    """Returns the authors' names of the layers by their names in RefineDet.PyTorch."""
    # The file of VGG-16 from which RefineDet.PyTorch starts has numbers without "vgg".
    names = {f"{part}{index}": layer for index, layer in TORCH_VGG.items() for part in ("vgg.", "")}
    names |= {"conv4_3_L2Norm": "conv4_3_norm", "conv5_3_L2Norm": "conv5_3_norm"}
    names |= {"extras.0": "conv6_1", "extras.1": "conv6_2"}
    for index, source in enumerate(ARM_SOURCES["vgg16"]):
        for values in ("loc", "conf"):
            names[f"arm_{values}.{index}"] = f"{source}_mbox_{values}"
            names[f"odm_{values}.{index}"] = f"P{index + 3}_mbox_{values}"
        # For each level, tcb0 holds (conv, ReLU, conv), tcb1 a deconvolution and tcb2 (ReLU, conv, ReLU).
        names |= {f"tcb0.{3 * index}": f"TL{index + 3}_1", f"tcb0.{3 * index + 2}": f"TL{index + 3}_2"}
        names[f"tcb2.{3 * index + 1}"] = f"P{index + 3}"
        if index < 3:
            names[f"tcb1.{index}"] = f"P{index + 4}-up"
    return names


TORCH_LAYERS = _torch_layers()


def load_weights(model: RefineDet, path: str | Path, transfer: bool = False) -> list[str]:
    """Fills a model from a file.

    A file of RefineDet weights must fill every variable of the model, and all its weights must be used.
    A file of ImageNet weights from Caffe or PyTorch, which belong to a classification network, fills
    the backbone and gives a `PartialWeightsWarning`.

    With `transfer`, RefineDet weights are a start for a model with other classes: it takes everything that
    fits, and the rest keeps its values (`transfer_weights`, which also says what was taken).

    Args:
        model: the result of `build_model`.
        path: a `.weights.h5` file or a whole model saved as `.keras`, both by this project; a
            `.caffemodel` file of the authors' VGG-16 or ResNet-101 with any number of classes; or a
            `.pth` checkpoint in the layout of RefineDet.PyTorch (VGG-16). Files that Caffe's Python
            tools write (with old-style blobs, V1 layers or doubles) are read, too.
        transfer: whether the classes may differ. Then `path` may be a run folder.

    Returns:
        The names of the layers that were filled.

    Raises:
        InputError: the file is missing, of another format, damaged, or of another model, or a value is
            not finite. For another model, the message lists the weights that are missing, left over or of
            another shape, or the numbers of classes if only they differ. A file of this project also says
            which classes, in which order, and which order of the colour channels it was trained on; they
            must be those of the model. The model is unchanged.
        TypeError: the model is not a `RefineDet`, but for instance what `keras.saving.load_model` made of
            an old `.keras` file.

    Warns:
        UserWarning: the weights were trained at another image size or perhaps on another order of the
            colour channels.
    """
    if not isinstance(model, RefineDet):
        raise TypeError(
            f"load_weights fills a network of build_model(config), not a {type(model).__name__}: only a "
            "RefineDet knows its classes and anchors"
        )
    if transfer:
        return transfer_weights(model, path).layers
    path = _checked(path)
    if path.suffix in BLOB_ENDINGS:
        blobs, names = _read_blobs(path)
        filled = _assign(model, blobs, path, names)
        _warn_of_channel_order(model, path)
        return filled
    return load_keras_weights(model, path)


def transfer_weights(model: RefineDet, path: str | Path) -> InitialWeights:
    """Fills a model with everything of a trained detector that fits; the rest keeps its values.

    Classes are matched by their names, where VOC's and COCO's names of the same class are equal. A file
    that names no classes has those of VOC if there are 20 of them, and those of COCO if there are 80.

    Args:
        model: the result of `build_model`.
        path: a file as in `load_weights`, a run folder, whose best weights are taken, "pretrained" for the
            detector that comes with the package, or a frozen graph (`.pb`) of TensorFlow's detection zoo,
            which fills the backbone of a network with MobileNetV2.

    Returns:
        What was taken, what is new, and why.

    Raises:
        InputError: the file is missing or damaged, or of another backbone or order of the colour channels.
            The model is unchanged.
    """
    path = run_folder_of(path)
    path = _checked(RunFolder(path).trained_weights() if is_folder(path) else path, (*ENDINGS, FROZEN_GRAPH))
    if path.suffix == FROZEN_GRAPH:
        return _of_backbone(model, *load_frozen_graph(model, path), source=path)
    if path.suffix not in BLOB_ENDINGS:
        return transfer(model, keras_source(model, path))
    blobs, names = _read_blobs(path)
    if is_classifier(blobs):
        return _of_backbone(model, assign_imagenet(model, blobs, path, names), source=path)
    return transfer(model, blob_source(model, blobs, path, names))


def _checked(path: str | Path, endings: tuple[str, ...] = ENDINGS) -> Path:
    """Returns the path of a file of weights that exists and has one of the endings."""
    path = Path(path)
    if not path.name.endswith(endings):
        raise InputError(
            f"{shortened_text(path)}: weights must be a {', '.join(endings[:-1])} or {endings[-1]} file"
        )
    if not is_file(path):
        raise InputError(f"weights not found: {shortened_text(path)}")
    return path


def _read_blobs(path: Path) -> tuple[dict[Blob, np.ndarray], dict[Blob, str]]:
    """Reads a `.caffemodel` or `.pth` file; returns its blobs and, for `.pth`, their names in the file."""
    if path.suffix == ".caffemodel":
        layers = read_caffemodel(path).items()
        return {(layer, number): blob for layer, blobs in layers for number, blob in enumerate(blobs)}, {}
    tensors = read_checkpoint(path)
    names = {_torch_blob(name): name for name in tensors}
    return {blob: tensors[name] for blob, name in names.items()}, names


def load_initial_weights(model: RefineDet, model_config: ModelConfig) -> InitialWeights | None:
    """Fills a model with the weights that `model.weights` names: "imagenet", a file or a run folder.

    The weights of a detector may have other classes (`transfer_weights`). The model was built from the same
    config.

    Returns:
        What was taken; None if the weights are null.

    Raises:
        InputError: the weights cannot be downloaded or read, or do not fit; see `transfer_weights`.
    """
    source = model_config.weights
    if source is None:
        return None
    if is_keras_file(source):
        backbone = model_config.backbone
        if backbone in APPLICATIONS:
            return _of_backbone(model, load_application_weights(model, model_config, source), source=source)
        if backbone in CHECKPOINTS and source == "imagenet":
            return _of_backbone(model, load_lite_weights(model, model_config), source=source)
        if backbone in CHECKPOINTS or backbone == "resnext101":
            advice = '"imagenet", a' if backbone in CHECKPOINTS else "a"
            raise InputError(
                f"model.weights {shortened_text(source)}: Keras has no weights of {backbone}; give {advice} "
                "file of a whole RefineDet, or null for random weights"
            )
        return _of_backbone(model, load_keras_imagenet(model, source), source=source)
    return transfer_weights(model, source)


class PartialWeightsWarning(UserWarning):
    """A file of weights filled only the backbone."""


def _of_backbone(
    model: RefineDet, filled: list[str], left_over: Sequence[str] = (), *, source: str | Path
) -> InitialWeights:
    """Describes a start that filled some layers, those of the backbone, from a source."""
    new = [layer.name for layer in model.layers if layer.weights and layer.name not in filled]
    layers = f"{len(filled)} layers" if len(filled) > 1 else filled[0]
    summary = [
        f"initial weights: {layers} of the backbone from {source}; the other {len(new)} layers are new"
    ]
    if left_over:
        summary.append(f"  arrays of the file that are not used: {listed(left_over)}")
    return InitialWeights(
        filled,
        summary,
        [
            *(f"{name}: taken" for name in filled),
            *(f"{name}: new" for name in new),
            *(f"{name} of the file: not used" for name in left_over),
        ],
    )


def _assign(
    model: RefineDet, blobs: Mapping[Blob, np.ndarray], path: Path, names: Mapping[Blob, str]
) -> list[str]:
    """Fills a whole model, or its backbone from the blobs of a classification network."""
    if not is_classifier(blobs):
        return assign_blobs(model, blobs, path, names=names)
    filled = assign_imagenet(model, blobs, path, names)
    warnings.warn(
        f"{path} holds ImageNet weights: they filled the backbone, all other layers keep their values",
        PartialWeightsWarning,
        stacklevel=3,
    )
    return filled


def _warn_of_channel_order(model: RefineDet, path: Path) -> None:
    now = model.channel_order
    if path.suffix == ".caffemodel" and now == "rgb":
        warnings.warn(
            f"{path}: Caffe's networks take BGR, this model sees RGB; set model.channel_order to bgr",
            stacklevel=3,
        )
    if path.suffix == ".pth" and now == "bgr":
        warnings.warn(
            f"{path}: RefineDet.PyTorch feeds its networks RGB, this model sees BGR; set "
            "model.channel_order to rgb unless the checkpoint was trained on BGR",
            stacklevel=3,
        )


def _torch_blob(name: str) -> Blob:
    """Returns the blob of a tensor of RefineDet.PyTorch; an unknown tensor becomes a blob of its name."""
    layer, _, kind = name.rpartition(".")
    number = {"weight": 0, "bias": 1}.get(kind)
    if number is None or layer not in TORCH_LAYERS:
        return name, 0
    return TORCH_LAYERS[layer], number
