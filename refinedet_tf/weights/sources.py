"""The weights of a detector as a source for another one: its arrays by the variables that they belong to."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from refinedet_tf.config import Config, DataConfig, ModelConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.refinedet.network import RefineDet, build_model
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.weights.blobs import Blob, backbone_of, counts_of_blobs, name_of, values_by_path
from refinedet_tf.weights.class_names import known_set, pair_classes
from refinedet_tf.weights.description import check_channel_order, describe
from refinedet_tf.weights.keras_files import check_network, load_keras_weights, read_values, survey


@dataclasses.dataclass(frozen=True)
class Source:
    """A trained detector.

    Attributes:
        path: the file.
        values: its arrays in Keras' layouts by the `path` of the variable in a network of its kind.
        model_config: the design of its network. What a file of Caffe or PyTorch does not tell has the
            default value.
        classifiers: the numbers of anchors per cell of its classification layers, as in `RefineDet`.
        class_names: its classes in label order, or None if they are not known.
        notes: sentences on how its classes, size and order of the channels are known.
        left_over: the names of further arrays of the file, which belong to no variable.
    """

    path: Path
    values: Mapping[str, np.ndarray]
    model_config: ModelConfig
    classifiers: Mapping[str, int]
    class_names: tuple[str, ...] | None
    notes: tuple[str, ...]
    left_over: tuple[str, ...] = ()


def blob_source(
    model: RefineDet,
    blobs: Mapping[Blob, np.ndarray],
    path: Path,
    names: Mapping[Blob, str],
) -> Source:
    """Makes the source of a `.caffemodel` or `.pth` file, for the network that takes the weights.

    The blobs are in the layouts of Caffe; `names` are their names in a `.pth` file.

    Raises:
        InputError: the file is of another backbone than the network, or of neither VGG-16 nor ResNet-101.
    """
    config, backbone = model.config, backbone_of(blobs)
    if backbone is None:
        raise InputError(
            f"{shortened_text(path)} is of neither of the authors' networks (VGG-16, ResNet-101)"
        )
    if backbone != config.model.backbone:
        raise _another_backbone(path, backbone, config.model.backbone)
    values, left_over = values_by_path(model, blobs, backbone)
    counts = counts_of_blobs(blobs, backbone)
    class_names, note = _deduced_names(counts.classes or 0, config.class_names)
    order: Literal["bgr", "rgb"] = "bgr" if path.suffix == ".caffemodel" else "rgb"
    notes = [note]
    if order != config.model.channel_order:
        notes.append(
            f"such files are usually trained on {order.upper()} images, this model sees "
            f"{config.model.channel_order.upper()}: consider --set model.channel_order={order}"
        )
    return Source(
        path,
        values,
        ModelConfig(backbone=backbone, channel_order=order),
        {f"odm_conf{level}": count for level, count in counts.anchors.items()},
        class_names,
        tuple(notes),
        tuple(name_of(blob, names) for blob in left_over),
    )


def keras_source(model: RefineDet, path: Path) -> Source:
    """Makes the source of a `.weights.h5` or `.keras` file, for the network that takes the weights.

    Keras' files do not name their arrays, so that the network of the file is built to read them. Which
    network this is, the file says itself; or the config.json next to it in a run folder; or it is that of
    `model` with another number of classes.

    Raises:
        InputError: the file is damaged, of another backbone or another order of the channels, or of another
            network than it says; or nothing says which network it belongs to.
    """
    config = model.config
    description, num_classes = survey(path, model)
    note = ""
    if description is None and (beside := _config_beside(path)):
        description = describe(load_config(beside))
        note = f"classes and network are those of {beside}"
    if description is not None:
        trained = description.model
        if trained.backbone != config.model.backbone:
            raise _another_backbone(path, trained.backbone, config.model.backbone)
        check_channel_order(trained.channel_order, model, path)
        if trained.image_size is not None:
            note = f"trained at {trained.image_size[0]} x {trained.image_size[1]} pixels" + (
                f"; {note}" if note else ""
            )
        class_names: tuple[str, ...] | None = description.classes
    elif num_classes is None:
        raise InputError(
            f"{shortened_text(path)} does not say what network it belongs to, and is not that of this config "
            "with any number of classes; give the run folder in which it was trained as model.weights"
        )
    else:
        trained = config.model
        class_names, note = _deduced_names(num_classes, config.class_names)
    notes = (note,) if note else ()
    if trained.anchor_levels != config.model.anchor_levels:
        notes = (*notes, "trained with other anchors")
    if num_classes == config.num_classes:
        # The network itself has all shapes of the file, which saves building another one.
        return Source(path, read_values(model, path), trained, model.classifiers, class_names, notes)
    placeholders = tuple(f"class {label}" for label in range(1, (num_classes or 0) + 1))
    source_config = dataclasses.replace(
        config,
        model=dataclasses.replace(trained, image_size=None),
        data=DataConfig(classes=description.classes if description else placeholders),
    )
    # What the file says of itself may ask for any amount of memory.
    check_network(path, _without_values(source_config))
    network = build_model(source_config)
    load_keras_weights(network, path)
    values = {variable.path: np.asarray(variable) for variable in network.weights}
    return Source(path, values, trained, network.classifiers, class_names, notes)


def _without_values(config: Config) -> RefineDet:
    """Builds a network whose variables have shapes but no values, which takes no memory."""
    if keras.backend.backend() != "tensorflow":
        return build_model(config)
    import tensorflow as tf

    with tf.Graph().as_default():
        return build_model(config)


def _deduced_names(num_classes: int, wanted: tuple[str, ...]) -> tuple[tuple[str, ...] | None, str]:
    """Decides which classes a file has that does not name them; returns them or None, and a sentence.

    They are those of VOC or COCO if their number fits, unless no name is wanted and the network has as many
    classes, which then are those of the file.
    """
    known = known_set(num_classes)
    if known is not None and (num_classes != len(wanted) or pair_classes(wanted, known[1])):
        return known[1], f"the file names no classes; its {num_classes} are taken for those of {known[0]}"
    if num_classes == len(wanted):
        return wanted, f"the file names no classes; its {num_classes} are taken for those of the config"
    return None, (
        f"the file names no classes, and {num_classes} are neither those of VOC (20) nor of COCO (80), so "
        "that none is taken over by its name"
    )


def _config_beside(path: Path) -> Path | None:
    """Returns the config.json of the run folder whose weights a file holds; None for any other file."""
    folder = RunFolder(path.parent)
    is_of_run = path.name in (folder.best_weights.name, folder.final_weights.name)
    return folder.config if is_of_run and is_file(folder.config) else None


def _another_backbone(path: Path, trained: str, wanted: str) -> InputError:
    return InputError(
        f"{shortened_text(path)} holds a detector with another backbone: {trained}, but model.backbone is "
        f"{wanted}"
    )
