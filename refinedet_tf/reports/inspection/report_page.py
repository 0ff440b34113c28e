"""The report on data: one self-contained HTML page, and the same numbers as JSON."""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from refinedet_tf.data.box_checks import format_box
from refinedet_tf.reports import charts, pages
from refinedet_tf.reports.inspection.anchor_coverage import Coverage, SizeCoverage
from refinedet_tf.reports.inspection.anchor_fit import anchors_as_json
from refinedet_tf.reports.inspection.findings import percent, plural, split_title
from refinedet_tf.reports.inspection.image_scan import repeated_images
from refinedet_tf.reports.inspection.objects import ASPECT_RATIO_NAMES, SIZE_LIMITS, ObjectCounts
from refinedet_tf.reports.inspection.report import DataReport, SplitReport, report_to_json
from refinedet_tf.reports.inspection.samples import MAX_CLASSES, annotated_samples, augmented_samples

MAX_ROWS = 200
"""The largest number of rows of a table; report.json has all."""


def report_data(folder: Path, report: DataReport, findings: Sequence[pages.Finding]) -> Path:
    """Writes the page and the numbers; the images of the samples are read again.

    The folder is made where it does not exist. The findings are those of `find_all` for the report. Returns
    the file of the page.

    Raises:
        InputError: a file cannot be written.
    """
    found = [{"level": finding.level, "text": finding.text} for finding in findings]
    page = _page(report, findings)
    pages.make_report_folder(folder)
    return pages.write_report(folder, page, {"findings": found} | report_to_json(report))


def _page(report: DataReport, findings: Sequence[pages.Finding]) -> str:
    train = report.splits["train"]
    unusable = train.scan.problems
    too_many_classes = len(report.config.class_names) > MAX_CLASSES
    sections = [
        pages.Section("Findings", [pages.Findings(findings)]),
        pages.Section("Classes", _classes(report)),
        pages.Section("Sizes and shapes", _histograms(report)),
        pages.Section("Anchors", _anchors(report)),
        pages.Section("Images", _images(report)),
        pages.Section("Boxes", _boxes(report)),
        pages.Section(
            "Annotated samples",
            _pictures(
                "Objects of each class of train, smaller ones first. A name is left out where it would cover "
                "an object; the colour tells the class. Where an object is small, only a part of its image "
                "is shown." + (f" These are the first {MAX_CLASSES} classes." if too_many_classes else ""),
                annotated_samples(train.dataset, unusable, report.image_size),
            ),
        ),
        pages.Section(
            "Training samples",
            _pictures(
                "The first samples of the training as the network sees them: expanded or cropped, warped, "
                "mirrored and with changed colours. Thin lines are the anchors that the anchor refinement "
                "module learns to move onto the object of their colour. White ones overlap it by less than "
                f"{report.config.loss.positive_iou:g} and are matched only because it has no better anchor.",
                augmented_samples(train.dataset, unusable, report.config),
            ),
        ),
    ]
    subtitle = "; ".join(split_title(name, split) for name, split in report.splits.items())
    return pages.render_page(
        f"Data of {report.config.name}",
        f"{subtitle}. The network's input has {_size(report)} pixels.",
        sections,
    )


def _pictures(text: str, pictures: Iterable[pages.Picture]) -> list[pages.Block]:
    shown = list(pictures)
    if not shown:
        return [pages.Text("There is nothing to show.")]
    return [pages.Text(text), pages.Columns(shown, min_width=300)]


def _classes(report: DataReport) -> list[pages.Block]:
    splits = {name: split for name, split in report.splits.items() if split.dataset.labelled}
    train = report.splits["train"]
    header = ["class", *splits, "pixels", "not reached"]
    rows = [
        _class_row(
            name,
            [split.class_counts[name] for split in splits.values()],
            report.anchors.not_reached[name],
        )
        for name in report.config.class_names
    ]
    share = report.anchors.choices[0].coverage.share_below
    rows.append(_class_row("all", [split.counts for split in splits.values()], share))
    blocks: list[pages.Block] = [
        pages.Text(
            "For each split, the number of objects and in brackets the number of images with them. The sizes "
            "are those of train, smallest - median - largest: the square root of the area, in pixels after "
            f"the image was warped to {_size(report)}. The last column is the share of the training objects "
            f"that no anchor reaches (IoU below {report.config.loss.positive_iou:g})."
        ),
        pages.Table(header, rows),
    ]
    if train.counts.difficult:
        blocks.append(
            pages.Text(f"Of the training objects, {train.counts.difficult:,} are marked difficult or crowd.")
        )
    return blocks


def _class_row(name: str, counts: Sequence[ObjectCounts], not_reached: float | None) -> list[pages.Cell]:
    sides = counts[0].sides
    return [
        name,
        *(f"{count.objects:,} ({count.images:,})" for count in counts),
        "-" if sides is None else " - ".join(f"{side:.0f}" for side in sides),
        _percent_or_dash(not_reached),
    ]


def _histograms(report: DataReport) -> list[pages.Block]:
    """Returns the histograms of all classes together, and hidden those of each class."""
    splits = {
        name: split
        for name, split in report.splits.items()
        if split.dataset.labelled and split.counts.objects
    }
    size_names = ["0", *(f"{limit * _scale(report):.0f}" for limit in SIZE_LIMITS[1:-1])]
    size_title = f"square root of the area, pixels at {_size(report)}"

    def histograms(title: str, class_name: str | None) -> list[pages.Block]:
        sizes, ratios = {}, {}
        for name, split in splits.items():
            counts = split.counts if class_name is None else split.class_counts[class_name]
            total = max(counts.objects, 1)
            sizes[name] = [100 * number / total for number in counts.sizes]
            ratios[name] = [100 * number / total for number in counts.aspect_ratios]
        unit = "% of the objects"
        return [
            charts.BarChart(f"{title}Size", size_names, sizes, size_title, unit),
            charts.BarChart(
                f"{title}Aspect ratio",
                ASPECT_RATIO_NAMES,
                ratios,
                "width : height, as the network sees it",
                unit,
            ),
        ]

    if not splits:
        return [pages.Text("There is no object.")]
    blocks: list[pages.Block] = [pages.Columns(histograms("", None))]
    if len(report.config.class_names) > 1:
        per_class = [chart for name in report.config.class_names for chart in histograms(f"{name}: ", name)]
        blocks.append(pages.Details("Each class", [pages.Columns(per_class)]))
    return blocks


def _anchors(report: DataReport) -> list[pages.Block]:
    anchors = report.anchors
    coverages = [choice.coverage for choice in anchors.choices]
    if not coverages[0].objects:
        return [pages.Text("Training has no object.")]
    names = [choice.name for choice in anchors.choices]
    header = ["size, pixels", "objects"]
    positive_iou = report.config.loss.positive_iou
    header += [f"{what}, {name}" for what in (f"below {positive_iou:g}", "mean IoU") for name in names]
    scale = _scale(report)
    rows = []
    for number, size in enumerate(coverages[0].sizes):
        limits = f"{size.smallest * scale:.0f} to {size.largest * scale:.0f}"
        rows.append(_coverage_row(limits, [coverage.sizes[number] for coverage in coverages]))
    rows.append(_coverage_row("all", coverages))
    blocks: list[pages.Block] = [
        pages.Text(
            "For each training object, the anchor that overlaps it most: the share of objects whose best IoU "
            f"is below {positive_iou:g}, which are matched with that anchor only, and the mean of the best "
            "IoUs. Augmentation changes the sizes further."
        ),
        pages.Table(header, rows),
    ]
    if anchors.advised is None:
        return [*blocks, pages.Text("Other anchors would gain little.")]
    text = (
        f'The anchors "{anchors.advised.name}" fit the objects better. In the section "model" of the config:'
    )
    blocks += [pages.Text(text), pages.Code(anchors_as_json(anchors.advised.levels))]
    if report.config.model.weights is not None:
        blocks.append(
            pages.Text(
                "model.weights names trained weights. The heads of a detector that was trained with other "
                "anchors do not fit these."
            )
        )
    return blocks


def _coverage_row(name: str, coverages: Sequence[Coverage | SizeCoverage]) -> list[pages.Cell]:
    means = [coverage.mean_best_iou for coverage in coverages]
    return [
        name,
        coverages[0].objects,
        *(_percent_or_dash(coverage.share_below) for coverage in coverages),
        *("-" if mean is None else f"{mean:.2f}" for mean in means),
    ]


def _percent_or_dash(share: float | None) -> str:
    return "-" if share is None else percent(share)


def _size(report: DataReport) -> str:
    """Returns the size of the network's input as "width x height"."""
    height, width = report.image_size
    return f"{width}x{height}"


def _scale(report: DataReport) -> float:
    """Returns the size in pixels of an object of relative size 1."""
    return math.sqrt(math.prod(report.image_size))


def _images(report: DataReport) -> list[pages.Block]:
    header = ["split", "images", "unusable", "without objects", "objects per image", "most objects"]
    header += ["smallest", "median", "largest"]
    rows: list[list[pages.Cell]] = []
    for name, split in report.splits.items():
        dataset = split.dataset
        sizes = np.quantile(dataset.image_sizes, (0, 0.5, 1), axis=0, method="nearest")
        rows.append(
            [
                name,
                len(dataset),
                len(split.scan.problems),
                len(split.without_objects),
                f"{split.counts.objects / len(dataset):.1f}",
                dataset.max_boxes,
                *(f"{width}x{height}" for height, width in sizes.tolist()),
            ]
        )
    blocks: list[pages.Block] = [
        pages.Table(
            header, rows, caption="The last columns are width x height in pixels, each over all images."
        ),
    ]
    for name, split in report.splits.items():
        problems = [[split.file(index), text] for index, text in split.scan.problems.items()]
        blocks += _list_of(f"Image files of {name} that cannot be used", ["file", "problem"], problems, 2)
        blocks += _list_of(
            f"Images of {name} with an EXIF orientation", ["file", "boxes refer to"], _turned(split), 2
        )
    blocks += _same_images(report)
    for name, split in report.splits.items():
        empty = [[split.file(index)] for index in split.without_objects]
        blocks += _list_of(f"Images of {name} without objects", ["file"], empty, 1)
        for class_name, indices in split.without_usual_class.items():
            lacking = [[split.file(index)] for index in indices]
            blocks += _list_of(f"Images of {name} without {class_name}", ["file"], lacking, 1)
    return blocks


def _turned(split: SplitReport) -> list[list[str]]:
    """Returns the images with an EXIF orientation and what their boxes refer to, unclear ones first."""
    frames = dict.fromkeys(split.dataset.unclear_orientations, "the upright image, as is assumed")
    frames |= dict.fromkeys(split.dataset.turned, "the stored pixels, with which they are turned")
    frames |= {index: "the upright image" for index in split.with_orientation if index not in frames}
    return [[split.file(index), frame] for index, frame in frames.items()]


def _same_images(report: DataReport) -> list[pages.Block]:
    across = [group for group in report.same_images if len({split for split, _ in group}) > 1]
    rows = [
        [", ".join(f"{split}: {report.splits[split].file(index)}" for split, index in group)]
        for group in across
    ]
    blocks = _list_of("Images in more than one split (equal pixel for pixel)", ["files"], rows, 1)
    for name, split in report.splits.items():
        groups = repeated_images(report.same_images, name)
        rows = [[", ".join(split.file(index) for index in group)] for group in groups]
        blocks += _list_of(f"Images that {name} holds more than once", ["files"], rows, 1)
    return blocks


def _boxes(report: DataReport) -> list[pages.Block]:
    blocks: list[pages.Block] = []
    for name, split in report.splits.items():
        blocks.append(pages.Text(f"{name}: {split.dataset.defects.summary()}."))
        blocks += _list_of(
            f"Dropped and clipped boxes of {name}", ["file", "class", "reason", "box"], _issues(split), 3
        )
        twice = [
            [split.file(pair.image), split.dataset.class_names[pair.label - 1], f"{pair.iou:.2f}"]
            for pair in split.twice
        ]
        blocks += _list_of(
            f"Pairs of boxes of {name} that seem to be the same object", ["file", "class", "IoU"], twice, 2
        )
    return blocks


def _issues(split: SplitReport) -> list[list[str]]:
    index_of_id = {image_id: index for index, image_id in enumerate(split.dataset.image_ids)}
    return [
        [split.file(index_of_id[issue.image_id]), issue.class_name, issue.reason, format_box(issue.box)]
        for issue in split.dataset.defects.issues
    ]


def _list_of(
    title: str, header: Sequence[str], rows: Sequence[Sequence[pages.Cell]], text_columns: int
) -> list[pages.Block]:
    """Returns a hidden table, cut at `MAX_ROWS`; nothing without rows."""
    if not rows:
        return []
    inner: list[pages.Block] = [pages.Table(header, rows[:MAX_ROWS], text_columns)]
    if len(rows) > MAX_ROWS:
        inner.append(pages.Text(f"{plural(len(rows) - MAX_ROWS, 'more row')} in report.json."))
    return [pages.Details(f"{title}: {len(rows):,}", inner)]
