"""The notebooks run from their first cell to their last, and their outputs hold what their texts say."""

import base64
import io
import os
import re
from pathlib import Path
from types import SimpleNamespace

import jupytext
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from refinedet_tf.drawing import class_color

pytestmark = pytest.mark.story

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
SECONDS_PER_CELL = 900
"""No cell takes a tenth of it on two cores; a machine may be very busy."""


@pytest.fixture
def execute(tmp_path):
    """Executes a notebook in a kernel of its own, whose temporary files go into `tmp_path`.

    Attributes of the result: `text`, what the cells print and return, in their order; `images`, what they
    show, uint8 [H, W, 3].
    """

    def run(name):
        notebook = jupytext.read(FOLDER / name)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert cells and not any(cell.outputs for cell in cells), "the sources hold no outputs"
        client = NotebookClient(
            notebook,
            timeout=SECONDS_PER_CELL,
            kernel_name="python3",
            resources={"metadata": {"path": FOLDER}},
        )
        # A cell that raises ends the execution with an error.
        client.execute(env=os.environ | {"TMPDIR": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")})
        text, images = [], []
        for output in (output for cell in cells for output in cell.outputs):
            if output.output_type == "stream":
                text += [output.text] if output.name == "stdout" else []
            elif "image/png" in output.data:
                image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
                images.append(np.asarray(image.convert("RGB")))
            else:
                text.append(output.data["text/plain"])
        return SimpleNamespace(text="\n".join(text), images=images)

    return run


def numbers_after(pattern, text):
    """Returns the numbers that follow each match of a pattern."""
    return [float(number) for number in re.findall(pattern + r"\s+([0-9.]+)", text)]


def test_detect_and_train(execute, tmp_path):
    shown = execute("detect_and_train.md")
    of_astronaut, of_chelsea = re.findall(r"\.jpg, \(height.*?\n +(\w+) +score ([0-9.]+)", shown.text)
    assert of_astronaut[0] == "person" and float(of_astronaut[1]) >= 0.5
    assert of_chelsea[0] == "cat" and float(of_chelsea[1]) >= 0.5
    # The two photographs, with the left sides of the boxes; the first again; a batch; curves; tests.
    astronaut, chelsea = shown.images[:2]
    assert astronaut.shape == (512, 512, 3) and chelsea.shape == (300, 451, 3) and len(shown.images) == 6
    for image, label in ((astronaut, 15), (chelsea, 8)):
        assert (image[image.shape[0] // 2, :20] == class_color(label)).all(axis=1).any()

    assert len(numbers_after(r"step \d+/36  loss", shown.text)) == 4
    validations = re.findall(r"validation at step (\d+): mAP ([0-9.]+).*?loss ([0-9.]+)", shown.text)
    (half, _, loss_before), (end, _, loss_after) = validations
    assert (half, end) == ("18", "36") and float(loss_after) < float(loss_before)
    (mean,), of_classes = numbers_after("\nmAP", shown.text), numbers_after(r"\n\w+ +AP", shown.text)
    assert len(of_classes) == 6 and mean == pytest.approx(np.mean(of_classes), abs=1e-3)
    # It was 0.23.
    assert mean > 0.1

    (work,) = tmp_path.glob("refinedet-*")
    for name in ("inspection/report.html", "run/best.weights.h5", "exports/1/saved_model.pb"):
        assert (work / name).stat().st_size > 10_000, name
    assert (work / "exports/1/assets/labels.txt").read_text().split() == sorted(
        ["circle", "cross", "rectangle", "ring", "star", "triangle"]
    )


def test_step_by_step(execute):
    shown = execute("step_by_step.md")
    assert shown.text.startswith("person  score 0.9")
    assert numbers_after("cells x 3 =", shown.text) == [4800, 1200, 300, 75]
    # Each regression brings the anchors nearer to the object.
    for pattern in (r"mean IoU of the twelve:\s+", r"largest IoU of all:\s+"):
        (before, after), *_ = re.findall(pattern + r"([0-9.]+) before, ([0-9.]+) after", shown.text)
        assert float(after) > float(before) + 0.2
    tiled, refined, final = numbers_after("mean IoU with the person", shown.text)
    assert tiled + 0.2 < refined < final - 0.1 and final > 0.8

    steps = ["anchors", "after the filter of the ARM", r"candidates \(anchor and class\)"]
    steps += ["best candidates of the image", "after NMS", "with a score of at least 0.5"]
    (numbers,) = zip(*(numbers_after(f"(?m:^){step} ", shown.text)[-1:] for step in steps), strict=True)
    assert numbers[0] == 6375 and numbers[3] == 1000 and numbers[5] == 2
    assert 1000 < numbers[2] <= 20 * numbers[1] and numbers[1] <= 6375 and 1 < numbers[4] < 1000
    assert f"the same {numbers[4]:.0f} detections" in shown.text
    assert len(shown.images) == 12
