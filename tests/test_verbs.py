"""The verbs of the library do what the commands do."""

import json

import pytest

import evaluate
import refinedet_tf as rd
from refinedet_tf.config.files import config_to_json
from refinedet_tf.errors import InputError
from refinedet_tf.evaluation.result_files import to_json
from refinedet_tf.weights import save_weights

pytestmark = pytest.mark.story

ANY_SCORE = "postprocess.score_threshold=0.0"


def test_train_evaluate_and_detect(config_file, devkit, eagerly, command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = rd.train(rd.load_config(config_file, ["training.length=2"]))
    assert run.as_posix() == "runs/tiny" and (run / "final.weights.h5").is_file()
    result = rd.evaluate(run, [ANY_SCORE])
    done = command(evaluate, "--config", run, "--set", ANY_SCORE, "--json", "numbers.json")
    assert done.code == 0, done.err
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["AP"] == to_json(result)["AP"]
    images = sorted(devkit.rglob("val*.jpg"))
    assert len(rd.Detector.load(run)(images)) == len(images) == result.num_images


def test_export_of_a_run(config_file, small_network, tmp_path):
    config = rd.load_config(config_file, ['data.classes=["cup", "pot"]'])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(config_to_json(config), encoding="utf-8")
    save_weights(rd.build_model(config), run / "final.weights.h5")
    folder = rd.export(run, tmp_path / "exports", ["postprocess.max_detections=7"])
    assert folder == tmp_path / "exports" / "1"
    card = json.loads((folder / "assets" / "model.json").read_text())
    assert card["postprocess"]["max_detections"] == 7
    assert (folder / "assets" / "labels.txt").read_text() == "cup\npot\n"


def test_a_folder_that_is_no_run(tmp_path):
    with pytest.raises(InputError, match="nowhere is no run folder"):
        rd.evaluate(tmp_path / "nowhere")
