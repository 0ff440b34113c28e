"""Requests that TensorFlow Serving answers for itself when it loads a model.

The first call of a signature is slow, as kernels are chosen and memory is taken; no client should wait for
that. The file holds PredictionLog messages (tensorflow_serving/apis/prediction_log.proto). Of them so
little is needed that it is written here by hand: the package with the message classes asks for a
TensorFlow of its own.
"""

from pathlib import Path

import tensorflow as tf

FILE = Path("assets.extra") / "tf_serving_warmup_requests"
"""In the folder of a version, where the server looks for it."""

# Numbers of fields in the proto files of tensorflow_serving/apis.
_PREDICTION_LOG_PREDICT_LOG = 6
_PREDICT_LOG_REQUEST = 1
_REQUEST_MODEL_SPEC, _REQUEST_INPUTS = 1, 2
_SPEC_NAME, _SPEC_SIGNATURE_NAME = 1, 3
_MAP_KEY, _MAP_VALUE = 1, 2


def write_warmup_requests(folder: Path, image_size: tuple[int, int], image_file: bytes) -> None:
    """Writes one request for each signature, of one image.

    Args:
        folder: of the version.
        image_size: (height, width) of the network's input.
        image_file: any image file that decodes.
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
            writer.write(_prediction_log(signature, name, tf.make_tensor_proto(value.numpy())))


def _prediction_log(signature, input_name, tensor):
    # The server sends them to the model they lie beside, whatever its name is.
    spec = _field(_SPEC_NAME, b"refinedet") + _field(_SPEC_SIGNATURE_NAME, signature.encode())
    entry = _field(_MAP_KEY, input_name.encode()) + _field(_MAP_VALUE, tensor.SerializeToString())
    request = _field(_REQUEST_MODEL_SPEC, spec) + _field(_REQUEST_INPUTS, entry)
    return _field(_PREDICTION_LOG_PREDICT_LOG, _field(_PREDICT_LOG_REQUEST, request))


def _field(number, payload):
    """A field of bytes in protobuf's wire format: key, length, payload."""
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value):
    groups = []
    while True:
        value, low = value >> 7, value & 0x7F
        groups.append(low | 0x80 if value else low)
        if not value:
            return bytes(groups)
