"""What lies where in the folder of one training run."""

import json
import os
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config_files import config_to_json
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors, write_aside


class RunFolder:
    """The paths of a run, and its config file.

    ```
    config.json            the resolved config, class names included
    log.jsonl              one JSON object a logged step or validation
    dropped_boxes.txt      annotated boxes that were not usable, where there are any
    augmented.png          one augmented training batch
    tensorboard/           scalars and drawn detections
    checkpoints/step-N/    all that --resume needs
    best.weights.h5        at the best validation so far
    final.weights.h5       after the last step
    ```
    """

    def __init__(self, path: str | os.PathLike):
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

        Raises:
            InputError: the folder cannot be written, or holds something and `resume` is false.
        """
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if any(self.path.iterdir()) and not resume:
                raise InputError(
                    f"{self.path} is not empty: continue that run with --resume, or name another --output"
                )
            write_aside(self.config, lambda file: file.write_text(config_to_json(config), encoding="utf-8"))

    def trained_weights(self) -> Path:
        """The weights to use: the best by validation, or the last ones where none was made.

        Raises:
            InputError: the run has written no weights yet.
        """
        for file in (self.best_weights, self.final_weights):
            if file.is_file():
                return file
        raise InputError(f"{self.path} holds no weights yet (best.weights.h5 or final.weights.h5)")

    def best_validation(self) -> dict | None:
        """The log's entry of the validation that chose `best_weights`, {"step", "validation": {"mAP",
        "AP", "best"}}; None where none did.
        """
        if not self.best_weights.is_file():
            return None
        best = [entry for entry in self.log_entries() if entry.get("validation", {}).get("best")]
        return best[-1] if best else None

    def log_entries(self) -> list[dict]:
        """The entries of the log, without a line that a kill cut off; empty where there is no log."""
        if not self.log.is_file():
            return []
        entries = map(_parse, self.log.read_text(encoding="utf-8").splitlines())
        return [entry for entry in entries if entry is not None]


def _parse(line: str) -> dict | None:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
