/** What the page does: it takes an image from a file, a sample or the camera, and shows what is detected. */

import { LEAST_SCORE, PageError, loadDetector } from "./detector.js";

/** The model that README.md exports; the address of the page may name another one. */
const MODEL =
  new URLSearchParams(location.search).get("model") ?? new URL("../../exports/pretrained/1/litert/mediapipe.tflite", location).pathname;

/** The time of the camera is the median of so many images. */
const TIMES = 15;

const element = (id) => document.getElementById(id);
const [canvas, score] = [element("image"), element("score")];
const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
const video = Object.assign(document.createElement("video"), { muted: true, playsInline: true });

let detector;
let source = 0; // The number of the source that is shown; work for an older one is dropped.
let found = [];

function say(text) {
  element("status").textContent = text;
}

function complain(text) {
  element("error").textContent = text;
  element("error").hidden = !text;
}

/** Leaves the source that is shown, and returns the number of the next one. */
function nextSource() {
  video.srcObject?.getTracks().forEach((track) => track.stop());
  video.srcObject = null;
  element("camera").textContent = "Start the camera";
  complain("");
  return ++source;
}

/** Draws an image, detects on it, and returns the milliseconds from its pixels to the detections. */
function detectOn(image, width, height) {
  [canvas.width, canvas.height] = [width, height];
  context.drawImage(image, 0, 0, width, height);
  const pixels = context.getImageData(0, 0, width, height);
  const start = performance.now();
  found = detector.detect(pixels);
  const milliseconds = performance.now() - start;
  element("hint").hidden = true;
  element("frame").hidden = false;
  show();
  return milliseconds;
}

/** Shows the detections whose score is at least that of the slider. */
function show() {
  const least = Number(score.value) / 100;
  element("least").textContent = `${score.value} %`;
  if (element("frame").hidden) return;
  const shown = found.filter((detection) => detection.score >= least);
  element("number").textContent = shown.length;
  const boxes = shown.map(boxOf);
  // The best box lies on top.
  element("boxes").replaceChildren(...boxes.toReversed());
  element("list").replaceChildren(...shown.map((detection, row) => lineOf(detection, boxes[row])));
  spaceNames();
  canvas.setAttribute("aria-label", `The image, with ${shown.length} detections`);
  // For those who drive the page by a program.
  window.shown = { source, height: canvas.height, width: canvas.width, detections: shown };
}

function boxOf({ class: name, label, score, box }) {
  const node = document.createElement("div");
  const percent = (value, side) => `${(100 * value) / side}%`;
  node.className = "box";
  node.classList.toggle("inside", box.ymin < 0.08 * canvas.height);
  node.classList.toggle("leftward", box.xmin > 0.75 * canvas.width);
  node.style.setProperty("--color", color(label));
  node.style.left = percent(box.xmin, canvas.width);
  node.style.top = percent(box.ymin, canvas.height);
  node.style.width = percent(box.xmax - box.xmin, canvas.width);
  node.style.height = percent(box.ymax - box.ymin, canvas.height);
  node.append(Object.assign(document.createElement("span"), { textContent: `${name} ${Math.round(100 * score)}` }));
  return node;
}

function lineOf({ class: name, label, score }, box) {
  const node = document.createElement("li");
  node.style.setProperty("--color", color(label));
  node.append(name, Object.assign(document.createElement("b"), { textContent: `${Math.round(100 * score)} %` }));
  node.addEventListener("pointerenter", () => box.classList.add("marked"));
  node.addEventListener("pointerleave", () => box.classList.remove("marked"));
  return node;
}

/** The colour of a class, as detect.py draws it: hues of neighbouring labels differ by the golden ratio. */
function color(label) {
  const hue = ((label - 1) * (Math.sqrt(5) - 1) * 180) % 360;
  const [value, saturation] = [[1, 0.85], [0.75, 0.95], [1, 0.5]][(label - 1) % 3];
  const lightness = value * (1 - saturation / 2);
  const share = (value - lightness) / Math.min(lightness, 1 - lightness);
  return `hsl(${hue} ${100 * share}% ${100 * lightness}%)`;
}

/** Hides the names that would hide that of a better box; the colour still says the class. */
function spaceNames() {
  const kept = [];
  for (const name of [...document.querySelectorAll(".box span")].reverse()) {
    const own = name.getBoundingClientRect();
    const free = kept.every(
      (other) => own.right < other.left || own.left > other.right || own.bottom < other.top || own.top > other.bottom,
    );
    name.classList.toggle("spared", !free);
    if (free) kept.push(own);
  }
}

/** Lets the browser paint what has changed before it is busy. */
function painted() {
  return new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
}

/**
 * Detects on an image file, turned upright as its EXIF orientation says.
 *
 * @param {Blob} file
 * @param {string} name how the file is called in messages.
 */
async function detectOnFile(file, name) {
  const own = nextSource();
  say(`Detecting on ${name} ...`);
  await painted();
  let image;
  try {
    // The colours are those of the file, as in training, without its colour profile.
    image = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    if (own !== source) return;
    say(element("frame").hidden ? "Ready." : "The image before is still shown.");
    return complain(`${name} is no image that this browser can open. JPEG, PNG, WebP and GIF files can be opened.`);
  }
  if (own === source) {
    const milliseconds = detectOn(image, image.width, image.height);
    element("milliseconds").textContent = milliseconds.toFixed(0);
    say(`${name}: ${image.width} x ${image.height} pixels.`);
  }
  image.close();
}

async function detectOnSample(address) {
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) return complain(`The server of this page has no ${address}: serve the folder of the repository.`);
  return detectOnFile(await answer.blob(), address.split("/").at(-1));
}

const CAMERA_ERRORS = {
  NotAllowedError: "The camera was refused: allow it beside the address of this page, and press the button again.",
  NotFoundError: "No camera was found on this device.",
  NotReadableError: "The camera is in use by another program.",
};

async function startCamera() {
  const own = nextSource();
  if (!navigator.mediaDevices) {
    return complain("Browsers open the camera for https:// pages and http://localhost alone.");
  }
  say("Waiting for the camera ...");
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    if (own !== source) return;
    say("Ready.");
    return complain(CAMERA_ERRORS[error.name] ?? `The camera cannot be opened: ${error.message}`);
  }
  if (own !== source) return stream.getTracks().forEach((track) => track.stop());
  video.srcObject = stream;
  element("camera").textContent = "Stop the camera";
  await video.play();
  stream.getVideoTracks()[0].addEventListener("ended", () => {
    if (own !== source) return;
    nextSource();
    complain("The camera was disconnected.");
  });
  say(`Camera: ${video.videoWidth} x ${video.videoHeight} pixels.`);
  const times = [];
  const next = () => (video.requestVideoFrameCallback ? video.requestVideoFrameCallback(frame) : requestAnimationFrame(frame));
  const frame = () => {
    if (own !== source) return;
    times.push(detectOn(video, video.videoWidth, video.videoHeight));
    if (times.length > TIMES) times.shift();
    element("milliseconds").textContent = median(times).toFixed(0);
    next();
  };
  next();
}

function median(values) {
  return values.toSorted((one, other) => one - other)[values.length >> 1];
}

function stopCamera() {
  nextSource();
  say("The camera is off.");
}

function listen() {
  element("choose").addEventListener("click", () => element("file").click());
  element("file").addEventListener("change", ({ target }) => {
    const [file] = target.files;
    if (file) detectOnFile(file, file.name);
    target.value = ""; // So that the same file can be chosen again.
  });
  element("camera").addEventListener("click", () => (video.srcObject ? stopCamera() : startCamera()));
  for (const sample of document.querySelectorAll(".sample")) {
    sample.addEventListener("click", () => detectOnSample(sample.dataset.photo));
  }
  const stage = element("stage");
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    stage.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => event.relatedTarget ?? stage.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    stage.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (!detector) return;
    if (file) detectOnFile(file, file.name);
    else complain("That was no file: save the photograph first, and drop the file.");
  });
}

score.min = 100 * LEAST_SCORE;
score.addEventListener("input", show);
new ResizeObserver(spaceNames).observe(canvas);
listen();
show();
try {
  detector = await loadDetector(MODEL);
  say(`Ready: ${detector.name}, ${detector.classes.length} classes, ${detector.width} x ${detector.height} pixels.`);
  for (const button of document.querySelectorAll("button")) button.disabled = false;
} catch (error) {
  say("The page cannot detect.");
  complain(error instanceof PageError ? error.message : `The model cannot be loaded: ${error.message}`);
}
