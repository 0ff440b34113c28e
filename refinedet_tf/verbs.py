"""The verbs of the library: a training, its evaluation and its export, as the commands do them."""

import os
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config.files import load_config, run_folder_of
from refinedet_tf.data.acceptance import read_labelled
from refinedet_tf.data.discovery import config_of_folder
from refinedet_tf.evaluation import evaluator
from refinedet_tf.evaluation.results import EvaluationResult
from refinedet_tf.exports.card import validation_of_run
from refinedet_tf.exports.savedmodel import ExportOptions, export_saved_model
from refinedet_tf.files import is_file, is_folder
from refinedet_tf.inference.detector import trained_network
from refinedet_tf.precision import apply_precision
from refinedet_tf.progress import Progress
from refinedet_tf.run_folder import RunFolder, default_run_folder
from refinedet_tf.training import loop


def train(config: Config | str | Path, output: str | Path | None = None, resume: bool = False) -> Path:
    """Trains a detector, with its progress on the terminal.

    Args:
        config: the experiment; or what `load_config` takes, such as a config file; or a folder of annotated
            photographs, see `config_of_folder`.
        output: the run folder (`RunFolder` describes its files); None: runs/NAME of the config.
        resume: whether to continue from the newest checkpoint.

    Returns:
        The run folder, which `evaluate`, `export` and `Detector.load` take.

    Raises:
        InputError: the config, the data, the weights or the folder are wrong.
        TrainingStopped: a loss or gradient is not finite, a file cannot be written, or the process was told
            to stop.
    """
    if not isinstance(config, Config):
        is_data = is_folder(config) and not is_file(Path(config) / "config.json")
        config = config_of_folder(config) if is_data else load_config(config)
    return loop.train(config, output or default_run_folder(config.name), resume).path


def evaluate(
    run: str | os.PathLike, overrides: Sequence[str] = (), progress: Progress | None = None
) -> EvaluationResult:
    """Detects on the test images of a run, `data.test`, and measures accuracy and speed.

    Args:
        run: the run folder. Its best weights are taken, or its final ones where there was no validation.
        overrides: changes of the run's config, e.g. "evaluation.metric=coco".
        progress: is called after each batch; None: no progress is reported.

    Returns:
        `mean_ap` in 0..1, the `ClassResult` of each class, and the throughput.

    Raises:
        InputError: the run, an override or the test data is wrong, or the data has no annotations.
    """
    config, network = trained_network(run, overrides)
    apply_precision(config.training)
    return evaluator.evaluate(network, config, read_labelled(config.data, "test"), progress)


def export(
    run: str | os.PathLike,
    output: str | os.PathLike,
    overrides: Sequence[str] = (),
    options: ExportOptions | None = None,
) -> Path:
    """Writes the detector of a run as a SavedModel and, where wanted, as ONNX and LiteRT files.

    Whatever was written is compared with the network on generated images.

    Args:
        run: the run folder. Its best weights are taken, or its final ones where there was no validation.
        output: the folder of all versions of the model.
        overrides: changes of the run's config, e.g. "postprocess.score_threshold=0.3".
        options: what is written; None: only a SavedModel in float32.

    Returns:
        The folder of the new version, whose number is the next free one.

    Raises:
        InputError: the run or an override is wrong, or `output` cannot be written.
        ExportMismatch: the files do not detect what the network detects; they are deleted.
    """
    # Whatever training computed in, its weights are float32.
    config, network = trained_network(run, [*overrides, "training.precision=float32"])
    measured = validation_of_run(RunFolder(run_folder_of(os.fspath(run))), config)
    folder, _ = export_saved_model(network, config, output, options=options, measured=measured)
    return folder
