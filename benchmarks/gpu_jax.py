"""What `gpu_figures.py` measures, in JAX: the network, and a training step of the same loss and optimizer.

The functions and methods are those of `gpu_tensorflow.py`. JAX compiles with XLA always, so that the argument
`xla` must be true.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import keras
import numpy as np

from refinedet_tf.config import Config
from refinedet_tf.refinedet.losses import TERMS, refinedet_loss
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.optimizer import CaffeSGD

MATMUL_PRECISION = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
"""The values of `jax_default_matmul_precision`, which holds for convolutions, too."""

State = list[list[Tensor]]
"""The values of the trainable variables, the other variables of the model, and those of the optimizer."""


def set_precision(precision: str) -> None:
    """Chooses "float32", "tf32" or "bfloat16" before the process computes anything."""
    jax.config.update("jax_default_matmul_precision", MATMUL_PRECISION[precision])


def device_facts() -> dict[str, object]:
    """Returns what is known of the device and the libraries."""
    device = jax.devices()[0]
    return {
        "backend": "jax",
        "gpu": None if device.platform == "cpu" else device.device_kind,
        "compute_capability": getattr(device, "compute_capability", None),
        "cuda": cuda_version(device.client.platform_version),
        "cudnn": None,
        "versions": {"jax": jax.__version__, "keras": keras.__version__, "numpy": np.__version__},
        "memory": "need of the compiled program",
    }


def cuda_version(platform_version: str) -> str | None:
    """Returns such as "12.9" from the text of JAX's client, "PJRT C API\\ncuda 12090"; None without CUDA."""
    match = re.search(r"cuda (\d+)", platform_version)
    return f"{int(match[1]) // 1000}.{int(match[1]) % 1000 // 10}" if match else None


class Program:
    """A compiled function. It returns arrays on the device, among them "value", a float32 scalar.

    Args:
        function: (state, inputs) -> (state, outputs).
        state: the state before the first call. The program keeps the state that a call returns.
        inputs: the inputs of every call.
    """

    def __init__(self, function: Callable[..., Any], state: State, inputs: Tensor) -> None:
        # A call of the donated state needs no second copy of the weights.
        self.compiled = jax.jit(function, donate_argnums=0).lower(state, inputs).compile()
        self.state, self.inputs = state, inputs

    def __call__(self) -> dict[str, Tensor]:
        self.state, outputs = self.compiled(self.state, self.inputs)
        return outputs


class Programs:
    """The compiled programs of one model."""

    def __init__(self, model: keras.Model, config: Config, anchors: np.ndarray) -> None:
        self.model, self.config, self.anchors = model, config, anchors

    def forward(self, images: np.ndarray, xla: bool) -> Program:
        """Makes the forward pass of uint8 images [B, H, W, 3]."""

        def heads_of(state: State, images: Tensor) -> tuple[State, dict[str, Tensor]]:
            heads, _ = self.model.stateless_call(*state, images, training=False)
            value = sum(keras.ops.mean(keras.ops.abs(head)) for head in heads.values())
            return state, {"heads": heads, "value": value}

        return Program(heads_of, self._state(), jax.device_put(images.astype(np.float32)))

    def training_step(self, batch: Mapping[str, np.ndarray], xla: bool) -> Program:
        """Makes the training step of a batch; it does not look for values that are not finite."""
        optimizer = CaffeSGD.from_training(self.config.training)
        optimizer.build(self.model.trainable_variables)

        def loss(
            trainable: list[Tensor], others: list[Tensor], batch: Mapping[str, Tensor]
        ) -> tuple[Tensor, list[Tensor]]:
            heads, others = self.model.stateless_call(trainable, others, batch["images"], training=True)
            terms = refinedet_loss(heads, batch, self.anchors, self.config)
            return sum(terms[name] for name in TERMS), others

        def step(state: State, batch: Mapping[str, Tensor]) -> tuple[State, dict[str, Tensor]]:
            trainable, others, momentums = state
            (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, batch)
            trainable, momentums = optimizer.stateless_apply(momentums, gradients, trainable)
            return [trainable, others, momentums], {"value": value}

        state = [*self._state(), _copies(optimizer.variables)]
        return Program(step, state, jax.device_put(dict(batch)))

    def _state(self) -> State:
        """Returns copies of the model's values, which a program may overwrite."""
        return [_copies(self.model.trainable_variables), _copies(self.model.non_trainable_variables)]

    def reset_memory(self) -> None:
        """Does nothing, because each program knows what it needs."""

    def memory(self, program: Program) -> int | None:
        """Returns what XLA says that a call of `program` holds at once, in bytes; None if it does not say."""
        analysis = program.compiled.memory_analysis()
        if analysis is None:
            return None
        inputs_and_outputs = analysis.argument_size_in_bytes + analysis.output_size_in_bytes
        return inputs_and_outputs - analysis.alias_size_in_bytes + analysis.temp_size_in_bytes


def _copies(variables: list[keras.Variable]) -> list[Tensor]:
    return [jax.numpy.array(variable.value, copy=True) for variable in variables]
