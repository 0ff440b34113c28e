import numpy as np
import pytest
from PIL import Image
from refusals import message_of

from refinedet_tf.config import DataConfig
from refinedet_tf.data.dataset import read_dataset
from refinedet_tf.data.readers.csv_tables import CsvPart

HEADER = "filename,width,height,class,xmin,ymin,xmax,ymax\n"


def write(root, text, *images, folder="images"):
    (root / folder).mkdir(exist_ok=True)
    for name in images:
        Image.new("RGB", (40, 20)).save(root / folder / name)
    (root / "train.csv").write_text(text)


def refusal(root, part="train.csv:images"):
    return message_of(lambda: list(CsvPart(root, part)))


def test_table_of_tensorflow(tmp_path):
    rows = "b.jpg,40,20,dog,10,0,20,10\na.jpg,40,20,cat,0,0,40,20\nb.jpg,40,20,cat,4,5,8,10\n"
    write(tmp_path, HEADER + rows, "a.jpg", "b.jpg")
    config = DataConfig(format="csv", root=str(tmp_path), train=("train.csv:images",))
    dataset = read_dataset(config, "train")
    assert dataset.class_names == ("cat", "dog")
    assert dataset.image_ids == ("b", "a")
    assert dataset.image_paths[0] == str(tmp_path / "images" / "b.jpg")
    np.testing.assert_array_equal(dataset.image_sizes, [[20, 40]] * 2)
    np.testing.assert_array_equal(dataset.labels, [2, 1, 1])
    np.testing.assert_allclose(
        dataset.boxes, [[0, 0.25, 0.5, 0.5], [0.25, 0.1, 0.5, 0.2], [0, 0, 1, 1]], atol=1e-7
    )
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 3])


def test_table_of_keras_retinanet(tmp_path):
    write(tmp_path, "images/a.jpg,10,0,20,10,dog\nimages/b.jpg,,,,,\n", "a.jpg", "b.jpg")
    images = list(CsvPart(tmp_path, "train.csv"))
    assert [(image.image_id, image.size) for image in images] == [("images/a", None), ("images/b", None)]
    assert images[0].boxes == [(10, 0, 20, 10)] and images[0].class_names == ["dog"]
    assert images[1].boxes == [] and len(CsvPart(tmp_path, "train.csv")) == 2


@pytest.mark.parametrize(
    "header", ["path,x1,y1,x2,y2,class", "Path , X1,Y1,X2,Y2,Label", "image,xmin,ymin,xmax,ymax,class"]
)
def test_headers(tmp_path, header):
    write(tmp_path, f'\ufeff{header}\n"a, b.jpg",1,2,3,4,"a ""cat"""\n', "a, b.jpg")
    (image,) = CsvPart(tmp_path, "train.csv:images")
    assert (image.image_id, image.boxes, image.class_names) == ("a, b", [(1, 2, 3, 4)], ['a "cat"'])


def test_columns_in_another_order_and_further_ones(tmp_path):
    write(tmp_path, "class,score,ymax,xmax,ymin,xmin,filename\ncat,1,4,3,2,1,./a.jpg\n", "a.jpg")
    (image,) = CsvPart(tmp_path, "train.csv:images")
    assert (image.image_id, image.boxes) == ("a", [(1, 2, 3, 4)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", None),
        ("a.jpg,cat\n", "line 1: write the header filename,xmin,ymin,xmax,ymax,class,width,height, or rows"),
        ("a.jpg,x,1,2,3,cat\n", "line 1: write the header"),
        ("a.jpg,1,2,3,4,cat\na.jpg,1,2,3,cat\n", "line 2 has 5 fields instead of 6"),
        ("a.jpg,1,2,3,4,cat\na.jpg,1,2,x,4,cat\n", "line 2: xmax must be a number, got 'x'"),
        ("a.jpg,1,2,3,4,\n", "line 1: box and class must all be there, or all be empty"),
        ("a.jpg,,2,3,4,cat\n", "line 1: box and class must all be there, or all be empty"),
        (",1,2,3,4,cat\n", "line 1 names no image"),
        ('a.jpg,1,2,3,4,"cat\n', "line 1: unexpected end of data"),
        (
            "filename,Class,label,x1,y1,x2,y2\na.jpg,cat,0,1,2,3,4\n",
            "line 1: the columns 'Class' and 'label' both mean the class; rename the one not meant",
        ),
        (
            "path,filename,class,x1,y1,x2,y2\na.jpg,a.jpg,cat,1,2,3,4\n",
            "line 1: the columns 'path' and 'filename' both mean the image",
        ),
        (
            "image,class,x1,y1,x2,y2,y2\na.jpg,cat,1,2,3,4,5\n",
            "line 1: the columns 'y2' and 'y2' both mean the ymax",
        ),
        (
            HEADER + "a.jpg,40,20,cat,1,2,3,4\na.jpg,20,40,cat,1,2,3,4\n",
            "line 3: width and height differ from those of an earlier row",
        ),
    ],
)
def test_mistakes(tmp_path, text, message):
    write(tmp_path, text, "a.jpg")
    if message is None:
        assert list(CsvPart(tmp_path, "train.csv:images")) == []
        return
    assert message in refusal(tmp_path) and str(tmp_path / "train.csv") in refusal(tmp_path)


@pytest.mark.parametrize("row", [",,,,", "0,0,0,0,", "nan,NaN,nan,nan,nan", "None,None,None,None,none"])
def test_rows_without_an_object(tmp_path, row):
    write(tmp_path, f"a.jpg,{row}\nb.jpg,1,2,3,4,none\n", "a.jpg", "b.jpg")
    images = list(CsvPart(tmp_path, "train.csv:images"))
    assert [image.class_names for image in images] == [[], ["none"]]


def test_parts_that_are_none(tmp_path):
    write(tmp_path, HEADER, "a.jpg")
    for part in ("nowhere.csv", "", ":images", "../train.csv"):
        assert 'write "file.csv" or "file.csv:image_folder"; ' in refusal(tmp_path, part)
        assert refusal(tmp_path, part).endswith(f"{tmp_path} holds train.csv")
    for folder in ("nowhere", ".."):
        assert "there is no such folder in " in refusal(tmp_path, f"train.csv:{folder}")
