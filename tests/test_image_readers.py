"""Every reader through which images come in reads the same files, to the same upright pixels."""

import functools
import hashlib
import io
from inspect import signature
from typing import ClassVar

import image_reader_files
import numpy as np
import pytest
import tensorflow as tf
from answers import ServedDetections
from batch_detector import UNDECODED, FileDetector
from client import detect_files
from config_of import PLAIN, config_of
from image_reader_files import UPRIGHT
from PIL import Image, ImageOps
from refusals import message_of
from small_datasets import dataset_of

from refinedet_tf.data.image_header import read_image_header
from refinedet_tf.data.images import warp_image
from refinedet_tf.data.pipeline import explain_failure, training_batches
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation import evaluator
from refinedet_tf.exports import calibration
from refinedet_tf.exports.decoding import decode_batch
from refinedet_tf.inference import photo_detection
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import Cost, as_pixels
from refinedet_tf.inference.tiles import Tiling
from refinedet_tf.reports.inspection.image_scan import DIGEST_BYTES, scan_images
from refinedet_tf.training.pictures import detection_pictures

pytestmark = pytest.mark.story

READABLE, UNREADABLE = image_reader_files.readable(), image_reader_files.unreadable()


def nothing(image_size):
    return ImageDetections(
        np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int32), ("any",), image_size
    )


def dataset_with(files, size=UPRIGHT):
    """The data set of some files, with an object that fills each image."""
    return dataset_of([[(1, 0, 0, 1, 1)]] * len(files), size, ("any",), files)


def config_for(count=1):
    """The network's input has the size of the images, so that they are not warped."""
    return config_of(
        ("any",),
        model={"image_size": UPRIGHT},
        augmentation=PLAIN,
        training={"batch_size": count},
        evaluation={"batch_size": count},
    )


MODEL = tf.keras.Sequential([tf.keras.layers.Dense(1)])
"""A network that is never called."""

NOT_DECODED = "the exported model says that it has not decoded the image"


class Recorder:
    """A detector that records the pixels that it is given, and detects nothing."""

    seen: ClassVar = []
    cost, num_passes, image_size = Cost(), 1, UPRIGHT

    def __init__(self, *arguments):
        pass

    def __call__(self, images, batch_size=1):
        batch = list(images)
        self.seen.extend(batch)
        return [nothing(image.shape[:2]) for image in batch]


# Each reader takes image files and returns what it sees of each, or raises an InputError. A function beside
# it says what it has to see of an image with the given pixels.


def same(pixels):
    return pixels


def train(files, size=UPRIGHT):
    dataset = dataset_with(files, size)
    try:
        batch = next(training_batches(dataset, config_for(len(files))).as_numpy_iterator())
    except tf.errors.OpError as error:
        raise explain_failure(dataset, error) from error
    return batch["images"][np.argsort(batch["image_indices"])]


def validate(files, size=UPRIGHT):
    batches = evaluator.read_batches(dataset_with(files, size), UPRIGHT, len(files), np.arange(len(files)))
    return next(batches)["images"].numpy()


def evaluate_on_files(files, size=UPRIGHT, **options):
    evaluator.detect_portion_on_files(MODEL, config_for(), dataset_with(files, size), **options)
    return Recorder.seen


def draw_detections(files, size=UPRIGHT):
    """The images that a training run draws its detections on."""
    detection_pictures(Recorder(), dataset_with(files, size), max_images=len(files))
    return Recorder.seen


def inspect(files, size=UPRIGHT):
    scan = scan_images(dataset_with(files, size), lambda *_: None)
    if scan.problems:
        raise InputError("; ".join(scan.problems.values()))
    return scan.digests


def digest(pixels):
    return hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=DIGEST_BYTES).digest()


def index(files):
    return [read_image_header(file).upright_size for file in files]


def size_of(pixels):
    return pixels.shape[:2]


def detect(files):
    images, unreadable = photo_detection._read_batch(files)
    if unreadable:
        raise InputError("; ".join(unreadable))
    return [image for _, image in images]


def detect_by_path(files):
    """What `Detector` warps, which is called with paths."""
    return [as_pixels(file, 0) for file in files]


def calibrate(files):
    return calibration.read_images(files, (50, 30))


def warped(pixels):
    return warp_image(pixels, (50, 30)).numpy()


@functools.cache
def served_model():
    """The part of an exported model that decodes files."""
    return tf.function(
        lambda contents: decode_batch(contents, (50, 30)), input_signature=[tf.TensorSpec([None], tf.string)]
    )


def exported_model(files):
    images, decoded = served_model()(tf.constant([file.read_bytes() for file in files]))
    if not decoded.numpy().all():
        assert not images.numpy()[~decoded.numpy()].any()
        raise InputError(NOT_DECODED)
    return images.numpy()


class WholeImages(FileDetector):
    """The batch job's detector, with a model that finds one object, which fills the image."""

    def __init__(self):
        self._class_names = ["any"]

    def detect(self, files):
        count = len(files)
        return {
            "detection_boxes": np.tile(np.float32([0, 0, 1, 1]), (count, 1, 1)),
            "detection_scores": np.ones((count, 1), np.float32),
            "detection_classes": np.ones((count, 1), np.float32),
            "num_detections": np.ones(count, np.int32),
            "image_decoded": served_model()(tf.constant(files))[1].numpy(),
        }


def batch_job(files):
    answers = WholeImages().answer([str(file) for file in files], 4)
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        assert errors == [UNDECODED]
        raise InputError(NOT_DECODED)
    for answer in answers:
        box = {"xmin": 0.0, "ymin": 0.0, "xmax": answer["width"], "ymax": answer["height"]}
        assert answer["detections"] == [{"class": "any", "score": 1.0, "box": box}]
    return [(answer["height"], answer["width"]) for answer in answers]


class Server:
    """A client's server, which detects nothing on the images that the exported model decodes."""

    def detect(self, contents):
        decoded = served_model()(tf.constant(contents))[1].numpy().tolist()
        empty = nothing((1, 1))
        return [
            ServedDetections(empty.normalized_boxes, empty.scores, empty.labels, each) for each in decoded
        ]


def client(files):
    left_out = []
    answers = list(detect_files(Server(), files, ["any"], 4, left_out))
    if left_out:
        assert "cannot be decoded by the server" in left_out[0]
        raise InputError(NOT_DECODED)
    assert all(detections.image_size == pixels.shape[:2] for _, pixels, detections in answers)
    return [pixels for _, pixels, _ in answers]


READERS = {
    "index": (index, size_of),
    "train": (train, same),
    "validate": (validate, same),
    "evaluate --multi-scale": (functools.partial(evaluate_on_files, multi_scale=True), same),
    "evaluate --tiles": (functools.partial(evaluate_on_files, tiling=Tiling(side=64)), same),
    "detections of a run": (draw_detections, same),
    "inspect": (inspect, digest),
    "detect": (detect, same),
    "Detector of paths": (detect_by_path, same),
    "calibrate": (calibrate, warped),
    "exported model": (exported_model, warped),
    "batch job": (batch_job, size_of),
    "client": (client, same),
}
CHECK_THE_SIZE = [name for name, (reader, _) in READERS.items() if "size" in signature(reader).parameters]


@pytest.fixture(autouse=True)
def recorder(monkeypatch):
    monkeypatch.setattr(Recorder, "seen", [])
    monkeypatch.setattr(evaluator, "make_detector", Recorder)


@pytest.fixture
def write(tmp_path):
    """Writes files of the given contents, whose endings say nothing of their formats."""

    def write(contents):
        files = [tmp_path / f"{number}.jpg" for number in range(len(contents))]
        for file, content in zip(files, contents, strict=True):
            file.write_bytes(content)
        return files

    return write


@pytest.mark.parametrize("name", READERS)
def test_images_are_upright(write, name):
    reader, expect = READERS[name]
    found = reader(write([contents for contents, _ in READABLE.values()]))
    for file, (_, pixels), seen in zip(READABLE, READABLE.values(), found, strict=True):
        np.testing.assert_array_equal(
            seen, expect(pixels), err_msg=f"{file} at {name}", strict=name != "validate"
        )


@pytest.mark.parametrize("name", [name for name in READERS if name != "inspect"])
def test_cmyk(write, name):
    """Pillow converts it to RGB with another formula than TensorFlow."""
    reader, expect = READERS[name]
    contents = image_reader_files.cmyk()
    (found,) = reader(write([contents]))
    pixels = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(contents))).convert("RGB"))
    assert np.abs(np.subtract(found, expect(pixels), dtype=float)).max() <= 4


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", UNREADABLE)
def test_others_are_refused(write, kind, name):
    contents, of_index, reason = UNREADABLE[kind]
    (file,) = write([contents])
    reader, _ = READERS[name]
    if name == "index" and of_index is None:
        assert reader([file]) == [UPRIGHT]
        return
    message = message_of(reader, [file])
    if message != NOT_DECODED:
        assert "0.jpg cannot be " in message and (of_index if name == "index" else reason) in message


@pytest.mark.parametrize("name", CHECK_THE_SIZE)
def test_the_size_of_the_stored_raster_is_refused(write, name):
    reader, _ = READERS[name]
    files = write([image_reader_files.turned(6, "JPEG"), image_reader_files.turned(1, "PNG")])
    assert message_of(reader, files[:1], UPRIGHT[::-1]) == (
        f"image {files[0]}: the annotation says 64x96 (width x height), the file is 96x64, after its EXIF "
        "orientation 6 has turned the stored 64x96 upright; index the data again"
    )
    with pytest.raises(InputError, match=r"says 41x40 \(width x height\), the file is 96x64$"):
        reader(files[1:], (40, 41))
