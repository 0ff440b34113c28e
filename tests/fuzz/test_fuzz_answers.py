"""Answers of a server that are damaged, or that come from something else than TF Serving."""

import json
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
from answers import read_row
from mutation import json_bytes, mutate_json
from rest_client import RestClient
from serving_stand_ins import http_server

ROW = {
    "detection_boxes": [[0.1, 0.2, 0.3, 0.4], [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]],
    "detection_scores": [0.9, 0.5, 0.0],
    "detection_classes": [1, 2, 0],
    "num_detections": 2,
    "image_decoded": True,
}
ANSWER = {"predictions": [ROW, ROW]}


def check(answer):
    """What is accepted can be drawn and written: boxes within the image, scores in 0..1, labels from 1."""
    assert ((answer.boxes >= 0) & (answer.boxes <= 1)).all()
    assert (answer.boxes[:, :2] <= answer.boxes[:, 2:]).all()
    assert ((answer.scores >= 0) & (answer.scores <= 1)).all()
    assert answer.labels.dtype == np.int32 and (answer.labels >= 1).all()
    assert len(answer.boxes) == len(answer.scores) == len(answer.labels)


@pytest.mark.filterwarnings("error")
def test_rows(fuzz):
    assert len(read_row(ROW).scores) == 2
    fuzz(lambda rng: check(read_row(mutate_json(rng, ROW))))


@pytest.mark.filterwarnings("error")
def test_bodies(fuzz):
    """The server gives any body with any status."""

    class Handler(BaseHTTPRequestHandler):
        code, body = 200, json.dumps(ANSWER).encode()

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(self.code)
            self.end_headers()
            self.wfile.write(self.body)

        def log_message(self, *_):
            pass

    with http_server(Handler) as url:
        client = RestClient(url)
        assert len(client.detect([b"", b""])) == 2

        def case(rng):
            Handler.code = int(rng.choice([200, 200, 200, 200, 204, 301, 400, 404, 500, 503]))
            Handler.body = json_bytes(rng, ANSWER)
            for answer in client.detect([b"", b""]):
                check(answer)

        fuzz(case)
