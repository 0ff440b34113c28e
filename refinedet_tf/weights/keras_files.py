"""Reading and writing of Keras' files, `.weights.h5` and `.keras`."""

import contextlib
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import keras
import numpy as np

from refinedet_tf.errors import InputError, first_line, listed, shortened_text
from refinedet_tf.files import write_aside
from refinedet_tf.weights.anchor_counts import anchors_per_cell, anchors_per_cell_in, check_anchors_per_cell
from refinedet_tf.weights.description import (
    Description,
    check_description,
    read_description,
    write_description,
)
from refinedet_tf.weights.values import check_values, unchanged_on_error

MEMBER = "model.weights.h5"
"""The name of the weights in a `.keras` file, which is a zip archive."""


def load_keras_weights(model: keras.Model, path: Path) -> list[str]:
    """Fills every variable of `model` from a file.

    Args:
        model: the result of `build_model`.
        path: a `.weights.h5` file, or a whole model saved as `.keras`, of which only the weights are read.

    Returns:
        The names of the layers that were filled, which are all that have weights.

    Raises:
        InputError: the file is damaged or of another model, or a value is not finite. For another model,
            the message lists the shapes that are missing or left over, or the numbers of classes or anchors
            if only they differ. Or the file says that its weights were trained on other classes, on these
            in another order, on another order of the colour channels or with other anchors. The model is
            unchanged.
    """
    with _weights_file(path) as file:
        shapes = _shapes_in(file)
        check_anchors_per_cell(path, anchors_per_cell_in(file), model)
        _compare(path, shapes, model)
        check_description(read_description(file, path), model, path)
        _fill(model, file, path)
    return [layer.name for layer in model.layers if layer.weights]


def check_network(path: Path, network: keras.Model) -> None:
    """Checks that a file holds the arrays of a network, without their values.

    Args:
        path: a `.weights.h5` or `.keras` file.
        network: a network whose variables need no values.

    Raises:
        InputError: the file holds other arrays, or fewer bytes than its arrays have.
    """
    with _weights_file(path) as file:
        _compare(path, _shapes_in(file, stored=True), network)


def survey(path: Path, model: keras.Model) -> tuple[Description | None, int | None]:
    """Finds out what a file holds, without its values.

    Args:
        path: a `.weights.h5` or `.keras` file.
        model: a network with which its shapes are compared.

    Returns:
        The description that the file has, or None; and the number of classes C with which the model would
        have the file's shapes, or None if it has other shapes with any number of classes.

    Raises:
        InputError: the file or its description is damaged.
    """
    with _weights_file(path) as file:
        shapes = _shapes_in(file)
        missing, left_over = _differences(shapes, model)
        num_classes = None
        if not missing and not left_over:
            bias = next((v for v in model.weights if v.path.endswith("odm_conf3/bias")), None)
            num_classes = None if bias is None else bias.shape[0] // anchors_per_cell(model)[3] - 1
        elif sum(missing.values()) == sum(left_over.values()):
            num_classes = _num_classes(left_over, model)
        return read_description(file, path), num_classes


def read_values(model: keras.Model, path: Path) -> dict[str, np.ndarray]:
    """Reads a file whose shapes are those of a model, whatever its classes are; the model is unchanged.

    Returns:
        The values by the `path` of their variable.

    Raises:
        InputError: as in `load_keras_weights`.
    """
    before = [np.array(variable) for variable in model.weights]
    with _weights_file(path) as file:
        _compare(path, _shapes_in(file), model)
        _fill(model, file, path)
    values = {variable.path: np.array(variable) for variable in model.weights}
    for variable, value in zip(model.weights, before, strict=True):
        variable.assign(value)
    return values


def _fill(model: keras.Model, file: Path, path: Path) -> None:
    """Fills a model from a `.weights.h5` file that has the right shapes; `path` names it in messages.

    Keras assigns while it reads, so that a defect may be noticed after some variables have changed. They
    get back their values then.
    """
    with unchanged_on_error(model.weights):
        with warnings.catch_warnings():
            # Keras warns of internal containers that never have weights.
            warnings.filterwarnings("ignore", message="Skipping nested container")
            model.load_weights(file)
        for variable in model.weights:
            check_values(path, variable.path, variable, np.asarray(variable))


@contextlib.contextmanager
def _weights_file(path: Path) -> Iterator[Path]:
    """Gives the `.weights.h5` file that `path` is or, as a temporary file, that it contains.

    The rest of a `.keras` file describes layers. It is not read, since it could name code to be run. An error
    of the block becomes an InputError.
    """
    try:
        with _extracted(path) as file:
            yield file
    except InputError:
        raise
    except Exception as error:
        # Any error of h5py, zipfile and Keras may come from a damaged file, and all of them mean the same.
        reason = first_line(error)
        raise InputError(f"{shortened_text(path)} cannot be read as weights (damaged?): {reason}") from None


@contextlib.contextmanager
def _extracted(path: Path) -> Iterator[Path]:
    """Does what `_weights_file` does, and leaves errors as they are."""
    if not path.name.endswith(".keras"):
        yield path
        return
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory() as folder:
        info = archive.getinfo(MEMBER)
        # Keras does not compress members, so that none is larger than the file.
        if info.compress_type != zipfile.ZIP_STORED or info.file_size > path.stat().st_size:
            raise InputError(
                f"{shortened_text(path)}: {MEMBER} in it is compressed or cut off: is it damaged?"
            )
        # The whole member is read, which compares its checksum.
        yield Path(archive.extract(info, folder))


def save_weights(model: keras.Model, path: Path) -> None:
    """Writes a `.weights.h5` file; an old file stays until the new one is complete.

    The file says for which classes and which network the weights were trained, if `build_model` has built
    the model.

    Raises:
        OSError: the file cannot be written.
    """

    def write(file: Path) -> None:
        model.save_weights(file)
        write_description(model, file)

    write_aside(Path(path), write)


def _shapes_in(path: Path, stored: bool = False) -> Counter[tuple[int, ...]]:
    """Counts the shapes of the weights in a `.weights.h5` file, without those of an optimizer.

    Args:
        path: the file.
        stored: whether all their bytes must be in the file, as Keras writes them. HDF5 also has arrays that
            are compressed or were never written.
    """
    shapes: Counter[tuple[int, ...]] = Counter()

    def count(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and "/vars/" in f"/{name}" and not name.startswith("optimizer"):
            if item.dtype.kind != "f" or item.shape is None:
                raise TypeError(f"{name} holds no floating-point numbers")
            if stored and item.id.get_storage_size() < item.nbytes:
                raise TypeError(f"{name} is compressed, or its values are missing")
            shapes[tuple(item.shape)] += 1

    with h5py.File(path) as file:
        file.visititems(count)
    return shapes


def _compare(path: Path, found: Counter[tuple[int, ...]], model: keras.Model) -> None:
    """Raises an InputError if the shapes in a file are not those of the model."""
    missing, left_over = _differences(found, model)
    if not missing and not left_over:
        return
    model_classes, file_classes = _num_classes(missing, model), _num_classes(left_over, model)
    if None not in (model_classes, file_classes) and sum(missing.values()) == sum(left_over.values()):
        raise InputError(
            f"{path} holds weights for {file_classes} classes, the model has {model_classes}: "
            "use the config that they were trained with, or pick classes with refinedet subset-classes"
        )
    # Keras' files name layers by class and number, so that only shapes can be compared. A layer is
    # certainly missing if no array in the file has its shape.
    names = [v.path for v in model.weights if tuple(v.shape) in missing and tuple(v.shape) not in found]
    raise InputError(
        f"{path} holds weights of another model: {sum(missing.values())} arrays are missing "
        f"({listed(names or sorted(missing))}), {sum(left_over.values())} are left over "
        f"(shapes {listed(sorted(left_over))})"
    )


def _differences(
    found: Counter[tuple[int, ...]], model: keras.Model
) -> tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]:
    """Counts the shapes of a model that a file lacks, and those that only the file has."""
    wanted = Counter(tuple(variable.shape) for variable in model.weights)
    return wanted - found, found - wanted


def _num_classes(shapes: Counter[tuple[int, ...]], model: keras.Model) -> int | None:
    """Returns the number of classes that an ODM classifier among the shapes has; None without one."""
    inputs = next((v.shape[2] for v in model.weights if v.path.endswith("odm_conf3/kernel")), None)
    channels = {shape[-1] for shape in shapes if shape[:3] == (3, 3, inputs)}
    counts = set(anchors_per_cell(model).values())
    for number in sorted(channels):
        num_logits, rest = divmod(number, min(counts))
        if not rest and {count * num_logits for count in counts} <= channels:
            return num_logits - 1
    return None
