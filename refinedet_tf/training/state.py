"""The loop's state, which every checkpoint holds besides the variables."""

import dataclasses
from pathlib import Path
from typing import Any

from refinedet_tf.errors import InputError, shortened
from refinedet_tf.run_folder import is_step
from refinedet_tf.training.best import is_best


@dataclasses.dataclass(frozen=True)
class LoopState:
    """What the loop knows after a step, in values that JSON can hold."""

    best: dict[str, Any] | None = None
    """The best validation so far: its "mAP", "step" and "measured_by"; None if there was none."""
    validation_is_due: bool = False
    """Whether the validation after this step was not finished."""
    without_gain: int = 0
    """The number of validations in a row that were no better than the best one."""
    step: int = 0
    """The number of finished steps."""
    data: dict[str, Any] | None = None
    """The facts of the training set (`agreement.data_facts`); None in checkpoints of earlier versions."""


def loop_state(values: dict[str, Any], checkpoints: Path) -> LoopState:
    """Checks the state that a checkpoint holds.

    Args:
        values: the result of `Checkpoints.restore_latest`. Checkpoints of earlier versions have no
            "validation_is_due", "without_gain" or "data".
        checkpoints: the folder of the checkpoints.

    Raises:
        InputError: a value is not one that the loop writes.
    """
    best = values.get("best", "missing")
    validation_is_due = values.get("validation_is_due", False)
    without_gain = values.get("without_gain", 0)
    data = values.get("data")
    if not is_best(best):
        wrong = f'"best" must be null or hold mAP and step, got {shortened(values.get("best"))}'
    elif not isinstance(validation_is_due, bool):
        wrong = f'"validation_is_due" must be true or false, got {shortened(validation_is_due)}'
    elif not is_step(without_gain):
        wrong = f'"without_gain" must be a number of validations, got {shortened(without_gain)}'
    elif not isinstance(data, dict | None):
        wrong = f'"data" must hold the facts of the training set, got {shortened(data)}'
    else:
        return LoopState(best, validation_is_due, without_gain, values["step"], data)
    file = checkpoints / f"step-{values['step']}" / "state.json"
    raise InputError(f"{file}: {wrong}; remove that checkpoint to continue from the one before")
