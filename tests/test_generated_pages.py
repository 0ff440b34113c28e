"""The generated pages say what the dataclasses of the config and the files in configs/ say."""

import dataclasses

import generate_configs
import generate_configuration
import pytest

from refinedet_tf.config import Config
from refinedet_tf.config.files import CONFIG_FOLDER


@pytest.mark.parametrize("generator", [generate_configuration, generate_configs], ids=lambda g: g.__name__)
def test_page_is_up_to_date(generator):
    written = generator.PAGE.read_text(encoding="utf-8")
    assert written == generator.page(), f"run python docs/{generator.__name__}.py"


def test_every_key_has_a_meaning_and_a_row():
    page = generate_configuration.page()
    sections = [section for section in generate_configuration.sections() if section is not Config]
    assert len(sections) == 9
    for section in sections:
        names = {field.name for field in dataclasses.fields(section)}
        assert generate_configuration.docstrings_of_keys(section).keys() == names, section
    keys = dataclasses.asdict(Config())
    keys["expected"] = {"metric": 0, "value": 0, "spread": 0, "seeds": 0, "source": 0, "hours": 0}
    for key, value in keys.items():
        for row in [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]:
            assert page.count(f"\n| `{row}` | ") == 1, row


@pytest.mark.parametrize(
    "row",
    [
        "| `training.learning_rate` | number > 0 | `0.001` | The learning rate after the warm-up. |",
        "| `training.momentum` | number >= 0, < 1 | `0.9` | The momentum of the solver. |",
        '| `data.format` | `"voc"`, `"coco"`, `"yolo"`, `"csv"` | `"voc"` | ',
        "| `data.train` | list of strings | `[]` | ",
        "| `augmentation.crop_min_ious` | list of numbers >= 0, <= 1 | `[0.1, 0.3, 0.5, 0.7, 0.9]` | ",
        "| `model.image_size` | [integer >= 64, <= 10000, integer >= 64, <= 10000] or null | `[320, 320]` | ",
        "| `postprocess.pre_nms_per_class` | integer >= 1, <= 100000 or null | `null` | ",
        "| `expected.value` | number >= 0, <= 1 | required | ",
    ],
)
def test_rows_of_keys(row):
    assert f"\n{row}" in generate_configuration.page()


def test_every_config_has_a_row():
    rows = [line for line in generate_configs.page().splitlines() if line.startswith("| [")]
    named = [row.split("`")[1] for row in rows]
    assert named == sorted(path.name for path in CONFIG_FOLDER.glob("*.json"))
    assert {row.count(" | ") for row in rows} == {len(generate_configs.COLUMNS) - 1}


@pytest.mark.parametrize(
    ("config", "paper", "measured", "rest"),
    [
        ("voc320", "80.0", "-", "| `vgg16` | 320 x 320 | 120,000 steps, batches of 32 | `voc`: 2007/"),
        ("coco512_resnet101", "36.4", "-", "| `resnet101` | 512 x 512 | 540,000 steps, batches of 20 |"),
        ("shapes", "-", "83.0 (80.6 to 85.3), 5 seeds", "| 160 x 160 | 1,600 steps, batches of 8 |"),
        ("voc2007_test_photos", "-", "53.3", "| 14 epochs, batches of 8 | `voc`: 2007/train | voc07 mAP "),
        ("own_data", "-", "-", "| to be extended | `efficientnet_lite0` |"),
    ],
)
def test_rows_of_configs(config, paper, measured, rest):
    beginning = f"| [`{config}.json`](../configs/{config}.json) | {paper} | {measured} | "
    (row,) = (line for line in generate_configs.page().splitlines() if line.startswith(beginning))
    assert rest in row
