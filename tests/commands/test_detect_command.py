import dataclasses
import json

import numpy as np
import pytest
from config_of import config_of
from image_files import save
from PIL import Image
from stand_in_model import stand_in_config, stand_in_model

import detect
from refinedet_tf.commands import detect as detect_command
from refinedet_tf.config import PostprocessConfig
from refinedet_tf.config.files import config_to_json
from refinedet_tf.errors import InputError
from refinedet_tf.inference import detection_files, multiscale
from refinedet_tf.inference.detector import Detector
from refinedet_tf.inference.tiled_detector import TiledDetector
from refinedet_tf.inference.tiles import Tiling


def entries_in(folder):
    return json.loads((folder / "detections.json").read_text(encoding="utf-8"))


@pytest.fixture
def run(detect_into):
    """Runs the command with the stand-in network; returns the list in detections.json."""

    def run(*arguments, **options):
        return entries_in(detect_into(*arguments, **options))

    return run


def test_json_holds_every_detection_in_pixels(run, network, tmp_path):
    image = save(tmp_path / "in" / "street.png")
    (entry,) = run(image)
    (result,) = Detector(network[1], network[0])([image])
    assert {k: entry[k] for k in ("image", "picture", "height", "width")} == {
        "image": str(image),
        "picture": "street.png",
        "height": 40,
        "width": 60,
    }
    assert len(entry["detections"]) == len(result["scores"]) > 3
    assert min(result["scores"]) < 0.5
    for detection, name, score, box in zip(
        entry["detections"], result["names"], result["scores"], result["boxes"], strict=True
    ):
        assert detection["class"] == name
        assert detection["score"] == pytest.approx(score, abs=1e-5)
        corners = [detection["box"][side] for side in ("ymin", "xmin", "ymax", "xmax")]
        np.testing.assert_allclose(corners, box, atol=0.01)


def test_pictures_show_only_what_is_above_the_threshold(run, tmp_path):
    image = save(tmp_path / "in" / "street.png")
    (entry,) = run(image)
    median = entry["detections"][len(entry["detections"]) // 2]["score"]
    original = np.asarray(Image.open(image))
    changed = []
    for threshold in (1, median, 0):
        output = tmp_path / f"out {threshold}"
        run(image, "--score-threshold", threshold, output=output)
        picture = np.asarray(Image.open(output / "street.png"))
        assert picture.shape == original.shape
        changed.append(int((picture != original).sum()))
    assert changed[0] == 0 < changed[1] < changed[2]


def test_summary_counts_the_drawn_detections(run, tmp_path, capsys):
    images = [save(tmp_path / "in" / f"{i}.png", seed=i) for i in range(3)]
    entries = run(*images, "--score-threshold", 0.4)
    drawn = sum(d["score"] >= 0.4 for entry in entries for d in entry["detections"])
    assert drawn > 0
    assert f"3 images, {drawn} detections of score 0.4 or more" in capsys.readouterr().out


def test_equal_names_do_not_overwrite_each_other(run, tmp_path):
    names = ["one/x.png", "two/x.png", "three/X.png", "four/x.bmp", "five/x-2.png"]
    images = [save(tmp_path / name, 30 + i, 50) for i, name in enumerate(names)]
    entries = run(*images)
    assert [entry["picture"] for entry in entries] == ["x.png", "x-2.png", "X-3.png", "x-4.png", "x-2-2.png"]
    for i, entry in enumerate(entries):
        assert Image.open(tmp_path / "out" / entry["picture"]).size == (50, 30 + i)


def test_more_images_than_a_batch(run, monkeypatch, tmp_path):
    seen, detect_batch = [], Detector.__call__

    def counted(self, images, batch_size):
        seen.append(len(images))
        return detect_batch(self, images, batch_size)

    monkeypatch.setattr(Detector, "__call__", counted)
    for i in range(11):
        save(tmp_path / "in" / f"{i:02}.png", 30 + i, 40)
    entries = run(tmp_path / "in")
    assert [entry["height"] for entry in entries] == list(range(30, 41))
    assert seen == [8, 3]


def test_a_picture_too_long_for_jpeg_is_a_png(run, tmp_path):
    """The file may be a PNG whatever its name says."""
    widths = {"wide.jpg": 65_501, "long.JPEG": 65_500, "wide.jpeg": 65_502}
    for name, width in widths.items():
        pixels = np.full((3, width, 3), 90, np.uint8)
        Image.fromarray(pixels).save(tmp_path / name, format="PNG")
    entries = run(*(tmp_path / name for name in widths))
    assert [entry["picture"] for entry in entries] == ["wide.png", "long.JPEG", "wide-2.png"]
    for entry, width in zip(entries, widths.values(), strict=True):
        assert Image.open(tmp_path / "out" / entry["picture"]).size == (width, 3)


def test_interrupted_run_leaves_whole_json(run, monkeypatch, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(detection_files, "_write_picture", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(save(tmp_path / "a.png"))
    (entry,) = entries_in(tmp_path / "out")
    assert entry["picture"] == "a.png"


@pytest.mark.parametrize(
    "options,inputs",
    [
        ([], "3 of 3 images"),
        (["--tiles", 64, "--tile-overlap", 0], "9 of 9 views"),
        (["--multi-scale"], "12 of 12 views"),
        (["--multi-scale", "--tiles", 64, "--tile-overlap", 0], "36 of 36 views"),
    ],
)
def test_a_reached_limit_of_candidates_is_named(run, network, tmp_path, monkeypatch, capsys, options, inputs):
    """Multi-scale testing sees an image twice at each of two sizes; the tiled images have two tiles."""
    passes = multiscale.Pass(1.0), multiscale.Pass(2.0)
    monkeypatch.setattr(multiscale, "PASSES", {320: passes})
    config, model = network
    limits = PostprocessConfig(pre_nms_per_image=2, score_threshold=0.0, objectness_threshold=0.0)
    limited = dataclasses.replace(config, postprocess=limits)
    if "--multi-scale" in options:
        model = stand_in_model(stand_in_config(None))
    monkeypatch.setattr(detect_command, "config_from", lambda _: limited)
    monkeypatch.setattr(detect_command, "load_model", lambda *_, **__: model)
    images = [save(tmp_path / "in" / f"{i}.png", 64, 128, seed=i) for i in range(3)]
    run(*images, *options, "--score-threshold", 0)
    line = f"note: {inputs} have 2 or more candidates before NMS, and only the best 2 are used"
    assert line in capsys.readouterr().out
    run(*images, *options, "--score-threshold", 1, output=tmp_path / "nothing drawn")
    assert "before NMS" not in capsys.readouterr().out


def test_tiles(run, network, tmp_path, capsys):
    images = [save(tmp_path / "in" / f"{name}.png", 64, width) for name, width in (("a", 128), ("b", 60))]
    entries = run(*images, "--tiles", 64, "--tile-overlap", 0)
    assert "tiles: 2.0 views per image; " in capsys.readouterr().out
    tiled = TiledDetector(Detector(network[1], network[0]), network[0], Tiling(64, 0.0))
    for entry, result in zip(entries, tiled(images), strict=True):
        found = [(detection["class"], detection["score"]) for detection in entry["detections"]]
        assert [name for name, _ in found] == result.names
        np.testing.assert_allclose([score for _, score in found], result.scores, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "output", "message"),
    [
        (["missing.jpg"], "out", "no image found: "),
        (["in/a.png", "--score-threshold", -0.1], "out", "must lie in 0..1, got -0.1"),
        (["in/a.png", "--score-threshold", "nan"], "out", "must lie in 0..1, got nan"),
        (["in/a.png"], "in", "in is not empty"),
        (["in/a.png"], "in/a.png", "a.png is not a folder"),
    ],
)
def test_what_is_refused(run, monkeypatch, tmp_path, arguments, output, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "in" / "a.png")
    with pytest.raises(InputError, match=message):
        run(*arguments, output=output)
    assert not (tmp_path / "out").exists()


def test_whole_command_on_a_run_folder(small_network, refused, tmp_path, monkeypatch):
    """The whole way with a network of all modules: a run folder, good and broken images, exit code 2."""
    import refinedet_tf as rd

    config = config_of(("cat", "dog"), model={"backbone": "mobilenet_v2", "image_size": (64, 64)})
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(config_to_json(config))
    rd.build_model(config).save_weights(folder / "final.weights.h5")
    for name in ("a.png", "c.png"):
        save(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    error = refused(detect, "--config", "run", "in", "--output", "out")
    assert error.startswith("error: 1 of 3 images left out: image in/b.png cannot be decoded")
    entries = entries_in(tmp_path / "out")
    assert [entry["image"] for entry in entries] == ["in/a.png", "in/c.png"]
    assert {found["class"] for entry in entries for found in entry["detections"]} <= {"cat", "dog"}
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.png", "c.png", "detections.json"]
