"""The training loop: data, steps, validation and checkpoints of a run."""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config, with_classes
from refinedet_tf.config_files import load_config
from refinedet_tf.data.acceptance import check_empty_classes, check_share_of_bad_boxes
from refinedet_tf.data.box_checks import write_defects
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import explain_failure, training_images
from refinedet_tf.drawing import contact_sheet
from refinedet_tf.errors import InputError, TrainingStopped, shortened, shortened_text
from refinedet_tf.files import explain_os_errors
from refinedet_tf.inference.detector import Detector
from refinedet_tf.losses import TERMS
from refinedet_tf.model import build_model
from refinedet_tf.precision import apply_precision
from refinedet_tf.run_folder import RunFolder, is_step
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.agreement import agree_on_weights, check_same_run, join_workers
from refinedet_tf.training.averaging import averaged
from refinedet_tf.training.best import comparable_best, is_best, measured_by
from refinedet_tf.training.checkpoints import Checkpoints
from refinedet_tf.training.cluster import read_cluster
from refinedet_tf.training.curves import draw_curves
from refinedet_tf.training.freezing import freeze_layers
from refinedet_tf.training.lock import RunLock
from refinedet_tf.training.log import ProgressLog
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.pictures import batch_picture, detection_pictures, save_picture
from refinedet_tf.training.schedule import check_schedule, in_steps
from refinedet_tf.training.stop import StopRequest
from refinedet_tf.training.strategy import distributed_batches, is_chief, make_strategy
from refinedet_tf.training.sums import sums_in_fixed_order
from refinedet_tf.training.trainer import COUNTS, RefineDetTrainer
from refinedet_tf.training.validation import measure
from refinedet_tf.training.validation_loss import ValidationLoss, measure_loss
from refinedet_tf.training.workers import Workers
from refinedet_tf.weights import InitialWeights, load_initial_weights, save_weights

STEP_INPUTS = ("images", "boxes", "labels")
"""What the training step takes of a batch."""


def train(config: Config, output: str | Path, resume: bool = False, strict: bool = False) -> RunFolder:
    """Trains from the config's initial weights, or continues a run that stopped.

    Args:
        config: the experiment.
        output: the run folder (`RunFolder` describes its files).
        resume: whether to continue from the newest checkpoint. The resulting weights are exactly those
            of a run that did not stop. Neither a file nor a download of `model.weights` is needed then.
            A run that has no checkpoint yet starts from the beginning, with the given config.
        strict: whether to fail on an unusable box instead of dropping it.

    Returns:
        The run folder.

    Raises:
        InputError: the config, the data, the weights or the folder are wrong, or another process trains into
            the folder. Nothing has been written then, unless an image proves unusable after the first batch.
        TrainingStopped: a loss or gradient is not finite, a file cannot be written, or the process was
            told to stop; in the last case there is a checkpoint.
    """
    image_size = config.model.image_size
    if image_size is None:
        raise InputError("model.image_size is null: training needs a size, e.g. [320, 320]")
    keras.utils.set_random_seed(config.training.seed)
    apply_precision(config.training)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    cluster = read_cluster() if config.training.strategy == "multi_worker" else None
    folder = RunFolder(output)
    with Workers(cluster) as workers:
        with RunLock(folder.path, needed=workers.index == 0) as lock, sums_in_fixed_order():
            if workers.index == 0:
                folder.check(resume)
            run = _Run(config, image_size, folder, lock, workers, resume, strict)
            with StopRequest() as stop:
                run.steps(stop)
        workers.exchange("finished")
    return folder


class _Run:
    """The part of one process in a run."""

    def __init__(
        self,
        config: Config,
        image_size: tuple[int, int],
        folder: RunFolder,
        lock: RunLock,
        workers: Workers,
        resume: bool,
        strict: bool,
    ) -> None:
        """Checks and loads everything that the first step needs, and only then writes the first file."""
        self.folder, self.workers = folder, workers
        self.train_set = read_dataset(config.data, "train", strict)
        training_config = in_steps(config.training, max(len(self.train_set), 1))
        check_schedule(training_config)
        config = dataclasses.replace(config, training=training_config)
        self.config = with_classes(config, self.train_set.class_names)
        has_validation = bool(config.data.validation)
        if training_config.patience is not None and not has_validation:
            raise InputError("training.patience needs data.validation, which names no part")
        self.validation_set = read_dataset(config.data, "validation", strict) if has_validation else None
        step = max(folder.saved_steps(), default=0) if resume else 0
        self.notes = self._check_data(config, is_new=not step)
        sets = {"training set": self.train_set, "validation set": self.validation_set}
        step_fact = {"the last step in --output, which workers must share,": step}
        join_workers(workers, self.config, sets, step_fact)  # This comes before anything is written.
        with workers.starting_tensorflow():
            self.strategy = make_strategy(config)
        self.writes = is_chief(self.strategy)
        self.initial_weights: InitialWeights | None = None
        self.frozen: list[str] = []
        if step and folder.config.is_file():
            check_same_run(load_config(folder.config), self.config)
        anchors = tile_anchors(image_size, config.model.anchors)
        self.trainer = self._build_trainer(anchors)
        self.detector = Detector(self.trainer.network, self.config)
        self.validation_loss = None
        if self.validation_set is not None:
            self.validation_loss = ValidationLoss(
                self.trainer.network, anchors, self.config, self.validation_set
            )
        self.checkpoints = Checkpoints(folder.checkpoints, self.trainer, self.writes)
        state = self._restore_or_initialize(resume)
        agree_on_weights(workers, state, self.checkpoints.all_variables)
        self.start, self.best = state["step"], state["best"]
        self.validation_is_due = state.get("validation_is_due", False)
        self.without_gain = state.get("without_gain", 0)
        self._open_batches()
        if self.writes:
            lock.take()
            folder.create(self.config, resume)
        self.progress = ProgressLog(folder, self.config, self.start, self.writes, self.validation_is_due)
        self._describe()
        self.best, changed = comparable_best(self.best, self.config)
        if changed:
            self.without_gain = 0
            self.progress.say(changed)

    def _check_data(self, config: Config, is_new: bool) -> list[str]:
        """Checks what the config must accept of the data; returns lines for the terminal."""
        check_share_of_bad_boxes(self.train_set, config.data, "train")
        if self.validation_set is not None:
            check_share_of_bad_boxes(self.validation_set, config.data, "validation")
        # The config of a run names the classes, whoever found them.
        note = check_empty_classes(self.train_set, config.data) if is_new else None
        return [note] if note else []

    def _open_batches(self) -> None:
        """Makes the training batches and waits for the first, since its images may be unusable."""
        self.distributed = distributed_batches(self.strategy, self.train_set, self.config, self.start)
        self.batches = iter(self.distributed)
        self.first_batch: Mapping[str, Any] | None = None
        if self.start < self.config.training.steps:
            self.first_batch = self._next_batch(self.batches, self.start)

    def _build_trainer(self, anchors: np.ndarray) -> RefineDetTrainer:
        with self.strategy.scope():
            network = build_model(self.config)
            self.frozen = freeze_layers(network, self.config.training.freeze)
            trainer = RefineDetTrainer(network, anchors, self.config)
            optimizer = CaffeSGD.from_training(self.config.training)
            optimizer.build(network.trainable_variables)
            trainer.compile(optimizer=optimizer)
        return trainer

    def _restore_or_initialize(self, resume: bool) -> dict[str, Any]:
        """Loads the newest checkpoint or, if there is none, the initial weights; returns the loop's state."""
        state = self.checkpoints.restore_latest() if resume else None
        if state is None:
            self.initial_weights = load_initial_weights(self.trainer.network, self.config.model)
            if self.trainer.average is not None:
                self.trainer.average.restart()
            return {"step": 0, "best": None}
        file = self.folder.checkpoints / f"step-{state['step']}" / "state.json"
        if not is_best(state.get("best", "missing")):
            raise InputError(
                f'{file}: "best" must be null or hold mAP and step, got {shortened(state.get("best"))}; '
                "remove that checkpoint to continue from the one before"
            )
        if not isinstance(state.get("validation_is_due", False), bool):
            raise InputError(
                f'{file}: "validation_is_due" must be true or false, got '
                f"{shortened(state['validation_is_due'])}; remove that checkpoint to continue from the one "
                "before"
            )
        if not is_step(state.get("without_gain", 0)):
            raise InputError(
                f'{file}: "without_gain" must be a number of validations, got '
                f"{shortened(state['without_gain'])}; remove that checkpoint to continue from the one before"
            )
        return state

    @property
    def patience_is_over(self) -> bool:
        """Whether so many validations in a row were no better than the best one that the run ends."""
        patience = self.config.training.patience
        return patience is not None and self.without_gain >= patience

    def steps(self, stop: StopRequest) -> None:
        """Runs all remaining steps, or fewer if `stop` is requested."""
        training_config = self.config.training
        if self.validation_is_due:
            self._after_step(self.start, stop, told_to_stop=False)
        if self.patience_is_over:
            if not self.folder.final_weights.is_file():
                self._save_weights(self.folder.final_weights, self.start)
            self._say_patience_is_over(self.start)
            return
        element_spec = self.distributed.element_spec
        step_function = self._compiled_step({name: element_spec[name] for name in STEP_INPUTS})
        self.progress.restart_clock()
        for step in range(self.start, training_config.steps):
            waiting = time.perf_counter()
            batch, self.first_batch = self.first_batch, None
            if batch is None:
                batch = self._next_batch(self.batches, step)
            data_seconds = time.perf_counter() - waiting
            if step == self.start and self.writes:
                local = tf.nest.map_structure(lambda value: self._local(value).numpy(), batch)
                save_picture(batch_picture(local, self.train_set.class_names), self.folder.augmented)
            learning_rate = float(self.trainer.optimizer.learning_rate)
            told = tf.constant(float(stop.requested is not None))
            result = step_function({name: batch[name] for name in STEP_INPUTS}, told)
            terms = {name: float(result[name]) for name in (*TERMS, *COUNTS)}
            self._stop_if_not_finite(step, terms, result, batch)
            done = step + 1
            self.progress.step(done, terms, learning_rate, data_seconds)
            self._after_step(done, stop, told_to_stop=float(result["told_to_stop"]) > 0)
            if self.patience_is_over:
                self._say_patience_is_over(done)
                return
        if self.start >= training_config.steps:
            self.progress.say(f"all {training_config.steps} steps are done already")

    def _after_step(self, done: int, stop: StopRequest, told_to_stop: bool) -> None:
        """Validates and saves as the config says after `done` steps.

        `told_to_stop` says whether any worker was told so before the step, which all of them know.

        Raises:
            TrainingStopped: `stop` was requested before or during the validation, there is a checkpoint,
                and something is left to do.
        """
        training_config = self.config.training
        last = done == training_config.steps
        validation_is_due = last or done % training_config.validate_every == 0 or self.validation_is_due
        if validation_is_due:
            self.workers.told_to_stop |= told_to_stop
            finished_validation, told_to_stop = self._validate(done, stop)
            validation_is_due = not finished_validation
        finished = last or self.patience_is_over
        if finished and not validation_is_due:
            # This comes before the checkpoint, after which a resumed run would have nothing left to do.
            self._save_weights(self.folder.final_weights, done)
        self.validation_is_due = validation_is_due
        # It is read once, since a signal that comes later must not name a checkpoint that does not exist.
        stopped_by = stop.requested
        if not self.workers.alone:
            # All workers must stop after the same step, so a signal counts when all of them know of it.
            stopped_by = (stopped_by or "a signal to another worker") if told_to_stop else None
        if finished or stopped_by or validation_is_due or done % training_config.checkpoint_every == 0:
            self.checkpoints.save(
                done,
                {
                    "best": self.best,
                    "validation_is_due": validation_is_due,
                    "without_gain": self.without_gain,
                },
            )
            self.progress.restart_clock()
        if stopped_by and (validation_is_due or not finished):
            self.workers.exchange("saved")
            left = ", before its validation was finished" if validation_is_due else ""
            raise TrainingStopped(f"stopped by {stopped_by} after step {done}{left}; continue with --resume")

    def _say_patience_is_over(self, done: int) -> None:
        """Says after which step the run ended, and which validation was the best."""
        patience = self.config.training.patience
        best = self.best
        reached = f"the best is {best['mAP']:.4f} at step {best['step']}" if best else "there is no best one"
        self.progress.say(
            f"ended after step {done} of {self.config.training.steps}: {self.without_gain} validations in a "
            f"row have not exceeded the best mAP (training.patience {patience}); {reached}"
        )

    def _compiled_step(self, batch_spec: Mapping[str, Any]) -> Callable[..., dict[str, Any]]:
        """Returns the training step of all replicas, a function of the arguments of `train_step`.

        With the specification of the batches, which leaves the number of objects open, the step is traced
        once and not for each number.
        """
        replica_step = self.trainer.train_step
        if self.config.training.jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True)

        @tf.function(input_signature=[batch_spec, tf.TensorSpec([], tf.float32)])
        def step(batch: Mapping[str, Any], told_to_stop: Tensor) -> dict[str, Any]:
            result = self.strategy.run(replica_step, args=(batch, told_to_stop))
            return tf.nest.map_structure(self._local, result)

        return step

    def _local(self, value: Any) -> Tensor:
        """Returns the value of the first replica of this process from a value per replica."""
        return self.strategy.experimental_local_results(value)[0]

    def _next_batch(self, batches: Iterator[Mapping[str, Any]], step: int) -> Mapping[str, Any]:
        try:
            return next(batches)
        except tf.errors.OpError as error:
            candidates = training_images(self.train_set, self.config, step)
            raise explain_failure(self.train_set, error, candidates) from None

    def _stop_if_not_finite(
        self, step: int, terms: dict[str, float], result: dict[str, Any], batch: Mapping[str, Any]
    ) -> None:
        """Raises `TrainingStopped` if the step suppressed its update, after it has reset the statistics."""
        bad_terms = [f"{name} is {terms[name]}" for name in TERMS if not math.isfinite(terms[name])]
        bad_rows = np.flatnonzero(result["bad_gradients"].numpy())
        if not bad_terms and not len(bad_rows):
            return
        self.trainer.restore_statistics(result["statistics"])
        variables = self.trainer.network.trainable_variables
        bad_gradients = [variables[row].path for row in bad_rows]
        what = f"loss term {', '.join(bad_terms)}" if bad_terms else "the loss is finite"
        if bad_gradients:
            more = f" and {len(bad_gradients) - 3} more" if len(bad_gradients) > 3 else ""
            what += f"; the gradient of {', '.join(bad_gradients[:3])}{more} is not finite"
        indices = np.concatenate(
            [part.numpy() for part in self.strategy.experimental_local_results(batch["image_indices"])]
        )
        images = ", ".join(self.train_set.image_ids[index] for index in indices)
        raise TrainingStopped(
            f"step {step + 1}: {what}. The weights were not changed. Images: {images}. "
            "A lower training.learning_rate, more warmup_steps or gradient_clip_norm may help"
        )

    def _validate(self, done: int, stop: StopRequest) -> tuple[bool, bool]:
        """Measures the network on the validation set, and shows detections in TensorBoard.

        With `training.ema_decay`, the averaged weights are measured.

        Returns:
            Whether all workers have finished the validation, and whether any was told to stop. Without the
            first, nothing has changed.
        """
        with averaged(self.trainer.average):
            return self._validate_network(done, stop)

    def _validate_network(self, done: int, stop: StopRequest) -> tuple[bool, bool]:
        """Does what `_validate` does with the values that the network has now."""
        result, finished, told_to_stop = measure(
            self.trainer.network, self.config, self.validation_set, stop, self.workers
        )
        if not finished:
            return False, told_to_stop
        if result is not None and self.validation_loss is not None:
            loss_terms, told_to_stop = measure_loss(self.validation_loss, stop, self.workers)
            if loss_terms is None:
                return False, told_to_stop
            # If the set has no objects, there is no mean, and no weights are better than others.
            mean_ap = result.mean_ap
            is_new_best = mean_ap is not None and (self.best is None or mean_ap > self.best["mAP"])
            self.without_gain = 0 if is_new_best else self.without_gain + 1
            if is_new_best:
                self.best = {"mAP": mean_ap, "step": done, "measured_by": measured_by(self.config)}
                self._write_weights(self.folder.best_weights, done)
            self.progress.validation(done, mean_ap, result.class_ap, loss_terms, is_new_best)
        if self.writes:
            draw_curves(self.folder.log_entries(), self.folder.curves)
            shown = self.validation_set or self.train_set
            pictures = detection_pictures(self.detector, shown)
            self.progress.pictures(done, "detections", contact_sheet(pictures)[None])
        self.progress.restart_clock()
        return True, told_to_stop

    def _save_weights(self, file: Path, step: int) -> None:
        """Writes the network's weights, or their average with `training.ema_decay`."""
        with averaged(self.trainer.average):
            self._write_weights(file, step)

    def _write_weights(self, file: Path, step: int) -> None:
        """Writes the values that the network has now."""
        if not self.writes:
            return
        try:
            save_weights(self.trainer.network, file)
        except OSError as error:
            raise TrainingStopped(
                f"weights of step {step} cannot be written to {file}: {error.strerror or error}"
            ) from None

    def _describe(self) -> None:
        """Prints the model, its initial weights and the data; lists weights and bad boxes in files."""
        defects = self.train_set.defects
        say = self.progress.say
        say(
            f"{self.config.name}: {self.config.model.backbone}, "
            f"{self.trainer.network.count_params():,} parameters, {len(self.trainer.anchors):,} anchors, "
            f"{self.config.num_classes} classes, "
            f"{self.strategy.num_replicas_in_sync} replica(s)"
        )
        say(
            f"training images: {len(self.train_set)}, objects: {len(self.train_set.labels)}; "
            f"{defects.summary()}"
        )
        if defects.issues and self.writes:
            write_defects(defects, self.folder.box_defects)
            say(f"these boxes are listed in {self.folder.box_defects}")
        for note in self.notes:
            say(note)
        self._describe_weights()
        if self.start:
            say(f"continuing after step {self.start}")
        elif self.config.model.backbone == "vgg16" and self.config.model.weights is None:
            say(
                "note: VGG-16 starts from random weights; published results start from ImageNet's "
                "(--set model.weights=FILE)"
            )

    def _describe_weights(self) -> None:
        """Prints what the initial weights are and which layers keep them, and lists all in a file."""
        say, initial, network = self.progress.say, self.initial_weights, self.trainer.network
        if initial is not None:
            for line in initial.summary:
                say(line)
            if self.writes:
                text = "\n".join([*initial.summary, "", *initial.details, ""])
                with explain_os_errors(self.folder.initial_weights):
                    self.folder.initial_weights.write_text(text, encoding="utf-8")
        if not self.frozen:
            return
        trained = sum(math.prod(variable.shape) for variable in network.trainable_variables)
        say(
            f"training {trained:,} of {network.count_params():,} parameters; {len(self.frozen)} layers are "
            f"frozen (training.freeze {shortened(self.config.training.freeze)})"
        )
        filled = () if initial is None else initial.layers
        random = [name for name in self.frozen if name.partition("/")[0] not in filled]
        if random and not self.start:
            say(f"note: frozen layers with random weights: {shortened_text(', '.join(random))}")
