"""The command `refinedet`: refinedet train --config voc320.json, and so on."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from refinedet_tf import __version__
from refinedet_tf.commands.terminal import run

COMMANDS = {
    "inspect": ("inspect_data", "report on the data before a training"),
    "train": ("train", "train, or go on with a run that was stopped"),
    "evaluate": ("evaluate", "measure accuracy and speed"),
    "detect": ("detect", "draw what a model detects on images"),
    "export": ("export", "write a SavedModel, and ONNX files where wanted"),
    "generate-shapes": ("generate_shapes", "write a generated data set"),
    "scale-voc": ("scale_voc", "write the data of voc2007_test_photos.json"),
    "subset-classes": ("subset_classes", "pick classes from trained weights, e.g. COCO to VOC"),
}
"""Name on the command line -> module of this package, and what it does."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command that the first argument names with the others."""
    names = "\n".join(f"  {name:<16} {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="refinedet",
        description=f"RefineDet in TensorFlow and Keras. Commands:\n\n{names}",
        epilog="refinedet COMMAND --help describes a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"refinedet {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(arguments[:1])
    module, _ = COMMANDS[options.command]
    command = importlib.import_module(f"refinedet_tf.commands.{module}")
    command.main(arguments[1:], prog=f"refinedet {options.command}")


def run_from_terminal() -> None:
    """The entry point of the installed command."""
    run(main)


if __name__ == "__main__":
    run_from_terminal()
