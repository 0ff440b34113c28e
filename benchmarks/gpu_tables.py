"""The tables of `gpu.py` in Markdown, in the form of `docs/results.md`."""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
"""A figure, as `gpu_figures.py` prints it."""

TITLES = {
    "vgg16_320": "VGG-16 320",
    "vgg16_512": "VGG-16 512",
    "resnet101_320": "ResNet-101 320",
    "vgg16_64": "VGG-16 64",
    "float32": "float32",
    "tf32": "TF32",
    "bfloat16": "bfloat16",
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "keras": "Keras",
    "numpy": "NumPy",
}
"""What is written in place of the names in the rows."""

HEADS = ("arm_loc", "arm_conf", "odm_loc", "odm_conf")


def markdown(result: Mapping[str, Any]) -> str:
    """Returns the text of all tables of a result, which `gpu.py` describes."""
    return "\n\n".join(
        [
            f"### {_device(result)}",
            _about(result),
            "Images per second, and in brackets the memory in MB:",
            _speed_table(result["rows"]),
            "The largest error of each head compared with the authors' program, in units of the head's "
            "largest value (the limit of float32 is 1e-4):",
            _golden_table(result["rows"]),
            _loader(result["loader"]) + "\n",
        ]
    )


def _device(result: Mapping[str, Any]) -> str:
    device = result["device"] or {}
    name = device.get("gpu") or f"{result['machine']['cpu']} without a GPU"
    return f"{name}, {TITLES[result['backend']]}"


def _about(result: Mapping[str, Any]) -> str:
    """Describes the machine and the measurement in one paragraph."""
    machine, device = result["machine"], result["device"] or {}
    driver = machine["driver"] or {}
    parts = [
        *(f"{TITLES[name]} {version}" for name, version in device.get("versions", {}).items()),
        f"CUDA {device['cuda']}" if device.get("cuda") else None,
        f"cuDNN {device['cudnn']}" if device.get("cudnn") else None,
        f"driver {driver['driver_version']}" if driver else None,
        f"{machine['cores']} cores of {machine['cpu']}",
        f"Python {machine['python']}",
        f"commit {machine['commit'][:10]}" if machine["commit"] else f"version {machine['refinedet_tf']}",
        result["date"],
    ]
    return (
        f"{', '.join(part for part in parts if part)}. Medians; the forward pass has no post-processing. "
        f"The memory is the {device.get('memory', 'unknown')}."
    )


def _speed_table(rows: Sequence[Row]) -> str:
    timed = [row for row in rows if row["pass"] != "golden"]
    columns = list(dict.fromkeys((row["precision"], row["xla"]) for row in timed))
    cells = {
        (row["network"], row["pass"], row["batch"], row["precision"], row["xla"]): _speed(row)
        for row in timed
    }
    # The networks come with one precision after another; their rows are those of the first precision.
    lines = list(dict.fromkeys((row["network"], row["pass"], row["batch"]) for row in timed))
    head = ["network", "pass", "batch", *(_column(*column) for column in columns)]
    body = [
        [TITLES[network], pass_, str(batch)]
        + [cells.get((network, pass_, batch, *column), "-") for column in columns]
        for network, pass_, batch in lines
    ]
    return _table(head, body, text_columns=2)


def _golden_table(rows: Sequence[Row]) -> str:
    body = []
    for row in rows:
        if row["pass"] == "golden":
            errors = row.get("head_errors")
            cells = [f"{errors[head]:.1e}" for head in HEADS] if errors else [row["error"]] * len(HEADS)
            # The size of the golden arrays' image is not that of the network's other figures.
            backbone = TITLES[row["network"]].rpartition(" ")[0]
            body.append([backbone, _column(row["precision"], row["xla"]), *cells])
    return _table(["network", "precision", *(f"`{head}`" for head in HEADS)], body, text_columns=2)


def _column(precision: str, xla: bool) -> str:
    return TITLES[precision] + (", XLA" if xla else "")


def _speed(row: Row) -> str:
    if "error" in row:
        return str(row["error"]).replace("|", "/")
    memory = "" if row["memory_mb"] is None else f" ({row['memory_mb']})"
    return f"{row['images_per_second']:.4g}{memory}"


def _loader(loader: Mapping[str, Any]) -> str:
    if "error" in loader:
        return f"The loader was not measured: {loader['error']}."
    return (
        f"The loader prepares {loader['training_images_per_second']:.4g} training images per second on "
        f"{loader['cores']} cores (JPEGs of 640 x 480 pixels to augmented 320 x 320); decoding alone reaches "
        f"{loader['decode_images_per_second']:.4g}."
    )


def _table(head: Sequence[str], body: Sequence[Sequence[str]], text_columns: int) -> str:
    """Returns a table whose first columns are aligned to the left and the others to the right."""
    rule = ["---"] * text_columns + ["--:"] * (len(head) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, rule, *body])
