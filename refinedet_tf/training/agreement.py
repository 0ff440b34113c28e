"""What all workers of a training or an evaluation, and all parts of a resumed run, must have in common."""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from refinedet_tf.config import Config, differences
from refinedet_tf.data.dataset import DetectionDataset
from refinedet_tf.errors import InputError, shortened
from refinedet_tf.training.workers import Workers

FREE_ON_RESUME = (
    "name",
    "description",
    "command",
    "expected",
    "data.root",
    "data.validation",
    "data.test",
    "data.accept_empty_classes",
    "data.max_bad_boxes",
    "training.length",
    "training.wait_for_workers",
    "training.log_every",
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
"""The keys of the config in which workers may differ. These are fewer than on a resume, since all workers
must end, save and validate after the same steps."""


def check_same_run(stored: Config, given: Config) -> None:
    """Checks that a run is resumed with its config.

    Args:
        stored: the config in the run folder.
        given: the config of the resumed run.

    Raises:
        InputError: they differ in a key outside `FREE_ON_RESUME`.
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
    config: Config,
    sets: Mapping[str, DetectionDataset | None],
    facts: Mapping[str, Any],
) -> None:
    """Checks that all workers do the same run or evaluation.

    Args:
        workers: the workers, all of which call this function.
        config: the config with its class names.
        sets: the data by the name that messages give it.
        facts: what else must be equal by its name, in values that JSON can hold.

    Raises:
        InputError: the workers differ in the facts, the config or the data.
    """
    if workers.alone:
        return
    facts = {**facts, **config_facts(config)}
    for name, dataset in sets.items():
        facts |= data_facts(name, dataset)
    agree(workers, facts)


def agree_on_weights(workers: Workers, state: Mapping[str, Any], variables: Sequence[Any]) -> None:
    """Checks that all workers start with the same weights, momentum and state of the loop.

    Args:
        workers: the workers, all of which call this function.
        state: the state of the loop, which JSON can hold.
        variables: those of the network and of the optimizer.

    Raises:
        InputError: the workers differ.
    """
    if not workers.alone:
        agree(workers, {"the state in the checkpoint": dict(state), **weights_fact(variables)})


def weights_fact(variables: Sequence[Any]) -> dict[str, Any]:
    """Returns a digest of the values of variables and its name."""
    return {"the digest of the weights": _digest(np.asarray(variable) for variable in variables)}


def agree(workers: Workers, facts: Mapping[str, Any]) -> None:
    """Compares facts over all workers; it returns on all of them or raises the same error on all of them.

    Args:
        workers: the workers, all of which call this function.
        facts: what must be equal by its name, in values that JSON can hold.

    Raises:
        InputError: some worker has another value than the chief.
    """
    everywhere = workers.exchange(dict(facts))
    chief, names = everywhere[0], workers.names
    differing = []
    for key in dict.fromkeys(key for there in everywhere for key in there):
        for name, there in zip(names, everywhere, strict=True):
            if there.get(key) != chief.get(key):
                values = (
                    f"{shortened(chief.get(key))} on {names[0]} and {shortened(there.get(key))} on {name}"
                )
                differing.append(f"{key} is {values}")
                break
    if differing:
        more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
        raise InputError(f"the workers do not agree: {'; '.join(differing[:4])}{more}")


def config_facts(config: Config) -> dict[str, Any]:
    """Returns the keys (`section.key`) of the config in which all workers must agree, and their values."""
    facts: dict[str, Any] = {}
    for section, value in dataclasses.asdict(config).items():
        if isinstance(value, dict):
            facts |= {f"{section}.{key}": _json(inner) for key, inner in value.items()}
        else:
            facts[section] = _json(value)
    return {key: value for key, value in facts.items() if not _is_in(key, FREE_BETWEEN_WORKERS)}


def data_facts(name: str, dataset: DetectionDataset | None) -> dict[str, Any]:
    """Returns the numbers and digests in which all workers, and all parts of a resumed run, must agree.

    The paths of the images are left out, because the data may lie elsewhere on another machine or later.

    Args:
        name: what messages call the set, such as "training set".
        dataset: the set; None if the config names none.
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
    """Says in which facts a set is not what it was; "" where it is, or where that is not known.

    Args:
        before: the result of `data_facts` in a checkpoint, from which values may be missing; or None.
        now: the result of `data_facts` for the set of the same name.
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


def _json(value: Any) -> Any:
    """Returns a value of the config as it comes back from JSON."""
    return [_json(item) for item in value] if isinstance(value, tuple | list) else value
