"""The errors that a command turns into one line on the terminal, and the values in their messages."""

import reprlib
from collections.abc import Iterable


class InputError(ValueError):
    """An input of the user is wrong: a config key, a file, a box or a folder.

    The message names the input and says what would be right. Commands print it as one line and exit
    with `exit_code` 2.
    """

    exit_code = 2


class TrainingStopped(RuntimeError):
    """Training cannot go on, for example because a loss is not finite or a checkpoint cannot be written.

    Commands print the message as one line and exit with `exit_code` 1.
    """

    exit_code = 1


def shortened(value: object, length: int = 200) -> str:
    """Returns `repr(value)` for a message, cut in its middle to about `length` characters if it is longer.

    It works for values of any size and depth, whose whole `repr` would take long or fail.
    """
    writer = reprlib.Repr()
    writer.maxlevel = 3
    writer.maxlist = writer.maxtuple = writer.maxset = writer.maxdict = 20
    writer.maxstring = writer.maxlong = writer.maxother = length
    try:
        text = writer.repr(value)
    except ValueError:
        # Python writes no whole number of more than some thousand digits.
        text = f"a value of type {type(value).__name__}"
    return shortened_text(text, length)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's text for a message, or the error's type where it has no text."""
    return shortened_text((str(error).splitlines() or [type(error).__name__])[0], 200)


def shortened_text(text: object, length: int = 500) -> str:
    """Returns a name or path for a message, in one printable line and cut in its middle where it is long."""
    line = str(text)
    if len(line) > length:
        line = f"{line[: length // 2]}...{line[-(length // 2) :]}"
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)


def listed(items: Iterable[object], limit: int = 10) -> str:
    """Returns a list for a message, such as "a, b and 4 more", which names at most `limit` items."""
    names = [shortened_text(item, 80) for item in items]
    more = f" and {len(names) - limit:,} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
