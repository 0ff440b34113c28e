"""The variables of VGG-16 and ResNet-101 RefineDet under the names of the authors' Caffe program.

A blob is identified by the name of its layer and its number in that layer. The blobs are:

- of a convolution: 0 is the kernel (out, in, height, width), 1 the bias (out,);
- of a deconvolution: 0 is the kernel (in, out, height, width), 1 the bias (out,);
- of a Normalize layer: 0 is the scale (C,);
- of a BatchNorm layer: 0 is the sum of means (C,), 1 the sum of variances (C,), and 2 the divisor of both
  sums (1,);
- of the Scale layer after it: 0 is gamma (C,), 1 is beta (C,).

PyTorch's layouts are the same.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np

from refinedet_tf.errors import InputError, listed, shortened, shortened_text
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.head_counts import HeadCounts, check_anchors, counts_of_channels, other_classes
from refinedet_tf.weights.values import assign_checked

Blob = tuple[str, int]
"""(layer, number) as in the authors' program."""

ShapePair = tuple[tuple[int, ...], tuple[int, ...]]
"""The shapes of a blob in the file and in the model."""

ARM_SOURCES = {
    "vgg16": ("conv4_3_norm", "conv5_3_norm", "fc7", "conv6_2"),
    "resnet101": tuple(f"res{source}_relu_inter" for source in ("res3b3", "res4b22", "res5c", "res6")),
}
"""The layers after which those of the ARM heads are named, stride 8 first."""

ODM_SOURCES = {
    "vgg16": ("P3", "P4", "P5", "P6"),
    "resnet101": tuple(f"resP{level}_inter" for level in (3, 4, 5, 6)),
}
"""The layers after which those of the ODM heads are named, stride 8 first."""

BRANCHES = ("branch1", "branch2a", "branch2b", "branch2c")
"""The convolutions of a bottleneck block."""


def _head_names(backbone: str) -> dict[str, str]:
    """Returns the authors' names of the heads' layers and of the convolutions before them, by our names."""
    names: dict[str, str] = {}
    for module, sources in (("arm", ARM_SOURCES[backbone]), ("odm", ODM_SOURCES[backbone])):
        for level, source in enumerate(sources, 3):
            names |= {f"{module}_{values}{level}": f"{source}_mbox_{values}" for values in ("loc", "conf")}
            names |= {f"{module}{level}_block_{branch}": f"{source}_{branch}" for branch in BRANCHES}
    return names


HEAD_NAMES = {backbone: _head_names(backbone) for backbone in ARM_SOURCES}

PARAMETERS = {"kernel": 0, "bias": 1, "scale": 0, "gamma": 0, "beta": 1}
"""The numbers of the blobs of trained variables."""

STATISTICS = {"moving_mean": 0, "moving_variance": 1, "moving_weight": 2}
"""The numbers of the blobs of BatchNorm's statistics."""


def variables_by_blob(model: RefineDet, path: str | Path = "this file") -> dict[Blob, keras.Variable]:
    """Returns every variable of a model by the blob that holds it; `path` is the file, for messages.

    Raises:
        InputError: the network is not one of the authors'.
    """
    backbone = _backbone(model, path)
    return {_blob(variable.path, backbone): variable for variable in model.weights}


def blob_shape(variable: keras.Variable) -> tuple[int, ...]:
    """Returns the shape of a variable's blob."""
    shape = tuple(variable.shape)
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape


def assign_blobs(
    model: RefineDet,
    blobs: Mapping[Blob, np.ndarray],
    path: str | Path,
    wanted: Collection[Blob] | None = None,
    names: Mapping[Blob, str] | None = None,
) -> list[str]:
    """Fills variables from blobs. All wanted blobs must exist, and no others may.

    Args:
        model: the result of `build_model`.
        blobs: arrays in the layouts that this module describes.
        path: the file of the blobs, for messages.
        wanted: the blobs whose variables are filled, by default all of the model.
        names: the names of the blobs in the file, for messages.

    Returns:
        The names of the model's layers that were filled.

    Raises:
        InputError: blobs are missing, left over or of another shape, and the message lists them, or says so
            if only the numbers of classes or of anchors per cell differ; or a value is not finite, larger
            than any weight or a negative variance. The model is unchanged.
    """
    variables, backbone = variables_by_blob(model, path), model.config.model.backbone
    counts = counts_of_blobs(blobs, backbone)
    if wanted is None and len(counts.anchors) == len(ODM_SOURCES["vgg16"]):
        check_anchors(path, counts, model.config.model)
    wanted = variables.keys() if wanted is None else wanted
    missing = [blob for blob in variables if blob in wanted and blob not in blobs]
    left_over = [blob for blob in blobs if blob not in wanted]
    mismatched = {
        blob: (blobs[blob].shape, blob_shape(variables[blob]))
        for blob in variables
        if blob in wanted and blob in blobs and not _same(blobs[blob].shape, blob_shape(variables[blob]))
    }
    if missing or left_over or mismatched:
        classifiers = {_caffe_name(layer, backbone) for layer in model.classifiers}
        only_classes = not missing and not left_over and all(blob[0] in classifiers for blob in mismatched)
        if counts.classes and only_classes:
            raise other_classes(path, counts.classes, model.config.num_classes)
        raise InputError(f"{path} {_explain(missing, left_over, mismatched, names or {})}")
    values = {blob: _value(blob, variables[blob], blobs) for blob in variables if blob in wanted}
    names = names or {}
    assign_checked(path, [(name_of(blob, names), variables[blob], value) for blob, value in values.items()])
    filled = {id(variables[blob]) for blob in values}
    return [layer.name for layer in model.layers if any(id(v) in filled for v in layer.weights)]


def name_of(blob: Blob, names: Mapping[Blob, str]) -> str:
    """Returns what messages call a blob: its name in the file, or the one of Caffe."""
    return names.get(blob, f"{blob[0]} blob {blob[1]}")


def backbone_of(blobs: Iterable[Blob]) -> str | None:
    """Returns "vgg16" or "resnet101", the network to which the blobs of a file belong; None for another."""
    layers = {layer for layer, _ in blobs}
    return "vgg16" if "conv1_1" in layers else "resnet101" if "res2a_branch2a" in layers else None


def counts_of_blobs(blobs: Mapping[Blob, np.ndarray], backbone: str) -> HeadCounts:
    """Returns the numbers that the ODM's heads in a file of one of the authors' networks tell."""
    kernels = {layer: blobs.get((name, PARAMETERS["kernel"])) for layer, name in HEAD_NAMES[backbone].items()}
    return counts_of_channels(
        {layer: len(kernel) for layer, kernel in kernels.items() if kernel is not None and kernel.ndim == 4}
    )


def values_by_path(
    model: RefineDet, blobs: Mapping[Blob, np.ndarray], backbone: str
) -> tuple[dict[str, np.ndarray], list[Blob]]:
    """Converts blobs to Keras' layouts without a check of their shapes.

    Args:
        model: the network whose variables the blobs may fill; it may have other layers than they.
        blobs: arrays in the layouts that this module describes.
        backbone: "vgg16" or "resnet101", the network of the blobs.

    Returns:
        The values by the `path` of the variable to which they belong, and the blobs that belong to none.
    """
    values, left_over = {}, set(blobs)
    for variable in model.weights:
        blob = _blob(variable.path, backbone)
        needs_weight = variable.name in ("moving_mean", "moving_variance")
        if blob in blobs and not (needs_weight and (blob[0], 2) not in blobs):
            values[variable.path] = _value(blob, variable, blobs)
            left_over.discard(blob)
    return values, [blob for blob in blobs if blob in left_over]


def _backbone(model: RefineDet, path: str | Path) -> str:
    """Returns "vgg16" or "resnet101", the authors' network that the model is."""
    model_config = model.config.model
    backbone = model_config.backbone
    if backbone not in ARM_SOURCES or model_config.has_head_blocks != (backbone == "resnet101"):
        raise InputError(
            f"{path}: files of Caffe and PyTorch fit the authors' networks only: model.backbone vgg16 "
            "without head_blocks, or resnet101 with them"
        )
    return backbone


def _blob(path: str, backbone: str) -> Blob:
    """Returns the blob of the variable that has this `path` in Keras."""
    layer, kind = path.split("/")[-2:]
    if kind in STATISTICS:
        return _norm_name(layer, backbone, "bn"), STATISTICS[kind]
    if kind in ("gamma", "beta"):
        return _norm_name(layer, backbone, "scale"), PARAMETERS[kind]
    return _caffe_name(layer, backbone), PARAMETERS[kind]


def _caffe_name(layer: str, backbone: str) -> str:
    """Returns the authors' name of a layer; only heads and their blocks have other names in the model."""
    return HEAD_NAMES[backbone].get(layer, layer)


def _norm_name(layer: str, backbone: str, kind: str) -> str:
    """Returns the authors' BatchNorm layer (`kind` "bn") or Scale layer ("scale") for a BatchNorm layer."""
    convolution = _caffe_name(layer.removesuffix("_bn"), backbone)
    if convolution == "conv1":
        return f"{kind}_conv1"
    if convolution.startswith("res"):
        return kind + convolution.removeprefix("res")
    return f"{convolution}_{kind}"


def _same(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Says whether two shapes are equal. Old files always have four numbers, (1, 1, 1, C) for a bias."""
    return found == wanted or (len(found) == 4 and found == (1,) * (4 - len(wanted)) + wanted)


def _value(blob: Blob, variable: keras.Variable, blobs: Mapping[Blob, np.ndarray]) -> np.ndarray:
    """Returns a blob of any size in Keras' layout. Statistics are divided by their weight, as in Caffe."""
    array = np.asarray(blobs[blob], np.float32)
    if variable.name in ("moving_mean", "moving_variance"):
        weight = float(np.ravel(blobs[blob[0], 2])[0])
        # Caffe reads a sum without terms as zero.
        with np.errstate(all="ignore"):
            array = array / np.float32(weight) if weight else np.zeros_like(array)
    if len(variable.shape) == 4:
        return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    # Old files have (1, 1, 1, C).
    return array.reshape(-1)


def _explain(
    missing: Sequence[Blob],
    left_over: Sequence[Blob],
    mismatched: Mapping[Blob, ShapePair],
    names: Mapping[Blob, str],
) -> str:
    """Returns the message for blobs that do not fit, which follows the path of their file."""

    def name(blob: Blob) -> str:
        return shortened_text(name_of(blob, names), 100)

    parts = []
    if missing:
        parts.append(f"{len(missing)} missing ({listed(map(name, missing))})")
    if left_over:
        parts.append(f"{len(left_over)} left over ({listed(map(name, left_over))})")
    if mismatched:
        shapes = [f"{name(b)} is {shortened(list(f))}, not {list(w)}" for b, (f, w) in mismatched.items()]
        parts.append(f"{len(mismatched)} of another shape ({listed(shapes)})")
    return f"does not fit the model; blobs: {'; '.join(parts)}"
