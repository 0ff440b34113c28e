"""A whole training run: data, steps, validation, checkpoints."""

import math
import signal
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.anchors import tile_anchors
from refinedet_tf.config import Config, differences, with_classes
from refinedet_tf.config_files import load_config
from refinedet_tf.data.box_checks import write_defects
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.pipeline import explain_failure, training_images
from refinedet_tf.drawing import contact_sheet
from refinedet_tf.errors import InputError, TrainingStopped
from refinedet_tf.evaluation.evaluator import evaluate
from refinedet_tf.inference.detector import Detector
from refinedet_tf.losses import TERMS
from refinedet_tf.model import build_model
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training.checkpoints import Checkpoints
from refinedet_tf.training.log import ProgressLog
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.pictures import batch_picture, detection_pictures, save_picture
from refinedet_tf.training.strategy import distributed_batches, is_chief, make_strategy
from refinedet_tf.training.trainer import COUNTS, RefineDetTrainer
from refinedet_tf.weights import load_initial_weights, save_weights

FREE_ON_RESUME = (
    "name",
    "description",
    "command",
    "expected",
    "data.root",
    "data.validation",
    "data.test",
    "training.steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.validate_every",
    "evaluation",
    "postprocess",
)
"""What a resumed run may change without becoming another run."""


def train(config: Config, output: str | Path, resume: bool = False, strict: bool = False) -> RunFolder:
    """Trains from the config's initial weights, or goes on where a run stopped.

    Args:
        config: the experiment.
        output: the run folder (`RunFolder` says what lies there).
        resume: continue from the newest checkpoint, exactly: the same weights as without the stop.
            A run that has no checkpoint yet starts from the beginning.
        strict: fail on an unusable box instead of dropping it.

    Returns:
        The run folder.

    Raises:
        InputError: config, data or folder are wrong.
        TrainingStopped: a loss or gradient is not finite, a checkpoint cannot be written, or the
            process was told to stop (then there is a checkpoint).
    """
    if config.model.image_size is None:
        raise InputError("model.image_size is null: training needs a size, e.g. [320, 320]")
    keras.utils.set_random_seed(config.training.seed)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    strategy = make_strategy(config)
    run = _Run(config, RunFolder(output), strategy, resume, strict)
    with _StopRequest() as stop:
        run.steps(stop)
    return run.folder


class _Run:
    """One process' part in a run."""

    def __init__(self, config, folder, strategy, resume, strict):
        self.folder, self.strategy, self.writes = folder, strategy, is_chief(strategy)
        self.train_set = read_dataset(config.data, "train", strict)
        self.config = config = with_classes(config, self.train_set.class_names)
        self.validation_set = None
        if config.data.validation:
            self.validation_set = read_dataset(config.data, "validation", strict)
        if resume and folder.config.is_file():
            _check_same_run(load_config(folder.config), config)
        if self.writes:
            folder.create(config, resume)

        with strategy.scope():
            network = build_model(config)
            self.trainer = RefineDetTrainer(network, tile_anchors(config.model.image_size), config)
            optimizer = CaffeSGD.from_training(config.training)
            optimizer.build(network.trainable_variables)
            self.trainer.compile(optimizer=optimizer)
        self.detector = Detector(network, config)
        self.checkpoints = Checkpoints(folder.checkpoints, self.trainer, self.writes)
        state = self.checkpoints.restore_latest() if resume else None
        if state is None:
            load_initial_weights(network, config.model)
            state = {"step": 0, "best": None}
        self.start, self.best = state["step"], state["best"]
        self.progress = ProgressLog(folder, config, self.start, self.writes)
        self._describe(network)

    def steps(self, stop):
        """Runs all remaining steps."""
        training = self.config.training
        batches = iter(distributed_batches(self.strategy, self.train_set, self.config, self.start))
        step_function = self._compiled_step()
        self.progress.restart_clock()
        for step in range(self.start, training.steps):
            waiting = time.perf_counter()
            batch = self._next_batch(batches, step)
            data_seconds = time.perf_counter() - waiting
            if step == self.start and self.writes:
                local = tf.nest.map_structure(lambda value: self._local(value).numpy(), batch)
                save_picture(batch_picture(local, self.config.data.classes), self.folder.augmented)
            learning_rate = float(self.trainer.optimizer.learning_rate)
            result = step_function({name: batch[name] for name in ("images", "boxes", "labels")})
            terms = {name: float(result[name]) for name in (*TERMS, *COUNTS)}
            self._stop_if_not_finite(step, terms, result, batch)
            done = step + 1
            self.progress.step(done, terms, learning_rate, data_seconds)
            # Read once: a signal that comes during a validation waits for the checkpoint of the next step.
            stopped_by = stop.requested
            self._after_step(done, last=done == training.steps or stopped_by)
            if stopped_by and done < training.steps:
                raise TrainingStopped(f"stopped by {stopped_by} after step {done}; continue with --resume")
        if self.start >= training.steps:
            self.progress.say(f"all {training.steps} steps are done already")

    def _after_step(self, done, last):
        training = self.config.training
        finished = done == training.steps
        if finished or done % training.validate_every == 0:
            self._validate(done)
        if finished:
            # Before the checkpoint, after which a resumed run would find nothing left to do.
            self._save_weights(self.folder.final_weights, done)
        if last or done % training.checkpoint_every == 0:
            self.checkpoints.save(done, {"best": self.best})
            self.progress.restart_clock()

    def _compiled_step(self):
        replica_step = self.trainer.train_step
        if self.config.training.jit_compile:
            replica_step = tf.function(replica_step, jit_compile=True)

        @tf.function
        def step(batch):
            result = self.strategy.run(replica_step, args=(batch,))
            return tf.nest.map_structure(self._local, result)

        return step

    def _local(self, value):
        """Of a value per replica, the first one's in this process."""
        return self.strategy.experimental_local_results(value)[0]

    def _next_batch(self, batches, step):
        try:
            return next(batches)
        except tf.errors.OpError as error:
            candidates = training_images(self.train_set, self.config, step)
            raise explain_failure(self.train_set, error, candidates) from None

    def _stop_if_not_finite(self, step, terms, result, batch):
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

    def _validate(self, done):
        if self.validation_set is not None:
            result = evaluate(self.trainer.network, self.config, self.validation_set)
            # Without any object to find the mean is not a number, and no weights are better than others.
            mean_ap = None if math.isnan(result.mean_ap) else result.mean_ap
            is_best = mean_ap is not None and (self.best is None or mean_ap > self.best["mAP"])
            if is_best:
                self.best = {"mAP": mean_ap, "step": done}
                self._save_weights(self.folder.best_weights, done)
            class_ap = {name: None if math.isnan(one.ap) else one.ap for name, one in result.classes.items()}
            self.progress.validation(done, mean_ap, class_ap, is_best)
        if self.writes:
            shown = self.validation_set or self.train_set
            pictures = detection_pictures(self.detector, shown)
            self.progress.pictures(done, "detections", contact_sheet(pictures)[None])
        self.progress.restart_clock()

    def _save_weights(self, file, step):
        # Every worker reads its variables, which may take all of them; only one keeps the file.
        if not self.writes:
            self.trainer.network.get_weights()
            return
        try:
            save_weights(self.trainer.network, file)
        except OSError as error:
            raise TrainingStopped(
                f"weights of step {step} cannot be written to {file}: {error.strerror or error}"
            ) from None

    def _describe(self, network):
        data, defects = self.train_set, self.train_set.defects
        say = self.progress.say
        say(
            f"{self.config.name}: {self.config.model.backbone}, {network.count_params():,} parameters, "
            f"{len(self.trainer.anchors):,} anchors, {self.config.num_classes} classes, "
            f"{self.strategy.num_replicas_in_sync} replica(s)"
        )
        say(f"training images: {len(data)}, objects: {len(data.labels)}; {defects.summary()}")
        if defects.issues and self.writes:
            write_defects(defects, self.folder.dropped_boxes)
            say(f"unusable boxes are listed in {self.folder.dropped_boxes}")
        if self.start:
            say(f"continuing after step {self.start}")
        elif self.config.model.backbone == "vgg16" and self.config.model.weights is None:
            say(
                "note: VGG-16 starts from random weights; published results start from ImageNet's "
                "(--set model.weights=FILE)"
            )


class _StopRequest:
    """Turns SIGTERM and SIGINT into a request that the loop obeys after the step in progress."""

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self):
        self.requested = None
        try:
            self.before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        except ValueError:
            self.before = {}  # Not the main thread: signals are somebody else's business.
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, _):
        self.requested = signal.Signals(number).name


def _check_same_run(stored: Config, given: Config) -> None:
    changed = [
        f"{key} was {old!r}, is {new!r}"
        for key, (old, new) in differences(stored, given).items()
        if not any(key == free or key.startswith(f"{free}.") for free in FREE_ON_RESUME)
    ]
    if changed:
        raise InputError(f"--resume with another config: {'; '.join(changed)}; start a new --output")
