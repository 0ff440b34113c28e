"""python -m refinedet_tf: the command `refinedet`."""

from refinedet_tf.commands.main import run_from_terminal

run_from_terminal()
