"""The configuration of TF Serving in serving/."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from google.protobuf import text_format
from serving_stand_ins import MODEL, rest_server
from tensorflow_serving.config import model_server_config_pb2

SERVING = Path(__file__).parent.parent.parent / "serving"


def fields_of(text):
    """Field names and values of a flat protobuf text file without nested messages of several fields."""
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    matches = [
        re.fullmatch(r"(\w+)(?: \{ value: (\d+) \}|: (\d+|true|false))", line) for line in lines if line
    ]
    assert all(matches), text
    return [(match[1], match[2] or match[3]) for match in matches]


def command_of(file):
    return re.findall(r"^      - (--.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)


def model_config():
    text = (SERVING / "models.config").read_text(encoding="utf-8")
    config = text_format.Parse(text, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


def test_models_config_is_a_model_server_config():
    model = model_config()
    assert (model.name, model.model_platform) == (MODEL, "tensorflow")
    assert set(model.version_labels) == {"stable", "canary"}
    loaded = set(model.model_version_policy.specific.versions)
    assert set(model.version_labels.values()) <= loaded


def test_batching_config_is_batching_parameters():
    """The message is not part of tensorflow-serving-api: its fields and rules are written down here."""
    fields = fields_of((SERVING / "batching.config").read_text(encoding="utf-8"))
    sizes = [int(value) for name, value in fields if name == "allowed_batch_sizes"]
    single = [(name, value) for name, value in fields if name != "allowed_batch_sizes"]
    values = dict(single)
    assert len(values) == len(single)
    numbers = {"max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"}
    assert set(values) == {*numbers, "pad_variable_length_inputs"}
    assert values["pad_variable_length_inputs"] == "false"
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == int(values["max_batch_size"])
    assert min(int(values[name]) for name in numbers) > 0


def test_compose_files_fit_the_config_files():
    cpu, gpu = (SERVING / name for name in ("compose.yaml", "compose.gpu.yaml"))
    common = command_of(cpu)
    assert command_of(gpu) == [
        *common,
        "--enable_batching=true",
        "--batching_parameters_file=/config/batching.config",
    ]
    assert "--allow_version_labels_for_unavailable_models=true" in common
    for option in command_of(gpu):
        name, _, value = option.partition("=")
        if name.endswith("_file"):
            assert (SERVING / value.removeprefix("/config/")).is_file(), option
    text = cpu.read_text(encoding="utf-8")
    assert re.search(rf"^        target: {model_config().base_path}$", text, re.MULTILINE)
    tags = [re.search(r"image: (\S+)", file.read_text(encoding="utf-8"))[1] for file in (cpu, gpu)]
    assert re.fullmatch(r"tensorflow/serving:\$\{TF_SERVING_TAG:-[\d.]+\}", tags[0])
    assert tags[1] == f"{tags[0]}-gpu"
    for file in (cpu, gpu):
        assert "\t" not in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("model", "loaded", "code"), [(MODEL, True, 0), (MODEL, False, 1), ("other", True, 1)]
)
def test_health_check_of_compose(model, loaded, code):
    text = (SERVING / "compose.yaml").read_text(encoding="utf-8")
    lines = re.search(r"        - >-\n((?:          .*\n)+)", text)[1].split("\n")
    command = " ".join(line.strip() for line in lines)
    assert "$" not in command  # Compose would replace it.
    with rest_server(SimpleNamespace(loaded=loaded)) as url:
        check = command.replace("8501", url.rpartition(":")[2]).replace(f"models/{MODEL}", f"models/{model}")
        assert subprocess.run(["bash", "-c", check], check=False, timeout=10).returncode == code
