"""docs/configs.md says what the configs say."""

import generate_configs
import pytest

from refinedet_tf.config.files import CONFIG_FOLDER


def test_page_is_up_to_date():
    written = generate_configs.PAGE.read_text(encoding="utf-8")
    assert written == generate_configs.page(), "run python docs/generate_configs.py"


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
        ("shapes", "-", "81.1 (78.8 to 83.9), 3 seeds", "| 160 x 160 | 1,600 steps, batches of 8 |"),
        ("voc2007_test_photos", "-", "53.3", "| 14 epochs, batches of 8 | `voc`: 2007/train | voc07 mAP "),
        ("own_data", "-", "-", "| to be extended | `efficientnet_lite0` |"),
    ],
)
def test_rows(config, paper, measured, rest):
    beginning = f"| [`{config}.json`](../configs/{config}.json) | {paper} | {measured} | "
    (row,) = (line for line in generate_configs.page().splitlines() if line.startswith(beginning))
    assert rest in row
