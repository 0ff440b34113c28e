"""The page of examples/web/ in a headless Chromium, with the detector that comes with the package."""

import functools
import http.server
import threading
from pathlib import Path

import numpy as np
import pytest
from chromium import Chromium, find_chromium
from image_files import exif_with, noise
from PIL import Image

import refinedet_tf as rd
from refinedet_tf.data.images import read_image, warp_image
from refinedet_tf.exports.savedmodel import ExportOptions
from refinedet_tf.refinedet.boxes import pairwise_iou

ROOT = Path(__file__).parent.parent.parent
PAGE = "/examples/web/"
PHOTOS = (
    "examples/photos/astronaut.jpg",
    "examples/photos/chelsea.jpg",
    "tests/golden/astronaut.png",
    "tests/golden/chelsea.png",
)
SCORE, OVERLAP, PAIRED = 0.06, 0.9, 0.95
"""All that the page shows counts, but for scores at its limit of 0.05. The rounding of pixels may choose the
other one of two boxes of nearly equal scores."""
READY = "document.readyState === 'complete' && !document.querySelector('#camera').disabled"

pytestmark = pytest.mark.slow

WATCH = """
window.refused = [];
document.addEventListener("securitypolicyviolation", (event) => refused.push(event.blockedURI));
const setLater = window.setInterval;
// What MediaPipe would send once a minute.
window.setInterval = (action, milliseconds) => setLater(action, milliseconds / 100);
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    """The address of a server of the repository, with a model and files that are none in /made/."""
    if not (ROOT / "examples/web/node_modules").is_dir():
        pytest.skip("MediaPipe is not installed: npm install --prefix examples/web")
    made = tmp_path_factory.mktemp("made")
    export = rd.export("pretrained", made / "export", options=ExportOptions(mediapipe=True))
    (export / "litert" / "mediapipe.tflite").rename(made / "model.tflite")
    (made / "none.tflite").write_bytes(b"no model")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            name = path.partition("?")[0].removeprefix("/made/")
            return super().translate_path(path) if name.startswith("/") else str(made / name)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(ROOT))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(address, tmp_path_factory):
    """A browser that shows the page with the model."""
    program = find_chromium()
    if program is None:
        pytest.skip("Chromium was not found: REFINEDET_CHROMIUM can name it")
    with Chromium(program, tmp_path_factory.mktemp("profile")) as browser:
        browser.call("Page.addScriptToEvaluateOnNewDocument", source=WATCH)
        browser.resize(1200, 900)
        browser.call("Page.navigate", url=f"{address}{PAGE}?model=/made/model.tflite")
        browser.wait_for(READY)
        yield browser


def set_score(browser, percent):
    browser.evaluate(f"{{ score.value = {percent}; score.dispatchEvent(new Event('input')); }}")


def source_of(browser):
    """The number of the source that the page shows."""
    return browser.evaluate("window.shown?.source ?? 0")


def shown_after(browser, source):
    """What the page shows of a later source."""
    return browser.wait_for(f"window.shown?.source > {source} && window.shown")


def found_on(browser, path):
    """What the page has found on an image file."""
    before = source_of(browser)
    browser.choose_file("#file", path)
    shown = shown_after(browser, before)
    assert browser.evaluate("document.querySelector('#error').hidden")
    return shown


def arrays_of(shown):
    """Boxes in pixels, [ymin, xmin, ymax, xmax], scores and names."""
    found = shown["detections"]
    boxes = [[item["box"][side] for side in ("ymin", "xmin", "ymax", "xmax")] for item in found]
    scores, names = [item["score"] for item in found], [item["class"] for item in found]
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(scores), np.array(names)


@pytest.fixture(scope="module")
def turned_photo(tmp_path_factory):
    """A photograph that lies on its side, with the EXIF orientation that turns it upright."""
    path = tmp_path_factory.mktemp("turned") / "turned.jpg"
    pixels = read_image(ROOT / PHOTOS[1])
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels))).save(path, quality=95, exif=exif_with(6))
    return path


def test_detections_are_those_of_the_detector(browser, turned_photo):
    set_score(browser, 5)
    paths = [*(ROOT / name for name in PHOTOS), turned_photo]
    paired, scores, places = [], [], []
    for path, expected in zip(paths, rd.Detector.pretrained()(paths), strict=True):
        shown = found_on(browser, path)
        assert (shown["height"], shown["width"]) == expected.image_size
        boxes, found_scores, names = arrays_of(shown)
        assert (np.diff(found_scores) <= 0).all() and (found_scores >= 0.05).all()
        same = np.array(expected.names)[:, None] == names
        iou = np.where(same, pairwise_iou(expected.boxes, boxes), 0)
        wanted = expected.scores >= SCORE
        paired += (iou.max(axis=1) >= OVERLAP)[wanted].tolist()
        paired += (iou.max(axis=0) >= OVERLAP)[found_scores >= SCORE].tolist()
        best = iou.argmax(axis=1)[wanted]
        scores += np.abs(found_scores[best] - expected.scores[wanted]).tolist()
        sides = np.tile(expected.image_size, 2)
        places += (np.abs(boxes[best] - expected.boxes[wanted]) / sides).ravel().tolist()
    assert len(paired) >= 20 and np.mean(paired) >= PAIRED
    # The page rounds the pixels of the network's input to whole values.
    assert np.median(scores) < 0.01
    # MediaPipe cuts boxes to whole pixels, which are a quarter of the network's.
    assert np.median(places) < 0.3 / 320


@pytest.mark.parametrize("size", [(50, 90), (700, 400), (320, 320)])
def test_the_warp_is_that_of_the_detector(browser, size):
    """But for its rounding, and with squares for pixels."""
    image = noise(*size)
    rgba = np.dstack([image, np.full(size, 255, np.uint8)]).ravel().tolist()
    for square in (1, 3):
        values = browser.evaluate(
            f"import('./detector.js').then(({{ warp }}) => Array.from(warp(new ImageData("
            f"new Uint8ClampedArray({rgba}), {size[1]}), 64, 40, {square}).data))"
        )
        warped = np.array(values).reshape(40 * square, 64 * square, 4)
        expected = warp_image(image, (40, 64)).numpy().repeat(square, 0).repeat(square, 1)
        assert np.abs(warped[..., :3] - expected).max() < 0.501 and (warped[..., 3] == 255).all()
        # Halves are rounded to even values, so that the image becomes no brighter.
        assert (warped[..., :3] != expected.round()).mean() < 0.01


def test_the_slider_drops_lower_scores(browser):
    set_score(browser, 5)
    shown = found_on(browser, ROOT / PHOTOS[2])
    _, scores, names = arrays_of(shown)
    percent = round(100 * float(scores[1:3].mean()))
    set_score(browser, percent)
    kept = int((scores >= percent / 100).sum())
    assert 0 < kept < len(scores)
    assert browser.evaluate("document.querySelectorAll('.box').length") == kept
    assert browser.evaluate("document.querySelector('#number').textContent") == str(kept)
    lines = browser.evaluate("[...document.querySelectorAll('#list li')].map((line) => line.innerText)")
    assert [line.split("\n")[0] for line in lines] == names[:kept].tolist()
    assert float(browser.evaluate("document.querySelector('#milliseconds').textContent")) > 0


def test_a_sample_and_a_drop(browser):
    """Each is a new source; a drop without a file is answered in words."""
    before = source_of(browser)
    browser.evaluate("document.querySelectorAll('.sample')[1].click()")
    shown = shown_after(browser, before)
    assert (shown["width"], shown["height"]) == (451, 300)
    drop = (
        "fetch('../photos/astronaut.jpg').then((answer) => answer.blob()).then((blob) => {"
        "const data = new DataTransfer(); data.items.add(new File([blob], 'dropped.jpg'));"
        "document.dispatchEvent(new DragEvent('drop', { dataTransfer: data })); })"
    )
    browser.evaluate(drop)
    shown = shown_after(browser, shown["source"])
    assert (shown["width"], shown["height"]) == (512, 512)
    browser.evaluate("document.dispatchEvent(new DragEvent('drop', { dataTransfer: new DataTransfer() }))")
    assert "That was no file" in browser.evaluate("document.querySelector('#error').innerText")


def test_the_camera(browser):
    before = source_of(browser)
    browser.evaluate("camera.click()")
    shown = shown_after(browser, before)
    assert shown["width"] >= 320 and shown["height"] >= 240
    assert float(browser.evaluate("document.querySelector('#milliseconds').textContent")) > 0
    pixels = "Array.from(image.getContext('2d').getImageData(0, 0, image.width, image.height).data)"
    assert np.std(browser.evaluate(pixels)) > 10  # An image, and no black.
    assert browser.evaluate("document.querySelector('#error').hidden")
    assert browser.evaluate("camera.textContent") == "Stop the camera"
    browser.evaluate("camera.click()")
    assert browser.evaluate("camera.textContent") == "Start the camera"
    assert browser.evaluate("document.querySelector('#status').textContent") == "The camera is off."


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("NotAllowedError", "The camera was refused: allow it"),
        ("NotFoundError", "No camera was found on this device."),
        ("AbortError", "The camera cannot be opened: its lens is closed"),
    ],
)
def test_a_camera_that_cannot_be_opened(browser, reason, expected):
    refusal = f"Promise.reject(new DOMException('its lens is closed', '{reason}'))"
    browser.evaluate(f"navigator.mediaDevices.getUserMedia = () => {refusal}; camera.click()")
    browser.wait_for("document.querySelector('#error').hidden === false")
    assert browser.evaluate("document.querySelector('#error').innerText").startswith(expected)
    assert browser.evaluate("camera.textContent") == "Start the camera"
    browser.evaluate("delete navigator.mediaDevices.getUserMedia")


def test_nothing_leaves_the_machine(browser, address):
    """MediaPipe tries to report on its use, and the page lets it not."""
    refused = browser.wait_for("refused.length && refused")
    assert all("googleapis" in uri for uri in refused)
    of_policy = {
        event["requestId"]
        for method, event in browser.events
        if method == "Network.loadingFailed" and event.get("blockedReason") == "csp"
    }
    requests = [
        (event["requestId"], event["request"]["url"])
        for method, event in browser.events
        if method == "Network.requestWillBeSent"
    ]
    sent = [url for number, url in requests if number not in of_policy]
    assert any(url.endswith(".wasm") for url in sent)
    assert [url for url in sent if not url.startswith((f"{address}/", "data:", "blob:"))] == []


@pytest.mark.parametrize("width", [360, 390, 1200])
def test_it_fits_the_window(browser, width):
    """Without scrolling to the side, and with buttons for fingers."""
    browser.resize(width, 844, phone=width < 500)
    found_on(browser, ROOT / PHOTOS[0])
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    sides = browser.evaluate(
        "[...document.querySelectorAll('button')].flatMap((b) => [b.offsetWidth, b.offsetHeight])"
    )
    assert min(sides) >= 44
    browser.resize(1200, 900)


def test_the_keyboard_reaches_everything(browser):
    browser.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(5):
        for kind in ("keyDown", "keyUp"):
            browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        reached.append(browser.evaluate("document.activeElement.id || document.activeElement.className"))
    assert reached == ["choose", "camera", "sample", "sample", "score"]
    before = int(browser.evaluate("score.value"))
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="ArrowRight", windowsVirtualKeyCode=39)
    assert browser.evaluate("document.querySelector('#least').value") == f"{before + 1} %"


def test_a_file_that_is_no_image(browser, tmp_path):
    path = tmp_path / "notes.jpg"
    path.write_text("no image")
    browser.choose_file("#file", path)
    error = browser.wait_for(
        "!document.querySelector('#error').hidden && document.querySelector('#error').innerText"
    )
    assert error.startswith("notes.jpg is no image that this browser can open.")
    found_on(browser, ROOT / PHOTOS[0])  # And it goes on.


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (
            "/made/missing.tflite",
            "There is no model at /made/missing.tflite: run `python export_savedmodel.py",
        ),
        ("/made/none.tflite", "/made/none.tflite is no mediapipe.tflite of this project"),
        ("https://example.com/m.tflite", "The model https://example.com/m.tflite lies on another server"),
    ],
)
def test_a_model_that_is_none(browser, address, model, expected):
    browser.call("Page.navigate", url=f"{address}{PAGE}?model={model}")
    browser.wait_for("document.querySelector('#error')?.hidden === false")
    assert browser.evaluate("document.querySelector('#error').innerText").startswith(expected)
    assert browser.evaluate("document.querySelectorAll('button:disabled').length") == 4
