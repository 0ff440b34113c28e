"""The contract of every entry point of the library: an input gives a result or the project's own error.

It holds within bounds of time and memory, and the message of an error is short and needs no escaping.
"""

import contextlib
import dataclasses
import gc
import resource
import signal
import sys
import traceback
from collections import Counter

import numpy as np

from refinedet_tf.errors import InputError, TrainingStopped

SECONDS = 20
"""The longest that a case may take."""

MEGABYTES = 1024
"""The most that a case may add to the largest memory that this process has used."""

MESSAGE_LENGTH = 3000
"""The longest message, which may name a path of the user besides what is wrong."""


@dataclasses.dataclass
class Outcomes:
    """How many cases gave a result or the project's error, and the outcomes against the contract."""

    results: int = 0
    refused: int = 0
    broken: Counter = dataclasses.field(default_factory=Counter)
    examples: dict = dataclasses.field(default_factory=dict)

    def note(self, cause, example):
        self.broken[cause] += 1
        self.examples.setdefault(cause, example)

    def text(self):
        lines = [
            f"{count} x {cause}; first {self.examples[cause]}" for cause, count in self.broken.most_common()
        ]
        return "\n".join(lines)


def run_cases(case, count, first_seed=0):
    """Runs `case(rng)` with the generators of `count` seeds.

    A case makes its input from `rng` and passes it to the library.
    """
    outcomes = Outcomes()
    for seed in range(first_seed, first_seed + count):
        before = _peak_megabytes()
        try:
            with _time_limit():
                case(np.random.default_rng(seed))
            outcomes.results += 1
        except (InputError, TrainingStopped) as error:
            outcomes.refused += 1
            _check_message(error, seed, outcomes)
        except Exception as error:
            outcomes.note(_cause(error), f"seed {seed}: {str(error)[:200]!r}")
        if _peak_megabytes() - before > MEGABYTES:
            outcomes.note("memory", f"seed {seed}: {_peak_megabytes() - before:.0f} MB more")
            gc.collect()
    return outcomes


def _check_message(error, seed, outcomes):
    message = str(error)
    if not message.strip():
        outcomes.note(f"empty message: {_cause(error)}", f"seed {seed}")
    if len(message) > MESSAGE_LENGTH:
        outcomes.note(f"long message: {_cause(error)}", f"seed {seed}: {len(message)} characters")
    try:
        message.encode()
    except UnicodeEncodeError:
        outcomes.note(f"message that cannot be printed: {_cause(error)}", f"seed {seed}: {message[:200]!r}")


def _cause(error):
    """Names an error by its type and the project's line that it came through last."""
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "refinedet_tf" in frame.filename
    ]
    place = (
        f"{frames[-1].filename.rpartition('refinedet_tf/')[2]}:{frames[-1].lineno}" if frames else "nowhere"
    )
    return f"{type(error).__name__} at {place}"


@contextlib.contextmanager
def _time_limit():
    def stop(*_):
        raise TimeoutError(f"a case took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _peak_megabytes():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
