"""The files in the folder of a training run."""

import json
import os
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config_files import config_to_json
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors, write_aside


class RunFolder:
    """The paths of a run, its config file and its log.

    ```
    config.json            the resolved config, including the class names
    log.jsonl              one JSON object per logged step or validation
    dropped_boxes.txt      annotated boxes that could not be used, if there are any
    augmented.png          one augmented training batch
    tensorboard/           scalars and pictures of detections
    checkpoints/step-N/    everything that --resume needs
    best.weights.h5        the weights of the best validation so far
    final.weights.h5       the weights after the last step
    ```

    Args:
        path: the run folder, which need not exist.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.log = self.path / "log.jsonl"
        self.dropped_boxes = self.path / "dropped_boxes.txt"
        self.augmented = self.path / "augmented.png"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.best_weights = self.path / "best.weights.h5"
        self.final_weights = self.path / "final.weights.h5"

    def create(self, config: Config, resume: bool) -> None:
        """Makes the folder and writes the config.

        Args:
            config: the run's config with its class names.
            resume: whether the folder may hold an earlier part of the run.

        Raises:
            InputError: the folder cannot be written, or it is not empty and `resume` is false.
        """
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()) and not resume:
                raise InputError(
                    f"{self.path} is not empty: continue that run with --resume, or name another --output"
                )
            write_aside(self.config, lambda file: file.write_text(config_to_json(config), encoding="utf-8"))

    def trained_weights(self) -> Path:
        """Returns the weights to use: those of the best validation, or the final ones without validation.

        Raises:
            InputError: the run has written no weights yet.
        """
        for file in (self.best_weights, self.final_weights):
            if file.is_file():
                return file
        raise InputError(f"{self.path} holds no weights yet (best.weights.h5 or final.weights.h5)")

    def best_validation(self) -> dict | None:
        """Returns the log's entry of the validation that chose `best_weights`.

        Returns:
            {"step", "validation": {"mAP", "AP", "best"}}, or None if no validation has chosen weights.
        """
        if not self.best_weights.is_file():
            return None
        best = [entry for entry in self.log_entries() if entry.get("validation", {}).get("best")]
        return best[-1] if best else None

    def log_entries(self) -> list[dict]:
        """Returns the entries of the log; the list is empty if there is no log.

        A line that is not valid JSON, because the process was killed while it wrote, is left out.
        """
        if not self.log.is_file():
            return []
        entries = map(_parse, self.log.read_text(encoding="utf-8").splitlines())
        return [entry for entry in entries if entry is not None]


def _parse(line: str) -> dict | None:
    """Returns an entry of the log, or None if the line is not valid JSON."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
