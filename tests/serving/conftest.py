"""A served model and its clients."""

import shutil
from functools import partial
from pathlib import Path

import pytest
from grpc_client import GrpcClient
from image_files import save
from rest_client import RestClient
from serving_stand_ins import ServedModel, grpc_server, rest_server


@pytest.fixture(autouse=True)
def direct(monkeypatch):
    """No proxy between a client and a server on this machine."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture(scope="session")
def model_folder(exported):
    return exported.folder


@pytest.fixture
def served(exported):
    return ServedModel(exported.served)


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
    if request.param == "rest":
        return partial(RestClient, request.getfixturevalue("rest_url"))
    return partial(GrpcClient, request.getfixturevalue("grpc_address"))


@pytest.fixture
def options(request, connect):
    """The options with which the command reaches the same server."""
    if request.node.callspec.params["connect"] == "rest":
        return ["--url", request.getfixturevalue("rest_url")]
    return ["--grpc", request.getfixturevalue("grpc_address")]


@pytest.fixture
def labels(model_folder, tmp_path):
    return Path(shutil.copy(model_folder / "assets" / "labels.txt", tmp_path))


@pytest.fixture
def images(tmp_path):
    """Three files of different formats and sizes."""
    return [
        save(tmp_path / "in" / name, 40 + 7 * i, 60 - 9 * i, seed=i)
        for i, name in enumerate(("a.jpg", "b.png", "c.bmp"))
    ]
