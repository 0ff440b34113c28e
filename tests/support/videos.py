"""Small videos for tests, written by PyAV alone."""

from fractions import Fraction

import av
import numpy as np

COLORS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [210, 200, 50]], np.uint8)


def picture(number, height=64, width=64):
    """A picture of four quarters of which each frame has another order, so that frames can be told apart."""
    quarters = np.roll(COLORS, number, axis=0).reshape(2, 2, 3)
    return np.ascontiguousarray(quarters.repeat(height // 2, axis=0).repeat(width // 2, axis=1))


def write_video(
    path,
    ticks,
    size=(64, 64),
    rate=10,
    time_base=None,
    rotation=None,
    codec="libx264",
    encoder=None,
    **options,
):
    """Writes one picture per entry of `ticks`, its time in units of `time_base`; returns the path.

    `encoder` holds options of the encoder, by default those for no B-frames.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as video:
        stream = video.add_stream(codec, rate=rate, options=encoder or {"bf": "0"})
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = time_base or Fraction(1, rate)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, tick in enumerate(ticks):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts, frame.time_base = tick, stream.codec_context.time_base
            video.mux(stream.encode(frame))
        video.mux(stream.encode(None))
    return path


def read_video(path):
    """The decoded pictures of a video and their times in seconds, and the stream's rate."""
    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        frames = [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in video.decode(stream)]
        return [pixels for pixels, _ in frames], [seconds for _, seconds in frames], stream.average_rate


def write_video_with_cover(path, numbers=range(12)):
    """Writes an MP4 video whose first track, as FFmpeg lists them, is a cover image; it may have no other."""
    with av.open(str(path), "w") as video:
        streams = [(video.add_stream("libx264", rate=10, options={"bf": "0"}), numbers)] if numbers else []
        streams.append((video.add_stream("png"), [3]))
        streams[-1][0].disposition = av.stream.Disposition.attached_pic
        for stream, _ in streams:
            stream.height, stream.width = 64, 64
            stream.pix_fmt = "rgb24" if stream.codec.name == "png" else "yuv420p"
        for stream, shown in reversed(streams):
            for number in shown:
                frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 10)
                video.mux(stream.encode(frame))
            video.mux(stream.encode(None))
    # FFmpeg writes the box with the cover at the end of "moov"; other programs write it first.
    contents = path.read_bytes()
    track = contents.index(b"trak", contents.rindex(b"moov")) - 4 if numbers else 0
    cover = contents.rindex(b"udta") - 4 if numbers else 0
    path.write_bytes(contents[:track] + contents[cover:] + contents[track:cover])
    return path
