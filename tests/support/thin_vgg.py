"""VGG-16 with few channels up to conv5_3: all the layers of the real network, quick to build."""

import importlib

import pytest

from refinedet_tf.config import Config, DataConfig, ModelConfig, TrainingConfig
from refinedet_tf.model import build_model

STAGES = ((2, 4), (2, 8), (3, 8), (3, 16), (3, 16))


def thin_vgg(num_classes=3, precision="float32", **model):
    names = tuple(f"class {i}" for i in range(1, num_classes + 1))
    config = Config(
        data=DataConfig(classes=names),
        model=ModelConfig(**{"image_size": None, "tcb_channels": 8, **model}),
        training=TrainingConfig(precision=precision),
    )
    # By its full name, since the package's attribute of that name is the function.
    module = importlib.import_module("refinedet_tf.backbones.vgg16")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "STAGES", STAGES)
        return build_model(config)
