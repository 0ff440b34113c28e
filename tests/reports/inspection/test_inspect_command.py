"""refinedet inspect on a hand-made set: every number of the NUMBERS, and the page that shows them."""

import json

import pytest
from inspected_set import write_coco_set, write_config, write_voc_set
from page_text import check_self_contained

import inspect_data
from refinedet_tf.commands.inspect_data import main
from refinedet_tf.reports import NUMBERS, PAGE


@pytest.fixture(scope="module", params=["voc", "coco"])
def inspected(request, tmp_path_factory):
    """The format, the tree of the NUMBERS, the text of the page, and the config file."""
    folder = tmp_path_factory.mktemp(request.param)
    write = {"voc": write_voc_set, "coco": write_coco_set}[request.param]
    config = write_config(folder / "mine.json", write(folder / "data"))
    report = folder / "new" / "report"
    main(["--config", str(config), "--output", str(report)])
    assert sorted(path.name for path in report.iterdir()) == [PAGE, NUMBERS]
    return request.param, json.loads((report / NUMBERS).read_text()), (report / PAGE).read_text(), config


def path_of(data_format, name, split="train"):
    return f"VOC2007/JPEGImages/{name}.jpg" if data_format == "voc" else f"{split}/{name}.jpg"


def test_counts(inspected):
    _, tree, _, _ = inspected
    assert tree["config"] == "mine"
    assert tree["classes"] == ["cat", "dog", "bird"]
    assert tree["image_size"] == [128, 128]
    assert list(tree["splits"]) == ["train", "test"]
    train, test = tree["splits"]["train"], tree["splits"]["test"]
    assert (train["images"], train["objects"], train["difficult"]) == (8, 10, 1)
    assert (test["images"], test["objects"], test["difficult"]) == (2, 2, 0)
    classes = {name: (counts["images"], counts["objects"]) for name, counts in train["classes"].items()}
    assert classes == {"cat": (5, 5), "dog": (3, 5), "bird": (0, 0)}
    assert train["classes"]["bird"]["sides_in_pixels"] is None
    assert train["image_sizes"] == {"smallest": [64, 80], "median": [64, 80], "largest": [64, 80]}
    assert train["objects_per_image"] == {"mean": 10 / 8, "largest": 3}


def test_sizes_and_shapes(inspected):
    _, tree, _, _ = inspected
    dog = tree["splits"]["train"]["classes"]["dog"]
    # 4 x 4 pixels of 80 x 64 are 0.05 x 0.0625 of the image, sqrt(0.05 * 0.0625) * 128 network pixels.
    assert dog["sides_in_pixels"]["smallest"] == pytest.approx(7.155, abs=1e-3)
    limits = tree["size_limits"]
    for counts in (dog, *tree["splits"]["train"]["classes"].values()):
        assert len(counts["size_histogram"]) == len(limits) - 1
        assert sum(counts["size_histogram"]) == sum(counts["aspect_ratio_histogram"]) == counts["objects"]
    # 0.0559 lies between 0.05 and 0.0707; the others (40 x 40, 40 x 39 and 40 x 30 pixels) are far above.
    assert dog["size_histogram"][limits.index(0.05)] == 1
    # The warp to a square makes 40 x 40 pixels 0.8 as wide as high; 40 x 30 become 1.07.
    assert dog["aspect_ratio_histogram"] == [0, 0, 0, 4, 1, 0, 0, 0, 0]


def test_defects(inspected):
    data_format, tree, _, _ = inspected
    train = tree["splits"]["train"]
    assert train["images_without_objects"] == [path_of(data_format, "empty")]
    (broken,) = train["unusable_images"]
    assert broken["file"] == path_of(data_format, "broken")
    assert "broken.jpg cannot be decoded: it is truncated" in broken["problem"]
    test, second = tree["splits"]["test"], path_of(data_format, "second", "test")
    assert test["unusable_images"] == []
    assert test["images_with_orientation"] == [{"file": second, "orientation": 3}]
    assert test["images_with_unclear_orientation"] == [second]
    assert train["images_with_orientation"] == train["images_with_unclear_orientation"] == []
    assert train["boxes"]["in_files"] == 11
    issues = {(issue["class"], issue["reason"]): issue["file"] for issue in train["boxes"]["issues"]}
    clipped = path_of(data_format, "clipped")
    assert issues == {("cat", "partly outside, clipped"): clipped, ("cat", "without area"): clipped}
    (pair,) = train["annotated_twice"]
    assert (pair["file"], pair["class"]) == (path_of(data_format, "twice"), "dog")
    assert pair["iou"] == pytest.approx(39 / 40)
    # The two that were annotated twice; the third box is difficult.
    assert train["crowded_objects"] == 2


def test_same_images(inspected):
    data_format, tree, _, _ = inspected
    assert tree["same_images"] == [
        [{"split": "train", "file": path_of(data_format, name)} for name in ("plain", "copied")],
        [
            {"split": "train", "file": path_of(data_format, "first")},
            {"split": "test", "file": path_of(data_format, "first-test", "test")},
        ],
    ]


def test_anchors(inspected):
    data_format, tree, _, _ = inspected
    configured, fitted = tree["anchors"]["choices"][:2]
    assert (configured["name"], configured["anchors"]) == ("configured", None)
    # COCO's crowd regions are not trained on.
    trained_on = 10 if data_format == "voc" else 9
    assert configured["coverage"]["objects"] == fitted["coverage"]["objects"] == trained_on
    assert sum(size["objects"] for size in configured["coverage"]["sizes"]) == trained_on
    shares = tree["anchors"]["not_reached"]
    not_reached = 5 * shares["cat"] + (trained_on - 5) * shares["dog"]
    assert configured["coverage"]["share_below"] == pytest.approx(not_reached / trained_on)
    assert fitted["coverage"]["mean_best_iou"] > configured["coverage"]["mean_best_iou"]
    assert shares["bird"] is None


def test_findings(inspected):
    _, tree, page_html, _ = inspected
    texts = [f"{finding['level']}: {finding['text']}" for finding in tree["findings"]]
    expected = [
        "problem: 1 image file of train cannot be used: broken.jpg.",
        "problem: 1 image of test is also in train, equal pixel for pixel: first-test.jpg. So the accuracy",
        "problem: 1 class without a single object in train: bird.",
        "problem: 2 classes have fewer than 20 objects in train: cat (5), dog (5).",
        "problem: 2 bad boxes of 11 in train: 1 without area, 1 partly outside, clipped. So many suggest",
        "advice: Images without an object: 1 of train (12 %); the section Images lists them.",
        "advice: 1 pair of boxes in train with an IoU above 0.8, where one object seems",
        "advice: 1 image of train with copies, equal pixel for pixel: plain.jpg = copied.jpg.",
        "advice: 2 classes without a single object in test: cat, bird.",
        "advice: Training starts from random weights (model.weights is null) with 8 images.",
        "advice: data.validation is empty",
        "advice: 1 photograph of test with an EXIF orientation whose annotation does not tell whether it was",
        "good: 1 photograph of test turned upright by the EXIF orientation.",
    ]
    for start in expected:
        assert sum(text.startswith(start) for text in texts) == 1, (start, texts)
    levels = [finding["level"] for finding in tree["findings"]]
    assert levels == sorted(levels, key=["problem", "advice", "good"].index)
    section = check_self_contained(page_html).sections["Findings"]
    for finding in tree["findings"]:
        assert finding["text"] in section


def test_page_holds_the_numbers(inspected):
    data_format, tree, page_html, _ = inspected
    page = check_self_contained(page_html)
    assert page.title == "Data of mine"
    first, second = ("Findings", "Classes", "Sizes and shapes", "Anchors"), ("Images", "Boxes")
    assert tuple(page.sections) == (*first, *second, "Annotated samples", "Training samples")
    classes = {row[0]: row[1:] for row in page.tables["Classes"]}
    assert classes["class"] == ["train", "test", "pixels", "not reached"]
    assert classes["cat"][:2] == ["5 (5)", "0 (0)"]
    assert classes["dog"][:2] == ["5 (3)", "2 (2)"]
    assert classes["dog"][2].startswith("7 - ")
    assert classes["bird"] == ["0 (0)", "0 (0)", "-", "-"]
    assert classes["all"][:2] == ["10 (8)", "2 (2)"]
    images = page.tables["Images"]
    assert ["train", "8", "1", "1", "1.2", "3", "80x64", "80x64", "80x64"] in images
    assert [path_of(data_format, "empty")] in images
    assert [path_of(data_format, "second", "test"), "the upright image, as is assumed"] in images
    broken = tree["splits"]["train"]["unusable_images"][0]
    assert [broken["file"], broken["problem"]] in images
    clipped = path_of(data_format, "clipped")
    rows = [row[:3] for row in page.tables["Boxes"]]
    assert [clipped, "cat", "without area"] in rows
    assert [path_of(data_format, "twice"), "dog", "0.97"] in rows
    anchors = page.tables["Anchors"]
    assert anchors[0][:3] == ["size, pixels", "objects", "below 0.5, configured"]
    assert anchors[-1][1] == str(tree["anchors"]["choices"][0]["coverage"]["objects"])


def test_pictures(inspected):
    """Each class has its objects, but none of the file that cannot be read; then come 12 training samples."""
    _, _, page_html, _ = inspected
    page = check_self_contained(page_html)
    pictures = [value for value in page.references if value.startswith("data:image/jpeg;base64,")]
    annotated, samples = page.sections["Annotated samples"], page.sections["Training samples"]
    assert annotated.count("cat of ") == 4
    assert annotated.count("dog of ") == 5
    assert "bird of " not in annotated
    assert len(pictures) == 9 + 12
    assert "broken.jpg" not in annotated
    assert "broken.jpg" not in samples
    assert "dog of 7 px: part of both.jpg with 1 cat, 1 dog" in annotated


@pytest.mark.parametrize("inspected", ["voc"], indirect=True)
def test_second_run_writes_the_same_files(inspected, command):
    _, _, page_html, config = inspected
    report = config.parent / "new" / "report"
    numbers = (report / NUMBERS).read_bytes()
    (report / PAGE).write_text("old")
    result = command(inspect_data, "--config", config, "--output", report)
    assert (result.code, result.err) == (0, "")
    assert "problem: 1 image file of train cannot be used: broken.jpg." in result.out
    assert f"report written to {report / PAGE} and {report / NUMBERS}" in result.out
    assert ((report / PAGE).read_text(), (report / NUMBERS).read_bytes()) == (page_html, numbers)


def test_bad_input_is_one_line(refused, tmp_path):
    config = write_config(tmp_path / "mine.json", write_voc_set(tmp_path / "data"))
    for options, told in (
        (["--output", config], "--output"),
        (["--set", "model.image_size=null"], "model.image_size is null"),
    ):
        arguments = ["--config", config, "--output", tmp_path / "report", *options]
        assert told in refused(inspect_data, *arguments)
    assert not (tmp_path / "report").exists()


def test_test_set_without_annotations(command, tmp_path):
    data = write_voc_set(tmp_path / "data")
    for name in ("second", "first-test"):
        (tmp_path / "data" / "VOC2007" / "Annotations" / f"{name}.xml").unlink()
    config = write_config(tmp_path / "mine.json", data)
    result = command(inspect_data, "--config", config, "--output", tmp_path / "report")
    assert result.code == 0, result.err
    tree = json.loads((tmp_path / "report" / NUMBERS).read_text())
    assert tree["splits"]["test"]["labelled"] is False
    assert tree["splits"]["test"]["images_without_objects"] == []
    assert len(tree["same_images"]) == 2
    page = check_self_contained((tmp_path / "report" / PAGE).read_text())
    assert page.tables["Classes"][0] == ["class", "train", "pixels", "not reached"]
