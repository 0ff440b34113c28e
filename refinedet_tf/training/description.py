"""What a run prints at its start, and the lists that it writes with it."""

import math
from collections.abc import Callable, Mapping

from refinedet_tf.config import TrainingConfig
from refinedet_tf.data.acceptance import use_of_backgrounds
from refinedet_tf.data.box_checks import write_defects
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import shortened, shortened_text
from refinedet_tf.files import write_text
from refinedet_tf.training.bfloat16 import lacks_instructions
from refinedet_tf.training.preparation import PreparedRun


def describe_start(run: PreparedRun, say: Callable[[str], None]) -> None:
    """Prints the model, its initial weights and the data; lists weights and bad boxes in files.

    Raises:
        InputError: a list cannot be written.
    """
    model_config = run.config.model
    parameters, anchors = run.trainer.network.count_params(), len(run.trainer.anchors)
    say(
        f"{run.config.name}: {model_config.backbone}, {parameters:,} parameters, {anchors:,} anchors, "
        f"{run.config.num_classes} classes, {run.strategy.num_replicas_in_sync} replica(s)"
    )
    _describe_data(run, say)
    _describe_weights(run, say)
    _describe_frozen(run, say)
    _describe_precision(run.config.training, say)
    if run.start:
        say(f"continuing after step {run.start}")
    elif model_config.backbone == "vgg16" and model_config.weights is None:
        say(
            "note: VGG-16 starts from random weights; published results start from ImageNet's "
            "(--set model.weights=FILE)"
        )


def _describe_precision(training_config: TrainingConfig, say: Callable[[str], None]) -> None:
    """Says where bfloat16 costs time."""
    if training_config.precision == "bfloat16" and lacks_instructions():
        say(
            "note: this processor has no instructions for bfloat16 (AVX512-BF16, AMX), without which a step "
            "takes longer than in float32"
        )


def _describe_data(run: PreparedRun, say: Callable[[str], None]) -> None:
    """Prints the size of the training set and what is to be said about it, and lists its bad boxes."""
    defects = run.train_set.defects
    say(f"training images: {len(run.train_set)}, objects: {len(run.train_set.labels)}; {defects.summary()}")
    if backgrounds := int((run.train_set.objects_per_image == 0).sum()):
        images = "image" if backgrounds == 1 else "images"
        say(f"{backgrounds} training {images} without an object. {use_of_backgrounds(run.config.loss)}")
    if defects.issues and run.writes:
        write_defects(defects, run.folder.box_defects)
        say(f"these boxes are listed in {run.folder.box_defects}")
    if line := turned_images({"training": run.train_set, "validation": run.validation_set}):
        say(line)
    for note in run.notes:
        say(note)


def turned_images(sets: Mapping[str, DetectionDataset | None]) -> str | None:
    """Returns a line with the number of images of each set that are turned upright; None without any."""
    counts = {name: int((dataset.orientations > 1).sum()) for name, dataset in sets.items() if dataset}
    numbers = ", ".join(f"{count} of the {name} images" for name, count in counts.items() if count)
    return f"turned upright by their EXIF orientation: {numbers}" if numbers else None


def _describe_weights(run: PreparedRun, say: Callable[[str], None]) -> None:
    """Prints what the initial weights are, and lists all in a file."""
    initial = run.initial_weights
    if initial is None:
        return
    for line in initial.summary:
        say(line)
    if run.writes:
        write_text(run.folder.initial_weights, "\n".join([*initial.summary, "", *initial.details, ""]))


def _describe_frozen(run: PreparedRun, say: Callable[[str], None]) -> None:
    """Prints how many layers keep their weights, and which of those weights are random."""
    if not run.trainer.frozen:
        return
    network, initial = run.trainer.network, run.initial_weights
    trained = sum(math.prod(variable.shape) for variable in network.trainable_variables)
    say(
        f"training {trained:,} of {network.count_params():,} parameters; {len(run.trainer.frozen)} layers "
        f"are frozen (training.freeze {shortened(run.config.training.freeze)})"
    )
    filled = () if initial is None else initial.layers
    random = [name for name in run.trainer.frozen if name.partition("/")[0] not in filled]
    if random and not run.start:
        say(f"note: frozen layers with random weights: {shortened_text(', '.join(random))}")
