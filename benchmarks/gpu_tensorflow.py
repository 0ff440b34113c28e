"""What `gpu_figures.py` measures, in TensorFlow: the network, and the step of `refinedet_tf.training`."""

import resource
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from refinedet_tf.config import Config
from refinedet_tf.refinedet.losses import TERMS
from refinedet_tf.tensors import Tensor
from refinedet_tf.training.optimizer import CaffeSGD
from refinedet_tf.training.trainer import RefineDetTrainer

Program = Callable[[], dict[str, Tensor]]
"""A compiled function. It returns tensors on the device, among them "value", a float32 scalar."""


def set_precision(precision: str) -> None:
    """Chooses TF32 ("tf32") or not ("float32", "bfloat16") before the process computes anything."""
    tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")


def device_facts() -> dict[str, object]:
    """Returns the GPU (or None), the versions of CUDA and the libraries, and what memory is measured."""
    gpus = tf.config.list_physical_devices("GPU")
    details = tf.config.experimental.get_device_details(gpus[0]) if gpus else {}
    build = tf.sysconfig.get_build_info()
    capability = details.get("compute_capability")
    return {
        "backend": "tensorflow",
        "gpu": details.get("device_name", gpus[0].name) if gpus else None,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "cuda": build.get("cuda_version"),
        "cudnn": build.get("cudnn_version"),
        "versions": {"tensorflow": tf.__version__, "keras": keras.__version__, "numpy": np.__version__},
        "memory": "largest use of the GPU's memory" if gpus else "largest use of the process so far",
    }


class Programs:
    """The compiled programs of one model.

    Args:
        model: the result of `build_model(config)`.
        config: `training` and what the loss needs are used.
        anchors: float32 [A, 4], the result of `tile_anchors` for the training images.
    """

    def __init__(self, model: keras.Model, config: Config, anchors: np.ndarray) -> None:
        self.model, self.config, self.anchors = model, config, anchors
        self._forward = _without_and_with_xla(self._heads)

    def forward(self, images: np.ndarray, xla: bool) -> Program:
        """Makes the forward pass of uint8 images [B, H, W, 3].

        It returns "heads", those of `build_model`, and as "value" the sum of their mean magnitudes.
        """
        return partial(self._forward[xla], tf.constant(images, tf.float32))

    def training_step(self, batch: Mapping[str, np.ndarray], xla: bool) -> Program:
        """Makes the training step of a batch, as `RefineDetTrainer` takes it; "value" is the loss."""
        return partial(self._steps[xla], {name: tf.constant(value) for name, value in batch.items()})

    def _heads(self, images: Tensor) -> dict[str, Tensor]:
        heads = self.model(images, training=False)
        # All heads are outputs, so that XLA leaves nothing out; the value is what a measurement reads.
        return {
            "heads": heads,
            "value": tf.add_n([tf.reduce_mean(tf.abs(head)) for head in heads.values()]),
        }

    @cached_property
    def _steps(self) -> dict[bool, Callable[[Mapping[str, Tensor]], dict[str, Tensor]]]:
        """The step without and with XLA, made when first needed: it doubles the memory of the weights."""
        trainer = RefineDetTrainer(self.model, self.anchors, self.config)
        optimizer = CaffeSGD.from_training(self.config.training)
        optimizer.build(self.model.trainable_variables)
        trainer.compile(optimizer=optimizer)

        def step(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
            terms = trainer.train_step(batch)
            return {"value": tf.add_n([terms[name] for name in TERMS])}

        return _without_and_with_xla(step)

    def reset_memory(self) -> None:
        """Begins to watch the memory for another program."""
        if tf.config.list_physical_devices("GPU"):
            tf.config.experimental.reset_memory_stats("GPU:0")

    def memory(self, program: Program) -> int:
        """Returns the largest use of memory since `reset_memory`, while `program` ran, in bytes."""
        if tf.config.list_physical_devices("GPU"):
            return int(tf.config.experimental.get_memory_info("GPU:0")["peak"])
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _without_and_with_xla(function: Callable[..., Any]) -> dict[bool, Callable[..., Any]]:
    """Compiles a function by whether XLA is used. Each is traced when it is first called."""
    return {False: tf.function(function), True: tf.function(function, jit_compile=True)}
