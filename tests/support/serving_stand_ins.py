"""Servers on loopback that stand in for TF Serving and refuse every request that its API does not have.

The rules and the texts of the refusals are those of TF Serving's REST documentation and of
tensorflow-serving-api's messages.
"""

import base64
import contextlib
import json
import re
import threading
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import tensorflow as tf
from pydantic import BaseModel, ConfigDict, ValidationError
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

MODEL = "refinedet"
VERSIONS = (1, 3)
LABELS = {"stable": 1, "canary": 3}
PREDICT_URL = r"/v1/models/([^/:]+)(?:/versions/(\d+)|/labels/([^/:]+))?:predict"


class Refusal(Exception):
    """A request that the API does not allow; `http` is its status code, `code` the one of gRPC."""

    def __init__(self, http, code, text):
        super().__init__(text)
        self.http, self.code, self.text = http, code, text


class ServedModel:
    """The signature `serving_default` of a loaded model, with versions and labels.

    Attributes: `asked`, a (version, number of images) for every request; `change`, applied to the
    outputs if set; `wait`, if set an event without which no request is answered; `loaded`, what the
    status says.
    """

    def __init__(self, loaded_model):
        self._loaded = loaded_model
        self.asked, self.change, self.wait, self.loaded = [], None, None, True

    def predict(self, name, version, label, signature, images):
        """[N] bytes -> {output: array [N, ...]}."""
        if self.wait is not None:
            self.wait.wait(10)
        if name != MODEL:
            raise Refusal(404, "NOT_FOUND", f"Servable not found for request: Latest({name})")
        if label is not None and label not in LABELS:
            raise Refusal(400, "INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
        version = LABELS[label] if label is not None else max(VERSIONS) if version is None else version
        if version not in VERSIONS:
            raise Refusal(404, "NOT_FOUND", f"Servable not found for request: Specific({name}, {version})")
        if signature not in (None, "", "serving_default"):
            raise Refusal(400, "INVALID_ARGUMENT", f'Serving signature key "{signature}" not found.')
        self.asked.append((version, len(images)))
        found = self._loaded.signatures["serving_default"](image_bytes=tf.constant(images, tf.string))
        outputs = {name: value.numpy() for name, value in found.items()}
        return outputs if self.change is None else self.change(outputs)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Binary(_Strict):
    b64: str


class RowRequest(_Strict):
    """The body of a predict request in row format, for one input of strings."""

    signature_name: str | None = None
    instances: list[Binary]


def _handler(served):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            contents = self.rfile.read(int(self.headers["Content-Length"]))
            try:
                self._answer(200, {"predictions": self._rows(contents)})
            except Refusal as refusal:
                self._answer(refusal.http, {"error": refusal.text})

        def do_GET(self):
            if self.path != f"/v1/models/{MODEL}":
                return self._answer(404, {"error": f"Could not find any versions of model {self.path}"})
            status = {"error_code": "OK" if served.loaded else "UNAVAILABLE", "error_message": ""}
            state = "AVAILABLE" if served.loaded else "LOADING"
            versions = [{"version": str(each), "state": state, "status": status} for each in VERSIONS]
            return self._answer(200, {"model_version_status": versions})

        def _rows(self, contents):
            match = re.fullmatch(PREDICT_URL, self.path)
            if match is None:
                raise Refusal(400, "", f"Malformed request: POST {self.path}")
            name, version, label = match.groups()
            try:
                request = RowRequest.model_validate_json(contents)
                images = [base64.b64decode(each.b64, validate=True) for each in request.instances]
            except (ValidationError, ValueError) as error:
                raise Refusal(400, "", f"JSON Parse error: {error}") from None
            version = None if version is None else int(version)
            outputs = served.predict(name, version, label, request.signature_name, images)
            columns = {name: value.tolist() for name, value in outputs.items()}
            return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

        def _answer(self, code, body):
            contents = json.dumps(body, indent=4).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError):  # A client that did not wait.
                self.wfile.write(contents)

        def log_message(self, *_):
            pass

    return Handler


@contextlib.contextmanager
def http_server(handler):
    """The URL of an HTTP server on a free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def rest_server(served):
    """The URL of a REST API that serves a `ServedModel`."""
    return http_server(_handler(served))


@contextlib.contextmanager
def grpc_server(served):
    """host:port of a gRPC API that serves a `ServedModel`."""

    class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec = request.model_spec
            try:
                if list(request.inputs) != ["image_bytes"]:
                    raise Refusal(400, "INVALID_ARGUMENT", f"input {list(request.inputs)} not in signature")
                tensor = request.inputs["image_bytes"]
                shape = [each.size for each in tensor.tensor_shape.dim]
                if (tensor.dtype, len(shape)) != (tf.string.as_datatype_enum, 1):
                    raise Refusal(400, "INVALID_ARGUMENT", f"input is {tensor.dtype} {shape}")
                images = tf.make_ndarray(tensor).tolist()
                which = spec.WhichOneof("version_choice")
                version = spec.version.value if which == "version" else None
                label = spec.version_label if which == "version_label" else None
                outputs = served.predict(spec.name, version, label, spec.signature_name, images)
            except Refusal as refusal:
                context.abort(getattr(grpc.StatusCode, refusal.code), refusal.text)
            response = predict_pb2.PredictResponse()
            response.model_spec.CopyFrom(spec)
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    # TF Serving takes requests of up to 2 GB.
    server = grpc.server(
        futures.ThreadPoolExecutor(2), options=[("grpc.max_receive_message_length", 2**31 - 1)]
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
