"""The checks of the values of a file of weights, and the way back if one fails."""

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import keras
import numpy as np

from refinedet_tf.errors import InputError, shortened_text

LARGEST_VALUE = 1e10
"""The largest valid value; weights and statistics of trained networks are far below. More than a third of
random bytes read as float32 lie above, so a few dozen damaged bytes are noticed."""


def find_invalid(values: np.ndarray) -> str | None:
    """Returns what is wrong with the first value that no trained network has, the rest of a sentence.

    None stands for a float array, of any shape, of finite values of at most `LARGEST_VALUE`.
    """
    # If any value is NaN, so are the maximum and the minimum. They need no second array of that size.
    if not values.size or np.maximum(values.max(), -values.min()) <= LARGEST_VALUE:
        return None
    flat = values.reshape(-1)
    place = int(np.flatnonzero(~(np.abs(flat) <= LARGEST_VALUE))[0])
    problem = "larger than any weight" if math.isfinite(flat[place]) else "not finite"
    return f"holds {flat[place]:g} at place {place}, which is {problem}: is the file damaged?"


@contextlib.contextmanager
def unchanged_on_error(variables: Sequence[keras.Variable]) -> Iterator[None]:
    """Gives variables back their values if the block, which assigns while it reads, raises an error."""
    before = [np.array(variable) for variable in variables]
    try:
        yield
    except BaseException:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        raise


def assign_checked(path: str | Path, values: Collection[tuple[str, keras.Variable, np.ndarray]]) -> None:
    """Assigns the new values of variables, each given with the name of its array, after checking all of them.

    Raises:
        InputError: the reasons are those of `check_values`. No variable has changed.
    """
    for name, variable, value in values:
        check_values(path, name, variable, value)
    for _, variable, value in values:
        variable.assign(value)


def check_values(path: str | Path, name: str, variable: keras.Variable, values: np.ndarray) -> None:
    """Checks the new values of a variable, float of its shape; the message calls them `name` in `path`.

    Raises:
        InputError: a value is not finite or larger than any weight, or a variance is negative.
    """
    if invalid := find_invalid(values):
        raise InputError(f"{shortened_text(path)}: {name} {invalid}")
    if variable.name == "moving_variance" and (values < 0).any():
        raise InputError(f"{shortened_text(path)} holds a negative variance in {name}: is it damaged?")
