"""The client of TF Serving, against servers that stand in for it."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import client
import numpy as np
import pytest
from answers import read_row
from grpc_client import GrpcClient
from PIL import Image
from rest_client import RestClient
from serving_stand_ins import MODEL, ServedModel, grpc_server, http_server, rest_server
from stand_in_model import stand_in_config, stand_in_model

import detect
from refinedet_tf.commands import detect as detect_command
from refinedet_tf.errors import InputError
from refinedet_tf.export.savedmodel import export_saved_model
from refinedet_tf.inference.detector import Detector

SERVING = Path(__file__).parent.parent / "serving"


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
    """A client class bound to the address of a server for it; the rest of its arguments are open."""
    make, address = {"rest": (RestClient, "rest_url"), "grpc": (GrpcClient, "grpc_address")}[request.param]
    address = request.getfixturevalue(address)
    return lambda *arguments, **named: make(address, *arguments, **named)


@pytest.fixture
def options(request, connect):
    """The options with which the command finds the same server."""
    api = request.node.callspec.params["connect"]
    names = {"rest": ("--url", "rest_url"), "grpc": ("--grpc", "grpc_address")}[api]
    return [names[0], request.getfixturevalue(names[1])]


@pytest.fixture
def labels(exported, tmp_path):
    return Path(shutil.copy(exported / "assets" / "labels.txt", tmp_path))


def save(path, height=40, width=60, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def images(tmp_path):
    """Three files of different formats and sizes."""
    return [
        save(tmp_path / "in" / name, 40 + 7 * i, 60 - 9 * i, seed=i)
        for i, name in enumerate(("a.jpg", "b.png", "c.bmp"))
    ]


def assert_agrees(answer, result):
    height, width = result["image_size"]
    assert answer["decoded"] is True
    assert len(answer["scores"]) == len(result["scores"]) > 3
    boxes = answer["boxes"] * [height, width, height, width]
    np.testing.assert_allclose(boxes, result["boxes"], atol=1e-4 * max(height, width))
    np.testing.assert_allclose(answer["scores"], result["scores"], atol=1e-5)
    np.testing.assert_array_equal(answer["labels"], result["labels"])
    kinds = {name: answer[name].dtype.name for name in ("boxes", "scores", "labels")}
    assert kinds == {"boxes": "float32", "scores": "float32", "labels": "int32"}


# The clients


def test_detections_are_those_of_the_detector(connect, served, network, images):
    answers = connect().detect([image.read_bytes() for image in images])
    assert served.asked == [(3, 3)]  # One request, for the latest version.
    for answer, result in zip(answers, Detector(network[1], network[0])(images), strict=True):
        assert_agrees(answer, result)


@pytest.mark.parametrize(("named", "version"), [({"version": 1}, 1), ({"label": "stable"}, 1), ({}, 3)])
def test_versions_and_labels(connect, served, images, named, version):
    connect(MODEL, **named).detect([images[0].read_bytes()])
    assert served.asked == [(version, 1)]


def test_an_undecodable_image_is_empty_and_the_others_are_not(connect, network, images):
    contents = [images[0].read_bytes(), b"no image", images[1].read_bytes(), b""]
    answers = connect().detect(contents)
    assert [answer["decoded"] for answer in answers] == [True, False, True, False]
    assert [len(answers[i]["scores"]) for i in (1, 3)] == [0, 0]
    assert answers[1]["boxes"].shape == (0, 4)
    for answer, result in zip(answers[::2], Detector(network[1], network[0])(images[:2]), strict=True):
        assert_agrees(answer, result)


def test_grpc_messages_above_4_megabytes(served, grpc_address, tmp_path):
    large = save(tmp_path / "large.png", 1200, 1300)
    assert large.stat().st_size > 2**22
    served.change = lambda outputs: {**outputs, "more": np.zeros((1, 2**21), np.float32)}
    (answer,) = GrpcClient(grpc_address).detect([large.read_bytes()])
    assert answer["decoded"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("other",), "Servable not found for request: Latest(other)"),
        ((MODEL, 7), f"Servable not found for request: Specific({MODEL}, 7)"),
        ((MODEL, None, "best"), "Unrecognized servable version label: best"),
    ],
)
def test_what_the_server_says_is_passed_on(connect, images, arguments, said):
    with pytest.raises(InputError, match=re.escape(said)):
        connect(*arguments).detect([images[0].read_bytes()])


def test_a_silent_server(connect, served, images):
    served.wait = threading.Event()
    try:
        with pytest.raises(InputError, match=r"no answer from .* in 0.2 s; raise --timeout"):
            connect(timeout=0.2).detect([images[0].read_bytes()])
    finally:
        served.wait.set()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: {k: v for k, v in o.items() if k != "num_detections"}, "no num_detections, only detect"),
        (lambda o: {**o, "detection_boxes": o["detection_boxes"][:, :, :3]}, r"is \[200, 3\] .*\[K, 4\]"),
        (lambda o: {**o, "detection_scores": o["detection_scores"][:, :9]}, "differ in number"),
        (lambda o: {**o, "detection_scores": o["detection_scores"] * np.nan}, "scores holds .* not finite"),
        (lambda o: {**o, "detection_classes": o["detection_classes"] + 0.5}, "not whole numbers"),
        (lambda o: {**o, "num_detections": o["num_detections"] + 900}, r"num_detections is \d+ of 200"),
        (lambda o: {k: v[:0] for k, v in o.items()}, "predictions|for 1 images"),
    ],
    ids=["missing", "3-sided", "scores", "nan", "classes", "count", "no rows"],
)
def test_outputs_of_another_model(connect, served, images, change, said):
    served.change = change
    with pytest.raises(InputError, match=said):
        connect().detect([images[0].read_bytes()])


@pytest.mark.parametrize("row", [7, None, [1], {"detection_boxes": [[1, 2], [3]]}, {"detection_boxes": "x"}])
def test_rows_that_are_no_outputs(row):
    with pytest.raises(InputError, match="server's"):
        read_row(row)


def test_no_server(tmp_path):
    with rest_server(None) as url:
        pass  # The port is free again.
    with pytest.raises(InputError, match=f"no connection to {url}: .*refused"):
        RestClient(url).detect([b""])
    with pytest.raises(InputError, match="no server at 127.0.0.1:"):
        GrpcClient(url.removeprefix("http://")).detect([b""])


@pytest.mark.parametrize("url", ["localhost:8501", "ftp://localhost", "http://", "http:// a"])
def test_malformed_url(url):
    with pytest.raises(InputError, match="--url must be like http://localhost:8501"):
        RestClient(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:port", "http://a..b", "http://[::1"])
def test_url_without_a_server(url):
    with pytest.raises(InputError, match="no connection to"):
        RestClient(url).detect([b""])


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (200, b"<html>hello</html>", "is no JSON with 1 `predictions`"),
        (200, b'{"outputs": []}', "is no JSON with 1 `predictions`"),
        (200, b"\xff\xfe", "is no JSON with 1 `predictions`"),
        (502, b"<html>bad gateway</html>", "answers 502: <html>bad gateway"),
        (503, b"", r"answers 503: \(no explanation\)"),
        (None, b"", "no connection to .*"),
    ],
)
def test_servers_that_are_not_tf_serving(code, body, said):
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if code is not None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http_server(Handler) as url, pytest.raises(InputError, match=said):
        RestClient(url).detect([b""])


def test_grpc_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(InputError, match=r"pip install tensorflow-serving-api==2\.21\.0"):
        GrpcClient()


# The command


@pytest.mark.parametrize("batch", [1, 2])
def test_files_are_those_of_detect(options, served, network, images, labels, monkeypatch, tmp_path, batch):
    monkeypatch.setattr(detect_command, "load_model", lambda arguments: network)
    one, other = tmp_path / "served", tmp_path / "local"
    common = [str(images[0].parent), "--score-threshold", "0.3", "--output"]
    client.main([*common, str(one), "--labels", str(labels), "--batch", str(batch), *options])
    detect.main([*common, str(other), "--config", "any"])
    assert [count for _, count in served.asked] == ([1, 1, 1] if batch == 1 else [2, 1])
    texts = [(folder / "detections.json").read_text(encoding="utf-8") for folder in (one, other)]
    assert texts[0].count("\n") == texts[1].count("\n") == len(images) + 2
    for entry, expected in zip(*map(json.loads, texts), strict=True):
        assert list(entry) == list(expected) == ["image", "picture", "height", "width", "detections"]
        assert {**entry, "detections": 0} == {**expected, "detections": 0}
        for found, right in zip(entry["detections"], expected["detections"], strict=True):
            assert list(found) == ["class", "score", "box"]
            assert (found["class"], list(found["box"])) == (right["class"], list(right["box"]))
            assert found["score"] == pytest.approx(right["score"], abs=1e-5)
            assert found["box"] == pytest.approx(right["box"], abs=0.02)
    names = sorted(path.name for path in one.iterdir())
    assert names == ["a.jpg", "b.png", "c.png", "detections.json"]
    for name, file in zip(names, images, strict=False):
        drawn, same, plain = (np.asarray(Image.open(path)) for path in (one / name, other / name, file))
        assert drawn.shape == plain.shape
        assert (drawn != plain).any(axis=-1).sum() > 50
        # Another JPEG decoder, and coordinates that are rounded the other way.
        assert (np.abs(drawn.astype(int) - same) > 40).mean() < 0.01


def test_undecodable_images_are_named_and_the_others_kept(refused, rest_url, images, labels, tmp_path):
    (tmp_path / "in" / "broken.jpg").write_bytes(images[0].read_bytes()[:300])
    (tmp_path / "in" / "text.png").write_text("no image")
    output = tmp_path / "out"
    line = refused(
        client, tmp_path / "in", "--labels", labels, "--output", output, "--url", rest_url, "--batch", 3
    )
    assert line.startswith(f"error: 2 of 5 images left out: image {tmp_path / 'in' / 'broken.jpg'} cannot")
    assert "text.png cannot be decoded by the server" in line
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert [entry["image"] for entry in entries] == [str(path) for path in images]
    assert len(list(output.iterdir())) == 4


def test_no_folder_is_left_where_no_server_is(refused, images, labels, tmp_path):
    with rest_server(None) as url:
        pass
    arguments = [client, *images, "--labels", labels, "--output", tmp_path / "out"]
    assert "no connection to" in refused(*arguments, "--url", url)
    assert "no server at" in refused(*arguments, "--grpc", url.removeprefix("http://"))
    assert not (tmp_path / "out").exists()


def test_a_server_that_fails_later(refused, served, rest_url, images, labels, tmp_path):
    served.change = lambda outputs: outputs if len(served.asked) < 3 else {}
    line = refused(client, *images, "--labels", labels, "--output", tmp_path / "out", "--url", rest_url)
    assert "no JSON with 1 `predictions`" in line
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))) == 2


def test_labels_of_another_model(refused, rest_url, images, labels, tmp_path):
    arguments = [client, *images, "--output", tmp_path / "out", "--url", rest_url, "--labels", labels]
    labels.write_text("circle\nsquare\n")
    assert "the server found class 3, but --labels has 2 names" in refused(*arguments)
    labels.write_text("")
    assert "labels.txt is empty" in refused(*arguments)
    labels.write_bytes(b"\xff\xff")
    assert "labels.txt cannot be read" in refused(*arguments)
    labels.unlink()
    assert "labels.txt cannot be read" in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--batch", 0, "--batch must be at least 1, got 0"),
        ("--timeout", 0, "--timeout must lie in 0..86400 s, got 0"),
        ("--timeout", "nan", "--timeout must lie in 0..86400 s, got nan"),
        ("--timeout", "inf", "--timeout must lie in 0..86400 s, got inf"),
        ("--version", -1, "--version must be the number of a version, got -1"),
        ("--version", 2**63, "--version must be the number of a version, got 9223372036854775808"),
        ("--score-threshold", 50, "--score-threshold must lie in 0..1, got 50"),
        ("--url", "localhost:8501", "--url must be like"),
        ("--output", "in", "in is not empty"),
    ],
)
def test_wrong_values(refused, monkeypatch, rest_url, images, labels, tmp_path, option, value, said):
    monkeypatch.chdir(tmp_path)
    arguments = ["in", "--labels", labels, "--output", "out", "--url", rest_url, option, value]
    assert said in refused(client, *arguments)


def test_clients_ask_for_that_model_by_default(monkeypatch, images, labels, tmp_path):
    asked = []

    class Client(RestClient):
        def __init__(self, url, model, version, label, timeout):
            asked.extend((url, model, version, label, timeout))
            raise InputError("enough")

    monkeypatch.setattr(client, "RestClient", Client)
    with pytest.raises(InputError, match="enough"):
        client.main([str(images[0]), "--labels", str(labels), "--output", str(tmp_path / "out")])
    assert asked == ["http://localhost:8501", MODEL, None, None, 60]
    for make in (RestClient, GrpcClient):
        assert make.__init__.__defaults__[1] == MODEL


def test_no_image(refused, labels, tmp_path):
    assert "no image found" in refused(
        client, tmp_path / "none", "--labels", labels, "--output", tmp_path / "out"
    )


def test_rest_needs_no_tensorflow(rest_url, images, labels, tmp_path):
    """In a process of its own, started as users start it, where importing TensorFlow or Keras fails."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('tensorflow', 'keras', 'grpc'):\n    sys.modules[name] = None\n"
    )
    child = subprocess.run(
        [sys.executable, str(SERVING / "client.py"), *map(str, images), "--labels", str(labels)]
        + ["--output", "out", "--url", rest_url],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert child.stdout.startswith("3 images, ")
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["16-bit", "L", "RGBA", "P", "CMYK", "gif"])
def test_pictures_show_what_the_server_saw(tmp_path, mode):
    from refinedet_tf.inference.detector import read_image

    values = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    file = tmp_path / f"image.{ {'CMYK': 'jpg', 'gif': 'gif'}.get(mode, 'png') }"
    if mode == "16-bit":
        Image.fromarray(values[:, :, 0].astype(np.uint16) * 257 + 100).save(file)
    else:
        Image.fromarray(values, "RGBA").convert(
            {"CMYK": "CMYK", "RGBA": "RGBA", "L": "L"}.get(mode, "P")
        ).save(file)
    pixels = client.read_pixels(file.read_bytes())
    assert (pixels.dtype, pixels.shape) == (np.uint8, (30, 40, 3))
    difference = np.abs(pixels.astype(int) - read_image(file))
    assert difference.max() <= (4 if mode == "CMYK" else 0)
