"""Reports of a running training: lines on the terminal, a JSON log, TensorBoard."""

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.progress import format_duration
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training.validation import Validation


class ProgressLog:
    """Writes progress to the terminal, `log.jsonl` and TensorBoard.

    Args:
        folder: the run's folder.
        config: the run's config.
        start_step: the number of steps that were done before. Entries of later steps are removed from
            the log, because these steps are done again.
        writes: false for the workers that only compute.
        validation_is_due: whether the validation of `start_step` is done again, too.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        start_step: int,
        writes: bool = True,
        validation_is_due: bool = False,
    ) -> None:
        self.training_config = config.training
        # Both may change on a resume, so every entry says what its numbers are.
        self.measured_by = {"metric": config.evaluation.metric, "data": list(config.data.validation)}
        self.writes = writes
        if not writes:
            return
        self.file = folder.log
        folder.cut_log(start_step, last_validation=start_step - validation_is_due)
        self.writer = tf.summary.create_file_writer(str(folder.tensorboard))
        self.restart_clock()

    def restart_clock(self) -> None:
        """Excludes the time since the last logged step, such as a validation, from the measured speed."""
        self.started = time.perf_counter()
        self.steps, self.data_seconds = 0, 0.0

    def step(self, step: int, terms: dict[str, float], learning_rate: float, data_seconds: float) -> None:
        """Notes a finished step, and reports it if it is the last or a multiple of `training.log_every`.

        `terms` are the loss terms and numbers of positives, and `data_seconds` is the wait for the batch.
        """
        if not self.writes:
            return
        self.steps += 1
        self.data_seconds += data_seconds
        if step % self.training_config.log_every and step != self.training_config.steps:
            return
        seconds = time.perf_counter() - self.started
        speed = self.steps * self.training_config.batch_size / seconds
        left = (self.training_config.steps - step) * seconds / self.steps
        entry = {
            "step": step,
            "loss": sum(terms[name] for name in TERMS),
            **terms,
            "learning_rate": learning_rate,
            "images_per_second": round(speed, 2),
            "data_wait": round(self.data_seconds / seconds, 4),
            "seconds_left": round(left, 1),
        }
        parts = " ".join(f"{name} {terms[name]:.3f}" for name in TERMS)
        self.say(
            f"step {step}/{self.training_config.steps}  loss {entry['loss']:.3f} ({parts})  "
            f"lr {learning_rate:.2e}  {speed:.1f} images/s (waiting for data {entry['data_wait']:.0%})  "
            f"left {format_duration(left)}"
        )
        self._append(entry)
        scalars = {f"loss/{name}": terms[name] for name in TERMS}
        scalars |= {name: entry[name] for name in ("loss", "learning_rate", "images_per_second")}
        self._scalars(step, scalars)
        self.restart_clock()

    def validation(self, step: int, result: Validation, is_best: bool) -> None:
        """Reports a validation."""
        if not self.writes:
            return
        mean_ap, class_ap, loss_terms = result.mean_ap, result.class_ap, result.loss_terms

        def shown(ap: float | None) -> str:
            return "-" if ap is None else f"{ap:.4f}"

        per_class = "  ".join(f"{name} {shown(ap)}" for name, ap in class_ap.items())
        best = " (best so far)" if is_best else ""
        loss = sum(loss_terms.values())
        self.say(f"validation at step {step}: mAP {shown(mean_ap)}{best}  loss {loss:.3f}  {per_class}")
        entry = {"mAP": mean_ap, "AP": class_ap, "best": is_best, "loss": loss, "loss_terms": loss_terms}
        self._append({"step": step, "validation": {**entry, **self.measured_by}})
        scalars = {"validation/mAP": mean_ap} | {f"validation/AP/{name}": ap for name, ap in class_ap.items()}
        scalars |= {"validation/loss": loss}
        scalars |= {f"validation/loss/{name}": value for name, value in loss_terms.items()}
        self._scalars(step, {name: ap for name, ap in scalars.items() if ap is not None})

    def pictures(self, step: int, name: str, images: np.ndarray) -> None:
        """Writes images, uint8 [N, H, W, 3], to TensorBoard under the given name."""
        if self.writes:
            with self.writer.as_default(step):
                tf.summary.image(name, images, max_outputs=len(images))

    def say(self, text: str) -> None:
        """Prints one line on the terminal."""
        if self.writes:
            print(text, flush=True)

    def _append(self, entry: Mapping[str, Any]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        with self.writer.as_default(step):
            for name, value in values.items():
                tf.summary.scalar(name, value)
        self.writer.flush()
