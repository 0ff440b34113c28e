"""Reading of the frames of a video, upright and with their times, by PyAV."""

import contextlib
import importlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from refinedet_tf.errors import InputError, first_line, shortened_text

if TYPE_CHECKING:
    import av

VIDEO_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
"""The endings of the files that are videos, in lower case."""

MISSING_SECONDS = 0.5
"""A video that ends this much before the length that its header states is not whole."""

USUAL_RATE = Fraction(25)
"""The frames per second of a video that does not say its rate."""


def import_av() -> Any:
    """Imports PyAV, which is an optional dependency.

    Raises:
        InputError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module("av")
    except ImportError:
        raise InputError(
            "videos need PyAV: pip install 'refinedet-tf[video]', or in a checkout pip install av"
        ) from None


class Frame(NamedTuple):
    """A frame of a video."""

    number: int
    """0 for the first frame; frames are counted in the order in which they are shown."""
    ticks: int
    """The time since the first frame in units of `VideoReader.time_base`; it rises from frame to frame."""
    seconds: float
    """The time since the first frame."""
    pixels: np.ndarray
    """uint8 [H, W, 3], RGB, as a player shows them: turned by the video's rotation."""


class VideoReader:
    """The frames of the first track of a video that is no cover image; it is a context manager.

    Attributes:
        path: the file.
        rate: the mean number of frames per second.
        num_frames: the number of frames, as far as the header lets it be known; None: unknown.
        time_base: the length in seconds of the unit of `Frame.ticks`.
        pixel_aspect: the width of a pixel of the upright frames by its height; known after the first frame.
        defects: what is wrong with the video, as far as it has been read.
    """

    def __init__(self, path: Path) -> None:
        """Opens the video.

        Raises:
            InputError: PyAV is not installed, the file is no video, or has no video track but perhaps a cover
                image; the message names it.
        """
        self._av = import_av()
        self.path = path
        self._name = f"video {shortened_text(path)}"
        try:
            self._container: av.container.InputContainer = self._av.open(str(path))
        except (self._av.error.FFmpegError, OSError, ValueError) as error:
            raise InputError(
                f"{self._name} cannot be read: {_reason(error)}; "
                "it must be a whole video of a format that FFmpeg reads"
            ) from None
        stream = self._video_track()
        if stream is None:
            has_cover = bool(self._container.streams.video)
            self._container.close()
            what = "only a cover image, which is no video" if has_cover else "no pictures"
            raise InputError(f"{self._name} has {what}")
        self._stream = stream
        stream.thread_type = "AUTO"
        self._is_avi = self._container.format.name == "avi"
        self.rate = Fraction(stream.average_rate or stream.guessed_rate or USUAL_RATE)
        self.time_base = Fraction(stream.time_base or 1 / self.rate)
        self.num_frames = self._count()
        self.pixel_aspect = Fraction(1)
        self.defects: list[str] = []

    def _video_track(self) -> "av.VideoStream | None":
        """Returns the first video track that is no cover image, which FFmpeg lists as a track, too."""
        cover = self._av.stream.Disposition.attached_pic
        tracks = self._container.streams.video
        return next((track for track in tracks if not track.disposition & cover), None)

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._container.close()

    def frames(self) -> Iterator[Frame]:
        """Yields all frames, one after another, so that few of them are in memory.

        A video that is broken somewhere yields the frames that can be decoded; `defects` then says what is
        wrong.

        Raises:
            InputError: no frame at all can be decoded.
        """
        first = last = None
        timed_number = timed_ticks = 0
        number = 0
        for frame in self._decoded():
            # AVI has no times at which frames are shown, and what FFmpeg takes for them is wrong with
            # B-frames. They follow from the times of decoding, which a frame gets when it is complete.
            ticks = frame.dts if self._is_avi else frame.pts
            if ticks is None:
                ticks = timed_ticks + round((number - timed_number) / self.rate / self.time_base)
            else:
                timed_number, timed_ticks = number, ticks
            if first is None:
                first = ticks
            ticks -= first
            if last is not None and ticks <= last:
                ticks = last + 1  # A player shows frames in this order, whatever their times say.
            last = ticks
            turns = round(frame.rotation / 90) % 4
            aspect = Fraction(self._stream.sample_aspect_ratio or 1)
            self.pixel_aspect = 1 / aspect if turns % 2 else aspect
            # The rotation of PyAV and of NumPy is counterclockwise.
            pixels = np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), turns))
            yield Frame(number, ticks, float(ticks * self.time_base), pixels)
            number += 1
        if number == 0:
            reasons = f": {'; '.join(self.defects)}" if self.defects else ""
            raise InputError(f"{self._name} has no frame that can be decoded{reasons}")

    def _decoded(self) -> "Iterator[av.VideoFrame]":
        """Yields the decoded frames, and notes the defects of the video."""
        num_packets = num_frames = num_broken = num_damaged = 0
        end = 0.0
        first_broken = 0.0
        packets = self._container.demux()
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                break
            except (self._av.error.FFmpegError, OSError) as error:
                self.defects.append(f"it cannot be read beyond {end:.2f} s ({_reason(error)})")
                break
            ticks = packet.dts if self._is_avi else packet.pts
            if ticks is not None and packet.time_base is not None:
                end = max(end, float((ticks + (packet.duration or 0)) * packet.time_base))
            if packet.stream != self._stream:
                continue
            num_packets += packet.size > 0
            try:
                frames = self._stream.decode(packet)
            except (self._av.error.FFmpegError, OSError) as error:
                if isinstance(error, self._av.error.EOFError):
                    continue
                first_broken = first_broken if num_broken else end
                num_broken += 1
                continue
            for frame in frames:
                num_frames += 1
                num_damaged += frame.is_corrupt
                yield frame
        if num_broken:
            self.defects.append(f"{_frames(num_broken)} cannot be decoded, the first at {first_broken:.2f} s")
        if num_damaged:
            self.defects.append(f"{_frames(num_damaged)} decoded with damage")
        self._note_missing_end(num_packets, num_frames, end)

    def _note_missing_end(self, num_packets: int, num_frames: int, end: float) -> None:
        """Notes it as a defect if the video, which ends at `end` s, is shorter than its header says."""
        stated, duration = self._stream.frames, self._container.duration
        seconds = None
        if duration is not None:
            seconds = (duration + (self._container.start_time or 0)) / self._av.time_base
        if self._is_avi:
            # The header also counts frames that the recording has dropped; the index at the end does not.
            seconds = float(stated * self.time_base) or seconds
            is_cut = _is_cut_avi(self.path)
            stated = 0 if is_cut else sum(entry.size > 0 for entry in self._stream.index_entries)
        if stated:
            if num_packets < stated:
                self.defects.append(f"it ends after {num_frames} of {stated} frames")
        elif seconds is not None and end < seconds - MISSING_SECONDS:
            self.defects.append(f"it ends after {end:.2f} of {seconds:.2f} s")

    def _count(self) -> int | None:
        """Returns the number of frames by the header, or by length and rate, or None."""
        if self._stream.frames:
            return self._stream.frames
        with contextlib.suppress(OverflowError):
            if self._stream.duration is not None:
                return max(1, round(self._stream.duration * self.time_base * self.rate))
            if self._container.duration is not None:
                return max(1, round(self._container.duration / self._av.time_base * self.rate))
        return None


def _is_cut_avi(path: Path) -> bool:
    """Says whether an AVI file is shorter than the lengths of its RIFF chunks say."""
    size, end = path.stat().st_size, 0
    with path.open("rb") as file:
        while file.seek(end) < size and (head := file.read(8)).startswith(b"RIFF"):
            end += 8 + int.from_bytes(head[4:], "little")
    return end > size


def _frames(number: int) -> str:
    return "1 frame" if number == 1 else f"{number} frames"


def _reason(error: Exception) -> str:
    """Returns the text of an error of PyAV without its number and the name of the file."""
    return shortened_text(getattr(error, "strerror", None) or first_line(error))
