"""A served model and its clients."""

import shutil
from pathlib import Path

import pytest
from grpc_client import GrpcClient
from image_files import save
from rest_client import RestClient
from serving_stand_ins import ServedModel, grpc_server, rest_server
from stand_in_model import stand_in_config, stand_in_model

from refinedet_tf.exports.savedmodel import export_saved_model


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy between a client and a server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="module")
def network():
    config = stand_in_config()
    return config, stand_in_model(config)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    config, model = network
    return export_saved_model(model, config, tmp_path_factory.mktemp("exports"))[0]


@pytest.fixture
def served(exported):
    return ServedModel(exported)


@pytest.fixture
def rest_url(served):
    with rest_server(served) as url:
        yield url


@pytest.fixture
def grpc_address(served):
    with grpc_server(served) as address:
        yield address


@pytest.fixture(params=["rest", "grpc"])
def connect(request):
    """Makes a client of a running server; its only argument is a `ModelChoice`, by default the latest."""
    client_class, fixture = {"rest": (RestClient, "rest_url"), "grpc": (GrpcClient, "grpc_address")}[
        request.param
    ]
    address = request.getfixturevalue(fixture)
    return lambda *model_choice: client_class(address, *model_choice)


@pytest.fixture
def options(request, connect):
    """The options with which the command reaches the same server."""
    api = request.node.callspec.params["connect"]
    option, fixture = {"rest": ("--url", "rest_url"), "grpc": ("--grpc", "grpc_address")}[api]
    return [option, request.getfixturevalue(fixture)]


@pytest.fixture
def labels(exported, tmp_path):
    return Path(shutil.copy(exported / "assets" / "labels.txt", tmp_path))


@pytest.fixture
def images(tmp_path):
    """Three files of different formats and sizes."""
    return [
        save(tmp_path / "in" / name, 40 + 7 * i, 60 - 9 * i, seed=i)
        for i, name in enumerate(("a.jpg", "b.png", "c.bmp"))
    ]
