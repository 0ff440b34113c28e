"""What a run works with, all of it checked before the first file is written."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from refinedet_tf.config import Config, with_classes
from refinedet_tf.config.files import load_config
from refinedet_tf.data.acceptance import check_empty_classes, check_share_of_bad_boxes
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import explain_failure, training_images
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.evaluation.evaluator import timed_replicas
from refinedet_tf.evaluation.timed_detector import TimedDetector
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training.agreement import changed_data, check_same_run, data_facts, join_workers
from refinedet_tf.training.checkpoints import Checkpoints
from refinedet_tf.training.schedule import check_schedule, in_steps
from refinedet_tf.training.state import LoopState, loop_state
from refinedet_tf.training.strategy import distributed_batches, make_strategy
from refinedet_tf.training.trainer import make_trainer
from refinedet_tf.training.workers import Workers
from refinedet_tf.weights import InitialWeights, load_initial_weights


class PreparedRun:
    """The part of one process in a run, ready for its first step. Nothing is written.

    All workers prepare the same run. The other arguments are those of `loop.train`.

    Attributes:
        config: the experiment with class names, and with its training in steps.
        validation_facts: what `data_facts` says about the validation set.
        notes: what the terminal should say about the data.
        writes: whether this process writes the files of the run.
        initial_weights: what the network has taken from a file; None if it continues a checkpoint.
        state: the loop's state at the start.
        start: the number of steps that were done before.
        first_batch: the first batch of this process; None if all steps are done.

    Raises:
        InputError: the config, the data, the weights or the checkpoint are wrong, or workers differ.
        TrainingStopped: a worker was lost.
    """

    def __init__(
        self,
        config: Config,
        folder: RunFolder,
        workers: Workers,
        resume: bool,
        strict: bool,
        accept_changed_data: bool = False,
    ) -> None:
        self.folder, self.workers = folder, workers
        self.train_set = read_dataset(config.data, "train", strict)
        training_config = in_steps(config.training, max(len(self.train_set), 1))
        check_schedule(training_config, config.training)
        config = dataclasses.replace(config, training=training_config)
        self.config = with_classes(config, self.train_set.class_names)
        has_validation = bool(config.data.validation)
        if training_config.patience is not None and not has_validation:
            raise InputError("training.patience needs data.validation, which names no part")
        self.validation_set = read_dataset(self.config.data, "validation", strict) if has_validation else None
        step = max(folder.saved_steps(), default=0) if resume else 0
        if step and folder.config.is_file():
            check_same_run(load_config(folder.config), self.config)
        self.notes = self._check_data(config, is_new=not step)
        sets = {"training set": self.train_set, "validation set": self.validation_set}
        step_fact = {"the last step in --output, which workers must share,": step}
        join_workers(workers, step_fact, self.config, sets)
        if step > training_config.steps:
            raise InputError(
                f"training.length is {training_config.steps}, but the run in {shortened_text(folder.path)} "
                f"has done {step} steps: give {step} to end there, or more"
            )
        self.validation_facts = data_facts("validation set", self.validation_set)
        self.strategy = make_strategy(config, workers.strategy)
        self.writes = workers.index == 0
        self.initial_weights: InitialWeights | None = None
        with self.strategy.scope():
            self.trainer = make_trainer(self.config)
        self.detector = Detector(self.trainer.network, self.config)
        self.validation_replicas: Replicas[TimedDetector] | None = None
        if self.validation_set is not None:
            self.validation_replicas = timed_replicas(self.trainer.network, self.config, self.validation_set)
        self.checkpoints = Checkpoints(folder.checkpoints, self.trainer, self.writes)
        self.state = self._restore_or_initialize(resume, accept_changed_data)
        self.start = self.state.step
        self._open_batches()
        # All errors of a single worker come before it, since the next operation of all is a step.
        state_fact = {"the state in the checkpoint": dataclasses.asdict(self.state)}
        join_workers(workers, state_fact, variables=self.checkpoints.all_variables)

    def next_batch(self, step: int) -> Mapping[str, Any]:
        """Returns the batch of the step after `step` finished ones, which must be the next in order.

        Raises:
            InputError: an image of it cannot be used.
        """
        try:
            return next(self.batches)
        except tf.errors.OpError as error:
            candidates = training_images(self.train_set, self.config, step)
            raise explain_failure(self.train_set, error, candidates) from None

    def _check_data(self, config: Config, is_new: bool) -> list[str]:
        """Checks what the config must accept of the data; returns lines for the terminal."""
        check_share_of_bad_boxes(self.train_set, config.data, "train")
        if self.validation_set is not None:
            check_share_of_bad_boxes(self.validation_set, config.data, "validation")
        # The config of a run names the classes, whoever found them.
        note = check_empty_classes(self.train_set, config.data) if is_new else None
        return [note] if note else []

    def _restore_or_initialize(self, resume: bool, accept_changed_data: bool) -> LoopState:
        """Loads the newest checkpoint or, if there is none, the initial weights; returns the loop's state."""
        data = data_facts("training set", self.train_set)
        values = self.checkpoints.restore_latest() if resume else None
        if values is None:
            self.initial_weights = load_initial_weights(self.trainer.network, self.config.model)
            if self.trainer.average is not None:
                self.trainer.average.restart()
            return LoopState(data=data)
        state = loop_state(values, self.folder.checkpoints)
        if changes := changed_data(state.data, data):
            if not accept_changed_data:
                raise InputError(
                    f"--resume with other training data: {changes}; bring back what was there, or continue "
                    "on the data as it is now by --accept-changed-data"
                )
            self.notes.append(
                f"note: the training data has changed: {changes}; the steps after {state.step} are those of "
                "the data as it is now"
            )
        is_due = state.validation_is_due or self._lacks_its_last_validation(state.step)
        return dataclasses.replace(state, validation_is_due=is_due, data=data)

    def _lacks_its_last_validation(self, step: int) -> bool:
        """Says whether the run ends at this step, which became its last one by a resume."""
        if step != self.config.training.steps or self.validation_set is None:
            return False
        entries = self.folder.log_entries() if self.workers.index == 0 else []
        validated = any(entry["step"] == step and "validation" in entry for entry in entries)
        return not self.workers.exchange(validated)[0]

    def _open_batches(self) -> None:
        """Makes the training batches and waits for the first, since its images may be unusable."""
        self.distributed = distributed_batches(self.strategy, self.train_set, self.config, self.start)
        self.batches = iter(self.distributed)
        self.first_batch: Mapping[str, Any] | None = None
        if self.start < self.config.training.steps:
            self.first_batch = self.next_batch(self.start)
