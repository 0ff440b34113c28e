"""The files that describe an export, model.json and labels.txt, and the requests that warm it up."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from own_anchors import tile_by_loops
from tensorflow_serving.apis import prediction_log_pb2

from refinedet_tf.config import Config, DataConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.errors import InputError
from refinedet_tf.exports import card
from refinedet_tf.exports.warmup import write_warmup_requests
from refinedet_tf.refinedet.anchors import tile_anchors
from refinedet_tf.refinedet.boxes import decode
from refinedet_tf.run_folder import RunFolder

CONFIG = Config(name="cells", data=DataConfig(classes=("zelle", "größe"), test=("2007/test",)))


def test_model_json():
    measured = {"mAP": 0.8}
    tree = json.loads(card.describe(CONFIG, (320, 512), "bfloat16", measured, 10_000))
    assert (tree["name"], tree["classes"], tree["image_size"]) == ("cells", ["zelle", "größe"], [320, 512])
    assert (tree["precision"], tree["measured"]) == ("bfloat16", measured)
    assert tree["postprocess"] == dataclasses.asdict(CONFIG.postprocess)
    assert tree["config"]["data"]["test"] == ["2007/test"]
    assert tree["versions"]["tensorflow"] == tf.__version__


def test_a_config_that_extends_another_does_not_export_its_description(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"extends": "shapes.json", "data": {"root": "mine", "classes": ["cat", "dog"]}}')
    text = card.describe(load_config(file), (160, 160), "float32", None, 10_000)
    tree = json.loads(text)
    assert (tree["name"], tree["description"]) == ("mine", "")
    assert [tree["config"][key] for key in ("description", "command", "expected")] == ["", None, None]
    assert load_config("shapes.json").description not in text


def test_model_json_is_enough_to_decode_heads(tf_test):
    """Anchors made of nothing but the file, in plain Python, are those of the project."""
    tree = json.loads(card.describe(CONFIG, (96, 160), "float32", None, 10_000))
    anchors = tree["anchors"]
    assert anchors["strides"] == [8, 16, 32, 64]
    assert anchors["levels"] == [
        {"stride": stride, "scales": [anchors["scale"] * stride], "aspect_ratios": anchors["aspect_ratios"]}
        for stride in anchors["strides"]
    ]
    tiled = np.array(tile_by_loops(tree["image_size"], anchors["levels"]), np.float32)
    assert len(tiled) == anchors["count"]
    tf_test.assertAllClose(tiled, tile_anchors((96, 160)), rtol=1e-7, atol=1e-6)
    # One unit of the first offset moves the centre by the variance, in widths of the anchor.
    moved = np.asarray(decode(np.array([[1.0, 0, 0, 0]], np.float32), np.array([[0, 0, 1, 0.5]], np.float32)))
    assert moved[0, 1] == pytest.approx(0.5 * anchors["variances"][0])


def test_accuracy_that_evaluate_wrote(tmp_path):
    file = tmp_path / "test.json"
    tree = {
        "metric": "voc",
        "mAP": 0.5,
        "AP": {"zelle": 0.4, "größe": 0.6},
        "num_images": 7,
        "throughput": {},
    }
    file.write_text(json.dumps(tree), encoding="utf-8")
    del tree["throughput"]
    assert card.read_measured(file, CONFIG) == {**tree, "source": "evaluate.py, 2007/test"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "m.json is not valid JSON"),
        ("[1]", "has no metric, mAP and AP: give what evaluate.py --json wrote"),
        ('{"metric": "voc", "mAP": 1, "AP": {"dog": 1}}', "about the classes dog, not zelle, größe"),
        ('{"metric": 5, "mAP": 1, "AP": {}}', "metric must be text and AP an object"),
        ('{"metric": "voc", "mAP": 1, "AP": 5}', "metric must be text and AP an object"),
        ('{"metric": "voc", "mAP": 1, "AP": [1, 2]}', "metric must be text and AP an object"),
        ('{"metric": "voc", "mAP": NaN, "AP": {}}', "'mAP' must be a number 0..1 or null, got nan"),
        ('{"metric": "voc", "mAP": true, "AP": {}}', "'mAP' must be a number 0..1 or null, got True"),
        ('{"metric": "voc", "mAP": null, "AP": {"a": -1}}', "'a' must be a number 0..1 or null, got -1"),
        ('{"metric": "voc", "mAP": 1, "AP": {}, "num_images": 1e999}', "holds NaN or an infinite number"),
    ],
)
def test_other_files_are_refused(tmp_path, text, words):
    (tmp_path / "m.json").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=words):
        card.read_measured(tmp_path / "m.json", CONFIG)


def test_accuracy_of_a_run(tmp_path):
    """The metric and the data are those of the best validation, where it names them."""
    config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, validation=("2007/val",)))
    run = RunFolder(tmp_path)
    assert card.validation_of_run(run, config) is None

    def entry(step, value, best, **others):
        validation = {"mAP": value, "AP": {"zelle": value}, "best": best, **others}
        return {"step": step, "validation": validation}

    def write(*lines):
        cut_off = '{"step": 20, "valid'  # By a kill.
        run.log.write_text("".join(json.dumps(line) + "\n" for line in lines) + cut_off, encoding="utf-8")

    write({"step": 1, "loss": 3.0}, entry(5, 0.2, True), entry(10, 0.6, True), entry(15, 0.5, False))
    assert card.validation_of_run(run, config) is None
    run.best_weights.touch()
    found = {"metric": "voc07", "mAP": 0.6, "AP": {"zelle": 0.6}}
    source = "validation after 10 steps"
    assert card.validation_of_run(run, config) == {**found, "source": f"{source}, 2007/val"}
    write(entry(10, 0.6, True, metric="coco", data=["val2017"]))
    expected = {**found, "metric": "coco", "source": f"{source}, val2017"}
    assert card.validation_of_run(run, config) == expected


def test_warm_up_requests(tmp_path):
    """Read with the message classes of TensorFlow Serving itself."""
    image = b"\xff\xd8" + bytes(range(256)) * 3
    write_warmup_requests(tmp_path, (64, 96), image)
    file = tmp_path / "assets.extra" / "tf_serving_warmup_requests"
    logs = [
        prediction_log_pb2.PredictionLog.FromString(record.numpy())
        for record in tf.data.TFRecordDataset(file)
    ]
    found = {}
    for log in logs:
        request = log.predict_log.request
        assert log.WhichOneof("log_type") == "predict_log" and request.model_spec.name == "refinedet"
        ((name, tensor),) = request.inputs.items()
        found[request.model_spec.signature_name] = (name, tf.make_ndarray(tensor))
    assert list(found) == ["serving_default", "serving_tensor", "serving_heads"]
    name, files = found["serving_default"]
    assert (name, files.tolist()) == ("image_bytes", [image])
    for signature, dtype in (("serving_tensor", np.uint8), ("serving_heads", np.float32)):
        name, pixels = found[signature]
        assert (name, pixels.shape, pixels.dtype) == ("images", (1, 64, 96, 3), dtype)
