"""Writing of a video from frames and their times, by PyAV."""

from fractions import Fraction
from pathlib import Path

import numpy as np

from refinedet_tf.errors import InputError
from refinedet_tf.files import explain_os_errors
from refinedet_tf.inference.video_reader import import_av

CODEC = "libx264"

QUALITY = {"crf": "20", "preset": "veryfast"}
"""The options of the encoder: quality before size, and speed before size."""

BT709, LIMITED_RANGE = 1, 1
"""FFmpeg's numbers of the colour space and the range that players take for granted in videos."""


class VideoWriter:
    """An MP4 video with H.264 frames and no sound; it is a context manager.

    Leaving the context finishes the video, also after an error or Ctrl-C, so that what was written plays.
    H.264 needs even sides, so that an odd side gets a copy of its last row or column.
    """

    def __init__(
        self,
        path: Path,
        size: tuple[int, int],
        rate: Fraction,
        time_base: Fraction,
        pixel_aspect: Fraction = Fraction(1),
    ) -> None:
        """Creates the file.

        Args:
            path: the file, which ends in ".mp4".
            size: (height, width) of the frames in pixels. Later frames of another size are warped to it.
            rate: the mean number of frames per second.
            time_base: the length in seconds of the unit of the times.
            pixel_aspect: the width of a pixel by its height.

        Raises:
            InputError: PyAV is not installed, or was built without the encoder.
            OSError: the file cannot be written.
        """
        self._av = import_av()
        if CODEC not in self._av.codecs_available:
            raise InputError(f"this PyAV has no encoder {CODEC}: pip install av installs one that has it")
        self._path = path
        self._container = self._av.open(str(path), "w")
        self._stream = self._container.add_stream(CODEC, rate=rate, options=QUALITY)
        height, width = size
        self._stream.height, self._stream.width = height + height % 2, width + width % 2
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.time_base = self._time_base = time_base
        context.sample_aspect_ratio = pixel_aspect
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = LIMITED_RANGE

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """Finishes the video.

        Raises:
            InputError: it cannot be written. After another error this one is left out.
        """
        try:
            with explain_os_errors(self._path):
                try:
                    self._container.mux(self._stream.encode(None))
                finally:
                    self._container.close()
        except InputError:
            if error is None:
                raise

    def write(self, pixels: np.ndarray, ticks: int) -> None:
        """Adds a frame.

        Args:
            pixels: uint8 [H, W, 3], RGB.
            ticks: when the frame is shown, in units of `time_base`; more than that of the frame before.

        Raises:
            OSError: the file cannot be written.
        """
        height, width, _ = pixels.shape
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        frame = frame.reformat(
            self._stream.width,
            self._stream.height,
            "yuv420p",
            dst_colorspace=BT709,
            dst_color_range=LIMITED_RANGE,
        )
        frame.pts, frame.time_base = ticks, self._time_base
        self._container.mux(self._stream.encode(frame))
