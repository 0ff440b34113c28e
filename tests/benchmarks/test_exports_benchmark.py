"""The comparison of all exported forms: its table, its plot, and that every form computes the same heads."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import export_tables
import numpy as np
import pytest
from export_forms import network_forms, scenes, write_forms
from export_runtimes import Form, load
from PIL import Image
from processes import ROOT

from refinedet_tf.config.files import load_config
from refinedet_tf.refinedet.network import build_model

SIZE = (128, 128)
LARGEST_ERRORS = {"float32": 1e-4, "bfloat16": 0.1, "int8": 0.3}
"""The accepted differences of heads, in units of the largest value."""


def result_of(**facts):
    """A result of the benchmark with two forms of the network and one of the whole detector."""
    forms = [
        {"form": "model float32", "size_mb": 7.04, "mAP": 0.7414, **facts},
        {"form": "LiteRT int8", "size_mb": 4.69, "mAP": 0.7363, **facts},
    ]
    rows = []
    for batch, times in ((1, (25.0, 2.5, 30.0)), (8, (100.0, 20.0, 1234.0))):
        names = ("model float32", "LiteRT int8", "SavedModel float32 files")
        for name, ms, stage in zip(names, times, ("network", "network", "whole"), strict=True):
            figures = {"ms": ms, "ratio": ms / times[0], "images_per_second": 1e3 * batch / ms}
            rows.append({"stage": stage, "batch": batch, "form": name, **figures})
    return {"backbone": "mobilenet_v2", "image_size": [160, 160], "threads": 2, "forms": forms, "rows": rows}


def test_table_has_times_of_each_batch_and_the_facts_of_each_form():
    text = export_tables.markdown(result_of(memory_mb=987.4, import_s=0.42, first_answer_s=0.06))
    assert text.splitlines() == [
        "| form | batch 1 | batch 8 | images/s | size | memory | start | mAP |",
        "| --- | --: | --: | --: | --: | --: | --: | --: |",
        "| model float32 | 25.0 ms (1.00) | 100 ms (1.00) | 80.0 | 7.0 MB | 987 MB | 0.42 + 0.06 s | 74.14 |",
        "| LiteRT int8 | 2.50 ms (0.10) | 20.0 ms (0.20) | 400 | 4.7 MB | 987 MB | 0.42 + 0.06 s | 73.63 |",
        "| SavedModel float32 files, whole | 30.0 ms (1.20) | 1,234 ms (12.34) | 6.48 |  |  |  |  |",
    ]


def test_table_without_starts_and_accuracy():
    result = result_of()
    for fact in result["forms"]:
        del fact["mAP"]
    head, _, first, *_ = export_tables.markdown(result).splitlines()
    assert head == "| form | batch 1 | batch 8 | images/s | size |"
    assert first == "| model float32 | 25.0 ms (1.00) | 100 ms (1.00) | 80.0 | 7.0 MB |"


def test_plot_is_a_picture(tmp_path):
    export_tables.draw(result_of(), tmp_path / "plot.png")
    pixels = np.asarray(Image.open(tmp_path / "plot.png").convert("RGB"))
    assert pixels.shape == (550, 880, 3)
    colors = set(map(tuple, pixels.reshape(-1, 3).tolist()))
    # The points of float32 and of int8.
    assert {(0x1F, 0x5F, 0xA8), (0x23, 0x82, 0x3B)} <= colors


def test_labels_move_apart_by_the_least():
    distance = export_tables.LABEL_DISTANCE
    moved = export_tables._spread([0.1, 0.5, 0.5, 0.9])
    assert moved == pytest.approx([0.1, 0.5 - distance / 2, 0.5 + distance / 2, 0.9])


def test_size_is_that_of_the_files_that_are_loaded(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "onnx").mkdir()
    for name, size in (("saved_model.pb", 1000), ("variables/variables.index", 20), ("onnx/heads.onnx", 5)):
        (tmp_path / name).write_bytes(bytes(size))
    form = Form("SavedModel", "float32", str(tmp_path), "heads", 1, 2)
    assert form.megabytes() == pytest.approx(1020e-6)
    heads = dataclasses.replace(form, runtime="onnxruntime", path=str(tmp_path / "onnx" / "heads.onnx"))
    assert heads.megabytes() == pytest.approx(5e-6)


@pytest.mark.slow
def test_all_forms_compute_the_heads_of_the_model_and_start_alone(tmp_path):
    overrides = [
        'data.classes=["a", "b"]',
        f"model.image_size={json.dumps(SIZE)}",
        "model.width_multiplier=0.35",
    ]
    config = load_config("shapes.json", overrides)
    write_forms(build_model(config), config, tmp_path / "forms", [1, 2], None)
    images = scenes(2, SIZE).astype(np.float32)
    forms = network_forms(tmp_path / "forms", 2, 1)
    assert len(forms) == (11 if importlib.util.find_spec("openvino") else 8)
    expected = load(forms[0])(images)
    assert {name: value.shape[0] for name, value in expected.items()} == dict.fromkeys(expected, 2)
    for form in forms:
        heads = load(form)(images)
        for name, value in expected.items():
            error = np.abs(heads[name] - value).max() / np.abs(value).max()
            assert error <= LARGEST_ERRORS[form.precision], (form.name, name)
        tree = dataclasses.asdict(form) | {"input_shape": [2, *SIZE, 3]}
        program = [sys.executable, str(ROOT / "benchmarks" / "export_runtimes.py"), json.dumps(tree)]
        done = subprocess.run(program, stdout=subprocess.PIPE, text=True, check=True)
        start = json.loads(done.stdout.splitlines()[-1])
        assert min(start["import_s"], start["first_answer_s"]) > 0
        if sys.platform == "linux":
            assert start["memory_mb"] > 20
