"""The fixtures that tests of several commands share."""

import pytest
from stand_in_model import stand_in_config, stand_in_model

import detect
from refinedet_tf.commands import detect as detect_command


@pytest.fixture(scope="session")
def network():
    """The config and the model of a stand-in network."""
    config = stand_in_config()
    return config, stand_in_model(config)


@pytest.fixture
def detect_into(monkeypatch, network, tmp_path):
    """Runs detect.py with the stand-in network; returns the output folder."""
    config, model = network
    monkeypatch.setattr(detect_command, "config_from", lambda _: config)
    monkeypatch.setattr(detect_command, "load_model", lambda *_, **__: model)

    def run(*arguments, output=tmp_path / "out"):
        detect.main(["--config", "any", *map(str, arguments), "--output", str(output)])
        return output

    return run
