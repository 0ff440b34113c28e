"""Draws what a served model detects: python serving/client.py photos/ --labels labels.txt --output answers"""

import argparse
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from answers import ServedDetections
from grpc_client import GrpcClient
from model_choice import DEFAULT_MODEL, ModelChoice
from PIL import Image, ImageFile
from rest_client import RestClient
from upright import turn_upright

from refinedet_tf.commands.image_files import find_images
from refinedet_tf.commands.options import add_score_threshold_option, check_score_threshold
from refinedet_tf.commands.terminal import run
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detection_files import make_output_folder, write_detections
from refinedet_tf.inference.detections import ImageDetections

LONGEST_TIMEOUT = 86400
"""The seconds of a day, the largest `--timeout`."""

MAX_VERSION = 2**63 - 1
"""The largest number of a version that the server's messages can hold."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parses the command line, asks the server, draws and writes."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Image files are sent as they are, of any size: the server decodes and resizes them. The "
        "output folder holds the same as that of detect.py: one picture for every image, and "
        "detections.json with all detections. Images that the server cannot decode are named at the end; "
        "the results of the others are kept.",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="files, folders or quoted patterns")
    parser.add_argument(
        "--labels",
        type=Path,
        required=True,
        metavar="FILE",
        help="one class name per line: assets/labels.txt of the exported model",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a folder that is new or empty"
    )
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--url", default="http://localhost:8501", help="REST API of the server (default: %(default)s)"
    )
    server.add_argument("--grpc", metavar="HOST:PORT", help="use the gRPC API instead, e.g. localhost:8500")
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL.name,
        metavar="NAME",
        help="the model's name in models.config (default: %(default)s)",
    )
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, metavar="N", help="default: the latest that is loaded")
    version.add_argument("--version-label", metavar="LABEL", help="e.g. stable")
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images per request, at most max_batch_size if the server has batching (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_MODEL.timeout,
        metavar="S",
        help="seconds per request (default: %(default)g)",
    )
    add_score_threshold_option(parser)
    options = parser.parse_args(arguments)
    if options.batch < 1:
        raise InputError(f"--batch must be at least 1, got {options.batch}")
    if not 0 < options.timeout <= LONGEST_TIMEOUT:
        raise InputError(f"--timeout must lie in 0..{LONGEST_TIMEOUT} s, got {options.timeout:g}")
    if not 0 <= (options.version or 0) <= MAX_VERSION:
        raise InputError(f"--version must be the number of a version, got {options.version}")
    check_score_threshold(options.score_threshold)
    paths = find_images(options.images)
    class_names = read_labels(options.labels)
    model_choice = ModelChoice(options.model, options.version, options.version_label, options.timeout)
    client: RestClient | GrpcClient
    client = GrpcClient(options.grpc, model_choice) if options.grpc else RestClient(options.url, model_choice)

    left_out: list[str] = []
    results = detect_files(client, paths, class_names, options.batch, left_out)
    # The first answer is awaited before the folder is made, so that after a mistake in the address the
    # same command can be given again.
    first = list(itertools.islice(results, 1))
    make_output_folder(options.output)
    write_detections(
        itertools.chain(first, results), len(paths), options.output, options.score_threshold, left_out
    )


def read_labels(file: Path) -> list[str]:
    """Reads the class names of a labels.txt, label 1 first.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    try:
        names = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {file} cannot be read: {error}") from None
    if not names:
        raise InputError(f"--labels {file} is empty: it must hold one class name per line")
    return names


def detect_files(
    client: RestClient | GrpcClient,
    paths: Sequence[Path],
    class_names: Sequence[str],
    batch_size: int,
    left_out: list[str],
) -> Iterator[tuple[Path, np.ndarray, ImageDetections]]:
    """Sends images batch after batch, so that any number of them fits in memory.

    Args:
        client: asks the server.
        paths: image files.
        class_names: C names, label 1 first.
        batch_size: images per request.
        left_out: receives one text per image that cannot be read or decoded.

    Yields:
        (path, pixels uint8 [H, W, 3] RGB, detections) of every image that is not left out, in order.

    Raises:
        InputError: the server cannot be asked, or a class that it detects has no name.
    """
    for start in range(0, len(paths), batch_size):
        files = ((path, _read_contents(path, left_out)) for path in paths[start : start + batch_size])
        batch = [(path, contents) for path, contents in files if contents is not None]
        answers = client.detect([contents for _, contents in batch]) if batch else []
        for (path, contents), answer in zip(batch, answers, strict=True):
            if not answer.decoded:
                left_out.append(f"image {path} cannot be decoded by the server")
                continue
            pixels = read_pixels(contents)
            if pixels is None:
                left_out.append(f"image {path} cannot be decoded here to draw on it")
                continue
            yield path, pixels, as_image_detections(answer, pixels.shape[:2], class_names)


def _read_contents(path: Path, left_out: list[str]) -> bytes | None:
    """Returns the bytes of a file; None if it cannot be read, which is then told in `left_out`."""
    try:
        return path.read_bytes()
    except OSError as error:
        left_out.append(f"image {path} cannot be read: {error.strerror}")
        return None


def read_pixels(contents: bytes) -> np.ndarray | None:
    """Decodes an image file to the pixels that the server saw, without TensorFlow.

    Returns:
        uint8 [H, W, 3], RGB; None if Pillow cannot decode the file.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images and of palettes with alpha, which the server takes silently.
            warnings.simplefilter("ignore")
            file = Image.open(io.BytesIO(contents))
            if file.format == "GIF":
                return _gif_pixels(file)
            image = turn_upright(file)
            if image.mode.startswith("I"):
                # Pillow would keep 16-bit gray values below 256 and make all others white.
                gray = np.asarray(image) >> 8
                return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def _gif_pixels(image: ImageFile.ImageFile) -> np.ndarray:
    """Returns the pixels of a GIF's first frame on a black screen, which Pillow would fill with a colour."""
    box = image.tile[0][1]
    frame = image.convert("RGBA").crop(box)
    screen = Image.new("RGB", image.size)
    screen.paste(frame, box, mask=frame)
    return np.asarray(screen)


def as_image_detections(
    answer: ServedDetections, image_size: tuple[int, int], class_names: Sequence[str]
) -> ImageDetections:
    """Joins a server's answer with the size of its image and the names of the classes.

    Args:
        answer: the detections of one image.
        image_size: (height, width) of the image in pixels.
        class_names: C names, label 1 first.

    Raises:
        InputError: a label is above the number of names.
    """
    labels = answer.labels
    if labels.size and labels.max() > len(class_names):
        raise InputError(
            f"the server found class {labels.max()}, but --labels has {len(class_names)} names: take "
            "assets/labels.txt of the model that is served"
        )
    return ImageDetections(answer.boxes, answer.scores, labels, class_names, image_size)


if __name__ == "__main__":
    run(main)
