"""The best validation of a run, and what it was measured by."""

import json
from collections.abc import Mapping
from typing import Any

from refinedet_tf.config import Config, values_by_key
from refinedet_tf.errors import shortened_text
from refinedet_tf.training.agreement import changed_data

MEASURED_BY = ("data.validation", "evaluation.", "postprocess.")
"""The beginnings of the keys that a validation depends on besides the network."""


def measured_by(config: Config) -> dict[str, Any]:
    """Returns the keys of `MEASURED_BY`, but for the size of the batches, with values as JSON holds them."""
    values = {key: value for key, value in values_by_key(config).items() if key.startswith(MEASURED_BY)}
    del values["evaluation.batch_size"]
    return json.loads(json.dumps(values))


def comparable_best(
    best: dict[str, Any] | None, config: Config, data: Mapping[str, Any]
) -> tuple[dict[str, Any] | None, str | None]:
    """Decides whether validations of a resumed run can be compared with the best one of its checkpoint.

    Args:
        best: see `LoopState`. Checkpoints of earlier versions hold neither "measured_by" nor "data".
        config: the config of the resumed run.
        data: the facts of its validation set (`agreement.data_facts`).

    Returns:
        `best` and None; or None and a line that says what has changed.
    """
    if best is None or not config.data.validation:
        return best, None
    now = measured_by(config)
    before = best.get("measured_by", now)
    changed = [
        f"{shortened_text(key)} was {_json(value)}, is {_json(now.get(key))}"
        for key, value in before.items()
        if value != now.get(key)
    ]
    how = "; ".join(changed) or changed_data(best.get("data"), data)
    if not how:
        return best, None
    line = (
        f"the best validation so far (mAP {best['mAP']:.4f} at step {best['step']}) was measured otherwise: "
        f"{how}; the next validation replaces it"
    )
    return None, line


def _json(value: object) -> str:
    """Returns a value in the notation of configs, cut where it is long."""
    return shortened_text(json.dumps(value), 200)
