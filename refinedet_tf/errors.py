"""The errors that a command turns into one line on the terminal."""


class InputError(ValueError):
    """Something that the user gave is wrong: a config key, a file, a box, a folder.

    The message names the thing and says what would be right. Commands print it as one line and
    exit with `exit_code` 2.
    """

    exit_code = 2


class TrainingStopped(RuntimeError):
    """Training cannot go on (a non-finite loss or gradient, a checkpoint that cannot be written).

    Commands print the message as one line and exit with `exit_code` 1.
    """

    exit_code = 1
