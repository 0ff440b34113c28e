"""Damaged data.yaml, lists, labels and CSV tables: a data set that keeps its promises, or one line."""

from data_set import hostile_text, read
from mutation import EXTREME_TEXTS, LENGTH, NESTING, pick
from PIL import Image

YAML = """path: ../datasets/pets # dataset root dir
train: images
val: [images, list.txt]
test: list.txt
nc: 2
names:
  0: cat
  1: dog
"""
LABELS = "1 0.5 0.25 0.25 0.5\n0 0.1 0.2 0.5 0.3 0.4 0.6\n"
LIST = "./images/a.jpg\nimages/b.jpg\n"
TABLE = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,1,2,20,20\nb.jpg,40,30,,,,,\n"
PLAIN_TABLE = "images/a.jpg,1,2,20,20,cat\nimages/b.jpg,,,,,\n"

TEXTS = (
    *(
        "1e400",
        "nan",
        "inf",
        "-1",
        "2",
        "9" * 5_000,
        "x" * LENGTH,
        "[" * NESTING,
        "{a: " * 3_000,
        "- " * 3_000,
    ),
    *("&a [*a, *a]", "*a", "<<: {a: 1}", "!!python/object:os.system", "!!int ''", "!!float x", "!!binary x"),
    *("2001-99-99", "? [a]", "yes", "~", "|", ">", "'", '"', '"\\0"', '"\\ud800"', "%YAML 9", "---", "..."),
    *("\t", "../../etc", "/etc/passwd", "C:\\x", "images", "list.txt", "data.yaml", ",", ",,,,,", '"a\n'),
    *("\r", "\x85", "- " * 3_000),
)
ENCODINGS = ("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16")


def write_images(root):
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(root / "images" / f"{name}.jpg")


def test_yolo(fuzz, tmp_path):
    write_images(tmp_path)
    files = {"data.yaml": YAML, "labels/a.txt": LABELS, "list.txt": LIST}

    def case(rng):
        damaged = pick(rng, list(files))
        for name, text in files.items():
            is_damaged = name == damaged
            content = hostile_text(rng, text, "([\n :])", TEXTS, ENCODINGS) if is_damaged else text.encode()
            (tmp_path / name).write_bytes(content)
        part = pick(rng, ("train", "val", "test")) if rng.random() < 0.9 else pick(rng, EXTREME_TEXTS)
        read(rng, "yolo", tmp_path, part)

    fuzz(case)


def test_csv(fuzz, tmp_path):
    write_images(tmp_path)

    def case(rng):
        has_header = rng.random() < 0.6
        text = TABLE if has_header else PLAIN_TABLE
        (tmp_path / "t.csv").write_bytes(hostile_text(rng, text, "([\n,])", TEXTS, ENCODINGS))
        part = "t.csv:images" if has_header else "t.csv"
        if rng.random() < 0.1:
            part = pick(rng, ("t.csv:", "", ":")) + pick(rng, EXTREME_TEXTS)
        read(rng, "csv", tmp_path, part)

    fuzz(case)


def test_shares(fuzz, tmp_path):
    write_images(tmp_path)
    (tmp_path / "t.csv").write_text(TABLE)
    pieces = ("[", "]", ":", "%", "50", "1e400", "-", ".5", " ", "\n", "t.csv:images", "²", "٣", "9" * 999)

    def case(rng):
        ending = "".join(pick(rng, pieces) for _ in range(rng.integers(1, 8)))
        read(
            rng, "csv", tmp_path, f"t.csv:images[{ending}]" if rng.random() < 0.5 else f"t.csv:images{ending}"
        )

    fuzz(case)
