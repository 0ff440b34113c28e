"""train.py and evaluate.py, one run after the other in one process: TensorFlow starts slowly.

    python training_program.py '[{"arguments": ["--config", ...], "signal": "SIGTERM", "after": 3}, ...]'

With a signal, the process sends it to itself when that many steps are done, or with "validation" when it
begins to validate; with "times", more than once. With "once", only worker:1 sends it, and only while there
is no file of that name, which it makes. With "pause", every step takes that many seconds more. With
"evaluate", the run is one of evaluate.py, and the chief writes the bytes of all detections to the file that
it names. Each run that comes back ends with the line "exit CODE". Further words on the command line:

    as-users-run-it   optimize the graphs, with four threads between operations and four inside each
    exit-code         end with the code of the last run
    whole             train the network that the config names; otherwise a small one takes its place
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import evaluate
import train
from refinedet_tf.commands import terminal

import tensorflow as tf  # isort: skip - after terminal, which sets its environment
from small_network import use_small_backbone  # isort: skip

from refinedet_tf.commands import evaluate as evaluate_command  # isort: skip
from refinedet_tf.training import validation
from refinedet_tf.training.log import ProgressLog


def is_first(run):
    """Says whether this process is the one, and this the first time, that a signal is meant for."""
    if "once" not in run:
        return True
    if json.loads(os.environ["TF_CONFIG"])["task"]["index"] != 1 or Path(run["once"]).exists():
        return False
    Path(run["once"]).touch()
    return True


def main(runs, words):
    if "whole" not in words:
        use_small_backbone()
    if "as-users-run-it" in words:
        tf.config.threading.set_inter_op_parallelism_threads(4)
        tf.config.threading.set_intra_op_parallelism_threads(4)
    else:
        # Rewriting the graphs takes longer than the few steps that they run.
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    write_result = evaluate_command._write
    report_step, detect_portion = ProgressLog.step, validation.detect_portion
    for run in runs:

        def step(self, done, *arguments, run=run):
            report_step(self, done, *arguments)
            time.sleep(run.get("pause", 0))
            if done == run.get("after") and is_first(run):
                for _ in range(run.get("times", 1)):
                    os.kill(os.getpid(), signal.Signals[run["signal"]])
                    time.sleep(0.2)  # Signals of one kind that arrive together count once.

        def detect(*arguments, run=run, **options):
            if run.get("validation"):
                os.kill(os.getpid(), signal.Signals[run["signal"]])
            return detect_portion(*arguments, **options)

        def write(share, *arguments, run=run):
            Path(run["evaluate"]).write_bytes(share.to_bytes())
            write_result(share, *arguments)

        ProgressLog.step = step
        evaluate_command._write = write
        validation.detect_portion = detect
        code = 0
        try:
            terminal.run((evaluate if "evaluate" in run else train).main, run["arguments"])
        except SystemExit as stopped:
            code = stopped.code
        print(f"exit {code}", flush=True)
    if "exit-code" in words:
        sys.exit(code)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2:])
