"""Reading and writing of Keras' files, `.weights.h5` and `.keras`."""

import contextlib
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from refinedet_tf.errors import InputError, first_line, listed, shortened_text
from refinedet_tf.files import write_aside
from refinedet_tf.refinedet.network import RefineDet
from refinedet_tf.weights.description import (
    Description,
    check_description,
    read_description,
    write_description,
)
from refinedet_tf.weights.head_counts import check_anchors, counts_in, other_classes
from refinedet_tf.weights.values import check_values, unchanged_on_error

MEMBER = "model.weights.h5"
"""The name of the weights in a `.keras` file, which is a zip archive."""


def load_keras_weights(model: RefineDet, path: Path) -> list[str]:
    """Fills every variable of `model` from a file, and returns the names of the layers that have weights.

    The file is a `.weights.h5` file, or a whole model saved as `.keras`, of which only the weights are read.

    Raises:
        InputError: the file is damaged or of another model, or a value is not finite. For another model,
            the message lists the shapes that are missing or left over, or the numbers of classes or anchors
            if only they differ. Or the file says that its weights were trained on other classes, on these
            in another order, on another order of the colour channels or with other anchors. The model is
            unchanged.
    """
    with _weights_file(path) as file:
        shapes = _shapes_in(file)
        check_anchors(path, counts_in(file), model.config.model)
        _compare(path, file, shapes, model)
        check_description(read_description(file, path), model, path)
        _fill(model, file, path)
    return [layer.name for layer in model.layers if layer.weights]


def check_network(path: Path, network: RefineDet) -> None:
    """Checks that a `.weights.h5` or `.keras` file holds the arrays of a network, which need no values.

    Raises:
        InputError: the file holds other arrays, or fewer bytes than its arrays have.
    """
    with _weights_file(path) as file:
        _compare(path, file, _shapes_in(file, stored=True), network)


def survey(path: Path, model: RefineDet) -> tuple[Description | None, int | None]:
    """Finds out what a `.weights.h5` or `.keras` file holds, without its values.

    Returns:
        The description that the file has, or None; and the number of classes C with which the model would
        have the file's shapes, or None if it has other shapes with any number of classes.

    Raises:
        InputError: the file or its description is damaged.
    """
    with _weights_file(path) as file:
        return read_description(file, path), _fitting_classes(file, _shapes_in(file), model)


def read_values(model: RefineDet, path: Path) -> dict[str, np.ndarray]:
    """Reads the values of a file that has the shapes of a model, by the `path` of their variable.

    The classes do not matter. The model is unchanged, and the errors are those of `load_keras_weights`.
    """
    before = [np.array(variable) for variable in model.weights]
    with _weights_file(path) as file:
        _compare(path, file, _shapes_in(file), model)
        _fill(model, file, path)
    values = {variable.path: np.array(variable) for variable in model.weights}
    for variable, value in zip(model.weights, before, strict=True):
        variable.assign(value)
    return values


def _fill(model: RefineDet, file: Path, path: Path) -> None:
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
    except InputError:
        raise
    except Exception as error:
        # Any error of h5py, zipfile and Keras may come from a damaged file, and all of them mean the same.
        reason = first_line(error)
        raise InputError(f"{shortened_text(path)} cannot be read as weights (damaged?): {reason}") from None


def save_weights(model: RefineDet, path: Path) -> None:
    """Writes a `.weights.h5` file; an old file stays until the new one is complete.

    The file says for which classes and which network the weights were trained.

    Raises:
        OSError: the file cannot be written.
    """

    def write(file: Path) -> None:
        model.save_weights(file)
        write_description(model, file)

    write_aside(Path(path), write)


def _shapes_in(path: Path, stored: bool = False) -> Counter[tuple[int, ...]]:
    """Counts the shapes of the weights in a `.weights.h5` file, without those of an optimizer.

    With `stored`, all their bytes must be in the file, as Keras writes them. HDF5 also has arrays that are
    compressed or were never written.
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


def _compare(path: Path, file: Path, found: Counter[tuple[int, ...]], model: RefineDet) -> None:
    """Raises an InputError, which names `path`, if the shapes in a file are not those of the model."""
    wanted = _shapes_of(model, model.config.num_classes)
    if found == wanted:
        return
    if num_classes := _fitting_classes(file, found, model):
        raise other_classes(path, num_classes, model.config.num_classes)
    missing, left_over = wanted - found, found - wanted
    # Keras' files name the layers inside others by class and number, so that only shapes can be compared. A
    # layer is certainly missing if no array in the file has its shape.
    names = [v.path for v in model.weights if tuple(v.shape) in missing and tuple(v.shape) not in found]
    raise InputError(
        f"{path} holds weights of another model: {sum(missing.values())} arrays are missing "
        f"({listed(names or sorted(missing))}), {sum(left_over.values())} are left over "
        f"(shapes {listed(sorted(left_over))})"
    )


def _fitting_classes(file: Path, shapes: Counter[tuple[int, ...]], model: RefineDet) -> int | None:
    """Returns the number of classes with which a model would have the shapes in a file; None: with none."""
    num_classes = counts_in(file).classes
    fits = num_classes is not None and shapes == _shapes_of(model, num_classes)
    return num_classes if fits else None


def _shapes_of(model: RefineDet, num_classes: int) -> Counter[tuple[int, ...]]:
    """Counts the shapes that the weights of a model would have with a number of classes."""
    shapes: Counter[tuple[int, ...]] = Counter()
    for variable in model.weights:
        anchors = model.classifiers.get(variable.path.partition("/")[0])
        shape = tuple(variable.shape)
        shapes[shape if anchors is None else (*shape[:-1], anchors * (num_classes + 1))] += 1
    return shapes
