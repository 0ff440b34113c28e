"""What the four commands share: the config options, and errors as one line instead of a traceback."""

import argparse
import dataclasses
import errno
import glob
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

# TensorFlow reads these when it is first imported, which every command does after this module. What it
# logs below "fatal" comes as an exception too, if it matters.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

from refinedet_tf.config import Config, load_config
from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.run_folder import RunFolder

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)
"""What a disk may refuse at any write; a traceback would say no more than one line."""

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
"""What is taken from a folder. Files that are named, also by a pattern, may have any ending."""


def add_config_options(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds `--config` and `--set`."""
    parser.add_argument(
        "--config",
        required=required,
        metavar="FILE",
        help="a config file, a run folder, or the name of a file in configs/",
    )
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a config value, e.g. training.batch_size=16 (repeatable)",
    )


def config_from(arguments: argparse.Namespace) -> Config:
    """The config that `--config` and `--set` describe."""
    return load_config(arguments.config, arguments.overrides)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, `--set` and `--weights`."""
    add_config_options(parser)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="trained weights: .weights.h5, .keras, .caffemodel or .pth; with a run folder as --config, "
        "its best ones by default",
    )


def add_multi_scale_option(parser: argparse.ArgumentParser) -> None:
    """Adds `--multi-scale`."""
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="look at each image at many sizes and mirrored and merge what is found (the + of the paper's "
        "tables); many times slower",
    )


def find_images(names: Sequence[str]) -> list[Path]:
    """The image files that `names` (files, folders, patterns with `*`, `?`, `[]`, `**`) stand for.

    A folder stands for the image files directly in it. Each file comes once, in the given order.

    Raises:
        InputError: a name stands for no image.
    """
    found = []
    for name in names:
        # Path.glob refuses absolute patterns.
        matches = [name] if Path(name).exists() else sorted(glob.glob(name, recursive=True))  # noqa: PTH207
        files = []
        for path in map(Path, matches):
            if path.is_dir():
                inside = (file for file in path.iterdir() if file.suffix.lower() in IMAGE_ENDINGS)
                files += sorted(file for file in inside if file.is_file())
            else:
                files.append(path)
        if not files:
            raise InputError(f"no image found: {name}; name files, folders with images, or patterns")
        found += files
    return list({path.resolve(): path for path in reversed(found)}.values())[::-1]


def load_model(arguments: argparse.Namespace):
    """(config, model with trained weights) that `--config`, `--set` and `--weights` describe.

    With `--multi-scale` the model takes any size; the config keeps the one it was trained at.

    Raises:
        InputError: the config is wrong, there are no weights, or they do not fit the model.
    """
    config = config_from(arguments)
    weights = arguments.weights
    if weights is None:
        if not Path(arguments.config).is_dir():
            raise InputError("--weights: name a weights file, or give a run folder as --config")
        weights = RunFolder(arguments.config).trained_weights()
    import_tensorflow()
    from refinedet_tf.model import build_model
    from refinedet_tf.weights import load_weights

    # The initial weights of training would be overwritten at once.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, weights=None))
    any_size = dataclasses.replace(config, model=dataclasses.replace(config.model, image_size=None))
    model = build_model(any_size if getattr(arguments, "multi_scale", False) else config)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        filled = load_weights(model, weights)
    if len(filled) < sum(bool(layer.weights) for layer in model.layers):
        raise InputError(
            f"{weights} holds ImageNet weights of the backbone only, not of a detector; it is a start for "
            "training: train.py --set model.weights=FILE"
        )
    for note in notes:
        if issubclass(note.category, UserWarning):
            print(f"note: {note.message}", file=sys.stderr)
    return config, model


def import_tensorflow() -> None:
    """Imports TensorFlow without the lines that it prints while it loads, which no log level silences.

    They would stand before the one line of an error. If the import fails, they are shown.
    """
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as aside:
        os.dup2(aside.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            aside.seek(0)
            os.write(terminal, aside.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> None:
    """Runs a command; a user's mistake ends in one line on stderr and exit code 2."""
    try:
        main(arguments)
    except (InputError, TrainingStopped) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        print(f"error: {error.filename or 'the output'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
