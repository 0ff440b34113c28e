"""The table in Markdown and the plot of what `exports.py` measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

COLORS = {"float32": "#1f5fa8", "bfloat16": "#c0661a", "int8": "#23823b"}
"""The colours of points and their labels by precision."""

SMALLEST_RANGE = 6.0
"""The smallest range of the axis of the accuracy in points, so that accidents do not look like losses."""

LABEL_PLACES = [(6, 3, "left"), (-6, 3, "right"), (6, -10, "left"), (-6, -10, "right")] + [
    (side * 14, sign * height, "left" if side > 0 else "right")
    for height in range(18, 140, 13)
    for sign in (1, -1)
    for side in (1, -1)
]
"""Where a label may be, nearest first: its distance from its point in 1/72 inch, and its alignment."""


def markdown(result: Mapping[str, Any]) -> str:
    """Returns the table of a result of `exports.py`: a row per form, without the whole detector after it."""
    facts = {fact["form"]: fact for fact in result["forms"]}
    batches = list(dict.fromkeys(row["batch"] for row in result["rows"]))
    has_accuracy = all("mAP" in fact for fact in facts.values())
    has_starts = all("memory_mb" in fact for fact in facts.values())
    head = ["form", *(f"batch {batch}" for batch in batches), "images/s"]
    lines: dict[tuple[str, str], list[str]] = {}
    for row in result["rows"]:
        cells = lines.setdefault((row["stage"], row["form"]), [])
        cells.append(f"{_number(row['ms'])} ms ({row['ratio']:.2f})")
        if row["batch"] == batches[-1]:
            cells.append(_number(row["images_per_second"]))
    head += ["size"] + ["memory", "start"] * has_starts + ["mAP"] * has_accuracy
    body = []
    for (stage, form), cells in lines.items():
        extra = [""] * (len(head) - 1 - len(cells))
        if stage == "network":
            fact = facts[form]
            extra = [f"{fact['size_mb']:.1f} MB"]
            if has_starts:
                extra += [_memory(fact), f"{fact['import_s']:.1f} + {fact['first_answer_s']:.1f} s"]
            if has_accuracy:
                extra += [f"{100 * fact['mAP']:.2f}"]
        body.append([form if stage == "network" else f"{form}, {stage}", *cells, *extra])
    return "".join(_line(cells) for cells in [head, ["---", *["--:"] * (len(head) - 1)], *body])


def draw(result: Mapping[str, Any], file: Path) -> None:
    """Draws the mAP of each form over its time for the first batch, and writes the picture."""
    # Without pyplot, no window system is needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    batch = result["rows"][0]["batch"]
    times = {
        row["form"]: row["ms"] for row in result["rows"] if (row["stage"], row["batch"]) == ("network", batch)
    }
    facts = [fact for fact in result["forms"] if fact["form"] in times]
    accuracies = [100 * fact["mAP"] for fact in facts]
    figure = Figure((8, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    axes.set_xlim(min(times.values()) / 1.6, max(times.values()) * 1.6)
    middle = (min(accuracies) + max(accuracies)) / 2
    span = max(SMALLEST_RANGE, 2 * (max(accuracies) - min(accuracies)))
    axes.set_ylim(middle - span / 2, middle + span / 2)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    images = "image" if batch == 1 else "images"
    axes.set_xlabel(f"milliseconds for {batch} {images} (logarithmic) — left is faster")
    axes.set_ylabel("mAP in % — up is better")
    height, width = result["image_size"]
    axes.set_title(
        f"{result['backbone']}, {height} x {width}: accuracy and time of each form", loc="left", fontsize=11
    )
    points = [(times[fact["form"]], accuracy) for fact, accuracy in zip(facts, accuracies, strict=True)]
    for fact, (x, y) in zip(facts, points, strict=True):
        axes.plot(x, y, "o", markersize=8, color=_color(fact), markeredgecolor="white")
    figure.draw_without_rendering()
    _label(axes, [(f"{fact['form']}, {fact['size_mb']:.0f} MB", _color(fact)) for fact in facts], points)
    figure.savefig(file, dpi=110)


def _label(axes: "Axes", labels: Sequence[tuple[str, str]], points: Sequence[tuple[float, float]]) -> None:
    """Writes a text in a colour at each point, where it covers neither a point nor another text."""
    spots = [axes.transData.transform(point) for point in points]
    placed: list[Annotation] = []
    for (text, color), point in zip(labels, points, strict=True):
        line = {"arrowstyle": "-", "color": color, "alpha": 0.5, "shrinkB": 4}
        for x, y, alignment in LABEL_PLACES:
            label = axes.annotate(
                text,
                point,
                (x, y),
                textcoords="offset points",
                ha=alignment,
                color=color,
                fontsize=9,
                arrowprops=line if abs(y) > 12 else None,
            )
            box = _box(label)
            inside = axes.bbox.x0 <= box.x0 and box.x1 <= axes.bbox.x1
            inside = inside and axes.bbox.y0 <= box.y0 and box.y1 <= axes.bbox.y1
            free = not any(box.contains(*spot) for spot in spots)
            if inside and free and not any(box.overlaps(_box(before)) for before in placed):
                break
            label.remove()
        else:
            label = axes.annotate(text, point, color=color, fontsize=9)
        placed.append(label)


def _box(label: "Annotation") -> "Bbox":
    """Returns the place of a text in pixels, without its line."""
    from matplotlib.text import Text

    return Text.get_window_extent(label)


def _color(fact: Mapping[str, Any]) -> str:
    return COLORS[fact["form"].split()[-1]]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _number(value: float) -> str:
    """Returns a positive number with three digits, or more before the point."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _memory(fact: Mapping[str, Any]) -> str:
    return "unknown" if fact["memory_mb"] is None else f"{fact['memory_mb']:,.0f} MB"
