"""The loop's state, which every checkpoint holds besides the variables."""

import dataclasses
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from refinedet_tf.errors import InputError
from refinedet_tf.json_files import check_tree
from refinedet_tf.run_folder import AveragePrecision, Steps


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


class _Best(BaseModel, strict=True):
    mAP: AveragePrecision  # noqa: N815 - the key in the files
    step: Steps
    measured_by: dict[str, Any] = {}
    data: dict[str, Any] | None = None


class _Saved(BaseModel, strict=True):
    """The state in a checkpoint; those of earlier versions lack the keys that have a default."""

    best: _Best | None
    validation_is_due: bool = False
    without_gain: Steps = 0
    step: Steps
    data: dict[str, Any] | None = None


def loop_state(values: dict[str, Any], checkpoints: Path) -> LoopState:
    """Checks the state that a checkpoint of the folder `checkpoints` holds.

    Raises:
        InputError: a value is not one that the loop writes.
    """
    try:
        check_tree(values, _Saved, checkpoints / f"step-{values['step']}" / "state.json")
    except InputError as error:
        raise InputError(f"{error}; remove that checkpoint to continue from the one before") from None
    return LoopState(**{name: values[name] for name in _Saved.model_fields if name in values})
