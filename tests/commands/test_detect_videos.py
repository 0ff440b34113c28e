"""detect.py on videos: the annotated video, the lines of JSON, and videos that are not whole."""

import json
import sys
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("av")

from image_files import save
from refusals import message_of
from videos import picture, read_video, write_video

from refinedet_tf.errors import InputError
from refinedet_tf.inference import video_detection
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.tiled_detector import TiledDetector
from refinedet_tf.inference.tiles import Tiling
from refinedet_tf.inference.video_reader import VideoReader


@pytest.fixture
def run(detect_into):
    """Runs the command with the stand-in network; returns {name: lines of JSON}."""
    return lambda *arguments, **options: lines_in(detect_into(*arguments, **options))


def lines_in(folder):
    files = sorted(folder.glob("*.jsonl"))
    return {file.name: [json.loads(line) for line in file.read_text("utf-8").splitlines()] for file in files}


def check_lines(lines, detector, path, num_frames):
    """The lines are those of the video's frames, given to a detector as pictures."""
    with VideoReader(path) as video:
        frames = list(video.frames())
    assert len(lines) == len(frames) == num_frames
    results = detector([frame.pixels for frame in frames], 8)
    for line, frame, result in zip(lines, frames, results, strict=True):
        assert (line["frame"], line["time"]) == (frame.number, round(frame.seconds, 6))
        assert (line["height"], line["width"]) == frame.pixels.shape[:2]
        assert [detection["class"] for detection in line["detections"]] == result.names
        scores = [detection["score"] for detection in line["detections"]]
        assert scores == [round(float(score), 6) for score in result.scores]
        corners = [
            [detection["box"][side] for side in ("ymin", "xmin", "ymax", "xmax")]
            for detection in line["detections"]
        ]
        np.testing.assert_allclose(np.reshape(corners, (-1, 4)), result.boxes, atol=0.006)


def test_video_and_lines(run, network, tmp_path, capsys):
    path = write_video(tmp_path / "street.mov", range(20), rate=25)
    lines = run(path, "--score-threshold", 0.3)["street.jsonl"]
    check_lines(lines, Detector(network[1], network[0]), path, 20)
    assert [line["time"] for line in lines] == [number / 25 for number in range(20)]
    drawn = sum(d["score"] >= 0.3 for line in lines for d in line["detections"])
    assert drawn > 20
    assert f"20 frames, {drawn} detections of score 0.3 or more: " in capsys.readouterr().out
    frames, seconds, rate = read_video(tmp_path / "out" / "street.mp4")
    assert len(frames) == 20 and rate == 25
    assert seconds == pytest.approx([number / 25 for number in range(20)], abs=1e-3)
    assert frames[0].shape == (64, 64, 3)
    assert np.abs(frames[3].astype(int) - picture(3)).mean() > 5


def test_nothing_drawn_leaves_the_pictures(run, tmp_path):
    path = write_video(tmp_path / "a.mp4", range(10))
    (lines,) = run(path, "--score-threshold", 1).values()
    assert len(lines) == 10
    originals, _, _ = read_video(path)
    frames, _, _ = read_video(tmp_path / "out" / "a.mp4")
    for frame, original in zip(frames, originals, strict=True):
        assert np.abs(frame.astype(int) - original).mean() < 6


@pytest.mark.slow
def test_times_rotation_and_odd_sides_are_kept(run, network, tmp_path):
    ticks = [100, 140, 300, 301, 1600]
    path = write_video(tmp_path / "a.mp4", ticks, (64, 90), time_base=Fraction(1, 1000), rotation=90)
    (lines,) = run(path).values()
    check_lines(lines, Detector(network[1], network[0]), path, 5)
    assert [line["time"] for line in lines] == pytest.approx([0, 0.04, 0.2, 0.201, 1.5], abs=1e-4)
    frames, seconds, _ = read_video(tmp_path / "out" / "a.mp4")
    assert seconds == pytest.approx([0, 0.04, 0.2, 0.201, 1.5], abs=1e-3)
    assert frames[0].shape == (90, 64, 3)
    with VideoReader(tmp_path / "out" / "a.mp4") as video:
        assert next(video.frames()).pixels.shape == (90, 64, 3)


def test_odd_sides_grow_by_a_pixel(tmp_path):
    from refinedet_tf.inference.video_writer import VideoWriter

    pixels = picture(0, 64, 64)[:63, :61]
    with VideoWriter(tmp_path / "a.mp4", (63, 61), Fraction(10), Fraction(1, 10)) as writer:
        for number in range(3):
            writer.write(pixels, number)
    frames, _, _ = read_video(tmp_path / "a.mp4")
    assert [frame.shape for frame in frames] == [(64, 62, 3)] * 3
    assert np.abs(frames[0][:63, :61].astype(int) - pixels).mean() < 6


@pytest.mark.slow
def test_several_videos_and_tiles(run, network, tmp_path, capsys):
    first = write_video(tmp_path / "x" / "a.mp4", range(9), (64, 128))
    second = write_video(tmp_path / "y" / "a.mkv", range(3))
    lines = run(first, second, "--tiles", 64, "--tile-overlap", 0)
    assert list(lines) == ["a-2.jsonl", "a.jsonl"]
    tiled = TiledDetector(Detector(network[1], network[0]), network[0], Tiling(64, 0.0))
    check_lines(lines["a.jsonl"], tiled, first, 9)
    check_lines(lines["a-2.jsonl"], tiled, second, 3)
    assert f"tiles: {(9 * 3 + 3) / 12:.1f} views per image" in capsys.readouterr().out


def test_video_that_ends_in_the_middle_is_kept_and_named(run, tmp_path):
    whole = write_video(tmp_path / "b.mp4", range(40), movflags="faststart")
    cut = tmp_path / "a.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    (tmp_path / "none.mp4").write_text("no video")
    message = message_of(run, cut, tmp_path / "none.mp4", whole)
    lines = lines_in(tmp_path / "out")
    assert 10 < len(lines["a.jsonl"]) < 40 and len(lines["b.jsonl"]) == 40
    assert message.startswith("2 of 3 videos have defects: ")
    assert "a.mp4 is not whole: " in message
    assert f"it ends after {len(lines['a.jsonl'])} of 40 frames; " in message
    assert "none.mp4 cannot be read: " in message
    assert len(read_video(tmp_path / "out" / "a.mp4")[0]) == len(lines["a.jsonl"])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a.jsonl",
        "a.mp4",
        "b.jsonl",
        "b.mp4",
    ]


def test_interrupted_video_plays(run, monkeypatch, tmp_path):
    drawn = []

    def draw(pixels, *_):
        if len(drawn) == 11:
            raise KeyboardInterrupt
        drawn.append(pixels)
        return pixels

    monkeypatch.setattr(video_detection, "draw_detections", draw)
    with pytest.raises(KeyboardInterrupt):
        run(write_video(tmp_path / "a.mp4", range(100)))
    assert [line["frame"] for line in lines_in(tmp_path / "out")["a.jsonl"]] == list(range(11))
    frames, seconds, _ = read_video(tmp_path / "out" / "a.mp4")
    assert len(frames) == 11 and seconds[-1] == pytest.approx(1.0, abs=1e-3)


def test_few_frames_are_in_memory(run, monkeypatch, tmp_path):
    """At most two batches wait for the replica, and one is written."""
    state = {"read": 0, "drawn": 0, "ahead": 0}
    frames = VideoReader.frames
    draw = video_detection.draw_detections

    def counted(video):
        for frame in frames(video):
            state["read"] += 1
            state["ahead"] = max(state["ahead"], state["read"] - state["drawn"])
            yield frame

    def counting(*arguments):
        state["drawn"] += 1
        return draw(*arguments)

    monkeypatch.setattr(VideoReader, "frames", counted)
    monkeypatch.setattr(video_detection, "draw_detections", counting)
    run(write_video(tmp_path / "a.mp4", range(50)), "--score-threshold", 1)
    assert state["read"] == state["drawn"] == 50
    assert state["ahead"] <= 3 * 8


def test_progress_counts_frames(run, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(video_detection, "QUIET_SECONDS", 0.0)
    run(write_video(tmp_path / "a.mp4", range(20)))
    err = capsys.readouterr().err
    assert "a.mp4: 1/20 frames, " in err and "a.mp4: 20/20 frames, " in err and " left" in err


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (["camera:0"], "camera:0: cameras are not read; record a video first"),
        (["/dev/video0"], "/dev/video0: cameras are not read; record a video first"),
        (["b.png", "a.mp4"], "a.mp4 is a video and b.png is not: photos and videos need a command each"),
        (["a.mp4"], r"videos need PyAV: pip install 'refinedet-tf\[video\]'"),
    ],
)
def test_what_is_refused(run, monkeypatch, tmp_path, inputs, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "b.png")
    write_video(tmp_path / "a.mp4", range(2))
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=message):
        run(*inputs)
    assert not (tmp_path / "out").exists()
