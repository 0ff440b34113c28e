"""Detection on the frames of a video: an annotated video, and one line of JSON per frame."""

import contextlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from refinedet_tf.drawing import draw_detections
from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors
from refinedet_tf.inference.detection_files import free_name, json_entry
from refinedet_tf.inference.detections import ImageDetections
from refinedet_tf.inference.image_detector import ImageDetector
from refinedet_tf.inference.replicas import Replicas
from refinedet_tf.inference.video_reader import Frame, VideoReader
from refinedet_tf.inference.video_writer import VideoWriter
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter


def detect_videos(
    replicas: Replicas[ImageDetector],
    paths: Sequence[Path],
    output: Path,
    score_threshold: float,
    batch_size: int,
) -> None:
    """Detects on all frames of videos and writes NAME.mp4 and NAME.jsonl for each.

    Batches of `batch_size` frames are passed to the replicas, some of which are in memory. Detections of at
    least `score_threshold` are drawn. The folder exists.

    Raises:
        InputError: videos are broken or cannot be read (what can be read of them has been written, and the
            others have been written whole), or `output` cannot be written.
    """
    names: set[str] = set()
    problems: list[str] = []
    for path in paths:
        name = free_name(path.stem, ".mp4", names)
        try:
            with VideoReader(path) as video:
                _detect_video(replicas, video, output / name, score_threshold, batch_size)
        except _NotWritten:
            raise
        except InputError as error:
            problems.append(str(error))
            continue
        if video.defects:
            problems.append(f"video {path} is not whole: {'; '.join(video.defects)}")
    if problems:
        raise InputError(f"{len(problems)} of {len(paths)} videos have defects: {'; '.join(problems)}")


class _NotWritten(InputError):
    """The output cannot be written, so that the other videos cannot be written either."""


def _detect_video(
    replicas: Replicas[ImageDetector], video: VideoReader, file: Path, score_threshold: float, batch_size: int
) -> None:
    """Detects on one video and writes `file`, and the lines of JSON next to it."""

    def detect(detector: ImageDetector, batch: Sequence[Frame]) -> list[ImageDetections]:
        return detector([frame.pixels for frame in batch], batch_size)

    progress, start = ProgressPrinter(video.path.name, QUIET_SECONDS, unit="frames"), time.monotonic()
    num_frames = num_drawn = 0
    with contextlib.ExitStack() as files:
        writer = lines = None
        batches = replicas.run(_in_batches(video.frames(), batch_size), detect)
        for batch, results in files.enter_context(contextlib.closing(batches)):
            for frame, result in zip(batch, results, strict=True):
                with _explained(file.parent):
                    if writer is None or lines is None:
                        lines = files.enter_context(file.with_suffix(".jsonl").open("w", encoding="utf-8"))
                        size = result.image_size
                        writer = VideoWriter(file, size, video.rate, video.time_base, video.pixel_aspect)
                        files.enter_context(writer)
                    shown = result.above(score_threshold)
                    drawn = draw_detections(
                        frame.pixels, shown.normalized_boxes, shown.labels, shown.class_names, shown.scores
                    )
                    writer.write(drawn, frame.ticks)
                    entry = {"frame": frame.number, "time": round(frame.seconds, 6), **json_entry(result)}
                    lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
                num_frames += 1
                num_drawn += len(shown.scores)
                # Some headers state fewer frames than there are.
                total = video.num_frames if num_frames < (video.num_frames or 0) else None
                progress(num_frames, total, time.monotonic() - start)
    progress(num_frames, num_frames, time.monotonic() - start)
    print(f"{num_frames} frames, {num_drawn} detections of score {score_threshold:g} or more: {file}")


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns an error of the disk into one line, which is not an error of the video that is read."""
    try:
        with explain_os_errors(f"--output {folder}"):
            yield
    except InputError as error:
        raise _NotWritten(str(error)) from None


def _in_batches(frames: Iterator[Frame], batch_size: int) -> Iterator[list[Frame]]:
    return iter(lambda: list(itertools.islice(frames, batch_size)), [])
