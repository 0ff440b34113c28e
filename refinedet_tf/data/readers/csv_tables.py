"""The reader for tables of boxes, as keras-retinanet and TensorFlow's tutorials write them."""

import csv
import io
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from refinedet_tf.data.readers.identity import distinct_ids, name_without_ending
from refinedet_tf.data.readers.not_given import is_given, stated_size
from refinedet_tf.data.readers.reader import (
    AnnotatedImage,
    FolderListings,
    Reader,
    check_class_name,
    path_within,
    read_text,
)
from refinedet_tf.data.readers.shares import Share
from refinedet_tf.errors import InputError, shortened, shortened_text
from refinedet_tf.files import is_file, is_folder, list_folder
from refinedet_tf.json_files import check_text

COLUMNS = {
    "image": ("filename", "path", "image"),
    "xmin": ("xmin", "x1"),
    "ymin": ("ymin", "y1"),
    "xmax": ("xmax", "x2"),
    "ymax": ("ymax", "y2"),
    "class": ("class", "label"),
    "width": ("width",),
    "height": ("height",),
}
"""The names that a header may give to each column, in upper or lower case. Other columns are not read."""

SIZE = ("width", "height")
"""The columns that may be missing."""

WITHOUT_HEADER = ("image", "xmin", "ymin", "xmax", "ymax", "class")
"""The columns of a table without a header, which is keras-retinanet's."""

MAX_BYTES = 2**30
"""The largest size of a table, which holds some ten million boxes."""

Box = tuple[float, float, float, float]


class CsvPart(Reader):
    """A table with one row per object, e.g. "train.csv" or "train.csv:images".

    The header names the columns, as in `filename,width,height,class,xmin,ymin,xmax,ymax` (TensorFlow's
    tutorials); without a header they are `path,x1,y1,x2,y2,class` (keras-retinanet). A row without class,
    whose box is empty or 0, stands for an image without objects. Images lie in the folder of the table or in
    the one that the part names.

    Iterating yields one `AnnotatedImage` per image, in the order of the first rows. Boxes are xmin, ymin,
    xmax, ymax as in the file: pixels as floating-point numbers from 0. A size that is missing or 0 is not
    stated. A table always holds annotations, and rows outside the share are checked all the same.
    """

    def _open(self, part: str, may_be_unlabelled: bool, share: Share) -> None:
        self.file, self._folder = _locate(self.root, part)
        self.clash_prefix = name_without_ending(self.file.name)
        self._names: dict[str, str] = {}
        """The path within the image folder of each spelling of a path in the table."""
        self._rows: dict[str, list[tuple[Box, str]]] = {}
        """The box and the class of each object, by the path of the image."""
        self._sizes: dict[str, tuple[int, int]] = {}
        self._read()
        self._rows = {
            name: rows for name, rows in self._rows.items() if share.holds(name_without_ending(name))
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[AnnotatedImage]:
        listings = FolderListings()
        names = list(self._rows)
        ids = distinct_ids([name_without_ending(name) for name in names], lambda image: names[image])
        for image_id, (name, rows) in zip(ids, self._rows.items(), strict=True):
            path = self._path(name)
            listings.check(path, self.file)
            yield AnnotatedImage(
                image_id,
                str(path),
                self._sizes.get(name),
                [box for box, _ in rows],
                [class_name for _, class_name in rows],
                [False] * len(rows),
            )

    def image_files(self) -> Iterator[str]:
        """Yields the image file of each image."""
        return (str(self._path(name)) for name in self._rows)

    def annotation_file(self, image_id: str) -> Path:
        """Returns the table, which holds the annotations of every image of this part."""
        return self.file

    @staticmethod
    def corners(file_boxes: np.ndarray, sizes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `Reader.corners`. The boxes of the file are xmin, ymin, xmax, ymax in pixels from 0."""
        return file_boxes, np.all(file_boxes[:, 2:] > file_boxes[:, :2], axis=1)

    def _read(self) -> None:
        text = read_text(self.file, MAX_BYTES)
        check_text(text, self.file)
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        columns: dict[str, int] | None = None
        try:
            for fields in reader:
                where = f"{self.file}, line {reader.line_num}"
                if columns is None:
                    header = _header(fields, where)
                    columns = header or {name: place for place, name in enumerate(WITHOUT_HEADER)}
                    if header:
                        width = len(fields)
                        continue
                    width = len(WITHOUT_HEADER)
                if not fields:
                    continue
                if len(fields) != width:
                    raise InputError(f"{where} has {len(fields)} fields instead of {width}")
                self._add({name: fields[place].strip() for name, place in columns.items()}, where)
        except csv.Error as error:
            raise InputError(f"{self.file}, line {reader.line_num}: {error}") from None

    def _add(self, values: dict[str, str], where: str) -> None:
        """Adds a row, whose values are those of `COLUMNS`."""
        spelled = values["image"]
        name = self._names.get(spelled)
        if name is None:
            name = self._names[spelled] = self._name_within(spelled, where)
        size = stated_size(values.get("height"), values.get("width"), where)
        if size is not None and self._sizes.setdefault(name, size) != size:
            raise InputError(f"{where}: width and height differ from those of an earlier row of this image")
        rows = self._rows.setdefault(name, [])
        texts = [values[key] for key in WITHOUT_HEADER[1:5]]
        if not is_given(values["class"]) and all(_float(text) == 0 for text in texts):
            return
        if not all((*texts, values["class"])):
            raise InputError(f"{where}: box and class must all be there, or all be empty without an object")
        check_class_name(values["class"], where)
        xmin, ymin, xmax, ymax = (_number(values, key, where) for key in WITHOUT_HEADER[1:5])
        rows.append(((xmin, ymin, xmax, ymax), values["class"]))

    def _name_within(self, spelled: str, where: str) -> str:
        """Returns the path of an image within the image folder, which is the same for all spellings."""
        name = posixpath.normpath(spelled.replace("\\", "/"))
        if name == ".":
            raise InputError(f"{where} names no image")
        if name.startswith(("/", "..")):
            path = path_within(self.root, self._folder / name)
            return name if path is None else os.path.relpath(path, self._folder)
        return name

    def _path(self, name: str) -> Path:
        path = path_within(self.root, self._folder / name)
        if path is None or path == self.root:
            raise InputError(f"{self.file}: {shortened(name)} leads out of data.root")
        return path


def _locate(root: Path, part: str) -> tuple[Path, Path]:
    """Returns the table and the folder of its images."""
    file_name, _, folder_name = part.partition(":")
    file = path_within(root, root / file_name) if file_name else None
    if file is None or not is_file(file):
        names = list_folder(root) if is_folder(root) else []
        found = ", ".join(sorted(name for name in names if name.endswith(".csv"))) or "no .csv file"
        raise InputError(
            f'CSV part "{shortened_text(part)}": write "file.csv" or "file.csv:image_folder"; '
            f"{shortened_text(root)} holds {shortened_text(found)}"
        )
    folder = path_within(root, root / folder_name) if folder_name else file.parent
    if folder is None or not is_folder(folder):
        raise InputError(
            f'CSV part "{shortened_text(part)}": there is no such folder in {shortened_text(root)}'
        )
    return file, folder


def _header(fields: list[str], where: str) -> dict[str, int] | None:
    """Returns the place of each column, or None if the first line is that of an object."""
    names = [field.strip().lower() for field in fields]
    places = {
        column: [place for place, name in enumerate(names) if name in known]
        for column, known in COLUMNS.items()
    }
    columns = {column: found[0] for column, found in places.items() if found}
    missing = [COLUMNS[column][0] for column in COLUMNS if column not in columns and column not in SIZE]
    for column, found in places.items():
        if len(found) > 1 and not missing:
            both = " and ".join(shortened(fields[place].strip()) for place in found)
            raise InputError(f"{where}: the columns {both} both mean the {column}; rename the one not meant")
    if not missing:
        return columns
    if len(fields) == len(WITHOUT_HEADER) and all(_float(field) is not None for field in fields[1:5]):
        return None
    raise InputError(
        f"{where}: write the header {','.join(COLUMNS[key][0] for key in COLUMNS)}, or rows "
        f"path,x1,y1,x2,y2,class without one; got {shortened(','.join(fields), 100)}"
    )


def _float(text: str) -> float | None:
    """Returns the number of a field, 0 where none is given, or None where the text is no number."""
    if not is_given(text):
        return 0.0
    try:
        return float(text)
    except ValueError:
        return None


def _number(values: dict[str, str], key: str, where: str) -> float:
    try:
        return float(values[key])
    except ValueError:
        raise InputError(f"{where}: {key} must be a number, got {shortened(values[key])}") from None
