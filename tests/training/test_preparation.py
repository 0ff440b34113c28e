"""What a run reads before its first step."""

import collections

import pytest
from annotated_sets import Photo, write_set
from config_of import config_of

from refinedet_tf.data.readers import coco, csv_tables, voc
from refinedet_tf.run_folder import RunFolder
from refinedet_tf.training import preparation

PARTS = {
    "voc": ("flat", "annotations:images"),
    "coco": ("coco", "set.json:images"),
    "csv": ("csv", "set.csv:images"),
}
READING = {"voc": (voc, "read_bytes"), "coco": (coco, "read_json"), "csv": (csv_tables, "read_text")}


@pytest.mark.parametrize("data_format", PARTS)
def test_annotations_are_read_once_although_the_config_names_no_classes(tmp_path, monkeypatch, data_format):
    kind, part = PARTS[data_format]
    for folder in ("a", "b"):
        write_set(kind, tmp_path / folder, [Photo("1.jpg"), Photo("2.jpg")])
    module, name = READING[data_format]
    read, counts = getattr(module, name), collections.Counter()

    def counted(file, *arguments, **options):
        counts[file] += 1
        return read(file, *arguments, **options)

    class Prepared(Exception):
        """The data have been read."""

    def stop(*arguments):
        raise Prepared

    monkeypatch.setattr(module, name, counted)
    monkeypatch.setattr(preparation, "join_workers", stop)
    parts = {
        split: (":".join(f"{folder}/{piece}" for piece in part.split(":")),)
        for split, folder in (("train", "a"), ("validation", "b"))
    }
    data = {"format": data_format, "root": str(tmp_path), "classes": None, **parts}
    config = config_of(data=data)
    with pytest.raises(Prepared):
        preparation.PreparedRun(config, RunFolder(tmp_path / "run"), None, False, False)
    assert set(counts.values()) == {1}
    assert len(counts) == (4 if data_format == "voc" else 2)
