"""The fixtures that tests of training share."""

import keras
import pytest
from training_config import CLASSES_OVERRIDE

from refinedet_tf.config.files import load_config


@pytest.fixture
def config(config_file, small_network):
    """Makes a config of the small network with three classes and further overrides."""
    keras.utils.set_random_seed(0)
    return lambda *overrides: load_config(config_file, [CLASSES_OVERRIDE, *overrides])
