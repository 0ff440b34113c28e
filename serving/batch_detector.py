"""Detects on image files with an exported SavedModel. It needs TensorFlow, NumPy and Pillow only."""

import functools
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow reads it when it is imported.

import numpy as np
import tensorflow as tf
from batch_files import Answer, BatchJobError, read_class_names
from PIL import Image
from upright import upright_size

SIGNATURE = "serving_default"
"""The signature that takes image files and returns detections."""

OUTPUTS = ("detection_boxes", "detection_scores", "detection_classes", "num_detections", "image_decoded")
"""The outputs of `SIGNATURE` that are read, each with one row per image."""

UNDECODED = (
    "cannot be decoded: no whole JPEG, PNG, BMP, GIF or WebP file, an animated WebP, or too many pixels"
)


class FileDetector:
    """An exported model, ready to be called on paths of image files."""

    def __init__(self, model: str, threads: int | None = None) -> None:
        """Loads the model.

        Args:
            model: the folder of a version, such as exports/voc320/1.
            threads: the number of cores that an operation of TensorFlow may use. It can only be set in a
                process that has not used TensorFlow yet; None: as TensorFlow decides.

        Raises:
            BatchJobError: the folder holds no model that `export_savedmodel.py` has written.
        """
        if threads is not None:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(threads)
        self._class_names = read_class_names(model)
        description = json.loads((Path(model) / "assets" / "model.json").read_text(encoding="utf-8"))
        # GPUs compute in TensorFloat-32 only if the training did, as in detect.py.
        precision = description["config"]["training"]["precision"]
        tf.config.experimental.enable_tensor_float_32_execution(precision == "tf32")
        self._loaded = tf.saved_model.load(model)  # Without it the signature's variables would be freed.
        self._signature = self._loaded.signatures.get(SIGNATURE)
        outputs = () if self._signature is None else self._signature.structured_outputs
        if not set(OUTPUTS) <= set(outputs):
            raise BatchJobError(f"{model} has no signature {SIGNATURE} as export_savedmodel.py writes it")

    def answer(self, paths: Sequence[str], batch_size: int) -> list[Answer]:
        """Detects the objects on image files.

        Args:
            paths: the files, of any sizes and in the formats JPEG, PNG, BMP, GIF (first frame) and WebP.
            batch_size: the number of images that the network sees at once; no more files than these are
                held in memory.

        Returns:
            One answer per path, in the order of `paths`; see `batch_files.Answer`. A file that cannot be
            read or decoded is answered with an "error" and does not affect the others.
        """
        answers: dict[int, Answer] = {}
        batch: list[tuple[int, bytes]] = []
        for place, path in enumerate(paths):
            try:
                batch.append((place, Path(path).read_bytes()))
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                answers[place] = {"image": path, "error": f"cannot be read: {reason}"}
            if len(batch) == batch_size:
                answers |= self._answer_batch(paths, batch)
                batch = []
        if batch:
            answers |= self._answer_batch(paths, batch)
        return [answers[place] for place in range(len(paths))]

    def detect(self, files: Sequence[bytes]) -> dict[str, np.ndarray]:
        """Calls the model.

        Args:
            files: the contents of N image files.

        Returns:
            The arrays of `OUTPUTS`: boxes float32 [N, K, 4], normalised `[ymin, xmin, ymax, xmax]`, scores
            float32 [N, K], classes float32 [N, K], 1..C, the number of rows that count int32 [N], and bool
            [N], whether the file was decoded.
        """
        outputs = self._signature(image_bytes=tf.constant(list(files)))
        return {name: outputs[name].numpy() for name in OUTPUTS}

    def _answer_batch(self, paths: Sequence[str], batch: Sequence[tuple[int, bytes]]) -> dict[int, Answer]:
        """Returns the answers to some files, by their place in `paths`."""
        outputs = self.detect([contents for _, contents in batch])
        answers = {}
        for row, (place, contents) in enumerate(batch):
            if outputs["image_decoded"][row]:
                rows = {name: array[row] for name, array in outputs.items()}
                answers[place] = self._describe(paths[place], image_size(contents), rows)
            else:
                answers[place] = {"image": paths[place], "error": UNDECODED}
        return answers

    def _describe(self, path: str, image_size: tuple[int, int], rows: Mapping[str, np.ndarray]) -> Answer:
        """Returns the answer to one decoded image, with the digits of detect.py's detections.json."""
        valid = slice(int(rows["num_detections"]))
        # The product is one of float32, as in detect.py.
        boxes = rows["detection_boxes"][valid] * np.array([*image_size, *image_size], np.float32)
        detections = []
        for box, score, label in zip(
            boxes, rows["detection_scores"][valid], rows["detection_classes"][valid], strict=True
        ):
            ymin, xmin, ymax, xmax = (round(float(side), 2) for side in box)
            corners = {"xmin": xmin, "ymin": ymin, "xmax": xmax, "ymax": ymax}
            name = self._class_names[int(label) - 1]
            detections.append({"class": name, "score": round(float(score), 6), "box": corners})
        height, width = image_size
        return {"image": path, "height": height, "width": width, "detections": detections}


@functools.lru_cache(maxsize=1)
def load_detector(model: str, threads: int | None) -> FileDetector:
    """Returns the `FileDetector` of this process, which loads the model once for all its shards."""
    return FileDetector(model, threads)


def image_size(contents: bytes) -> tuple[int, int]:
    """Returns the (height, width) in pixels of the upright image in a file that the model has decoded.

    Pillow reads them from the header. The pixels are only decoded if Pillow does not know the file.
    """
    try:
        with Image.open(io.BytesIO(contents)) as image:
            return upright_size(image)
    except Exception:  # Pillow's plugins raise errors of many classes.
        height, width, _ = tf.io.decode_image(contents, 3, expand_animations=False).shape
        return height, width
