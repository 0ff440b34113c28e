"""The training loop: steps, validation and checkpoints of a run."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from refinedet_tf.config import Config
from refinedet_tf.drawing import contact_sheet
from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.files import write_aside
from refinedet_tf.precision import apply_precision
from refinedet_tf.refinedet.losses import COUNTS, TERMS
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.averaging import averaged
from refinedet_tf.training.best import comparable_best, measured_by
from refinedet_tf.training.cluster import read_cluster
from refinedet_tf.training.curves import draw_curves
from refinedet_tf.training.decisions import decide, is_patience_over, is_validation_due
from refinedet_tf.training.description import describe_start
from refinedet_tf.training.lock import RunLock
from refinedet_tf.training.log import ProgressLog
from refinedet_tf.training.pictures import batch_picture, detection_pictures
from refinedet_tf.training.preparation import PreparedRun
from refinedet_tf.training.stop import StopRequest
from refinedet_tf.training.sums import sums_in_fixed_order
from refinedet_tf.training.validation import measure
from refinedet_tf.training.workers import Workers
from refinedet_tf.weights import save_weights

STEP_INPUTS = ("images", "boxes", "labels")
"""What the training step takes of a batch."""


def train(
    config: Config,
    output: str | Path,
    resume: bool = False,
    strict: bool = False,
    accept_changed_data: bool = False,
) -> RunFolder:
    """Trains from the config's initial weights, or continues a run that stopped.

    Args:
        config: the experiment.
        output: the run folder (`RunFolder` describes its files).
        resume: whether to continue from the newest checkpoint. The resulting weights are exactly those
            of a run that did not stop. Neither a file nor a download of `model.weights` is needed then.
            A run that has no checkpoint yet starts from the beginning, with the given config.
        strict: whether to fail on an unusable box instead of dropping it.
        accept_changed_data: whether to continue although the training set is not that of the checkpoint.

    Returns:
        The run folder.

    Raises:
        InputError: the config, the data, the weights or the folder are wrong, or another process trains into
            the folder. Nothing has been written then, unless an image proves unusable after the first batch.
        TrainingStopped: a loss or gradient is not finite, a file cannot be written, or the process was
            told to stop; in the last case there is a checkpoint.
    """
    if config.model.image_size is None:
        raise InputError("model.image_size is null: training needs a size, e.g. [320, 320]")
    keras.utils.set_random_seed(config.training.seed)
    apply_precision(config.training)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    cluster = read_cluster() if config.training.strategy == "multi_worker" else None
    folder = RunFolder(output)
    with Workers(cluster, config.training.wait_for_workers) as workers:
        with RunLock(folder.path, needed=workers.index == 0) as lock, sums_in_fixed_order():
            if workers.index == 0:
                folder.check(resume)
            run = PreparedRun(config, folder, workers, resume, strict, accept_changed_data)
            if run.writes:
                lock.take()
                folder.create(run.config, resume)
            loop = _Loop(run)
            workers.exchange("ready")
            with StopRequest() as stop, workers.stepping():
                loop.steps(stop)
        workers.exchange("finished")
    return folder


class _Loop:
    """The steps of a run in one process."""

    def __init__(self, run: PreparedRun) -> None:
        """Opens the logs of the run, whose folder exists, and prints what it starts with."""
        self.run, self.config, self.folder = run, run.config, run.folder
        self.progress = ProgressLog(
            run.folder, run.config, run.start, run.writes, run.state.validation_is_due
        )
        describe_start(run, self.progress.say)
        best, changed = comparable_best(run.state.best, run.config, run.validation_facts)
        self.state = run.state
        if changed:
            self.state = dataclasses.replace(run.state, best=best, without_gain=0)
            self.progress.say(changed)

    def steps(self, stop: StopRequest) -> None:
        """Runs all remaining steps, or fewer if `stop` is requested."""
        training_config = self.config.training
        run, start = self.run, self.run.start
        patience_is_over = is_patience_over(self.state, training_config)
        if self.state.validation_is_due:
            patience_is_over = self._after_step(start, stop, told_to_stop=False)
        elif patience_is_over or start == training_config.steps:
            # The file may be missing or that of another step, since a resume may change both keys.
            self._save_weights(self.folder.final_weights, start)
        if patience_is_over:
            self._say_patience_is_over(start)
            return
        element_spec = run.distributed.element_spec
        step_function = self._compiled_step({name: element_spec[name] for name in STEP_INPUTS})
        self.progress.restart_clock()
        batch, run.first_batch = run.first_batch, None
        for step in range(start, training_config.steps):
            waiting = time.perf_counter()
            batch, failure = self._next_batch(step, batch)
            data_seconds = time.perf_counter() - waiting
            if step == start and run.writes:
                local = tf.nest.map_structure(lambda value: self._local(value).numpy(), batch)
                picture = Image.fromarray(batch_picture(local, run.train_set.class_names))
                write_aside(self.folder.augmented, picture.save)
            learning_rate = float(run.trainer.optimizer.learning_rate)
            told = tf.constant(math.nan if failure else float(stop.requested is not None))
            result = step_function({name: batch[name] for name in STEP_INPUTS}, told)
            if math.isnan(float(result["told_to_stop"])):
                self._end_with_error(failure)
            terms = {name: float(result[name]) for name in (*TERMS, *COUNTS)}
            self._stop_if_not_finite(step, terms, result, batch)
            done = step + 1
            self.progress.step(done, terms, learning_rate, data_seconds)
            if self._after_step(done, stop, told_to_stop=float(result["told_to_stop"]) > 0):
                self._say_patience_is_over(done)
                return
        if start == training_config.steps:
            self.progress.say(f"all {training_config.steps} steps are done already")

    def _next_batch(
        self, step: int, batch: Mapping[str, Any] | None
    ) -> tuple[Mapping[str, Any], InputError | None]:
        """Returns the batch of the step after `step` finished ones, and what makes it unusable, or None.

        With several workers, the others are in the step already, whose sums over the replicas need this one.
        So it is done with the batch of the step before, by its sums the others learn of the error, and
        nothing of it is kept.
        """
        if step == self.run.start and batch is not None:
            return batch, None
        try:
            return self.run.next_batch(step), None
        except InputError as error:
            if self.run.workers.alone or batch is None:
                raise
            return batch, error

    def _end_with_error(self, failure: InputError | None) -> None:
        """Ends the run because a worker, this one with `failure`, has no batch."""
        with self.run.workers.stepping(False):
            if failure is not None:
                raise failure
            self.run.workers.exchange(None)

    def _after_step(self, done: int, stop: StopRequest, told_to_stop: bool) -> bool:
        """Validates and saves as `decisions` says after `done` steps; returns whether the run ends here.

        `told_to_stop` says whether any worker was told so before the step, which all of them know.

        Raises:
            TrainingStopped: `stop` was requested before or during the validation, there is a checkpoint,
                and something is left to do.
        """
        run, training_config = self.run, self.config.training
        self.state = dataclasses.replace(self.state, step=done)
        if is_validation_due(self.state, training_config):
            self.state = dataclasses.replace(self.state, validation_is_due=True)
            if not run.checkpoints.steps():
                # Weights without a checkpoint would be neither continued nor replaced after a kill.
                self._save_checkpoint()
            with averaged(run.trainer.average):
                is_measured, told_to_stop = self._validate(done, stop, told_to_stop)
            self.state = dataclasses.replace(self.state, validation_is_due=not is_measured)
        # It is read once, since a signal that comes later must not name a checkpoint that does not exist.
        stopped_by = stop.requested
        if not run.workers.alone:
            # All workers must stop after the same step, so a signal counts when all of them know of it.
            stopped_by = (stopped_by or "a signal to another worker") if told_to_stop else None
        decision = decide(self.state, training_config, told_to_stop=stopped_by is not None)
        if decision.writes_final_weights:
            self._save_weights(self.folder.final_weights, done)
        if decision.saves_checkpoint:
            self._save_checkpoint()
            self.progress.restart_clock()
        if decision.stops:
            run.workers.exchange("saved")
            left = ", before its validation was finished" if self.state.validation_is_due else ""
            raise TrainingStopped(f"stopped by {stopped_by} after step {done}{left}; continue with --resume")
        return decision.ends

    def _save_checkpoint(self) -> None:
        self.run.checkpoints.save(self.state.step, dataclasses.asdict(self.state))

    def _say_patience_is_over(self, done: int) -> None:
        """Says after which step the run ended, and which validation was the best."""
        patience = self.config.training.patience
        best, without_gain = self.state.best, self.state.without_gain
        reached = f"the best is {best['mAP']:.4f} at step {best['step']}" if best else "there is no best one"
        self.progress.say(
            f"ended after step {done} of {self.config.training.steps}: {without_gain} validations in a "
            f"row have not exceeded the best mAP (training.patience {patience}); {reached}"
        )

    def _compiled_step(self, batch_spec: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
        """Returns the training step of all replicas, a function of the arguments of `train_step`.

        With the specification of the batches, which leaves the number of objects open, the step is traced
        once and not for each number.
        """
        replica_step = self.run.trainer.train_step
        if self.config.training.jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True)

        @tf.function(input_signature=[batch_spec, tf.TensorSpec([], tf.float32)])
        def step(batch: Mapping[str, Any], told_to_stop: Tensor) -> dict[str, Any]:
            result = self.run.strategy.run(replica_step, args=(batch, told_to_stop))
            return tf.nest.map_structure(self._local, result)

        return step

    def _local(self, value: Any) -> Tensor:
        """Returns the value of the first replica of this process from a value per replica."""
        return self.run.strategy.experimental_local_results(value)[0]

    def _stop_if_not_finite(
        self, step: int, terms: dict[str, float], result: dict[str, Any], batch: Mapping[str, Any]
    ) -> None:
        """Raises `TrainingStopped` if the step suppressed its update, after it has reset the statistics."""
        bad_terms = [f"{name} is {terms[name]}" for name in TERMS if not math.isfinite(terms[name])]
        bad_rows = np.flatnonzero(result["bad_gradients"].numpy())
        if not bad_terms and not len(bad_rows):
            return
        self.run.trainer.restore_statistics(result["statistics"])
        variables = self.run.trainer.network.trainable_variables
        bad_gradients = [variables[row].path for row in bad_rows]
        what = f"loss term {', '.join(bad_terms)}" if bad_terms else "the loss is finite"
        if bad_gradients:
            more = f" and {len(bad_gradients) - 3} more" if len(bad_gradients) > 3 else ""
            what += f"; the gradient of {', '.join(bad_gradients[:3])}{more} is not finite"
        indices = np.concatenate(
            [part.numpy() for part in self.run.strategy.experimental_local_results(batch["image_indices"])]
        )
        images = ", ".join(self.run.train_set.image_ids[index] for index in indices)
        raise TrainingStopped(
            f"step {step + 1}: {what}. The weights were not changed. Images: {images}. "
            "A lower training.learning_rate, a longer training.warmup or training.gradient_clip_norm may help"
        )

    def _validate(self, done: int, stop: StopRequest, told_to_stop: bool) -> tuple[bool, bool]:
        """Measures the network on the validation set, and shows detections in TensorBoard.

        Returns:
            Whether all workers have finished the validation, and whether any was told to stop. Without the
            first, nothing has changed.
        """
        run = self.run

        def is_told() -> bool:
            return told_to_stop or stop.requested is not None

        with run.workers.stepping(False):
            result, finished, told_to_stop = measure(
                run.validation_replicas, run.config, run.validation_set, is_told, run.workers
            )
        if not finished:
            return False, told_to_stop
        if result is not None:
            # If the set has no objects, there is no mean, and no weights are better than others.
            mean_ap, best = result.mean_ap, self.state.best
            is_new_best = mean_ap is not None and (best is None or mean_ap > best["mAP"])
            without_gain = 0 if is_new_best else self.state.without_gain + 1
            if is_new_best:
                best = {"mAP": mean_ap, "step": done, "measured_by": measured_by(run.config)}
                best["data"] = run.validation_facts
                self._save_weights(self.folder.best_weights, done)
            self.state = dataclasses.replace(self.state, best=best, without_gain=without_gain)
            self.progress.validation(done, result, is_new_best)
            for note in result.notes:
                self.progress.say(f"note: {note}")
        if run.writes:
            draw_curves(self.folder.log_entries(), self.folder.curves)
            shown = run.validation_set or run.train_set
            pictures = detection_pictures(run.detector, shown)
            self.progress.pictures(done, "detections", contact_sheet(pictures)[None])
        self.progress.restart_clock()
        return True, told_to_stop

    def _save_weights(self, file: Path, step: int) -> None:
        """Writes the network's weights, or their average with `training.ema_decay`."""
        if not self.run.writes:
            return
        try:
            with averaged(self.run.trainer.average):
                save_weights(self.run.trainer.network, file)
        except OSError as error:
            raise TrainingStopped(
                f"weights of step {step} cannot be written to {file}: {error.strerror or error}"
            ) from None
