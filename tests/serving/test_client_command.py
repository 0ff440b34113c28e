"""The command serving/client.py, against servers that stand in for TF Serving."""

import json
from pathlib import Path

import client
import numpy as np
import pytest
from detection_entries import assert_same_entries
from grpc_client import GrpcClient
from model_choice import ModelChoice
from PIL import Image
from processes import output_without
from rest_client import RestClient
from serving_stand_ins import MODEL, rest_server

import detect
from refinedet_tf.commands import detect as detect_command
from refinedet_tf.data.images import read_image
from refinedet_tf.errors import InputError

SERVING = Path(__file__).parent.parent.parent / "serving"


@pytest.mark.parametrize("batch", [1, 2])
def test_files_are_those_of_detect(options, served, exported, images, labels, monkeypatch, tmp_path, batch):
    monkeypatch.setattr(detect_command, "config_from", lambda _: exported.config)
    monkeypatch.setattr(detect_command, "load_model", lambda *_, **__: exported.model)
    from_server, local = tmp_path / "served", tmp_path / "local"
    common = [str(images[0].parent), "--score-threshold", "0.3", "--output"]
    client.main([*common, str(from_server), "--labels", str(labels), "--batch", str(batch), *options])
    detect.main([*common, str(local), "--config", "any"])
    assert [count for _, count in served.asked] == ([1, 1, 1] if batch == 1 else [2, 1])
    texts = [(folder / "detections.json").read_text(encoding="utf-8") for folder in (from_server, local)]
    assert texts[0].count("\n") == texts[1].count("\n") == len(images) + 2
    found, expected = map(json.loads, texts)
    assert_same_entries(found, expected, score=1e-5, box=0.02)
    for entry, expected_entry in zip(found, expected, strict=True):
        assert list(entry) == list(expected_entry) == ["image", "picture", "height", "width", "detections"]
        assert entry["picture"] == expected_entry["picture"]
    names = sorted(path.name for path in from_server.iterdir())
    assert names == ["a.jpg", "b.png", "c.png", "detections.json"]
    for name, file in zip(names, images, strict=False):
        drawn, same, plain = (
            np.asarray(Image.open(path)) for path in (from_server / name, local / name, file)
        )
        assert drawn.shape == plain.shape
        assert (drawn != plain).any(axis=-1).sum() > 50
        # The JPEG decoders differ, and some coordinates are rounded the other way.
        assert (np.abs(drawn.astype(int) - same) > 40).mean() < 0.01


def test_undecodable_images_are_named_and_the_others_kept(refused, rest_url, images, labels, tmp_path):
    (tmp_path / "in" / "broken.jpg").write_bytes(images[0].read_bytes()[:300])
    (tmp_path / "in" / "text.png").write_text("no image")
    output = tmp_path / "out"
    line = refused(
        client, tmp_path / "in", "--labels", labels, "--output", output, "--url", rest_url, "--batch", 3
    )
    assert line.startswith(f"error: 2 of 5 images left out: image {tmp_path / 'in' / 'broken.jpg'} cannot")
    assert "text.png cannot be decoded by the server" in line
    entries = json.loads((output / "detections.json").read_text(encoding="utf-8"))
    assert [entry["image"] for entry in entries] == [str(path) for path in images]
    assert len(list(output.iterdir())) == 4


def test_no_folder_is_left_where_no_server_is(refused, images, labels, tmp_path):
    with rest_server(None) as url:
        pass
    arguments = [client, *images, "--labels", labels, "--output", tmp_path / "out"]
    assert "no connection to" in refused(*arguments, "--url", url)
    assert "no server at" in refused(*arguments, "--grpc", url.removeprefix("http://"))
    assert not (tmp_path / "out").exists()


def test_a_server_that_fails_later(refused, served, rest_url, images, labels, tmp_path):
    served.change = lambda outputs: outputs if len(served.asked) < 3 else {}
    line = refused(client, *images, "--labels", labels, "--output", tmp_path / "out", "--url", rest_url)
    assert "no JSON with 1 `predictions`" in line
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))) == 2


def test_labels_of_another_model(refused, rest_url, images, labels, tmp_path):
    arguments = [client, *images, "--output", tmp_path / "out", "--url", rest_url, "--labels", labels]
    labels.write_text("circle\nsquare\n")
    assert "the server found class 3, but --labels has 2 names" in refused(*arguments)
    labels.write_text("")
    assert "labels.txt is empty" in refused(*arguments)
    labels.write_bytes(b"\xff\xff")
    assert "labels.txt cannot be read" in refused(*arguments)
    labels.unlink()
    assert "labels.txt cannot be read" in refused(*arguments)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--batch", 0, "--batch must be at least 1, got 0"),
        *(("--timeout", value, f"must lie in 0..86400 s, got {value}") for value in (0, "nan", "inf")),
        ("--version", -1, "--version must be the number of a version, got -1"),
        ("--version", 2**63, "--version must be the number of a version, got 9223372036854775808"),
        ("--score-threshold", 50, "--score-threshold must lie in 0..1, got 50"),
        ("--url", "localhost:8501", "--url must be like"),
        ("--output", "in", "in is not empty"),
    ],
)
def test_wrong_values(refused, monkeypatch, rest_url, images, labels, tmp_path, option, value, message):
    monkeypatch.chdir(tmp_path)
    arguments = ["in", "--labels", labels, "--output", "out", "--url", rest_url, option, value]
    assert message in refused(client, *arguments)


def test_clients_ask_for_that_model_by_default(monkeypatch, images, labels, tmp_path):
    asked = []

    class Client(RestClient):
        def __init__(self, url, model_choice):
            asked.extend((url, model_choice))
            raise InputError("enough")

    monkeypatch.setattr(client, "RestClient", Client)
    with pytest.raises(InputError, match="enough"):
        client.main([str(images[0]), "--labels", str(labels), "--output", str(tmp_path / "out")])
    latest = ModelChoice(MODEL, version=None, label=None, timeout=60)
    assert asked == ["http://localhost:8501", latest]
    for client_class in (RestClient, GrpcClient):
        assert client_class.__init__.__defaults__[1] == latest


def test_rest_needs_no_tensorflow(rest_url, images, labels, tmp_path):
    """The client runs in a process of its own, where TensorFlow and Keras cannot be imported."""
    arguments = [SERVING / "client.py", *images, "--labels", labels, "--output", "out", "--url", rest_url]
    printed, errors = output_without(("tensorflow", "keras", "grpc"), *arguments, folder=tmp_path)
    # A slow machine prints the progress of the work.
    assert [line for line in errors.splitlines() if " images/s, " not in line] == []
    assert printed.startswith("3 images, ")
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text(encoding="utf-8"))) == 3


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_show_what_the_server_saw(tmp_path, mode):
    """tests/test_image_readers.py has further kinds of files."""
    values = np.random.default_rng(0).integers(0, 256, (30, 40, 4), np.uint8)
    file = tmp_path / "image.png"
    Image.fromarray(values, "RGBA").convert(mode).save(file)
    pixels = client.read_pixels(file.read_bytes())
    assert (pixels.dtype, pixels.shape) == (np.uint8, (30, 40, 3))
    np.testing.assert_array_equal(pixels, read_image(file))
