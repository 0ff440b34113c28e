"""Asks a served model through TF Serving's gRPC API, which needs tensorflow-serving-api and TensorFlow."""

from collections.abc import Sequence

from answers import INPUT, SIGNATURE, ServedDetections, read_row
from model_choice import DEFAULT_MODEL, ModelChoice

from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.errors import InputError, shortened_text

REQUIREMENT = "tensorflow-serving-api==2.21.0"


class GrpcClient:
    """Sends image files as a string tensor to `PredictionService.Predict`."""

    def __init__(self, address: str = "localhost:8500", model_choice: ModelChoice = DEFAULT_MODEL) -> None:
        """Opens a channel; nothing is sent yet.

        Args:
            address: host:port of the server, which is reached without TLS.
            model_choice: the model that is asked, and the seconds for a request with its answer.

        Raises:
            InputError: tensorflow-serving-api is not installed.
        """
        try:
            import_tensorflow()
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            raise InputError(
                f"--grpc needs a package that is not installed: pip install {REQUIREMENT}"
            ) from None

        # A channel takes answers of up to 4 MB by default. Those of serving_default are smaller, but those
        # of another signature would not be.
        channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        self._request = predict_pb2.PredictRequest()
        self._request.model_spec.name = model_choice.name
        self._request.model_spec.signature_name = SIGNATURE
        if model_choice.version is not None:
            self._request.model_spec.version.value = model_choice.version
        elif model_choice.label is not None:
            self._request.model_spec.version_label = model_choice.label
        self._address, self._timeout = address, model_choice.timeout

    def detect(self, images: Sequence[bytes]) -> list[ServedDetections]:
        """Asks the server what it detects, in one request; all as in `RestClient.detect`."""
        import grpc
        import tensorflow as tf

        self._request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        try:
            answer = self._predict(self._request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise InputError(self._explain(error.code().name, error.details())) from None
        try:
            outputs = {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"the server's outputs are no tensors: {shortened_text(error)}") from None
        for name, array in outputs.items():
            if array.shape[:1] != (len(images),):
                raise InputError(
                    f"the server's {shortened_text(name, 100)} is {list(array.shape)} for {len(images)} "
                    "images: is --model an export of RefineDet?"
                )
        return [read_row({name: array[i] for name, array in outputs.items()}) for i in range(len(images))]

    def _explain(self, code: str, details: str | None) -> str:
        """Returns what failed, from the name of a status code and the text that came with it."""
        if code == "UNAVAILABLE":
            return f"no server at {self._address}, or it is overloaded: {shortened_text(details)}"
        if code == "DEADLINE_EXCEEDED":
            return f"no answer from {self._address} in {self._timeout:g} s; raise --timeout"
        return f"{self._address} answers {code}: {shortened_text(details)}"
