"""What all workers of a training or an evaluation, and all parts of a resumed run, must have in common."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refinedet_tf.config import Config, differences, values_by_key
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError, shortened
from refinedet_tf.training.workers import Workers

FREE_BETWEEN_WORKERS = (
    "name",
    "description",
    "command",
    "expected",
    "data.root",
    "data.test",
    "data.accept_empty_classes",
    "data.max_bad_boxes",
    "training.wait_for_workers",
    "training.log_every",
)
"""The keys of the config in which workers may differ. All of them must end, save and validate after the same
steps."""

FREE_ON_RESUME = (
    *FREE_BETWEEN_WORKERS,
    "data.validation",
    "training.length",
    "training.checkpoint_every",
    "training.validate_every",
    "training.patience",
    "evaluation",
    "postprocess",
)
"""The keys of the config that may change when a run is resumed. `training.length` may not with the cosine
schedule, where the learning rate of every step depends on it."""

FACTS_VERSION = 1
"""Is raised when this program finds other facts in the same files. Facts of two versions are not compared."""


def check_same_run(stored: Config, given: Config) -> None:
    """Checks that a run, whose folder holds the config `stored`, is resumed with it.

    Raises:
        InputError: the configs differ in a key outside `FREE_ON_RESUME`.
    """
    changed = [
        f"{key} was {shortened(old)}, is {shortened(new)}"
        for key, (old, new) in fixed_differences(stored, given).items()
    ]
    if changed:
        raise InputError(f"--resume with another config: {'; '.join(changed)}; start a new --output")


def fixed_differences(stored: Config, given: Config) -> dict[str, tuple[Any, Any]]:
    """Returns the keys that a resume may not change in which two configs differ, with old and new value."""
    is_cosine = given.training.schedule == "cosine"
    return {
        key: pair
        for key, pair in differences(stored, given).items()
        if not _is_in(key, FREE_ON_RESUME) or (key == "training.length" and is_cosine)
    }


def join_workers(
    workers: Workers,
    facts: Mapping[str, Any],
    config: Config | None = None,
    sets: Mapping[str, DetectionDataset | None] | None = None,
    variables: Sequence[Any] = (),
) -> None:
    """Checks that all workers do the same; it returns on all of them or raises the same error on all of them.

    Args:
        workers: the workers, all of which call this function.
        facts: what must be equal by its name, in values that JSON can hold.
        config: the config with its class names.
        sets: the data by the name that messages give it.
        variables: whose values must be equal.

    Raises:
        InputError: some worker differs from the chief.
    """
    if workers.alone:
        return
    values = values_by_key(config).items() if config else ()
    facts = {**facts, **{key: value for key, value in values if not _is_in(key, FREE_BETWEEN_WORKERS)}}
    for name, dataset in (sets or {}).items():
        facts |= data_facts(name, dataset)
    if variables:
        facts["the digest of the weights"] = _digest(np.asarray(variable) for variable in variables)
    everywhere = workers.exchange(facts)
    differing = []
    for key in dict.fromkeys(key for there in everywhere for key in there):
        of_chief, *others = (there.get(key) for there in everywhere)
        for name, value in zip(workers.names[1:], others, strict=True):
            if value != of_chief:
                on_chief = f"{shortened(of_chief)} on {workers.names[0]}"
                differing.append(f"{key} is {on_chief} and {shortened(value)} on {name}")
                break
    if differing:
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise InputError(f"the workers do not agree: {'; '.join(differing[:4])}{more}")


def data_facts(name: str, dataset: DetectionDataset | None) -> dict[str, Any]:
    """Returns the numbers and digests in which all workers, and all parts of a resumed run, must agree.

    The paths of the images are left out, because the data may lie elsewhere on another machine or later.
    `name` is what messages call the set, such as "training set".
    """
    if dataset is None:
        return {name: None}
    # The bytes of a file name need not be text.
    ids = "\0".join(dataset.image_ids).encode("utf-8", "surrogatepass")
    return {
        "version of the facts": FACTS_VERSION,
        f"number of images of the {name}": len(dataset),
        f"number of objects of the {name}": len(dataset.labels),
        f"digest of image ids of the {name}": _digest([np.frombuffer(ids, np.uint8)]),
        f"digest of image sizes of the {name}": _digest([dataset.image_sizes]),
        f"digest of boxes of the {name}": _digest([dataset.offsets, dataset.boxes]),
        f"digest of labels of the {name}": _digest([dataset.labels, dataset.difficult]),
    }


def changed_data(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> str:
    """Says in which of its `data_facts` a set is not what it was; "" where it is, or where that is not known.

    Those of a checkpoint of an earlier version, `before`, may lack values.
    """
    if before is None or before.get("version of the facts") != now.get("version of the facts"):
        return ""
    return "; ".join(
        f"{key} was {shortened(before[key])}, is {shortened(value)}"
        for key, value in now.items()
        if key in before and before[key] != value
    )


def _digest(arrays: Iterable[np.ndarray]) -> str:
    """Returns 16 hexadecimal digits of SHA-256 over the shapes and values of arrays."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


def _is_in(key: str, free: Sequence[str]) -> bool:
    """Says whether a key or its section is listed."""
    return any(key == name or key.startswith(f"{name}.") for name in free)
