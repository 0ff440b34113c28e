"""Small films for tests, written by PyAV alone."""

from fractions import Fraction

import av
import numpy as np

COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [210, 200, 50]], np.uint8)


def picture(number, height=64, width=64):
    """A picture of four quarters of which each frame has another order, so that frames can be told apart."""
    quarters = np.roll(COLORS, number, axis=0).reshape(2, 2, 3)
    return np.ascontiguousarray(quarters.repeat(height // 2, axis=0).repeat(width // 2, axis=1))


def write_film(
    path, ticks, size=(64, 64), rate=10, time_base=None, rotation=None, codec="libx264", **options
):
    """Writes one picture per entry of `ticks`, its time in units of `time_base`; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as film:
        stream = film.add_stream(codec, rate=rate, options={"bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base or Fraction(1, rate)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = tick, stream.codec_context.time_base
            film.mux(stream.encode(frame))
        film.mux(stream.encode(None))
    return path


def read_film(path):
    """The decoded pictures of a film and their times in seconds, and the stream's rate."""
    with av.open(str(path)) as film:
        stream = film.streams.video[0]
        frames = [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in film.decode(stream)]
        return [pixels for pixels, _ in frames], [seconds for _, seconds in frames], stream.average_rate
