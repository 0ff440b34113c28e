"""The stand-in network of the tests of detectors."""

import pytest
from stand_in_model import stand_in_config, stand_in_model


@pytest.fixture(scope="module")
def config():
    return stand_in_config()


@pytest.fixture(scope="module")
def model(config):
    return stand_in_model(config)
