"""What a report on data means for a training, in sentences that a user can act on."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from refinedet_tf.data.acceptance import empty_classes, use_of_backgrounds
from refinedet_tf.data.box_checks import CLIPPED, DROPPED
from refinedet_tf.data.coco_ground_truth import MAX_DETECTIONS as COCO_DETECTIONS
from refinedet_tf.errors import listed
from refinedet_tf.evaluation.limits import count_too_crowded
from refinedet_tf.reports.inspection.image_scan import repeated_images, shared_images
from refinedet_tf.reports.inspection.input_size import better_input_size
from refinedet_tf.reports.inspection.objects import TWICE_IOU, object_sides
from refinedet_tf.reports.inspection.report import DataReport, SplitReport
from refinedet_tf.reports.pages import Finding

FEW_OBJECTS = 20
"""A class with fewer objects is hardly learned."""

FEW_IMAGES = 1_000
"""With fewer images, trained weights as the start make a large difference."""

TINY_SIDE = 8.0
"""Objects of a smaller side, in pixels of the network's input, are hardly found."""

NOTABLE_SHARE = 0.05
"""A smaller share of objects that are tiny, crowded or not reached is no finding."""

LARGE_SHARE = 0.2
"""From this share on, objects that no anchor reaches are a problem."""

NAMED = 4
"""The number of files or classes that a sentence names."""


def find_all(report: DataReport) -> list[Finding]:
    """Returns the findings: problems first, then advice, then what was checked and is good."""
    checks: Sequence[Callable[[DataReport], Iterable[Finding]]] = (
        _unusable_images,
        _turned_images,
        _shared_images,
        _classes_without_objects,
        _rare_classes,
        _bad_boxes,
        _crowded_images,
        _anchors,
        _tiny_objects,
        _input_size,
        _overlapping_objects,
        _images_without_objects,
        _forgotten_classes,
        _annotated_twice,
        _repeated_images,
        _few_images,
        _missing_splits,
    )
    findings = [finding for check in checks for finding in check(report)]
    order = ("problem", "advice", "good")
    return sorted(findings, key=lambda finding: order.index(finding.level))


def plural(number: int, noun: str, plural_noun: str | None = None) -> str:
    """Returns a text such as "1 image" or "1,200 images"."""
    return f"{number:,} {noun if number == 1 else plural_noun or noun + 's'}"


def percent(share: float) -> str:
    """Returns a share, 0..1, as a percentage that is 0 or 100 only if the share is."""
    if 0 < share < 0.01 or 0.99 < share < 1:
        return f"{min(max(100 * share, 0.01), 99.99):.2f} %"
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def split_title(name: str, split: SplitReport) -> str:
    """Returns a text such as "train: 205 images, 2,750 objects"."""
    return f"{name}: {plural(len(split.dataset), 'image')}, {plural(split.counts.objects, 'object')}"


def _files(split: SplitReport, indices: Sequence[int]) -> str:
    return listed([split.name(index) for index in indices], NAMED)


def _unusable_images(report: DataReport) -> list[Finding]:
    findings = []
    for name, split in report.splits.items():
        if problems := split.scan.problems:
            text = (
                f"{plural(len(problems), 'image file')} of {name} cannot be used: "
                f"{_files(split, list(problems))}. Training or evaluation stops at the first of them: repair "
                "or remove them."
            )
            findings.append(Finding("problem", text))
    number = plural(sum(len(split.dataset) for split in report.splits.values()), "image file")
    return findings or [Finding("good", f"All {number} decode and have the annotated size.")]


def _turned_images(report: DataReport) -> Iterator[Finding]:
    for name, split in report.splits.items():
        if not split.with_orientation:
            continue
        unclear, turned = split.dataset.unclear_orientations, split.dataset.turned
        with_boxes = f" The boxes of {len(turned):,} refer to the stored pixels and are turned with them."
        text = (
            f"{plural(len(split.with_orientation), 'photograph')} of {name} turned upright by the EXIF "
            f"orientation.{with_boxes if turned else ''}"
        )
        yield Finding("good", text)
        if unclear:
            text = (
                f"{plural(len(unclear), 'photograph')} of {name} with an EXIF orientation whose annotation "
                f"does not tell whether it was made upright, as is assumed: {_files(split, unclear)}. If "
                "boxes lie beside their objects, turn the pixels of these files and remove the tag."
            )
            yield Finding("advice", text)


def _shared_images(report: DataReport) -> list[Finding]:
    findings = []
    names = list(report.splits)
    for first, second in [(a, b) for number, b in enumerate(names) for a in names[:number]]:
        shared = shared_images(report.same_images, first, second)
        if not shared:
            continue
        effect = "the best weights are chosen on images that the test measures"
        if first == "train":
            effect = "the accuracy that is measured will be too high"
        text = (
            f"{plural(len(shared), 'image')} of {second} {'is' if len(shared) == 1 else 'are'} also in "
            f"{first}, equal pixel for pixel: {_files(report.splits[second], shared)}. So {effect}."
        )
        findings.append(Finding("problem", text))
    if not findings and len(names) > 1:
        findings.append(Finding("good", f"No image is in two of {', '.join(names)}."))
    return findings


def _classes_without_objects(report: DataReport) -> Iterator[Finding]:
    for name, split in report.splits.items():
        empty = empty_classes(split.dataset) if split.dataset.labelled else []
        if not empty:
            continue
        names = listed(empty, NAMED)
        text = f"{plural(len(empty), 'class', 'classes')} without a single object in {name}: {names}."
        if name == "train":
            them = "it" if len(empty) == 1 else "them"
            text += f" Nothing of {them} will be learned: check the spelling in data.classes."
        else:
            text += " The accuracy of such a class cannot be measured there."
        yield Finding("problem" if name == "train" else "advice", text)


def _rare_classes(report: DataReport) -> Iterator[Finding]:
    class_counts = report.splits["train"].class_counts.items()
    rare = [f"{name} ({counts.objects})" for name, counts in class_counts if 0 < counts.objects < FEW_OBJECTS]
    if not rare:
        return
    text = (
        f"{plural(len(rare), 'class has', 'classes have')} fewer than {FEW_OBJECTS} objects in train: "
        f"{listed(rare, NAMED)}. Annotate more of them, or leave such a class out."
    )
    yield Finding("problem", text)


def _bad_boxes(report: DataReport) -> list[Finding]:
    findings = []
    for name, split in report.splits.items():
        defects = split.dataset.defects
        bad = defects.num_dropped + defects.counts.get(CLIPPED, 0)
        if not bad:
            continue
        is_systematic = bad >= report.config.data.max_bad_boxes * defects.num_boxes
        counts = {reason: defects.counts.get(reason, 0) for reason in (*DROPPED, CLIPPED)}
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in counts.items() if number)
        text = f"{plural(bad, 'bad box', 'bad boxes')} of {defects.num_boxes:,} in {name}: {reasons}."
        if is_systematic:
            text += (
                " So many suggest that the numbers mean something else: x and y swapped, corners instead of "
                "width and height, or another size of the images."
            )
        else:
            text += (
                " Those partly outside are clipped, the others are left out; the section Boxes lists them."
            )
        findings.append(Finding("problem" if is_systematic else "advice", text))
    return findings or [Finding("good", "No box had to be dropped or clipped.")]


def _crowded_images(report: DataReport) -> Iterator[Finding]:
    limit = report.config.postprocess.max_detections
    for name, split in report.splits.items():
        if images := int((split.dataset.objects_per_image > limit).sum()):
            text = (
                f"{plural(images, 'image')} of {name} with more than {limit:,} objects, up to "
                f"{split.dataset.max_boxes:,}. Not all can be found: raise postprocess.max_detections."
            )
            yield Finding("problem", text)
        if report.config.evaluation.metric != "coco":
            continue
        if images := count_too_crowded(split.dataset):
            text = (
                f"{plural(images, 'image')} of {name} with more than {COCO_DETECTIONS} objects of a class. "
                f"COCO's metric counts the {COCO_DETECTIONS} best detections of an image and class, so that "
                "even a perfect detector has an AP below 100: evaluation.metric voc counts all."
            )
            yield Finding("problem" if name != "train" else "advice", text)


def _anchors(report: DataReport) -> Iterator[Finding]:
    anchors = report.anchors
    share = anchors.choices[0].coverage.share_below
    if share is None:
        return
    class_counts = report.splits["train"].class_counts
    worst = {
        name: value
        for name, value in anchors.not_reached.items()
        if value is not None and value >= LARGE_SHARE and class_counts[name].objects >= FEW_OBJECTS
    }
    if share < NOTABLE_SHARE and not worst:
        text = (
            f"The anchors reach {percent(1 - share)} of the training objects (IoU of at least "
            f"{report.config.loss.positive_iou:g})."
        )
        yield Finding("good", text)
        return
    classes = listed([f"{name} {percent(value)}" for name, value in worst.items()], NAMED)
    text = (
        f"{percent(share)} of the training objects{f' ({classes})' if worst else ''} overlap no anchor by an "
        f"IoU of {report.config.loss.positive_iou:g}, so that the network learns little from them."
    )
    if anchors.advised is None:
        text += " Other anchors would not help much; a larger model.image_size may."
    else:
        better = percent(anchors.advised.coverage.share_below or 0.0)
        text += f" With the anchors in the section Anchors it would be {better}: copy them into the config."
    yield Finding("problem" if share >= LARGE_SHARE else "advice", text)


def _tiny_objects(report: DataReport) -> Iterator[Finding]:
    sides = object_sides(report.splits["train"].dataset.boxes, report.image_size)
    share = float(np.mean(sides < TINY_SIDE)) if len(sides) else 0.0
    if share < NOTABLE_SHARE:
        return
    height, width = report.image_size
    text = (
        f"{percent(share)} of the training objects are smaller than {TINY_SIDE:.0f} pixels at "
        f"{width}x{height}, where little is left of them: raise model.image_size, or cut the photographs "
        "into parts."
    )
    yield Finding("problem", text)


def _input_size(report: DataReport) -> Iterator[Finding]:
    better = better_input_size(report.splits["train"].dataset.image_sizes, report.image_size)
    if better is not None:
        yield Finding("advice", str(better))


def _overlapping_objects(report: DataReport) -> Iterator[Finding]:
    split = report.splits["train"]
    objects = split.counts.objects - split.counts.difficult
    if not objects or split.crowded < NOTABLE_SHARE * objects:
        return
    text = (
        f"{percent(split.crowded / objects)} of the training objects overlap another one of their class by "
        f"an IoU above {report.config.postprocess.nms_iou:g}, the value of postprocess.nms_iou. Of two such "
        "objects only one is detected; a larger value keeps both."
    )
    yield Finding("advice", text)


def _images_without_objects(report: DataReport) -> Iterator[Finding]:
    counts = []
    for name, split in report.splits.items():
        if number := len(split.without_objects):
            counts.append(f"{number:,} of {name} ({percent(number / len(split.dataset))})")
    if not counts:
        return
    text = (
        f"Images without an object: {', '.join(counts)}; the section Images lists them. They stand for "
        "background: make sure that nobody forgot to annotate them."
    )
    if report.splits["train"].without_objects:
        text += f" {use_of_backgrounds(report.config.loss)}"
    yield Finding("advice", text)


def _forgotten_classes(report: DataReport) -> Iterator[Finding]:
    for name, split in report.splits.items():
        for class_name, indices in split.without_usual_class.items():
            text = (
                f"{class_name} is on nearly all images of {name}, but not on "
                f"{plural(len(indices), 'image')} with other objects: {_files(split, indices)}. See whether "
                "it was forgotten there."
            )
            yield Finding("advice", text)


def _annotated_twice(report: DataReport) -> Iterator[Finding]:
    for name, split in report.splits.items():
        if split.twice:
            images = list(dict.fromkeys(pair.image for pair in split.twice))
            text = (
                f"{plural(len(split.twice), 'pair')} of boxes in {name} with an IoU above {TWICE_IOU:g}, "
                f"where one object seems to be annotated twice: {_files(split, images)}."
            )
            yield Finding("advice", text)


def _repeated_images(report: DataReport) -> Iterator[Finding]:
    for name, split in report.splits.items():
        if groups := repeated_images(report.same_images, name):
            copies = listed([" = ".join(split.name(index) for index in group) for group in groups], NAMED)
            text = f"{plural(len(groups), 'image')} of {name} with copies, equal pixel for pixel: {copies}."
            yield Finding("advice", text)


def _few_images(report: DataReport) -> Iterator[Finding]:
    images = len(report.splits["train"].dataset)
    if images >= FEW_IMAGES or report.config.model.weights is not None:
        return
    text = (
        f"Training starts from random weights (model.weights is null) with {plural(images, 'image')}. With "
        "so few, trained weights as the start help much."
    )
    yield Finding("advice", text)


def _missing_splits(report: DataReport) -> Iterator[Finding]:
    if "validation" in report.splits:
        return
    text = (
        "data.validation is empty: the weights of the last step are kept instead of the best, and nothing "
        "shows when the training should end."
    )
    yield Finding("advice", text)
