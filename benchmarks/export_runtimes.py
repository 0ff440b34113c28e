"""The exported forms in their runtimes, each loaded as a program without this project would load it.

`python benchmarks/export_runtimes.py FORM`, where FORM is a `Form` as JSON, loads a form in a fresh process
and prints what the start costs. For this, nothing here imports TensorFlow unless the form needs it.
"""

import dataclasses
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Call = Callable[[Any], dict[str, np.ndarray]]
"""A function from the input of a form to its outputs by name."""

PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}
"""OpenVINO's names for the type in which it computes what is not int8."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A way to run the network.

    Attributes:
        runtime: a key of `RUNTIMES`.
        precision: "float32", "bfloat16" or "int8", the type in which convolutions are computed.
        path: the file that is loaded, or the folder of a SavedModel or of a run.
        function: "heads": it takes images of the network's size, float32 [N, height, width, 3], and returns
            the heads. "whole": it takes images of any size, uint8 [N, H, W, 3], and returns detections.
            "files": it takes image files, a list of N bytes, and returns detections.
        batch: N; some files are made for one number of images.
        threads: those of onnxruntime, OpenVINO and LiteRT; TensorFlow's are set for the process.
    """

    runtime: str
    precision: str
    path: str
    function: str
    batch: int
    threads: int

    @property
    def name(self) -> str:
        """The runtime and the precision."""
        return f"{self.runtime} {self.precision}"

    def megabytes(self) -> float:
        """Returns the size of what is loaded, without the other files in the folder of a SavedModel."""
        path = Path(self.path)
        patterns = ("saved_model.pb", "variables/*", "*.weights.h5")
        files = [path] if path.is_file() else [file for pattern in patterns for file in path.glob(pattern)]
        return sum(file.stat().st_size for file in files) / 1e6


def load_model(form: Form) -> Call:
    """Loads the network from config.json and model.weights.h5 as `detect.py` does."""
    import tensorflow as tf

    from refinedet_tf.config.files import load_config
    from refinedet_tf.data.images import warp_image
    from refinedet_tf.inference.compiled_detector import CompiledDetector, inference_network
    from refinedet_tf.refinedet.network import build_model
    from refinedet_tf.weights import load_weights

    folder = Path(form.path)
    config = load_config(folder / "config.json", [f"training.precision={form.precision}"])
    model = build_model(config)
    load_weights(model, folder / "model.weights.h5")
    detector = CompiledDetector(inference_network(model), config)
    whole = tf.function(lambda images: detector(warp_image(images, detector.image_size)))
    function = detector.heads if form.function == "heads" else whole
    return lambda images: {name: value.numpy() for name, value in function(images).items()}


def load_saved_model(form: Form) -> Call:
    """Loads the signature of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(form.path)
    signature, argument = {
        "heads": ("serving_heads", "images"),
        "whole": ("serving_tensor", "images"),
        "files": ("serving_default", "image_bytes"),
    }[form.function]

    def call(images: Any) -> dict[str, np.ndarray]:
        # The signature is taken from `loaded`, because this keeps the variables alive.
        outputs = loaded.signatures[signature](**{argument: tf.constant(images)})
        return {name: value.numpy() for name, value in outputs.items()}

    return call


def load_onnxruntime(form: Form) -> Call:
    """Loads an ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = form.threads
    session = onnxruntime.InferenceSession(form.path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"images": images}), strict=True))


def load_openvino(form: Form) -> Call:
    """Loads an ONNX file in OpenVINO on the CPU, for the form's number of images."""
    import openvino

    core = openvino.Core()
    model = core.read_model(form.path)
    _, *image_shape = model.input("images").get_partial_shape()
    model.reshape({"images": [form.batch, *image_shape]})
    # OpenVINO would compute in bfloat16 wherever the processor has it.
    settings = {
        "INFERENCE_PRECISION_HINT": PRECISIONS[form.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": form.threads,
    }
    compiled = core.compile_model(model, "CPU", settings)
    names = [output.get_any_name() for output in compiled.outputs]
    return lambda images: dict(zip(names, (value.copy() for value in compiled(images).values()), strict=True))


def load_litert(form: Form) -> Call:
    """Loads a LiteRT file, which was written for the form's number of images."""
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(model_path=form.path, num_threads=form.threads).get_signature_runner()
    return lambda images: run(images=images)


RUNTIMES: Mapping[str, tuple[str, Callable[[Form], Call]]] = {
    "model": ("refinedet_tf.inference.compiled_detector", load_model),
    "SavedModel": ("tensorflow", load_saved_model),
    "onnxruntime": ("onnxruntime", load_onnxruntime),
    "OpenVINO": ("openvino", load_openvino),
    "LiteRT": ("ai_edge_litert.interpreter", load_litert),
}
"""Runtime -> the module that is imported for it, and the function that loads a form."""


def load(form: Form) -> Call:
    """Loads a form in its runtime."""
    return RUNTIMES[form.runtime][1](form)


def peak_memory() -> float | None:
    """Returns the largest resident memory of this process so far in MB; None where Linux does not tell it.

    `resource.getrusage` would return that of the parent process if it is larger.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Loads the form on the command line, calls it once, and prints processor seconds and memory as JSON."""
    tree = json.loads(sys.argv[1])
    images = np.full(tree.pop("input_shape"), 128, np.float32)
    form = Form(**tree)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    start = time.process_time()
    importlib.import_module(RUNTIMES[form.runtime][0])
    imported = time.process_time()
    load(form)(images)
    answered = time.process_time()
    seconds = {"import_s": imported - start, "first_answer_s": answered - imported}
    # It is the last line: libraries print, too.
    print(json.dumps(seconds | {"memory_mb": peak_memory()}))


if __name__ == "__main__":
    main()
