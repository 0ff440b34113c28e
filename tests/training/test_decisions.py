"""What follows a step, for each state of the loop."""

import pytest

from refinedet_tf.config import TrainingConfig
from refinedet_tf.training.decisions import Decision, decide, is_validation_due
from refinedet_tf.training.state import LoopState

SHORT = {"length": 10, "milestones": (), "warmup": 0}
CONFIG = TrainingConfig(**SHORT, checkpoint_every=4, validate_every=5, patience=2)


@pytest.mark.parametrize(
    ("step", "unfinished", "due"),
    [(3, False, False), (3, True, True), (5, False, True), (9, False, False), (10, False, True)],
)
def test_when_a_validation_is_due(step, unfinished, due):
    assert is_validation_due(LoopState(step=step, validation_is_due=unfinished), CONFIG) == due


GOES_ON, SAVES = Decision(False, False, False, False), Decision(False, True, False, False)
STOPS = Decision(False, True, stops=True, ends=False)


@pytest.mark.parametrize(
    ("state", "told_to_stop", "decision"),
    [
        (LoopState(step=3), False, GOES_ON),
        (LoopState(step=4), False, SAVES),
        (LoopState(step=5, without_gain=1), False, GOES_ON),
        (LoopState(step=3), True, STOPS),
        (LoopState(step=5, validation_is_due=True), True, STOPS),
        (LoopState(step=10, validation_is_due=True), True, STOPS),
        (LoopState(step=5, without_gain=2), False, Decision(True, True, stops=False, ends=True)),
        (LoopState(step=5, without_gain=2), True, Decision(True, True, stops=False, ends=True)),
        (LoopState(step=10), False, Decision(True, True, stops=False, ends=False)),
        (LoopState(step=10), True, Decision(True, True, stops=False, ends=False)),
    ],
)
def test_what_follows(state, told_to_stop, decision):
    """A signal stops a run only where something is left, and final weights wait for their validation."""
    assert decide(state, CONFIG, told_to_stop) == decision


def test_no_patience_never_ends():
    config = TrainingConfig(**SHORT)
    assert not decide(LoopState(step=5, without_gain=1_000), config, told_to_stop=False).ends
