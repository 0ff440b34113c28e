"""What a `.weights.h5` file says of its weights: the classes and the network that they were trained for."""

import dataclasses
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import h5py
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from refinedet_tf.config import STRICT, Config, ModelConfig
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.class_names import same_class

ATTRIBUTE = "refinedet"
"""The name of the attribute of the HDF5 file. Keras' own reader ignores it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Description:
    """The classes and the network of a file of weights."""

    classes: tuple[str, ...]
    """The class names in label order, label 1 first."""
    model: ModelConfig
    """The section `model` of the config that the network was built from, without `weights`."""


_ADAPTER = TypeAdapter(Description)


def describe(config: Config) -> Description:
    """Returns the description of weights that are trained with a config, whose class names are known."""
    return Description(classes=config.class_names, model=dataclasses.replace(config.model, weights=None))


def write_description(model: RefineDet, file: Path) -> None:
    """Adds the description of a network to its `.weights.h5` file.

    Raises:
        OSError: the file cannot be written.
    """
    with h5py.File(file, "r+") as opened:
        # A text of variable length may be longer than the 64 KiB to which HDF5 limits other attributes.
        opened.attrs[ATTRIBUTE] = json.dumps(dataclasses.asdict(describe(model.config)))


def read_description(file: Path, path: Path) -> Description | None:
    """Reads the description in a `.weights.h5` file, which messages call `path`.

    Returns:
        The description; None if the file has none, as those that were written before there were any.

    Raises:
        InputError: the description is damaged, or of a later version of this project.
    """
    with h5py.File(file) as opened:
        text = opened.attrs.get(ATTRIBUTE)
    if text is None:
        return None
    try:
        return _ADAPTER.validate_json(text)
    except (ValidationError, TypeError) as error:
        reason = "it is no text"
        if isinstance(error, ValidationError):
            mistake = error.errors(include_url=False)[0]
            reason = f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}".removeprefix(": ")
        raise InputError(
            f"{shortened_text(path)}: its attribute {ATTRIBUTE!r}, which describes the weights, cannot be "
            f"read ({shortened_text(reason, 200)}): is it damaged, or written by a later version?"
        ) from None


def check_description(description: Description | None, model: RefineDet, path: Path) -> None:
    """Compares the description of weights with the network that they shall fill.

    Another image size gives a warning, since a network without fully connected layers takes any.

    Raises:
        InputError: the weights were trained on other classes or in another order, on another order of the
            colour channels, or with other anchors.
    """
    if description is None:
        return
    config = model.config
    check_channel_order(description.model.channel_order, model, path)
    _check_classes(description.classes, config.class_names, path)
    if description.model.anchor_levels != config.model.anchor_levels:
        raise InputError(
            f"{shortened_text(path)} was trained with other anchors than the config has: use the "
            "model.anchors that the weights were trained with"
        )
    trained, now = description.model.image_size, config.model.image_size
    if trained is not None and now is not None and trained != now:
        warnings.warn(
            f"{shortened_text(path)} was trained at {_size(trained)} pixels, the model takes {_size(now)}: "
            "objects then have other sizes than in training, which can cost most of the accuracy (mAP 3 "
            "instead of 63 in a network trained at 160 x 160 and evaluated at 320 x 320); set "
            f"model.image_size to {list(trained)}",
            stacklevel=2,
        )


def check_channel_order(trained: str, model: RefineDet, path: Path) -> None:
    """Checks that weights were trained on the order of the channels that the network has, "bgr" or "rgb".

    Networks that have no choice of an order always fit.

    Raises:
        InputError: the network has another order.
    """
    now = model.channel_order
    if now is not None and trained != now:
        raise InputError(
            f"{shortened_text(path)} was trained on {trained.upper()} images, the model sees {now.upper()}: "
            f"set model.channel_order to {trained}"
        )


def _check_classes(trained: Sequence[str], now: Sequence[str], path: Path) -> None:
    """Raises an InputError if two lists of names differ, apart from synonyms."""
    if len(trained) != len(now):
        raise InputError(
            f"{shortened_text(path)} names {len(trained)} classes, but holds weights for {len(now)}: is it "
            "damaged?"
        )
    pairs = zip(trained, now, strict=True)
    differing = [label for label, pair in enumerate(pairs, 1) if not same_class(*pair)]
    if not differing:
        return
    label = differing[0]
    what = "these classes in another order" if sorted(trained) == sorted(now) else "other classes"
    raise InputError(
        f"{shortened_text(path)} was trained on {what}: label {label} is "
        f"{shortened_text(trained[label - 1], 100)} there, {shortened_text(now[label - 1], 100)} in the "
        f"config; the file has {_names(trained)}; the config {_names(now)}; set data.classes to those of the "
        "file (only the model.weights of a training may have other classes)"
    )


def _names(names: Sequence[str]) -> str:
    return shortened_text(", ".join(names), 400)


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
