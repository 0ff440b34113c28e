"""The number of anchors per cell, which the heads of a network and of a file of weights must share."""

import re
from collections.abc import Mapping
from pathlib import Path

import h5py
import keras

from refinedet_tf.errors import InputError, shortened_text


def anchors_per_cell(model: keras.Model) -> dict[int, int]:
    """Returns the number of anchors per cell by the number of the level, which has stride 2 ** number."""
    heads = {variable.path: variable.shape[0] for variable in model.weights}
    return {
        int(match[1]): channels // 4
        for path, channels in heads.items()
        if (match := re.fullmatch(r"odm_loc(\d)/bias", path))
    }


def anchors_per_cell_in(file: Path) -> dict[int, int]:
    """Returns the same of a `.weights.h5` file; it is empty if the file does not name its layers.

    Raises:
        Exception: any error of h5py on a damaged file.
    """
    found: dict[int, int] = {}

    def look(path: str, item: h5py.Dataset | h5py.Group) -> None:
        match = re.fullmatch(r"odm_loc(\d)", str(item.attrs.get("name", "")))
        if match and isinstance(item, h5py.Group) and not path.startswith("optimizer"):
            biases = [array for array in item.values() if isinstance(array, h5py.Dataset) and array.ndim == 1]
            if biases:
                found[int(match[1])] = biases[0].shape[0] // 4

    with h5py.File(file) as opened:
        opened.visititems(look)
    return found


def check_anchors_per_cell(path: str | Path, found: Mapping[int, int], model: keras.Model) -> None:
    """Checks that a file of weights has the model's levels and their numbers of anchors per cell.

    Args:
        path: the file, for messages.
        found: the numbers of anchors per cell in the file by the number of the level; empty: not known.
        model: the result of `build_model`.

    Raises:
        InputError: the file has other levels, or another number of anchors in a level.
    """
    wanted = anchors_per_cell(model)
    if not found or not wanted or found == wanted:
        return
    hint = "use the model.anchors that the weights were trained with"
    if found.keys() != wanted.keys():
        raise InputError(
            f"{shortened_text(path)} has heads for the strides {_strides(found)}, the model for "
            f"{_strides(wanted)}: {hint}"
        )
    level = next(level for level in sorted(wanted) if found[level] != wanted[level])
    raise InputError(
        f"{shortened_text(path)} has {found[level]} anchors per cell at stride {2**level}, the model has "
        f"{wanted[level]}: {hint}"
    )


def _strides(levels: Mapping[int, int]) -> str:
    return ", ".join(str(2**level) for level in sorted(levels))
