"""The reader for XML files of PASCAL VOC, in devkits and in flat folders."""

import math
import posixpath
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from refinedet_tf.data.readers.identity import name_without_ending
from refinedet_tf.data.readers.image_folders import (
    IMAGE_ENDINGS,
    OTHER_IMAGE_ENDINGS,
    refuse_unreadable,
    walk,
)
from refinedet_tf.data.readers.not_given import is_given, stated_size
from refinedet_tf.data.readers.reader import AnnotatedImage, Reader, check_class_name, path_within, read_text
from refinedet_tf.data.readers.shares import Share
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder, list_folder, read_bytes

MAX_XML_BYTES = 2**24
"""The largest size of an annotation file, which holds some 50,000 objects."""


class VocPart(Reader):
    """One split of one year, e.g. "2007/trainval", in the layout

        root/VOC2007/JPEGImages/000005.jpg
        root/VOC2007/Annotations/000005.xml
        root/VOC2007/ImageSets/Main/trainval.txt

    or a pair of flat folders, e.g. "annotations:images", in the layout

        root/annotations/000005.xml
        root/images/000005.jpg

    or one folder for both, e.g. "photos". A pair of folders, and "2007/all" where no file all.txt lists
    the images, stand for every XML file and every image, in the order of their names. The images of a
    folder may lie in folders below it: root/annotations/street/5.xml is that of root/images/street/5.jpg,
    and "street/5" its id. Of images whose endings alone differ, the <filename> of the XML says which is
    meant.

    Iterating yields one `AnnotatedImage` per line of the split file, in its order. Boxes are xmin, ymin,
    xmax, ymax as written in the XML: pixels that count from 1 and include both ends. Objects without
    `difficult`, or with a word for "not given" there, count as not difficult. A size that is missing or 0 is
    not stated. In the split of a class ("000005  -1"), every line stands for its image, whatever the flag is.
    A part without annotations is one without any XML file, such as "2012/test".
    """

    def _open(self, part: str, may_be_unlabelled: bool, share: Share) -> None:
        year, slash, self.split = part.partition("/")
        if slash and ":" not in part and year and self.split:
            self.clash_prefix = year
            self._open_devkit(year)
        else:
            self._open_flat_folders(part)
        self._files = _image_files(self.image_folder)
        """{image id: its files within the image folder}, several where only their endings differ"""
        # One listing is read because opening every file takes long on a network disk.
        folder = self._annotation_folder
        names = walk(folder) if is_folder(folder) else ()
        annotated = {name[:-4] for name in names if name.endswith(".xml")}
        all_ids = {*self._files, *annotated}
        ids = sorted(all_ids) if self._split_file is None else self._read_split(self._split_file)
        self._ids = [image_id for image_id in ids if share.holds(image_id)]
        self.labelled = self._has_annotations(annotated, may_be_unlabelled)

    def _open_devkit(self, year: str) -> None:
        folder = self.root / f"VOC{year}"
        if not is_folder(folder):
            found = sorted(name for name in list_folder(self.root) if name.startswith("VOC"))
            raise InputError(f"{shortened_text(folder)} does not exist; {self.root} holds {_join(found)}")
        self.image_folder, self._annotation_folder = folder / "JPEGImages", folder / "Annotations"
        lists = folder / "ImageSets" / "Main"
        self._split_file: Path | None = lists / f"{self.split}.txt"
        if is_file(self._split_file) or is_folder(self._split_file):
            return
        if self.split == "all":
            self._split_file = None
            return
        names = list_folder(lists) if is_folder(lists) else []
        found = sorted(Path(name).stem for name in names if name.endswith(".txt"))
        there = f"the splits there are {_join(found)}" if found else f'write e.g. "{year}/all[:80%]"'
        raise InputError(f"{shortened_text(self._split_file)} does not exist; {there}")

    def _open_flat_folders(self, part: str) -> None:
        annotations, colon, images = part.partition(":")
        folders = []
        for name in (annotations, images if colon else annotations):
            folder = path_within(self.root, self.root / name) if name else None
            if folder is None or not is_folder(folder):
                raise InputError(
                    f'VOC part "{shortened_text(part)}": write year/split, e.g. "2007/trainval", or the '
                    f'names of folders in {self.root}, e.g. "annotations:images"'
                )
            folders.append(folder)
        self._annotation_folder, self.image_folder = folders
        self._split_file = None
        self.clash_prefix = self.image_folder.name

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        for image_id in self._ids:
            if image_id not in self._files:
                file = shortened_text(self.image_folder / f"{image_id}.jpg")
                lister = self.name if self._split_file else self.annotation_file(image_id)
                raise InputError(f"{file} does not exist, but {shortened_text(lister)} lists it")
            if self.labelled:
                yield self._read_annotation(image_id)
            else:
                yield AnnotatedImage(image_id, self._image_path(image_id), None, [], [], [])

    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image; of several with different endings, all."""
        for image_id in self._ids:
            for name in self._files.get(image_id, []):
                yield str(self.image_folder / name)

    def annotation_file(self, image_id: str) -> Path:
        """Returns the XML file of an image."""
        return self._annotation_folder / f"{image_id}.xml"

    @staticmethod
    def corners(file_boxes: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Reader.corners`.

        The boxes of the file are xmin, ymin, xmax, ymax in pixels that count from 1 and include both ends.
        By this convention, a box with xmin == xmax is one pixel wide. Where such a box occurs it is a mistake
        of the annotator, so it counts as without area.
        """
        has_area = np.all(file_boxes[:, 2:] > file_boxes[:, :2], axis=1)
        return file_boxes - np.array([1.0, 1.0, 0.0, 0.0]), has_area

    def _read_annotation(self, image_id: str) -> AnnotatedImage:
        file = self.annotation_file(image_id)
        root = _parse_xml(file)
        if root.tag != "annotation":
            tag = shortened_text(root.tag, 100)
            raise InputError(f"{file}: the outermost element must be <annotation>, not <{tag}>")

        boxes, class_names, difficult = [], [], []
        for index, node in enumerate(root.findall("object"), start=1):
            where = f"{file}: object {index}"
            name = (node.findtext("name") or "").strip()
            if not name:
                raise InputError(f"{where} has no <name>")
            check_class_name(name, where)
            box = node.find("bndbox")
            where = f"{where} ({shortened_text(name, 100)})"
            if box is None:
                raise InputError(f"{where} has no <bndbox>")
            xmin, ymin, xmax, ymax = (_number(box, tag, where) for tag in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((xmin, ymin, xmax, ymax))
            class_names.append(name)
            flag = _number(node, "difficult", where) if is_given(node.findtext("difficult")) else 0.0
            if not math.isfinite(flag):
                raise InputError(f"{where}: <difficult> must be 0 or 1, got {flag}")
            difficult.append(flag != 0)

        size = stated_size(root.findtext("size/height"), root.findtext("size/width"), f"{file}: <size>")
        path = self._image_path(image_id, root.findtext("filename"))
        return AnnotatedImage(image_id, path, size, boxes, class_names, difficult)

    def _image_path(self, image_id: str, filename: str | None = None) -> str:
        """Returns the image file; of several whose endings differ, the one that the annotation names."""
        names = self._files[image_id]
        if len(names) > 1:
            stated = posixpath.basename((filename or "").strip().replace("\\", "/"))
            names = [name for name in names if posixpath.basename(name) == stated] or names
        if len(names) > 1:
            paths = " and ".join(shortened_text(self.image_folder / name) for name in names)
            raise InputError(
                f"{paths} have the same annotation {shortened_text(self.annotation_file(image_id))}, whose "
                "<filename> names none of them; remove one of the images, or rename it with its annotation"
            )
        path = str(self.image_folder / names[0])
        refuse_unreadable(path)
        return path

    def _read_split(self, file: Path) -> list[str]:
        ids = []
        for line in filter(None, map(str.strip, read_text(file).splitlines())):
            # The split of a class has a flag after each id.
            image_id, *flag = line.rsplit(maxsplit=1)
            is_flag = flag in (["-1"], ["0"], ["1"]) and line not in self._files
            ids.append(posixpath.normpath((image_id if is_flag else line).replace("\\", "/")))
        return ids

    def _has_annotations(self, annotated: set[str], may_be_unlabelled: bool) -> bool:
        missing = [image_id for image_id in self._ids if image_id not in annotated]
        if not missing:
            return True
        if may_be_unlabelled and len(missing) == len(self._ids):
            return False
        shown = ", ".join(shortened_text(image_id, 50) for image_id in missing[:10])
        shown += ", ..." if len(missing) > 10 else ""
        file = shortened_text(self.annotation_file(missing[0]))
        verb = "has" if len(missing) == 1 else "have"
        raise InputError(
            f"{file} cannot be read: No such file; of the {len(self._ids)} images of {self.name}, "
            f"{len(missing)} {verb} no annotation: {shown}; an image that shows no object needs an XML file "
            "without objects"
        )


def _image_files(folder: Path) -> dict[str, list[str]]:
    """Returns {image id: paths within the folder}; files of other formats come where there is no other."""
    files: dict[str, list[str]] = {}
    others: dict[str, list[str]] = {}
    for name in walk(folder):
        image_id = name_without_ending(name)
        ending = name[len(image_id) :].lower()
        if ending in IMAGE_ENDINGS:
            files.setdefault(image_id, []).append(name)
        elif ending in OTHER_IMAGE_ENDINGS:
            others.setdefault(image_id, []).append(name)
    return others | files


class _PlainTreeBuilder(ElementTree.TreeBuilder):
    """A builder that refuses document types, whose entities may stand for gigabytes of text."""

    def doctype(self, name: str, public_id: str | None, system_id: str | None) -> None:
        raise ValueError("a document type (<!DOCTYPE ...>) has no place in an annotation")


def _parse_xml(file: Path) -> ElementTree.Element:
    """Returns the outermost element of an annotation file."""
    contents = read_bytes(file, MAX_XML_BYTES)
    parser = ElementTree.XMLParser(target=_PlainTreeBuilder())
    try:
        parser.feed(contents)
        return parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{file} is not valid XML: {shortened_text(error)}") from None


def _number(node: ElementTree.Element, tag: str, where: str) -> float:
    text = node.findtext(tag)
    if text is None:
        raise InputError(f"{where} has no <{tag}>")
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: <{tag}> must be a number, got {shortened(text)}") from None


def _join(names: list[str]) -> str:
    return shortened_text(", ".join(names), 2_000) if names else "none"
