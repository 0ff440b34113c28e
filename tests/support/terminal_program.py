"""A command that prints and then writes a file, without TensorFlow: terminal_program.py FILE [WAIT]."""

import sys
import time
from pathlib import Path

from refinedet_tf.commands.terminal import run


def main(arguments):
    """Prints far more than a pipe holds, then writes "done" to FILE."""
    file, *wait = arguments
    try:
        if wait:
            print("waiting", flush=True)
            time.sleep(60)
        for number in range(20_000):
            print(f"line {number} \N{GRINNING FACE} \udcff")
            print(f"warning {number}", file=sys.stderr)
        Path(file).write_text("done", encoding="utf-8")
    finally:
        Path(f"{file}.cleaned").write_text("yes", encoding="utf-8")


if __name__ == "__main__":
    run(main, sys.argv[1:])
