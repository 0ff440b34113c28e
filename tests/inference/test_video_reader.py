"""The frames of videos: their number, times, pixels and rotation, and videos that are not whole."""

from fractions import Fraction

import numpy as np
import pytest

av = pytest.importorskip("av")

from videos import picture, write_video, write_video_with_cover

from refinedet_tf.errors import InputError
from refinedet_tf.inference.video_reader import VideoReader

COMPRESSION = 12
"""How much the encoder changes a value on average, in grey levels."""


def read(path):
    with VideoReader(path) as video:
        return video, list(video.frames())


def difference(pixels, expected):
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    return np.abs(pixels.astype(int) - expected).mean()


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi", "a.ts"])
def test_frames_of_several_formats(tmp_path, name):
    video, frames = read(write_video(tmp_path / name, range(12)))
    assert video.rate == 10 and video.defects == []
    assert (video.num_frames, video.pixel_aspect) == (12, 1)
    assert [frame.number for frame in frames] == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx(
        [number / 10 for number in range(12)], abs=2e-3
    )
    assert [frame.ticks * video.time_base for frame in frames] == [
        pytest.approx(frame.seconds) for frame in frames
    ]
    for frame in frames:
        assert difference(frame.pixels, picture(frame.number)) < COMPRESSION
        assert difference(frame.pixels, picture(frame.number + 1)) > 3 * COMPRESSION


def test_variable_frame_rate(tmp_path):
    ticks = [500, 540, 700, 701, 2000]
    video, frames = read(write_video(tmp_path / "a.mkv", ticks, time_base=Fraction(1, 1000)))
    assert [round(1000 * frame.seconds) for frame in frames] == [0, 40, 200, 201, 1500]
    assert video.defects == []


@pytest.mark.parametrize("rotation", [90, 180, -90])
def test_rotated_frames_are_upright(tmp_path, rotation):
    _, frames = read(write_video(tmp_path / "a.mp4", range(4), size=(64, 96), rotation=rotation))
    expected = np.rot90(picture(2, 64, 96), rotation // 90)
    assert difference(frames[2].pixels, expected) < COMPRESSION


def test_cover_image_is_not_taken_for_the_video(tmp_path):
    path = write_video_with_cover(tmp_path / "a.mp4")
    with av.open(str(path)) as video:
        assert [stream.codec_context.name for stream in video.streams] == ["png", "h264"]
    video, frames = read(path)
    assert (video.num_frames, video.defects) == (12, [])
    assert len(frames) == 12
    assert difference(frames[6].pixels, picture(6)) < COMPRESSION


@pytest.mark.parametrize("ticks", [range(12), [0, 1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15]])
@pytest.mark.parametrize(
    ("codec", "encoder"),
    [
        ("libx264", {"bf": "0"}),
        ("libx264", {"bf": "3", "b_strategy": "0"}),
        ("mpeg4", {"bf": "0"}),
        ("mpeg4", {"bf": "2"}),
    ],
)
def test_avi_with_b_frames_and_dropped_frames(tmp_path, codec, encoder, ticks):
    video, frames = read(write_video(tmp_path / "a.avi", ticks, codec=codec, encoder=encoder))
    assert video.defects == []
    for number, frame in enumerate(frames):
        assert difference(frame.pixels, picture(number)) < COMPRESSION
    assert [round(10 * frame.seconds) for frame in frames] == list(ticks)


def test_avi_that_lacks_frames(tmp_path):
    whole = write_video(tmp_path / "a.avi", [*range(10), *range(20, 30)]).read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(whole[: whole.index(b"00dc", whole.index(b"movi") + 1200)])
    video, frames = read(cut)
    assert 2 < len(frames) < 12
    assert video.defects == [f"it ends after {len(frames) / 10:.2f} of 3.00 s"]
    fifth = [place for place in range(len(whole)) if whole.startswith(b"00dc", place)][4]
    (tmp_path / "hole.avi").write_bytes(whole[:fifth] + bytes(4) + whole[fifth + 4 :])
    video, frames = read(tmp_path / "hole.avi")
    assert len(frames) == 19
    assert video.defects[-1] == "it ends after 19 of 20 frames"
    length = whole.index(b"strh") + 8 + 32  # The number of frames in the header of the track.
    assert whole[length : length + 4] == (30).to_bytes(4, "little")
    dropped_at_the_end = tmp_path / "dropped.avi"
    dropped_at_the_end.write_bytes(whole[:length] + (60).to_bytes(4, "little") + whole[length + 4 :])
    video, frames = read(dropped_at_the_end)
    assert (video.num_frames, len(frames), video.defects) == (60, 20, [])


def test_video_that_ends_in_the_middle(tmp_path):
    whole = write_video(tmp_path / "a.mp4", range(40), movflags="faststart")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    video, frames = read(cut)
    assert 10 < len(frames) < 40
    # FFmpeg may also call the last packet broken, part of which is missing.
    assert video.defects[-1] == f"it ends after {len(frames)} of 40 frames"
    assert difference(frames[9].pixels, picture(9)) < COMPRESSION


def test_end_is_missing_where_only_the_length_is_known(tmp_path):
    whole = write_video(tmp_path / "a.mkv", range(40))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    video, frames = read(cut)
    assert 10 < len(frames) < 36
    (defect,) = video.defects
    assert defect == f"it ends after {len(frames) / 10:.2f} of 4.00 s"


def test_broken_data_in_the_middle(tmp_path):
    contents = bytearray(write_video(tmp_path / "a.mp4", range(40), movflags="faststart").read_bytes())
    middle = len(contents) * 2 // 3
    contents[middle : middle + 400] = bytes(value ^ 0x5A for value in contents[middle : middle + 400])
    (tmp_path / "broken.mp4").write_bytes(contents)
    video, frames = read(tmp_path / "broken.mp4")
    assert 20 < len(frames) < 40
    assert f"{40 - len(frames)} frames cannot be decoded, the first at " in video.defects[0]


def test_what_is_no_video(tmp_path):
    whole = write_video(tmp_path / "a.mp4", range(12))
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "folder.mp4").mkdir()
    for name in ("cut.mp4", "text.mp4", "empty.mp4", "folder.mp4", "missing.mp4"):
        with pytest.raises(InputError, match=rf"video .*{name} cannot be read: .*; it must be a whole video"):
            VideoReader(tmp_path / name)


def test_video_without_pictures(tmp_path):
    with av.open(str(tmp_path / "sound.mkv"), "w") as video:
        stream = video.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        sound.rate = 8000
        video.mux(stream.encode(sound))
    with pytest.raises(InputError, match=r"video .*sound\.mkv has no pictures"):
        VideoReader(tmp_path / "sound.mkv")
    cover = write_video_with_cover(tmp_path / "cover.mp4", numbers=[])
    with pytest.raises(InputError, match=r"video .*cover\.mp4 has only a cover image, which is no video"):
        VideoReader(cover)
