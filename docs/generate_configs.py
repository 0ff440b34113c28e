"""Writes docs/configs.md, the table of the configs, from configs/: python docs/generate_configs.py"""

from pathlib import Path

from refinedet_tf.config import Config
from refinedet_tf.config.files import CONFIG_FOLDER, load_config
from refinedet_tf.config.schema import ExpectedConfig, TrainingConfig

PAGE = Path(__file__).parent / "configs.md"

HEAD = """\
# Configs

This page is generated from `configs/` by `python docs/generate_configs.py`.

`--config NAME.json` names one of them, in every command and in every folder.
[Configuration](configuration.md) describes the keys, and [results](results.md) has the commands, the
paper's further figures, and how things were measured.

The figures are what a config claims as `expected`, in per cent: the paper's where Zhang et al. (CVPR 2018)
report it, and a measured one where this code has reached it. A dash means that the config claims none.
Configs without a description claim nothing; they are there to be extended.
"""

COLUMNS = ("config", "paper", "measured", "what it is", "backbone", "input", "length", "data", "metric")
TO_THE_RIGHT = ("paper", "measured")

PAPER = "Zhang et al."
"""The beginning of the `source` of a figure that the paper reports."""


def page() -> str:
    """Returns the page: a table with a row for each config."""
    rules = ["--:" if column in TO_THE_RIGHT else "---" for column in COLUMNS]
    head = [f"| {' | '.join(COLUMNS)} |", f"|{'|'.join(rules)}|"]
    files = sorted(CONFIG_FOLDER.glob("*.json"))
    rows = [f"| {' | '.join(row(file.name, load_config(file)))} |" for file in files]
    return "\n".join([HEAD, *head, *rows, ""])


def row(name: str, config: Config) -> list[str]:
    """Returns the cells of a config, whose file in `configs/` has that name."""
    expected = config.expected
    of_paper = expected is not None and expected.source.startswith(PAPER)
    return [
        f"[`{name}`](../configs/{name})",
        figure(expected) if of_paper else "-",
        "-" if of_paper else figure(expected),
        config.description or "to be extended",
        f"`{config.model.backbone}`",
        " x ".join(map(str, config.model.image_size or ("any",))),
        length(config.training),
        f"`{config.data.format}`: {', '.join(config.data.train)}",
        "-" if expected is None else expected.metric,
    ]


def length(training: TrainingConfig) -> str:
    """Returns the length of a training with its batch size: "1,600 steps, batches of 8"."""
    steps = f"{training.length:,} steps" if isinstance(training.length, int) else training.length
    return f"{steps}, batches of {training.batch_size}"


def figure(expected: ExpectedConfig | None) -> str:
    """Returns the figure in per cent, with its spread and number of seeds where there are several."""
    if expected is None:
        return "-"
    text = f"{100 * expected.value:.1f}"
    if expected.spread is not None:
        text += " ({:.1f} to {:.1f})".format(*(100 * bound for bound in expected.spread))
    return text + (f", {expected.seeds} seeds" if expected.seeds else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
