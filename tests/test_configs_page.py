"""docs/configs.md says what the configs say."""

import generate_configs

from refinedet_tf.config.files import CONFIG_FOLDER


def test_page_is_up_to_date():
    written = generate_configs.PAGE.read_text(encoding="utf-8")
    assert written == generate_configs.page(), "run python docs/generate_configs.py"


def test_every_config_has_a_row():
    rows = [line for line in generate_configs.page().splitlines() if line.startswith("| [")]
    named = [row.split("`")[1] for row in rows]
    assert named == sorted(path.name for path in CONFIG_FOLDER.glob("*.json"))
    assert {row.count(" | ") for row in rows} == {len(generate_configs.COLUMNS) - 1}
