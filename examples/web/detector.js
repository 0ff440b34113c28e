/** Detection by MediaPipe, with a .tflite file that `export --mediapipe` of this project wrote. */

const PACKAGE = new URL("./node_modules/@mediapipe/tasks-vision/", import.meta.url);

/** The least score of a detection. */
export const LEAST_SCORE = 0.05;

/**
 * Each pixel of the network's input becomes a square of so many pixels a side.
 *
 * MediaPipe resizes what it gets, with samples a fraction of a pixel away from those of the detector: within
 * such a square all samples are the same. And it cuts boxes to whole pixels, which are then smaller.
 */
const SQUARE = 4;

/** An error whose message is for the person in front of the page. */
export class PageError extends Error {}

/**
 * Loads MediaPipe and a model.
 *
 * @param {string} url the address of the model, on the server of the page.
 * @returns {Promise<Detector>}
 * @throws {PageError} MediaPipe is not installed; or the model is not there, or is no such file.
 */
export async function loadDetector(url) {
  const bytes = await fetchModel(url);
  const card = readCard(bytes, url);
  let vision;
  try {
    vision = await import(new URL("vision_bundle.mjs", PACKAGE));
  } catch {
    throw new PageError("MediaPipe is not installed: run `npm install --prefix examples/web` and load the page again.");
  }
  try {
    const files = await vision.FilesetResolver.forVisionTasks(new URL("wasm", PACKAGE).href);
    const task = await vision.ObjectDetector.createFromOptions(files, {
      baseOptions: { modelAssetBuffer: bytes, delegate: "CPU" },
      runningMode: "IMAGE",
      scoreThreshold: LEAST_SCORE,
    });
    return new Detector(task, card);
  } catch (error) {
    throw new PageError(`MediaPipe cannot open ${url}: ${error.message}`);
  }
}

export class Detector {
  /**
   * @param task an ObjectDetector of MediaPipe.
   * @param {{name: string, classes: string[], image_size: number[]}} card the model.json of the model.
   */
  constructor(task, card) {
    this.task = task;
    this.name = card.name;
    this.classes = card.classes;
    [this.height, this.width] = card.image_size;
    this.detect(new ImageData(this.width, this.height)); // The first call takes longer than the others.
  }

  /**
   * Detects the objects of an image.
   *
   * @param {ImageData} image upright, of any size.
   * @returns {{class: string, label: number, score: number, box: {xmin: number, ymin: number, xmax: number, ymax: number}}[]}
   *     by descending score, at least LEAST_SCORE; labels 1..C, boxes in pixels of the image.
   */
  detect(image) {
    const input = warp(image, this.width, this.height, SQUARE);
    const [x, y] = [image.width / input.width, image.height / input.height];
    const found = this.task.detect(input).detections.flatMap(({ boundingBox: box, categories }) =>
      // Detections of several classes with the same box are one detection with several categories.
      categories.map(({ categoryName, score }) => ({
        class: categoryName,
        label: this.classes.indexOf(categoryName) + 1,
        score,
        box: {
          xmin: box.originX * x,
          ymin: box.originY * y,
          xmax: (box.originX + box.width) * x,
          ymax: (box.originY + box.height) * y,
        },
      })),
    );
    return found.sort((one, other) => other.score - one.score);
  }
}

/**
 * Warps an image as the detector does: bilinear, with half-pixel centres and without anti-aliasing.
 *
 * @param {ImageData} image
 * @param {number} width columns of the result, each of them `square` pixels wide.
 * @param {number} height rows of the result, each of them `square` pixels high.
 * @returns {ImageData} opaque.
 */
export function warp(image, width, height, square = 1) {
  const { data } = image;
  const columns = samples(image.width, width);
  const rows = samples(image.height, height);
  const stride = width * square;
  const pixels = new Uint32Array(stride * height * square);
  const row = new Uint8ClampedArray(4 * width).fill(255); // It rounds halves to even values, as TensorFlow does.
  const rowPixels = new Uint32Array(row.buffer);
  for (let y = 0; y < height; y++) {
    const top = rows.low[y] * image.width;
    const bottom = rows.high[y] * image.width;
    const down = rows.weight[y];
    for (let x = 0; x < width; x++) {
      const left = columns.low[x];
      const right = columns.high[x];
      const across = columns.weight[x];
      for (let channel = 0; channel < 3; channel++) {
        const upperLeft = data[4 * (top + left) + channel];
        const lowerLeft = data[4 * (bottom + left) + channel];
        const upper = upperLeft + (data[4 * (top + right) + channel] - upperLeft) * across;
        const lower = lowerLeft + (data[4 * (bottom + right) + channel] - lowerLeft) * across;
        row[4 * x + channel] = upper + (lower - upper) * down;
      }
    }
    const start = y * square * stride;
    for (let x = 0; x < width; x++) pixels.fill(rowPixels[x], start + x * square, start + (x + 1) * square);
    for (let copy = 1; copy < square; copy++) pixels.copyWithin(start + copy * stride, start, start + stride);
  }
  return new ImageData(new Uint8ClampedArray(pixels.buffer), stride);
}

/** The pixels of a side between which the samples of the new side lie, and the weights of the higher ones. */
function samples(size, newSize) {
  const low = new Int32Array(newSize);
  const high = new Int32Array(newSize);
  const weight = new Float32Array(newSize);
  for (let index = 0; index < newSize; index++) {
    const place = ((index + 0.5) * size) / newSize - 0.5;
    low[index] = Math.max(Math.floor(place), 0);
    high[index] = Math.min(Math.ceil(place), size - 1);
    weight[index] = place - Math.floor(place);
  }
  return { low, high, weight };
}

async function fetchModel(url) {
  if (new URL(url, location.href).origin !== location.origin) {
    throw new PageError(`The model ${url} lies on another server, and this page connects to none.`);
  }
  const answer = await fetch(url).catch(() => null);
  if (!answer) throw new PageError(`The server of this page does not answer: start it again.`);
  if (!answer.ok) {
    throw new PageError(
      `There is no model at ${url}: run \`python export_savedmodel.py --config pretrained --output exports/pretrained ` +
        "--mediapipe`, or name another one in the address of this page: ?model=/exports/mine/1/litert/mediapipe.tflite",
    );
  }
  return new Uint8Array(await answer.arrayBuffer());
}

/** Reads model.json from the zip archive at the end of a model, whose files are not compressed. */
function readCard(bytes, url) {
  const view = new DataView(bytes.buffer);
  const END = 22; // The length of the record at the end, which has no comment.
  const end = bytes.length - END;
  if (end >= 0 && view.getUint32(end, true) === 0x06054b50) {
    const directory = end - view.getUint32(end + 12, true);
    const archive = directory - view.getUint32(end + 16, true);
    for (let entry = directory; entry < end; ) {
      const [size, name, extra, comment] = [
        view.getUint32(entry + 24, true),
        ...[28, 30, 32].map((place) => view.getUint16(entry + place, true)),
      ];
      if (text(bytes, entry + 46, name) === "model.json") {
        const file = archive + view.getUint32(entry + 42, true);
        const start = file + 30 + view.getUint16(file + 26, true) + view.getUint16(file + 28, true);
        return JSON.parse(text(bytes, start, size));
      }
      entry += 46 + name + extra + comment;
    }
  }
  throw new PageError(`${url} is no mediapipe.tflite of this project: it holds no model.json.`);
}

function text(bytes, start, length) {
  return new TextDecoder().decode(bytes.subarray(start, start + length));
}
