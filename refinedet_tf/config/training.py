"""The keys of the config's section `training`."""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field
from pydantic.dataclasses import dataclass

from refinedet_tf.config.values import (
    STRICT,
    Epochs,
    Images,
    NotNegative,
    Positive,
    PositiveStepCount,
    StepCount,
)
from refinedet_tf.errors import shortened

LayerPatterns = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


def _explain_freeze(value: Any, handler: pydantic.ValidatorFunctionWrapHandler) -> Any:
    """Gives one message for a value that is of none of the types, where pydantic gives one per type."""
    try:
        # The strict mode takes no list for a tuple here, unlike elsewhere in JSON.
        return handler(tuple(value) if isinstance(value, list) else value)
    except pydantic.ValidationError:
        raise ValueError(
            'must be "none", "backbone", "all_but_heads" or a list of names of layers, such as ["conv1_*"]'
        ) from None


Freeze = Annotated[
    Literal["none", "backbone", "all_but_heads"] | LayerPatterns, pydantic.WrapValidator(_explain_freeze)
]

IN_EPOCHS = {
    "steps": "epochs",
    "milestones": "milestone_epochs",
    "warmup_steps": "warmup_epochs",
    "validate_every": "validate_every_epochs",
}
"""The keys of `training` in steps, and those that say the same in epochs and take their place."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingConfig:
    """The optimisation (paper, section 3.4)."""

    steps: PositiveStepCount = 120_000
    """The number of steps of the whole training."""
    epochs: Epochs | None = None
    """The length of the training in passes over the training images; null: `steps` says it. The number of
    steps is epochs x images / `batch_size`, rounded up, and the run's config.json holds it. This and the
    other keys in epochs take the place of the key in steps: a file may hold one of the two."""
    batch_size: Images = 32
    """Images per step, which is one update, over all replicas and micro-batches."""
    accumulation_steps: Annotated[int, Field(ge=1, le=1_000)] = 1
    """The number of micro-batches into which each replica divides its share of a batch, to save memory; the
    authors' `iter_size`. `batch_size` must be a multiple of it, times the number of replicas."""
    learning_rate: Positive = 1e-3
    """The learning rate after the warm-up."""
    schedule: Literal["steps", "cosine"] = "steps"
    """With "steps", the learning rate drops at `milestones`. With "cosine", it falls from the end of the
    warm-up to 0 at the last step along half a period of the cosine, and there are no milestones."""
    milestones: tuple[PositiveStepCount, ...] = (80_000, 100_000)
    """The steps at which the learning rate is multiplied by `decay_factor`, in increasing order."""
    milestone_epochs: tuple[Epochs, ...] | None = None
    """`milestones` in epochs; null: `milestones` says it."""
    decay_factor: Positive = 0.1
    """The factor on the learning rate at each milestone."""
    warmup_steps: StepCount = 0
    """The number of steps of linear warm-up from 0 to the learning rate."""
    warmup_epochs: Epochs | None = None
    """`warmup_steps` in epochs; null: `warmup_steps` says it."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """The momentum of the solver."""
    weight_decay: NotNegative = 5e-4
    """The factor of the L2 regularisation, which is part of the gradient."""
    gradient_clip_norm: Positive | None = None
    """The largest norm of the gradient of all variables together; null: no limit."""
    freeze: Freeze = "none"
    """The layers that keep their initial weights and BatchNorm statistics, which saves their gradients: the
    backbone without the levels that RefineDet adds, all but the heads, or those of the names in a list,
    such as ["conv[1-3]_*", "tcb3"]. It cannot change when a run is resumed."""
    ema_decay: Annotated[float, Field(gt=0, lt=1)] | None = None
    """The decay per step of an exponential moving average of the weights, which validation, the written
    weights and everything after the training use; null: they use the weights themselves. After k steps the
    decay is min(ema_decay, (1 + k) / (10 + k))."""
    precision: Literal["float32", "tf32", "bfloat16"] = "float32"
    """The precision of the network's computations; weights and loss are always float32. "tf32" lets NVIDIA's
    GPUs from Ampere on use TensorFloat-32, and is the same as "float32" on other devices."""
    jit_compile: bool = False
    """Whether XLA compiles the training step, which works on a single device."""
    strategy: Literal["mirrored", "multi_worker"] = "mirrored"
    """The devices that share a batch: those of this machine, or those of the machines in TF_CONFIG."""
    wait_for_workers: Positive = 600.0
    """The number of seconds that a machine of TF_CONFIG waits at its start until all the others are up."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    """The seed of the initial weights, of the order of the data and of its augmentation."""
    deterministic: bool = False
    """Whether TensorFlow uses deterministic kernels. A GPU needs them so that two runs are equal bit for bit;
    on a CPU two runs are equal without them. The order of the data is always deterministic."""
    log_every: PositiveStepCount = 10
    """The number of steps from one logged step to the next."""
    checkpoint_every: PositiveStepCount = 1_000
    """The number of steps from one checkpoint to the next."""
    validate_every: PositiveStepCount = 5_000
    """The number of steps from one validation to the next."""
    validate_every_epochs: Epochs | None = None
    """`validate_every` in epochs; null: `validate_every` says it."""
    patience: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The training ends when the mAP of so many validations in a row has not exceeded the best one; null: it
    takes all steps."""

    def __post_init__(self) -> None:
        for name in ("milestones", "milestone_epochs"):
            milestones = list(getattr(self, name) or ())
            if milestones != sorted(set(milestones)):
                raise ValueError(f"{name} must increase, got {shortened(milestones)}")
        if self.batch_size % self.accumulation_steps:
            raise ValueError(
                f"batch_size {self.batch_size} must be a multiple of accumulation_steps "
                f"{self.accumulation_steps}"
            )
