"""What follows a training step: pure functions of the loop's state, which the loop carries out."""

import dataclasses

from refinedet_tf.config import TrainingConfig, steps_of
from refinedet_tf.training.state import LoopState


@dataclasses.dataclass(frozen=True)
class Decision:
    """What the loop does after a step, in the order of the fields."""

    writes_final_weights: bool
    """It comes before the checkpoint, after which a resumed run would have nothing left to do."""
    saves_checkpoint: bool
    stops: bool
    """A signal ends the run although something is left to do, which a resumed run does."""
    ends: bool
    """The patience is over, so that no step follows."""


def is_validation_due(state: LoopState, training_config: TrainingConfig) -> bool:
    """Says whether the network is measured after `state.step` steps.

    `state.validation_is_due` says whether an earlier process was stopped in this validation.
    """
    is_last = state.step == training_config.steps
    return state.validation_is_due or is_last or state.step % steps_of(training_config.validate_every) == 0


def is_patience_over(state: LoopState, training_config: TrainingConfig) -> bool:
    """Says whether so many validations in a row were no better than the best one that the run ends."""
    return training_config.patience is not None and state.without_gain >= training_config.patience


def decide(state: LoopState, training_config: TrainingConfig, told_to_stop: bool) -> Decision:
    """Says what follows a step and its validation.

    `state.validation_is_due` says whether the validation was not finished, and `told_to_stop` whether this
    process, or any of several workers, was told to stop.
    """
    patience_is_over = is_patience_over(state, training_config)
    is_finished = patience_is_over or state.step == training_config.steps
    unfinished_validation = state.validation_is_due
    return Decision(
        writes_final_weights=is_finished and not unfinished_validation,
        saves_checkpoint=is_finished
        or told_to_stop
        or unfinished_validation
        or state.step % steps_of(training_config.checkpoint_every) == 0,
        stops=told_to_stop and (unfinished_validation or not is_finished),
        ends=patience_is_over and not unfinished_validation,
    )
