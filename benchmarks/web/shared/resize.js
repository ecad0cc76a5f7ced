/**
 * Bilinear resizing, antialiased where it shrinks, as Pillow 13 does it, byte for byte: a triangle as wide as the step
 * between pixels, along rows and along columns; bytes are rounded after each of the two.
 * @module
 */

/** @typedef {import("./spec.js").Photo} Photo */
/** @typedef {{height: number, width: number}} Size */

/**
 * Which old pixels a new one is mixed of.
 * @typedef {object} Mix
 * @property {number[]} first first old pixel of each new one
 * @property {Float64Array[]} weights they sum to 1
 */

const WHOLE = 2 ** 22; // weights of bytes are whole parts of it

/**
 * @param {number} from old length
 * @param {number} to new length
 * @returns {Mix}
 */
export function mixes(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  const first = [];
  const weights = [];
  for (let place = 0; place < to; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(Math.trunc(center - reach + 0.5), 0);
    const end = Math.min(Math.trunc(center + reach + 0.5), from);
    const row = new Float64Array(end - start);
    let sum = 0;
    for (let k = 0; k < row.length; k++) {
      row[k] = Math.max(1 - Math.abs((start + k - center + 0.5) * (1 / reach)), 0);
      sum += row[k];
    }
    for (let k = 0; k < row.length; k++) row[k] /= sum;
    first.push(start);
    weights.push(row);
  }
  return { first, weights };
}

/**
 * Mix along one axis.
 * @template {Uint8Array | Uint8ClampedArray | Float32Array} T
 * @param {ArrayLike<number>} source
 * @param {T} target
 * @param {Mix} mix
 * @param {{lines: number, lineOld: number, lineNew: number, old: number, fresh: number, inner: number}} steps
 *   lines across the axis and how far apart they lie in source and target; distance of neighbours along the axis in
 *   source and target; how many numbers next to each other are treated alike
 * @param {boolean} bytes
 * @returns {T}
 */
function mixAlong(source, target, mix, steps, bytes) {
  const rows = bytes ? mix.weights.map((row) => row.map((weight) => Math.floor(weight * WHOLE + 0.5))) : mix.weights;
  for (let line = 0; line < steps.lines; line++) {
    for (let place = 0; place < rows.length; place++) {
      const row = rows[place];
      const from = line * steps.lineOld + mix.first[place] * steps.old;
      const to = line * steps.lineNew + place * steps.fresh;
      for (let channel = 0; channel < steps.inner; channel++) {
        let sum = bytes ? WHOLE / 2 : 0;
        for (let k = 0, at = from + channel; k < row.length; k++, at += steps.old) sum += source[at] * row[k];
        target[to + channel] = bytes ? Math.min(Math.floor(sum / WHOLE), 255) : sum;
      }
    }
  }
  return target;
}

/**
 * Resize along both axes. Which comes first shows in rounded bytes; this is what Pillow 13 was found to do.
 * @template {Uint8Array | Uint8ClampedArray | Float32Array} T
 * @param {T} data
 * @param {Size} from
 * @param {Size} to
 * @param {{channels: number, make: (length: number) => T, bytes: boolean}} how channels: numbers a pixel
 * @returns {T}
 */
function resized(data, from, to, { channels, make, bytes }) {
  /** @type {(values: T, height: number) => T} */
  const columns = (values, height) => {
    if (to.width === from.width) return values;
    const steps = { lines: height, lineOld: from.width * channels, lineNew: to.width * channels, inner: channels };
    const target = make(height * to.width * channels);
    return mixAlong(values, target, mixes(from.width, to.width), { ...steps, old: channels, fresh: channels }, bytes);
  };
  /** @type {(values: T, width: number) => T} */
  const rows = (values, width) => {
    if (to.height === from.height) return values;
    const row = width * channels; // every number of a row is a line of its own
    const steps = { lines: 1, lineOld: 0, lineNew: 0, old: row, fresh: row, inner: row };
    return mixAlong(values, make(to.height * row), mixes(from.height, to.height), steps, bytes);
  };
  const rowsFirst = to.height < from.height && 2 * (from.width - to.width) < from.height - to.height;
  return rowsFirst ? columns(rows(data, from.width), to.height) : rows(columns(data, from.height), to.width);
}

/**
 * Resize a photo; one of that size comes back itself.
 * @param {Photo} photo
 * @param {number} height
 * @param {number} width
 * @returns {Photo}
 */
export function resizePhoto(photo, height, width) {
  /** @type {(length: number) => Uint8Array | Uint8ClampedArray} */
  const make = (length) => new Uint8Array(length);
  const data = resized(photo.data, photo, { height, width }, { channels: 4, make, bytes: true });
  return { width, height, data };
}

/**
 * Resize one predicted map. What is not a number becomes 0, and the rest is cut to low..high.
 * @param {Float32Array} plane
 * @param {Size} from
 * @param {Size} to
 * @param {number} [low]
 * @param {number} [high]
 * @returns {Float32Array}
 */
export function resizePlane(plane, from, to, low = 0, high = 1) {
  const values = plane.map((value) => (Number.isNaN(value) ? 0 : Math.min(Math.max(value, low), high)));
  const make = (/** @type {number} */ length) => new Float32Array(length);
  return resized(values, from, to, { channels: 1, make, bytes: false });
}
