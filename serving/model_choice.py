"""Which of the server's models a client asks, and how long it waits for the answer."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ModelChoice:
    """A model of the server, and the time that an answer may take.

    Attributes:
        name: the model's name in models.config.
        version: the number of a version, 0..2**63 - 1.
        label: the label of a version, such as "stable". At most one of `version` and `label` is given;
            with neither the server takes the latest version that is loaded.
        timeout: the seconds after which a client gives up. REST counts those in which the server is
            silent, gRPC those of the whole request with its answer.
    """

    name: str = "refinedet"
    version: int | None = None
    label: str | None = None
    timeout: float = 60.0


DEFAULT_MODEL = ModelChoice()
"""The latest version of the model that models.config names."""
