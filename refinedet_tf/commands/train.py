"""Trains a RefineDet, or goes on with a run that was stopped."""

import argparse
from collections.abc import Sequence

from refinedet_tf.commands.options import add_config_options, config_from
from refinedet_tf.commands.terminal import import_tensorflow


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line and trains."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config_options(parser)
    parser.add_argument("--output", metavar="FOLDER", help="run folder (default: runs/NAME of the config)")
    parser.add_argument("--resume", action="store_true", help="continue from the newest checkpoint")
    parser.add_argument("--strict", action="store_true", help="fail on an unusable box, do not drop it")
    options = parser.parse_args(arguments)
    config = config_from(options)

    import_tensorflow()
    from refinedet_tf.training.loop import train

    folder = train(config, options.output or f"runs/{config.name}", options.resume, options.strict)
    evaluate = "python evaluate.py" if prog is None else "refinedet evaluate"
    print(f"done: {folder.path}; next: {evaluate} --config {folder.path}")
