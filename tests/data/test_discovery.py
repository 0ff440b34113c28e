"""What lies in a folder: formats, parts for training and test, and folders that do not tell."""

import json
import shutil

import pytest
from annotated_sets import FORMATS, PARTS, Photo, write_set

from refinedet_tf.config import DataConfig
from refinedet_tf.config.files import load_config
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.discovery import config_of_folder, discover
from refinedet_tf.errors import InputError

PHOTOS = [Photo(f"{number}.jpg") for number in range(20)]
NAMES = {"devkit": "voc", "flat": "voc", "yolo": "yolo", "yolo list": "yolo"}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind, tmp_path):
    """The config is the one that a user would write: one part of which a fifth is for the test."""
    root = write_set(kind, tmp_path / "cups", PHOTOS).root
    config = config_of_folder(root)
    part = PARTS[kind]
    shares = {"train": (f"{part}[:80%]",), "test": (f"{part}[80%:]",)}
    expected = DataConfig(format=NAMES.get(kind, kind), root=str(root), **shares)
    assert config.data == expected and config.name == "cups"
    assert config.model == load_config("own_data.json").model
    numbers = [len(read_dataset(config.data, split)) for split in ("train", "test")]
    assert sum(numbers) == len(PHOTOS) and min(numbers) > 0


def voc_files(folder, *names, images=None):
    """Writes an XML file per name, and the images into another folder or the same one."""
    written = write_set("flat", folder / "aside", [Photo(f"{name}.jpg") for name in names])
    for file in written.annotations.iterdir():
        (folder / (images or ["."])[0]).mkdir(parents=True, exist_ok=True)
        shutil.move(file, folder / (images or ["."])[0] / file.name)
    for file in written.images.iterdir():
        (folder / (images or ["."])[-1]).mkdir(parents=True, exist_ok=True)
        shutil.move(file, folder / (images or ["."])[-1] / file.name)
    shutil.rmtree(folder / "aside")


def parts_of(folder):
    found = discover(folder)
    return found.format, found.train, found.validation, found.test


def test_lists_of_a_devkit(tmp_path):
    write_set("devkit", tmp_path, PHOTOS[:4])
    lists = tmp_path / "VOC2007" / "ImageSets" / "Main"
    for name in ("val", "test", "trainval", "dog_train"):
        (lists / f"{name}.txt").write_text("0\n")
    assert parts_of(tmp_path) == ("voc", ("2007/trainval",), (), ("2007/test",))
    assert parts_of(tmp_path / "VOC2007") == parts_of(tmp_path)
    assert discover(tmp_path / "VOC2007").root == tmp_path
    (lists / "trainval.txt").unlink()
    assert parts_of(tmp_path) == ("voc", ("2007/train",), ("2007/val",), ("2007/test",))
    (lists / "test.txt").unlink()
    assert parts_of(tmp_path) == ("voc", ("2007/train",), (), ("2007/val",))
    shutil.rmtree(lists)
    assert parts_of(tmp_path) == ("voc", ("2007/all[:80%]",), (), ("2007/all[80%:]",))


def test_images_and_xml_in_one_folder(tmp_path, monkeypatch):
    voc_files(tmp_path / "cups", "a", "b")
    expected = ("voc", ("cups[:80%]",), (), ("cups[80%:]",))
    assert parts_of(tmp_path / "cups") == expected
    monkeypatch.chdir(tmp_path / "cups")
    assert parts_of(".") == expected
    assert config_of_folder(".").name == "cups"


def test_a_folder_for_each_split(tmp_path):
    for split in ("train", "valid", "test"):
        voc_files(tmp_path / "mixed" / split, f"{split}1")
        voc_files(tmp_path / "pairs" / split, f"{split}1", images=["xml", "photos"])
    assert parts_of(tmp_path / "mixed") == ("voc", ("train",), ("valid",), ("test",))
    pairs = [f"{split}/xml:{split}/photos" for split in ("train", "valid", "test")]
    assert parts_of(tmp_path / "pairs") == ("voc", *((pair,) for pair in pairs))


@pytest.mark.parametrize("data_format", ["coco", "csv"])
def test_files_of_each_split_next_to_its_images(data_format, tmp_path):
    file = {"coco": "_annotations.coco.json", "csv": "_annotations.csv"}[data_format]
    for split in ("train", "valid"):
        root = write_set(data_format, tmp_path / "aside", PHOTOS[:3]).root
        (root / "images").rename(tmp_path / split)
        (root / f"set.{data_format.replace('coco', 'json')}").rename(tmp_path / split / file)
        shutil.rmtree(root)
    parts = [f"{split}/{file}:{split}" for split in ("train", "valid")]
    assert parts_of(tmp_path) == (data_format, (parts[0],), (), (parts[1],))
    assert len(read_dataset(config_of_folder(tmp_path).data, "test")) == 3


def test_coco_as_it_is_distributed(tmp_path):
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2017"):
        (tmp_path / name).mkdir()
        for kind in ("instances", "captions"):
            (tmp_path / "annotations" / f"{kind}_{name}.json").write_text('{"images": []}')
    assert parts_of(tmp_path) == ("coco", ("train2017",), (), ("val2017",))


def test_coco_with_its_images_in_one_folder(tmp_path):
    for split in ("train", "val"):
        root = write_set("coco", tmp_path / "aside", PHOTOS[:2]).root
        for folder in ("annotations", "images"):
            (tmp_path / folder).mkdir(exist_ok=True)
        (root / "images").rename(tmp_path / "images" / split)
        (root / "set.json").rename(tmp_path / "annotations" / f"instances_{split}.json")
        (tmp_path / "annotations" / f"captions_{split}.json").write_text('{"images": []}')
        shutil.rmtree(root)
    train, test = (f"annotations/instances_{split}.json:images/{split}" for split in ("train", "val"))
    assert parts_of(tmp_path) == ("coco", (train,), (), (test,))
    assert len(read_dataset(config_of_folder(tmp_path).data, "test")) == 2


def test_validation_that_is_the_training_set(tmp_path):
    """Some data.yaml name the same folder twice."""
    write_set("yolo", tmp_path, PHOTOS)
    yaml = tmp_path / "data.yaml"
    yaml.write_text(yaml.read_text() + "val: images\n")
    text = yaml.read_text()
    train = next(line for line in text.splitlines() if line.startswith("train:"))
    yaml.write_text(text.replace("val: images", train.replace("train:", "val:")))
    assert parts_of(tmp_path) == ("yolo", ("train[:80%]",), (), ("train[80%:]",))


def test_two_readings(tmp_path):
    write_set("yolo", tmp_path, PHOTOS[:3])
    voc_files(tmp_path, "a", images=["annotations", "photos"])
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(InputError, match=r"can be read as voc \(.*annotations\) and yolo \(.*data.yaml\)"):
        discover(tmp_path)
    assert discover(tmp_path, "yolo").format == "yolo"


def empty(folder):
    pass


def unlabelled(folder):
    write_set("flat", folder, PHOTOS[:2])
    shutil.rmtree(folder / "annotations")


def labels_without_yaml(folder):
    write_set("yolo", folder, PHOTOS[:2])
    (folder / "data.yaml").unlink()


def one_too_high(folder):
    write_set("devkit", folder / "VOCdevkit", PHOTOS[:2])


def two_jsons(folder):
    write_set("coco", folder, PHOTOS[:2])
    shutil.copy(folder / "set.json", folder / "other.json")


def elsewhere(folder):
    write_set("coco", folder, PHOTOS[:2])
    shutil.rmtree(folder / "images")


def two_folders_of_images(folder):
    write_set("flat", folder, PHOTOS[:2])
    shutil.copytree(folder / "images", folder / "more")


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (empty, "is empty"),
        (unlabelled, "holds 2 images, but no annotations"),
        (labels_without_yaml, "but no data.yaml: if these are labels of YOLO, write one"),
        (one_too_high, "holds no annotations itself, but VOCdevkit does: name that folder"),
        (two_jsons, "nothing says what of other.json:images, set.json:images is for training"),
        (elsewhere, "set.json lists images, but no folder of .* holds the first"),
        (two_folders_of_images, "holds XML files in annotations and images in images, more: say what"),
    ],
)
def test_folders_that_do_not_tell(write, message, tmp_path):
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    write(folder)
    with pytest.raises(InputError, match=message):
        discover(folder)


def test_missing_folder(tmp_path):
    with pytest.raises(InputError, match="folder .*nowhere does not exist"):
        discover(tmp_path / "nowhere")


def test_other_json_files_and_tables(tmp_path):
    """Files that describe something else are no annotations."""
    write_set("flat", tmp_path, PHOTOS[:2])
    (tmp_path / "notes.json").write_text(json.dumps({"version": 1}))
    (tmp_path / "defects.csv").write_text("image,split,defect\na,train,none\n")
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    assert discover(tmp_path).format == "voc"
