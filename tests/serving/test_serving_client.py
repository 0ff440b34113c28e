"""The clients of TF Serving, against servers that stand in for it."""

import contextlib
import itertools
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from answers import read_row
from grpc_client import GrpcClient
from image_files import save
from model_choice import ModelChoice
from refusals import message_of
from rest_client import RestClient
from serving_stand_ins import MODEL, http_server, rest_server

from refinedet_tf.errors import InputError


def assert_agrees(answer, result):
    """A server's answer holds what the `Detector` gives for the same image."""
    assert answer.decoded is True
    assert len(answer.scores) == len(result.scores) > 3
    np.testing.assert_allclose(answer.boxes, result.normalized_boxes, rtol=0, atol=1e-5)
    np.testing.assert_allclose(answer.scores, result.scores, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(answer.labels, result.labels)
    kinds = {name: getattr(answer, name).dtype.name for name in ("boxes", "scores", "labels")}
    assert kinds == {"boxes": "float32", "scores": "float32", "labels": "int32"}


def test_detections_are_those_of_the_detector(connect, served, exported, images):
    answers = connect().detect([image.read_bytes() for image in images])
    assert served.asked == [(3, 3)]  # One request, for the latest version.
    for answer, result in zip(answers, exported.detector(images), strict=True):
        assert_agrees(answer, result)


@pytest.mark.parametrize(("named", "version"), [({"version": 1}, 1), ({"label": "stable"}, 1), ({}, 3)])
def test_versions_and_labels(connect, served, images, named, version):
    connect(ModelChoice(MODEL, **named)).detect([images[0].read_bytes()])
    assert served.asked == [(version, 1)]


def test_an_undecodable_image_is_empty_and_the_others_are_not(connect, exported, images):
    contents = [images[0].read_bytes(), b"no image", images[1].read_bytes(), b""]
    answers = connect().detect(contents)
    assert [answer.decoded for answer in answers] == [True, False, True, False]
    assert [len(answers[i].scores) for i in (1, 3)] == [0, 0]
    assert answers[1].boxes.shape == (0, 4)
    for answer, result in zip(answers[::2], exported.detector(images[:2]), strict=True):
        assert_agrees(answer, result)


def test_grpc_messages_above_4_megabytes(served, grpc_address, tmp_path):
    large = save(tmp_path / "large.png", 1200, 1300)
    assert large.stat().st_size > 2**22
    served.change = lambda outputs: {**outputs, "more": np.zeros((1, 2**21), np.float32)}
    (answer,) = GrpcClient(grpc_address).detect([large.read_bytes()])
    assert answer.decoded


@pytest.mark.parametrize(
    ("model_choice", "message"),
    [
        (ModelChoice("other"), "Servable not found for request: Latest(other)"),
        (ModelChoice(MODEL, version=7), f"Servable not found for request: Specific({MODEL}, 7)"),
        (ModelChoice(MODEL, label="best"), "Unrecognized servable version label: best"),
    ],
)
def test_what_the_server_says_is_passed_on(connect, images, model_choice, message):
    with pytest.raises(InputError, match=re.escape(message)):
        connect(model_choice).detect([images[0].read_bytes()])


def test_a_silent_server(connect, served, images):
    served.wait = threading.Event()
    try:
        with pytest.raises(InputError, match=r"no answer from .* in 0.2 s; raise --timeout"):
            connect(ModelChoice(timeout=0.2)).detect([images[0].read_bytes()])
    finally:
        served.wait.set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: {k: v for k, v in o.items() if k != "num_detections"}, "no num_detections, only detect"),
        (lambda o: {**o, "detection_boxes": o["detection_boxes"][:, :, :3]}, r"is \[100, 3\] .*\[K, 4\]"),
        (lambda o: {**o, "detection_scores": o["detection_scores"][:, :9]}, "differ in number"),
        (lambda o: {**o, "detection_scores": o["detection_scores"] * np.nan}, "scores holds .* not finite"),
        (lambda o: {**o, "detection_classes": o["detection_classes"] + 0.5}, "not whole numbers"),
        (lambda o: {**o, "num_detections": o["num_detections"] + 900}, r"num_detections is \d+ of 100"),
        (lambda o: {k: v[:0] for k, v in o.items()}, "predictions|for 1 images"),
        (lambda o: {**o, "detection_boxes": o["detection_boxes"] + 1.5}, r"boxes hold \S+, outside 0..1"),
        (lambda o: {**o, "detection_scores": -o["detection_scores"]}, r"scores hold -0\.\d+, outside 0..1"),
        (
            lambda o: {**o, "detection_boxes": o["detection_boxes"][:, :, [2, 3, 0, 1]]},
            r"box \[ymin, xmin, ymax, xmax\] = \[.*\] is inverted",
        ),
        (lambda o: {**o, "detection_classes": o["detection_classes"] * 1e30}, "not whole numbers"),
    ],
    ids=[
        *("missing", "3-sided", "scores", "nan", "classes", "count", "no rows"),
        *("outside", "negative", "inverted", "large classes"),
    ],
)
def test_outputs_of_another_model(connect, served, images, change, message):
    served.change = change
    with pytest.raises(InputError, match=message):
        connect().detect([images[0].read_bytes()])


@pytest.mark.parametrize("row", [7, None, [1], {"detection_boxes": [[1, 2], [3]]}, {"detection_boxes": "x"}])
def test_rows_that_are_no_outputs(row):
    with pytest.raises(InputError, match="server's"):
        read_row(row)


ROW = {
    "detection_boxes": [[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0]],
    "detection_scores": [0.9, 0.5],
    "detection_classes": [1, 2],
    "num_detections": 2,
    "image_decoded": True,
}


def test_rounding_is_cut_off():
    row = {
        **ROW,
        "detection_boxes": [[-1e-4, 0.2, 0.3, 1.0005], [0, 0, 1, 1]],
        "detection_scores": [1.0004, 0],
    }
    answer = read_row(row)
    np.testing.assert_allclose(answer.boxes, [[0, 0.2, 0.3, 1], [0, 0, 1, 1]], rtol=1e-6)
    assert answer.scores.tolist() == [1, 0] and answer.labels.tolist() == [1, 2]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("detection_scores", [1e300, 0.5], "not finite"),
        ("detection_scores", [10**400, 0.5], "no array of numbers"),
        ("detection_classes", [1e38, 1], "not whole numbers from 1"),
        ("detection_classes", [0, 1], "not whole numbers from 1"),
        ("num_detections", 1e30, "num_detections is 1e\\+30 of 2"),
    ],
)
def test_numbers_that_no_export_gives(name, value, message):
    with pytest.raises(InputError, match=message):
        read_row({**ROW, name: value})


def test_messages_stay_short():
    for row in ({"x" * 10**6: 1}, ["y" * 10**6], "z" * 10**6):
        assert len(message_of(read_row, row)) < 500


def test_no_server():
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


def answering(code, parts, headers=()):
    """A server that answers every request with a code (None: not at all), headers and the parts of a body."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if code is not None:
                self.send_response(code)
                for header in dict(headers).items():
                    self.send_header(*header)
                self.end_headers()
                with contextlib.suppress(OSError):
                    for part in parts:
                        self.wfile.write(part)

        def log_message(self, *_):
            pass

    return http_server(Handler)


@pytest.mark.parametrize(
    ("code", "body", "message"),
    [
        (200, b"<html>hello</html>", "is no JSON with 1 `predictions`"),
        (200, b'{"outputs": []}', "is no JSON with 1 `predictions`"),
        (200, b"\xff\xfe", "is no JSON with 1 `predictions`"),
        (502, b"<html>bad gateway</html>", "answers 502: <html>bad gateway"),
        (503, b"", r"answers 503: \(no explanation\)"),
        (None, b"", "no connection to .*"),
        (200, b"[" * 100_000, "is no JSON with 1 `predictions`"),
        (200, b'{"predictions": [' + b"9" * 5000 + b"]}", "is no JSON with 1 `predictions`"),
        (500, b'{"error": "' + b"long " * 20_000 + b'"}', r"answers 500: .{400,600}$"),
        (500, b"long " * 20_000, r"answers 500: .{400,600}$"),
    ],
)
def test_servers_that_are_not_tf_serving(code, body, message):
    with answering(code, [body]) as url, pytest.raises(InputError, match=message):
        RestClient(url).detect([b""])


@pytest.mark.parametrize("code", [301, 302, 307, 308])
def test_redirections_are_named_and_not_followed(code):
    message = f"answers {code}: a redirection to http://elsewhere.example/v1; give that address as --url"
    headers = {"Location": "http://elsewhere.example/v1"}
    with answering(code, [b"moved"], headers) as url, pytest.raises(InputError, match=message):
        RestClient(url).detect([b""])


@pytest.mark.parametrize(("code", "message"), [(200, "is longer than 1,000 bytes"), (500, "answers 500: y+")])
def test_an_answer_without_end(monkeypatch, code, message):
    monkeypatch.setattr("rest_client.MAX_ANSWER_BYTES", 1000)
    parts = itertools.repeat(b"y" * 1000)
    with answering(code, parts) as url, pytest.raises(InputError, match=message) as refused:
        RestClient(url).detect([b""])
    assert len(str(refused.value)) < 1000


def test_grpc_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(InputError, match=r"pip install tensorflow-serving-api==2\.21\.0"):
        GrpcClient()
