"""Draws what a served model detects: python serving/client.py photos/ --labels labels.txt --output answers"""

import argparse
import io
import itertools
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from grpc_client import GrpcClient
from PIL import Image
from rest_client import RestClient

from refinedet_tf.commands.options import add_score_threshold_option, check_score_threshold, find_images
from refinedet_tf.commands.terminal import run
from refinedet_tf.errors import InputError
from refinedet_tf.inference.detection_files import make_output_folder, write_detections
from refinedet_tf.inference.detections import ImageDetections

LONGEST_TIMEOUT = 86400


def main(arguments: Sequence[str] | None = None) -> None:
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
        help="class names, one a line: assets/labels.txt of the exported model",
    )
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="a folder that is new or empty"
    )
    server = parser.add_mutually_exclusive_group()
    server.add_argument(
        "--url", default="http://localhost:8501", help="REST API of the server (default: %(default)s)"
    )
    server.add_argument("--grpc", metavar="HOST:PORT", help="use the gRPC API instead, e.g. localhost:8500")
    parser.add_argument("--model", default="refinedet", metavar="NAME", help="name in models.config")
    version = parser.add_mutually_exclusive_group()
    version.add_argument("--version", type=int, metavar="N", help="default: the latest that is loaded")
    version.add_argument("--version-label", metavar="LABEL", help="e.g. stable")
    parser.add_argument(
        "--batch",
        type=int,
        default=1,
        metavar="N",
        help="images a request, at most max_batch_size where the server has batching (default: 1)",
    )
    parser.add_argument(
        "--timeout", type=float, default=60, metavar="S", help="seconds for a request (default: 60)"
    )
    add_score_threshold_option(parser)
    arguments = parser.parse_args(arguments)
    if arguments.batch < 1:
        raise InputError(f"--batch must be at least 1, got {arguments.batch}")
    if not 0 < arguments.timeout <= LONGEST_TIMEOUT:
        raise InputError(f"--timeout must lie in 0..{LONGEST_TIMEOUT} s, got {arguments.timeout:g}")
    if not 0 <= (arguments.version or 0) < 2**63:
        raise InputError(f"--version must be the number of a version, got {arguments.version}")
    check_score_threshold(arguments.score_threshold)
    paths = find_images(arguments.images)
    class_names = read_labels(arguments.labels)
    choice = (arguments.model, arguments.version, arguments.version_label, arguments.timeout)
    client = GrpcClient(arguments.grpc, *choice) if arguments.grpc else RestClient(arguments.url, *choice)

    left_out = []
    results = detect_files(client, paths, class_names, arguments.batch, left_out)
    # The first answer before the folder is made: after a mistake in the address, the same command can
    # be given again.
    results = itertools.chain(list(itertools.islice(results, 1)), results)
    make_output_folder(arguments.output)
    write_detections(results, len(paths), arguments.output, arguments.score_threshold, left_out)


def read_labels(file: Path) -> list[str]:
    """The class names in a labels.txt, label 1 first.

    Raises:
        InputError: the file cannot be read or is empty.
    """
    try:
        names = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--labels {file} cannot be read: {error}") from None
    if not names:
        raise InputError(f"--labels {file} is empty: it must hold the class names, one a line")
    return names


def detect_files(
    client, paths: Sequence[Path], class_names: Sequence[str], batch_size: int, left_out: list[str]
) -> Iterator[tuple[Path, np.ndarray, ImageDetections]]:
    """Sends images batch after batch, so that any number of them fits in memory.

    Args:
        client: a `RestClient` or `GrpcClient`.
        paths: image files.
        class_names: C names, label 1 first.
        batch_size: images a request.
        left_out: what is wrong with images that cannot be read or decoded is added here.

    Yields:
        (path, pixels uint8 [H, W, 3], result as a `Detector` gives it) of all other images, in order.

    Raises:
        InputError: the server cannot be asked, or a class it found has no name.
    """
    for start in range(0, len(paths), batch_size):
        files = ((path, _contents(path, left_out)) for path in paths[start : start + batch_size])
        batch = [(path, contents) for path, contents in files if contents is not None]
        answers = client.detect([contents for _, contents in batch]) if batch else []
        for (path, contents), answer in zip(batch, answers, strict=True):
            if not answer["decoded"]:
                left_out.append(f"image {path} cannot be decoded by the server")
                continue
            pixels = read_pixels(contents)
            if pixels is None:
                left_out.append(f"image {path} cannot be decoded here to draw on it")
                continue
            yield path, pixels, as_result(answer, pixels.shape[:2], class_names)


def _contents(path: Path, left_out: list[str]) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError as error:
        left_out.append(f"image {path} cannot be read: {error.strerror}")
        return None


def read_pixels(contents: bytes) -> np.ndarray | None:
    """The pixels that the server saw, uint8 [H, W, 3] RGB, without TensorFlow; None if Pillow cannot."""
    try:
        with warnings.catch_warnings():
            # Of large images and of palettes with alpha, which the server takes without a word.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(contents))
            if image.mode.startswith("I"):
                # Of 16-bit gray values Pillow would keep those below 256 and make all others white.
                gray = np.asarray(image) >> 8
                return np.repeat(gray.astype(np.uint8)[:, :, None], 3, axis=2)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def as_result(answer: dict, size: tuple[int, int], class_names: Sequence[str]) -> ImageDetections:
    """A server's answer for an image of `size` (height, width) in the form that `Detector` has.

    Raises:
        InputError: a label is above the number of names.
    """
    labels = answer["labels"]
    if labels.size and labels.max() > len(class_names):
        raise InputError(
            f"the server found class {labels.max()}, but --labels has {len(class_names)} names: take "
            "assets/labels.txt of the model that is served"
        )
    return ImageDetections(answer["boxes"], answer["scores"], labels, class_names, size)


if __name__ == "__main__":
    run(main)
