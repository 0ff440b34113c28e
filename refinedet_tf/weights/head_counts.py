"""The numbers of anchors per cell and of classes, which a network and a file of weights must share."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import h5py

from refinedet_tf.config import ModelConfig
from refinedet_tf.config.values import STRIDES_WITH_4
from refinedet_tf.errors import InputError, shortened_text

LEVELS = tuple(stride.bit_length() - 1 for stride in STRIDES_WITH_4)
"""The numbers of all possible levels; the stride of a level is 2 ** number."""


@dataclasses.dataclass(frozen=True)
class HeadCounts:
    """What the heads of a detector tell.

    Attributes:
        anchors: the number of anchors per cell by the number of the level.
        classes: the number C of object classes; None: not known.
    """

    anchors: Mapping[int, int]
    classes: int | None


def counts_of_channels(channels: Mapping[str, int]) -> HeadCounts:
    """Returns the numbers of the detector whose heads have these channels.

    Args:
        channels: the numbers of output channels of the ODM's heads by the names of the layers, such as
            "odm_loc3" and "odm_conf3".
    """
    anchors = {level: channels[f"odm_loc{level}"] // 4 for level in LEVELS if f"odm_loc{level}" in channels}
    found = {
        divmod(channels.get(f"odm_conf{level}", 0), count) for level, count in anchors.items() if count > 0
    }
    logits, rest = found.pop() if len(found) == 1 else (0, 0)
    return HeadCounts(anchors, logits - 1 if logits > 1 and not rest else None)


def counts_in(file: Path) -> HeadCounts:
    """Returns the numbers of a `.weights.h5` file.

    Raises:
        Exception: any error of h5py on a damaged file.
    """
    channels: dict[str, int] = {}

    def look(path: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Group) and "name" in item.attrs and not path.startswith("optimizer"):
            for array in item.values():
                if isinstance(array, h5py.Dataset) and array.ndim == 1:
                    channels[str(item.attrs["name"])] = array.shape[0]

    with h5py.File(file) as opened:
        opened.visititems(look)
    return counts_of_channels(channels)


def check_anchors(path: str | Path, found: HeadCounts, model_config: ModelConfig) -> None:
    """Checks that a file of weights has the levels and the numbers of anchors per cell of a network.

    If it has no level at all, nothing is checked.

    Raises:
        InputError: the file has other levels, or another number of anchors in a level.
    """
    anchors = found.anchors
    wanted = {level.number: level.per_cell for level in model_config.anchor_levels}
    if not anchors or anchors == wanted:
        return
    hint = "use the model.anchors that the weights were trained with"
    if anchors.keys() != wanted.keys():
        raise InputError(
            f"{shortened_text(path)} has heads for the strides {_strides(anchors)}, the model for "
            f"{_strides(wanted)}: {hint}"
        )
    level = next(level for level in sorted(wanted) if anchors[level] != wanted[level])
    raise InputError(
        f"{shortened_text(path)} has {anchors[level]} anchors per cell at stride {2**level}, the model has "
        f"{wanted[level]}: {hint}"
    )


def other_classes(path: str | Path, found: int, wanted: int) -> InputError:
    """Returns the error of a file that only has another number of classes than the network."""
    return InputError(
        f"{path} holds weights for {found} classes, the model has {wanted}: use the config that they were "
        "trained with, or pick classes with refinedet subset-classes"
    )


def _strides(levels: Mapping[int, int]) -> str:
    return ", ".join(str(2**level) for level in sorted(levels))
