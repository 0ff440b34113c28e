"""The verbs of the library do what the commands do."""

import json

import pytest

import evaluate
import refinedet_tf as rd
from refinedet_tf.config.files import config_to_json
from refinedet_tf.data.shapes import CLASS_NAMES
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.result_files import to_json
from refinedet_tf.weights import save_weights

pytestmark = pytest.mark.story

ANY_SCORE = "postprocess.score_threshold=0.0"


def test_train(config_file, eagerly, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = rd.train(rd.load_config(config_file, ["training.length=1", "data.validation=[]"]))
    assert run.as_posix() == "runs/tiny" and (run / "final.weights.h5").is_file()


@pytest.fixture
def run(config_file, small_network, tmp_path):
    """The folder of a run that has not learned anything."""
    config = rd.load_config(config_file, [f"data.classes={json.dumps(CLASS_NAMES)}"])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config_to_json(config), encoding="utf-8")
    save_weights(rd.build_model(config), run / "final.weights.h5")
    return run


def test_evaluate_and_detect(run, devkit, done, tmp_path):
    result = rd.evaluate(run, [ANY_SCORE])
    file = tmp_path / "numbers.json"
    done = done(evaluate, "--config", run, "--set", ANY_SCORE, "--json", file)
    assert json.loads(file.read_text())["AP"] == to_json(result)["AP"]
    images = sorted(devkit.rglob("val*.jpg"))
    assert len(rd.Detector.load(run)(images)) == len(images) == result.num_images


def test_export(run, tmp_path):
    folder = rd.export(run, tmp_path / "exports", ["postprocess.max_detections=7"])
    assert folder == tmp_path / "exports" / "1"
    card = json.loads((folder / "assets" / "model.json").read_text())
    assert card["postprocess"]["max_detections"] == 7
    assert (folder / "assets" / "labels.txt").read_text().split() == list(CLASS_NAMES)


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="nowhere is no run folder"):
        rd.evaluate(tmp_path / "nowhere")
