"""The files in the folder of a training run."""

import os
import re
import shutil
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from refinedet_tf.config import MAX_STEPS, Config
from refinedet_tf.config.files import config_to_json
from refinedet_tf.errors import InputError, listed, shortened, shortened_text
from refinedet_tf.files import check_utf8, explain_os_errors, is_file, is_folder, write_aside, write_text
from refinedet_tf.json_files import check_tree, parse_json

STEP_FOLDER = re.compile(r"step-(0|[1-9][0-9]{0,17})")
"""The name of the folder of a checkpoint."""

MARK = "A training of refinedet made this folder. Without a checkpoint and weights, it may be begun anew.\n"
"""The content of the file that marks a run folder."""


AveragePrecision = Annotated[float, Field(ge=0, le=1)]
Steps = Annotated[int, Field(ge=0, le=MAX_STEPS)]
"""A number of finished steps."""


class _Validation(BaseModel, strict=True):
    """What the log says of a validation; a set or a class without objects has no average precision."""

    mAP: AveragePrecision | None  # noqa: N815 - the key in the files
    AP: dict[str, AveragePrecision | None]
    loss: float = 0.0
    metric: str = ""
    data: list[str] = []


class _Entry(BaseModel, strict=True):
    step: Steps
    validation: _Validation = _Validation(mAP=None, AP={})


def default_run_folder(name: str) -> str:
    """Returns the run folder of a config of that name: runs/NAME.

    Raises:
        InputError: the name leads to `runs` itself, or out of it.
    """
    folder = f"runs/{name}"
    if Path(os.path.normpath(folder)).parts[:-1][:1] != ("runs",):
        raise InputError(f"the config's name {shortened(name)} names no folder in runs: add --output FOLDER")
    return folder


class RunFolder:
    """The paths of a run, its config file and its log.

    ```
    config.json            the resolved config, including the class names
    log.jsonl              one JSON object per logged step or validation
    initial_weights.txt    what the network took from model.weights and what was new, if it began with any
    box_defects.json       annotated boxes that were dropped or clipped, if there are any
    augmented.png          one augmented training batch
    curves.png             losses, mAP and learning rate over the steps
    tensorboard/           scalars and pictures of detections
    checkpoints/step-N/    everything that --resume needs
    best.weights.h5        the weights of the best validation so far
    final.weights.h5       the weights after the last step
    .lock                  while a process trains: which one
    .refinedet-run         the mark of a run folder
    ```

    The mark is written before everything else, into a folder that holds none of these files, or by a resume.
    So everything of these names in a marked folder comes from runs. The folder need not exist.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.log = self.path / "log.jsonl"
        self.initial_weights = self.path / "initial_weights.txt"
        self.box_defects = self.path / "box_defects.json"
        self.augmented = self.path / "augmented.png"
        self.curves = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"
        self.best_weights = self.path / "best.weights.h5"
        self.final_weights = self.path / "final.weights.h5"
        self.lock = self.path / ".lock"
        self.mark = self.path / ".refinedet-run"

    def saved_steps(self) -> list[int]:
        """Returns the steps of the checkpoints in ascending order."""
        return saved_steps(self.checkpoints)

    def check(self, resume: bool) -> None:
        """Checks that a run may use the folder, and changes nothing.

        With `resume`, it may hold an earlier part of the run, and files of others. What a start leaves that
        ended before its first checkpoint is no obstacle in a folder with the mark.

        Raises:
            InputError: the folder cannot be read; or something else stands in the place of one of its files
                or folders. Without a checkpoint: it holds files of a run, and weights or no mark. Without
                `resume`: it holds a checkpoint, or files of others.
        """
        check_utf8(self.path)
        self._check_kinds()
        with explain_os_errors(self.path):
            try:
                names = {path.name for path in self.path.iterdir()}
            except FileNotFoundError:
                return
        has_checkpoint, is_marked = bool(self.saved_steps()), self.mark.name in names
        if has_checkpoint and not resume:
            raise InputError(
                f"{shortened_text(self.path)} is not empty: continue that run with --resume, or name another "
                "--output"
            )
        if has_checkpoint:
            return
        of_runs = names & {path.name for path in (*self._remains(), self.best_weights, self.final_weights)}
        weights = {name for name in names if name.endswith(".weights.h5")}
        if of_runs and (weights or not is_marked):
            why = "" if weights else f" and no mark of a training ({self.mark.name})"
            raise InputError(
                f"{shortened_text(self.path)} holds {listed(sorted(weights or of_runs))}, but no checkpoint "
                f"to continue from{why}; nothing of it is replaced: name another --output"
            )
        without_value = {self.lock.name, self.mark.name, self.checkpoints.name}
        others = {name for name in names - of_runs - without_value if not name.startswith(".writing-")}
        if others and not resume:
            raise InputError(
                f"{shortened_text(self.path)} is not empty, it holds {listed(sorted(others))}: name another "
                "--output"
            )

    def create(self, config: Config, resume: bool) -> None:
        """Makes the folder, removes what a start without a checkpoint has left, and writes the config.

        Raises:
            InputError: the folder cannot be written, or the reasons are those of `check`.
        """
        self.check(resume)
        with explain_os_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            if not self.saved_steps():
                self._clear()
        if not is_file(self.mark):
            write_text(self.mark, MARK)
        write_text(self.config, config_to_json(config))

    def _remains(self) -> list[Path]:
        """Returns what a run writes before its first checkpoint, without its folder of checkpoints."""
        files = [self.config, self.log, self.initial_weights, self.box_defects, self.augmented, self.curves]
        return [*files, self.tensorboard]

    def _clear(self) -> None:
        for path in self._remains():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def _check_kinds(self) -> None:
        """Refuses anything else in the place of a file or folder, before a training spends hours on it."""
        *files, _ = self._remains()
        files += [self.lock, self.mark, self.best_weights, self.final_weights]
        kinds = [(file, "file", is_file) for file in files]
        kinds += [(folder, "folder", is_folder) for folder in (self.tensorboard, self.checkpoints)]
        for path, kind, is_one in kinds:
            if os.path.lexists(path) and not is_one(path):
                name = shortened_text(path)
                raise InputError(f"{name} is not a {kind}, but a run keeps one there: remove it")

    def trained_weights(self) -> Path:
        """Returns the weights to use: those of the best validation, or the final ones without validation.

        Raises:
            InputError: the run has written no weights yet.
        """
        for file in (self.best_weights, self.final_weights):
            if is_file(file):
                return file
        raise InputError(
            f"{shortened_text(self.path)} holds no weights yet (best.weights.h5 or final.weights.h5)"
        )

    def best_validation(self) -> dict | None:
        """Returns the log's entry of the validation that chose `best_weights`.

        Returns:
            {"step", "validation": {"mAP", "AP", "best", "loss", "loss_terms", "metric", "data"}}, or None if
            no validation has chosen weights. "metric", "data" and the loss are missing where an earlier
            version wrote the log.

        Raises:
            InputError: the log cannot be read.
        """
        if not is_file(self.best_weights):
            return None
        best = [entry for entry in self.log_entries() if entry.get("validation", {}).get("best")]
        return best[-1] if best else None

    def log_entries(self) -> list[dict]:
        """Returns the entries of the log; the list is empty if there is no log.

        A line that is not an entry, because the process was killed while it wrote, is left out.

        Raises:
            InputError: the log cannot be read.
        """
        return [entry for _, entry in self._log_lines()]

    def cut_log(self, last_step: int, last_validation: int) -> None:
        """Removes the entries of later steps and validations from the log, and lines that are not entries.

        Raises:
            InputError: the log cannot be read or written.
        """
        kept = [
            line
            for line, entry in self._log_lines()
            if entry["step"] <= (last_validation if "validation" in entry else last_step)
        ]
        if is_file(self.log):
            with explain_os_errors(self.log):
                write_aside(self.log, lambda file: file.write_bytes(b"".join(kept)))

    def _log_lines(self) -> list[tuple[bytes, dict]]:
        """Returns the lines of the log, each with its line break, and their entries."""
        if not is_file(self.log):
            return []
        with explain_os_errors(self.log, "cannot be read"), self.log.open("rb") as file:
            entries = [(line.rstrip(b"\r\n") + b"\n", _parse(line)) for line in file]
        return [(line, entry) for line, entry in entries if entry is not None]


def saved_steps(folder: Path) -> list[int]:
    """Returns the steps of the checkpoints in a folder, which need not exist, in ascending order."""
    if not folder.is_dir():
        return []
    # A name as "step-007" or "step-²" is none that `Checkpoints.save` gives.
    names = [match[1] for path in folder.iterdir() if (match := STEP_FOLDER.fullmatch(path.name))]
    return sorted(int(name) for name in names if is_folder(folder / f"step-{name}"))


def _parse(line: bytes) -> dict | None:
    """Returns an entry of the log, or None if the line is not an entry."""
    try:
        entry: dict = parse_json(line, "log.jsonl")
        check_tree(entry, _Entry, "log.jsonl")
    except InputError:
        return None
    return entry
