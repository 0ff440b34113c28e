"""The errors that a command turns into one line on the terminal."""


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
