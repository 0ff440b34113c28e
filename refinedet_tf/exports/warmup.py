"""The requests that TensorFlow Serving sends to a model when it loads it.

The first call of a signature is slow, because kernels are chosen and memory is allocated; no client should
wait for that. The file holds PredictionLog messages (tensorflow_serving/apis/prediction_log.proto). The few
fields that are needed are encoded here, because the package with the message classes requires a certain
version of TensorFlow.
"""

from pathlib import Path

import tensorflow as tf

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""The path in the folder of a version at which the server looks for the requests."""

# The numbers of the fields in the proto files of tensorflow_serving/apis.
_PREDICTION_LOG_PREDICT_LOG = 6
_PREDICT_LOG_REQUEST = 1
_REQUEST_MODEL_SPEC, _REQUEST_INPUTS = 1, 2
_SPEC_NAME, _SPEC_SIGNATURE_NAME = 1, 3
_MAP_KEY, _MAP_VALUE = 1, 2


def write_warmup_requests(folder: Path, image_size: tuple[int, int], image_file: bytes) -> None:
    """Writes one request per signature, each with one image.

    Args:
        folder: the folder of the version.
        image_size: (height, width) of the network's input in pixels.
        image_file: the bytes of any image file that `decode_image` can decode.
    """
    pixels = tf.zeros([1, *image_size, 3], tf.uint8)
    requests = {
        "serving_default": ("image_bytes", tf.constant([image_file])),
        "serving_tensor": ("images", pixels),
        "serving_heads": ("images", tf.cast(pixels, tf.float32)),
    }
    file = folder / FILE
    file.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(file)) as writer:
        for signature, (name, value) in requests.items():
            tensor = tf.make_tensor_proto(value.numpy()).SerializeToString()
            writer.write(_prediction_log(signature, name, tensor))


def _prediction_log(signature: str, input_name: str, tensor: bytes) -> bytes:
    """Encodes a request of a signature with one input, an encoded TensorProto, as a PredictionLog."""
    # The server sends it to the model in the same folder, whatever the name of the model is.
    spec = _field(_SPEC_NAME, b"refinedet") + _field(_SPEC_SIGNATURE_NAME, signature.encode())
    entry = _field(_MAP_KEY, input_name.encode()) + _field(_MAP_VALUE, tensor)
    request = _field(_REQUEST_MODEL_SPEC, spec) + _field(_REQUEST_INPUTS, entry)
    return _field(_PREDICTION_LOG_PREDICT_LOG, _field(_PREDICT_LOG_REQUEST, request))


def _field(number: int, payload: bytes) -> bytes:
    """Encodes a field of bytes in protobuf's wire format: key, length, payload."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    """Encodes an integer in groups of 7 bits, the lowest first; all but the last have the high bit set."""
    groups: list[int] = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | 0x80 if value else low)
        if not value:
            return bytes(groups)
