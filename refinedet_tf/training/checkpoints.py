"""Checkpoints, which are written atomically and hold everything that an exact continuation needs."""

import json
import shutil
from pathlib import Path
from typing import Any

import tensorflow as tf

from refinedet_tf.errors import InputError, TrainingStopped, first_line, shortened_text
from refinedet_tf.files import flush, write_aside
from refinedet_tf.json_files import read_json
from refinedet_tf.run_folder import saved_steps
from refinedet_tf.training.trainer import RefineDetTrainer
from refinedet_tf.weights.values import unchanged_on_error

KEEP = 2
"""The number of newest checkpoints that stay on disk."""


class Checkpoints:
    """The folders `step-N` of a run, each with variables, average, optimizer and the loop's state.

    The order and augmentation of the data follow from the seed and the step, so they need no state.

    Args:
        folder: the folder of the checkpoints, which is made when the first one is written.
        trainer: the trainer whose network and built optimizer are saved.
        writes: false for the workers that leave no files. Saving needs none of their operations.
    """

    def __init__(self, folder: Path, trainer: RefineDetTrainer, writes: bool = True) -> None:
        self.folder = folder
        self.writes = writes
        self.all_variables = [*trainer.network.variables, *trainer.optimizer.variables]
        tracked: dict[str, Any] = {"network": trainer.network, "optimizer": trainer.optimizer}
        if trainer.average is not None:
            self.all_variables += trainer.average.values
            tracked["average"] = trainer.average.values
        self.variables = tf.train.Checkpoint(**tracked)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes a checkpoint under another name, renames it, and removes old checkpoints.

        If there is a checkpoint of this step, only its state, which JSON can hold, is replaced. The variables
        are functions of the step, so that they are the same ones; and no moment is without a checkpoint.

        Raises:
            TrainingStopped: the checkpoint cannot be written. Earlier checkpoints are untouched.
        """
        if not self.writes:
            return
        final = self.folder / f"step-{step}"
        text = json.dumps({**state, "step": step})
        try:
            if final.is_dir():
                write_aside(final / "state.json", lambda file: file.write_text(text, encoding="utf-8"))
            else:
                self._write_new(final, text)
            flush(self.folder)
        except (OSError, tf.errors.OpError) as error:
            reason = getattr(error, "strerror", None) or str(getattr(error, "message", error))
            kept = "; ".join(f"{self.folder / f'step-{good}'} is still good" for good in self.steps()[-1:])
            raise TrainingStopped(
                f"checkpoint of step {step} cannot be written to {self.folder}: {reason[:200]}; "
                f"{kept or 'there is no other'}"
            ) from None
        for old in self.steps()[:-KEEP]:
            shutil.rmtree(self.folder / f"step-{old}", ignore_errors=True)

    def _write_new(self, final: Path, state: str) -> None:
        """Writes variables and state to a temporary folder, and renames it to `final`."""
        aside = self.folder / f".writing-{final.name}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(parents=True)
            self.variables.write(str(aside / "variables"))
            (aside / "state.json").write_text(state, encoding="utf-8")
            for file in aside.iterdir():
                flush(file)
            aside.rename(final)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints on disk in ascending order."""
        return saved_steps(self.folder)

    def restore_latest(self) -> dict[str, Any] | None:
        """Loads the newest checkpoint.

        Returns:
            Its state, to which "step" is added, or None if there is no checkpoint.

        Raises:
            InputError: the checkpoint is damaged or belongs to another model. No variable has changed.
        """
        steps = self.steps()
        if not steps:
            return None
        folder = self.folder / f"step-{steps[-1]}"
        try:
            state = read_json(folder / "state.json")
            if not isinstance(state, dict) or state.get("step") != steps[-1]:
                raise ValueError(f"state.json is not that of step {steps[-1]}")
            with unchanged_on_error(self.all_variables):
                self.variables.read(str(folder / "variables")).assert_existing_objects_matched()
        except Exception as error:
            # TensorFlow's reader raises errors from IndexError, for a file that ends too early, to
            # AssertionError, for another network.
            reason = first_line(error)
            raise InputError(
                f"checkpoint {shortened_text(folder)} cannot be restored ({reason}); "
                "remove it to continue from the one before"
            ) from None
        return {**state, "step": steps[-1]}
