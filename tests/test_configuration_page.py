"""docs/configuration.md says what the dataclasses of the config say."""

import dataclasses

import generate_configuration

from refinedet_tf.config import Config


def test_page_is_up_to_date():
    written = generate_configuration.PAGE.read_text(encoding="utf-8")
    assert written == generate_configuration.page(), "run python docs/generate_configuration.py"


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
