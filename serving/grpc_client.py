"""Detection over TF Serving's gRPC API; needs the package tensorflow-serving-api and TensorFlow."""

from collections.abc import Sequence

from answers import INPUT, SIGNATURE, read_row

from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.errors import InputError

REQUIREMENT = "tensorflow-serving-api==2.21.0"


class GrpcClient:
    """Sends image files as a string tensor to `PredictionService.Predict`."""

    def __init__(
        self,
        address: str = "localhost:8500",
        model: str = "refinedet",
        version: int | None = None,
        label: str | None = None,
        timeout: float = 60.0,
    ):
        """
        Args:
            address: host:port of the server, without TLS.
            model: its name in models.config.
            version, label: at most one of them; with neither the server takes the latest version.
            timeout: seconds for a request with its answer.

        Raises:
            InputError: tensorflow-serving-api is not installed.
        """
        try:
            import_tensorflow()
            import grpc
            from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc
        except ImportError:
            raise InputError(f"--grpc needs a package that is not here: pip install {REQUIREMENT}") from None

        # A channel takes answers of up to 4 MB by default. Those of serving_default are small, but
        # whoever changes the signature here should not run into that.
        channel = grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)])
        self._predict = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict
        self._request = predict_pb2.PredictRequest()
        self._request.model_spec.name = model
        self._request.model_spec.signature_name = SIGNATURE
        if version is not None:
            self._request.model_spec.version.value = version
        elif label is not None:
            self._request.model_spec.version_label = label
        self._address, self._timeout = address, timeout

    def detect(self, images: Sequence[bytes]) -> list[dict]:
        """What the server detects.

        Args:
            images: whole JPEG, PNG, BMP or GIF files, each of any size; sent unchanged.

        Returns:
            One dict an image, as `read_row` describes it.

        Raises:
            InputError: the server cannot be reached, is silent for too long, refuses the request or
                gives another answer; with the server's own words where it has any.
        """
        import grpc
        import tensorflow as tf

        self._request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        try:
            answer = self._predict(self._request, timeout=self._timeout)
        except grpc.RpcError as error:
            raise InputError(self._trouble(error.code(), error.details())) from None
        outputs = {name: tf.make_ndarray(tensor) for name, tensor in answer.outputs.items()}
        for name, array in outputs.items():
            if array.shape[:1] != (len(images),):
                raise InputError(
                    f"the server's {name} is {list(array.shape)} for {len(images)} images: is --model an "
                    "export of RefineDet?"
                )
        return [read_row({name: array[i] for name, array in outputs.items()}) for i in range(len(images))]

    def _trouble(self, code, details):
        if code.name == "UNAVAILABLE":
            return f"no server at {self._address}, or it is overloaded: {details}"
        if code.name == "DEADLINE_EXCEEDED":
            return f"no answer from {self._address} in {self._timeout:g} s; raise --timeout"
        return f"{self._address} answers {code.name}: {details}"
