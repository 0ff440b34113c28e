"""Writes docs/configuration.md from the dataclasses of the config: python docs/generate_configuration.py

Types, defaults and ranges come from the JSON schema that pydantic makes of the dataclasses, and the meaning
of a key from the docstring below it.
"""

import ast
import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from refinedet_tf.config import Config
from refinedet_tf.config import schema as config_module

PAGE = Path(__file__).parent / "configuration.md"

HEAD = """\
# Configuration

This page is generated from `refinedet_tf/config/` by `python docs/generate_configuration.py`.

Every command takes `--config`, which is a JSON file, the name of a file in `configs/`, or a run folder. It
also takes any number of overrides:

```
refinedet train --config voc320.json --set training.batch_size=16 --set 'data.train=["2007/trainval"]'
```

The value is JSON, or else plain text. In a shell, quote values that hold brackets, quotes or spaces. An
unknown key or a wrong value ends the command with exit code 2 and one line that names the key and says what
is valid.

A config file that says `"extends": "voc320.json"` holds only the keys that differ. `name`, `description` and
`command` describe a single file and are never inherited. `expected` is a claim about certain data: a config
whose `data` differs from that of the config it extends does not inherit it.

A duration is a number of steps, such as `2000`, or of epochs, such as `"65 epochs"` or `"0.5 epochs"`. An
epoch is one pass over the training images; the number of steps is rounded up. Earlier configs and run
folders, whose durations have other keys (`steps`, `epochs`, `warmup_epochs` and so on), are read as well.

A list of two bounds is [smallest, largest].
"""

TOP_LEVEL = "Keys at the top"

BOUNDS = {
    "minimum": ">= {}",
    "exclusiveMinimum": "> {}",
    "maximum": "<= {}",
    "exclusiveMaximum": "< {}",
}


def page() -> str:
    """Returns the page: a table for the keys at the top, and one per section and kind of list entry."""
    schema = TypeAdapter(Config).json_schema()
    definitions = schema["$defs"]
    top_level, parts = [], []
    for key, value in schema["properties"].items():
        section = _section(value)
        if section is None:
            top_level.append(_row(key, value, schema, Config))
            continue
        title = f"`{key}`" + (" (null: not stated)" if value.get("default", "") is None else "")
        definition, owner = definitions[section], getattr(config_module, section)
        rows = [_row(f"{key}.{name}", v, definition, owner) for name, v in definition["properties"].items()]
        parts.append(_table(title, inspect.getdoc(owner) or "", rows))
        for name, value_of_key in definition["properties"].items():
            if entry := _entry(value_of_key):
                shown = f"{key}.{name}[]"
                parts.append(_entry_table(shown, definitions[entry], getattr(config_module, entry)))
    return "\n".join([HEAD, _table(TOP_LEVEL, "", top_level), *parts])


def docstrings_of_keys(owner: type) -> dict[str, str]:
    """Returns the docstring below each field of a dataclass; a field without one is left out."""
    (definition,) = ast.parse(inspect.getsource(owner)).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, following in zip(definition.body, definition.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = getattr(getattr(following, "value", None), "value", None)
            if isinstance(following, ast.Expr) and isinstance(text, str):
                found[field.target.id] = " ".join(text.split())
    return found


def sections() -> list[type]:
    """Returns the dataclasses that hold keys: `Config` and those of its sections."""
    return [
        value
        for value in vars(config_module).values()
        if inspect.isclass(value) and dataclasses.is_dataclass(value)
    ]


def _section(schema: dict[str, Any]) -> str | None:
    """Returns the name of the dataclass of a section; None for a key with a value."""
    references = [part["$ref"] for part in schema.get("anyOf", [schema]) if "$ref" in part]
    return references[0].rpartition("/")[2] if references else None


def _entry(schema: dict[str, Any]) -> str | None:
    """Returns the name of the dataclass of a list's entries; None for any other value."""
    return next(
        (found for part in schema.get("anyOf", []) if (found := _section(part.get("items", {})))), None
    )


def _entry_table(key: str, definition: dict[str, Any], owner: type) -> str:
    rows = [_row(f"{key}.{name}", v, definition, owner) for name, v in definition["properties"].items()]
    return _table(f"An entry of `{key.removesuffix('[]')}`", inspect.getdoc(owner) or "", rows)


def _table(title: str, text: str, rows: list[str]) -> str:
    head = ["| key | type | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"## {title}", "", *([text, ""] if text else []), *head, *rows, ""])


def _row(key: str, schema: dict[str, Any], definition: dict[str, Any], owner: type) -> str:
    name = key.rpartition(".")[2]
    required = name in definition.get("required", [])
    default = "required" if required else f"`{json.dumps(schema['default'])}`"
    cells = [f"`{key}`", _type(schema), default, docstrings_of_keys(owner)[name]]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _type(schema: dict[str, Any]) -> str:
    """Describes the values that a key may have, e.g. `number > 0 or null`."""
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    if schema["type"] == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(map(_type, schema['prefixItems']))}]"
        if _section(schema["items"]):
            return "list of entries"
        kind, _, bounds = _type(schema["items"]).partition(" ")
        return f"list of {kind}s {bounds}".strip()
    if "format" in schema:
        return f"`{json.dumps(schema['format'])}`"
    limits = [text.format(schema[name]) for name, text in BOUNDS.items() if name in schema]
    return " ".join([schema["type"], ", ".join(limits)]).strip()


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
