"""Trains a RefineDet, or goes on with a run that was stopped."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.commands.options import (
    add_config_options,
    add_data_option,
    config_from,
    take_data_folder,
)
from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.config import Config, differences
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import shortened, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.run_folder import RunFolder, default_run_folder

DESCRIPTIONS = ("name", "description", "command", "expected")
"""The keys that have no influence on a run."""


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config_options(parser, required=False)
    add_data_option(parser)
    parser.add_argument(
        "--epochs", type=int, metavar="N", help='the same as --set training.length="N epochs"'
    )
    parser.add_argument(
        "--image-size", type=int, metavar="PIXELS", help="the same as --set model.image_size=[PIXELS,PIXELS]"
    )
    parser.add_argument("--output", metavar="FOLDER", help="run folder (default: runs/NAME of the config)")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the newest checkpoint with the run's own config; --set may change "
        "training.length and other keys that do not alter the steps that were done",
    )
    parser.add_argument(
        "--accept-changed-data",
        action="store_true",
        help="with --resume: continue although the training data is not that of the checkpoint",
    )
    parser.add_argument("--strict", action="store_true", help="fail on an unusable box, do not drop it")
    options = parser.parse_args(arguments)
    if options.epochs is not None:
        options.overrides.append(f"training.length={options.epochs} epochs")
    if options.image_size is not None:
        options.overrides.append(f"model.image_size=[{options.image_size},{options.image_size}]")
    take_data_folder(options)
    config = config_from(options)
    output = options.output or default_run_folder(config.name)

    import_tensorflow()
    from refinedet_tf.training.loop import train

    if options.resume:
        config = config_of_resumed_run(config, RunFolder(output), options.config, options.overrides)
    folder = train(config, output, options.resume, options.strict, options.accept_changed_data)
    evaluate = "python evaluate.py" if prog is None else "refinedet evaluate"
    print(f"done: {folder.path}; next: {evaluate} --config {folder.path}")


def config_of_resumed_run(
    given: Config, run: RunFolder, file: str | Path, overrides: Sequence[str]
) -> Config:
    """Returns the config with which a run goes on: that of the run, changed by `--set`.

    A line on the terminal names the keys in which `given`, what `--config` and `--set` say, differs from it.
    A file of another name that differs in a key that cannot change is taken for a mistake: it is returned,
    and training refuses it. Without a checkpoint, nothing is resumed and `given` counts.

    Raises:
        InputError: the config of the run cannot be read.
    """
    from refinedet_tf.training.agreement import fixed_differences

    if not run.saved_steps() or not is_file(run.config):
        return given
    config = load_config(run.config, overrides)
    if given.data.classes is None:
        given = dataclasses.replace(given, data=dataclasses.replace(given.data, classes=config.data.classes))
    if config.training.strategy == "multi_worker":
        # The data may lie elsewhere on each machine.
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=given.data.root))
    if given.name != config.name and fixed_differences(config, given):
        return given
    pairs = differences(config, given).items()
    other = [
        f"{key} is {shortened(ours, 100)}, not {shortened(theirs, 100)}"
        for key, (ours, theirs) in pairs
        if key.partition(".")[0] not in DESCRIPTIONS
    ]
    if other:
        listed = "; ".join(other[:10]) + (f"; and {len(other) - 10} more" if len(other) > 10 else "")
        name = shortened_text(Path(file).name, 100)
        print(f"note: the run goes on with its own config, from which {name} differs: {listed}", flush=True)
    return config
