"""Values of annotation files that mean "not given", and the size of an image, which may not be given."""

import contextlib

from refinedet_tf.errors import InputError, shortened

_WORDS = frozenset({"", "unspecified", "unknown", "none", "null", "nan", "n/a"})
"""What tools for annotation write where nobody has entered a value, in lower case."""

SIDE_LIMIT = 2**31
"""The sides of an image in pixels lie below this number, which 32 bits hold."""


def is_given(value: object) -> bool:
    """Returns whether a value was entered: None, empty texts and words such as "Unspecified" were not."""
    return value is not None and not (isinstance(value, str) and value.strip().lower() in _WORDS)


def stated_size(height: object, width: object, where: str) -> tuple[int, int] | None:
    """Reads the size of an image.

    Args:
        height: the height in pixels as the annotation has it: a number, its text, or None.
        width: the width, likewise.
        where: the file and the entry, for the message.

    Returns:
        height, width; None where one of the two is not given or 0.

    Raises:
        InputError: one of the two is given and no whole number from 0 on.
    """
    sides = [_side(value, name, where) for name, value in (("height", height), ("width", width))]
    return (sides[0], sides[1]) if all(sides) else None


def _side(value: object, name: str, where: str) -> int:
    if not is_given(value):
        return 0
    number = -1.0
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)
    if not (0 <= number < SIDE_LIMIT and number.is_integer()):
        raise InputError(
            f"{where}: {name} must be a whole number of pixels below {SIDE_LIMIT:,}, got {shortened(value)}"
        )
    return int(number)
