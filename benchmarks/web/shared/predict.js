/**
 * One photo through a network, whatever sizes the two have: compress/kit/infer.py.
 * @module
 */

import { cut, letterbox, mirrored, normalized, prepare } from "./prepare.js";
import { roundHalfEven } from "./rounding.js";

/** @typedef {import("./spec.js").ImageSpec} ImageSpec */
/** @typedef {import("./spec.js").Photo} Photo */
/** @typedef {import("./spec.js").Prediction} Prediction */
/** @typedef {import("./prepare.js").Box} Box */

/**
 * A network that is loaded.
 * @typedef {object} Network
 * @property {"NHWC" | "NCHW"} layout
 * @property {(image: Float32Array, shape: number[]) => Promise<{data: Float32Array, shape: number[]}>} run
 */

const OVERLAP = 0.25; // of a tile's side that it shares with the next one
const LEAST = 32; // pixels a side that a network is given at least

/**
 * Run one photo as `spec.fit` says: stretched or padded to the network's size, or at its own, in tiles where needed.
 * @param {Network} network
 * @param {ImageSpec} spec
 * @param {Photo} photo
 * @param {{tile?: number, onTile?: (done: number, all: number) => void}} [options] tile: side in pixels of the tiles
 *   that a photo at its own size is cut into where it is larger, so that memory holds; 0 for none
 * @returns {Promise<Prediction>} at the photo's size for "native", at the network's otherwise
 */
export async function predict(network, spec, photo, { tile = 0, onTile = () => {} } = {}) {
  if (spec.fit === "pad") return padded(network, spec, photo);
  if (spec.fit === "stretch") return once(network, prepare(photo, spec), spec.height, spec.width);
  const { height, width } = photo;
  const made = spec.dynamic ? null : { height: spec.height, width: spec.width };
  const sides = tile ? { height: tile, width: tile } : made;
  if (sides && !(spec.dynamic && height <= sides.height && width <= sides.width)) {
    return tiled(network, spec, photo, sides, onTile);
  }
  const filled = mirrored(photo, LEAST, LEAST);
  const whole = await once(network, normalized(filled, spec), filled.height, filled.width);
  return cropped(whole, { top: 0, left: 0, height, width });
}

/**
 * @param {Network} network
 * @param {Float32Array} image (height, width, channels)
 * @param {number} height
 * @param {number} width
 * @returns {Promise<Prediction>}
 */
async function once(network, image, height, width) {
  const channels = image.length / (height * width);
  if (network.layout === "NHWC") {
    const { data, shape } = await network.run(image, [1, height, width, channels]);
    return { channels: shape[3], height: shape[1], width: shape[2], planes: asPlanes(data, shape[3]) };
  }
  const { data, shape } = await network.run(asPlanes(image, channels), [1, channels, height, width]);
  return { channels: shape[1], height: shape[2], width: shape[3], planes: data };
}

/**
 * Turn (pixels, channels) into (channels, pixels).
 * @param {Float32Array} data
 * @param {number} channels
 */
function asPlanes(data, channels) {
  if (channels === 1) return data;
  const pixels = data.length / channels;
  const planes = new Float32Array(data.length);
  for (let channel = 0, to = 0; channel < channels; channel++) {
    for (let pixel = 0, from = channel; pixel < pixels; pixel++, from += channels) planes[to++] = data[from];
  }
  return planes;
}

/**
 * @param {Network} network
 * @param {ImageSpec} spec
 * @param {Photo} photo
 */
async function padded(network, spec, photo) {
  const { photo: box, where } = letterbox(photo, spec.height, spec.width);
  const whole = await once(network, normalized(box, spec), spec.height, spec.width);
  // a prediction may be smaller than its image by a whole factor
  const [top, height] = shrunk(where.top, where.height, whole.height / spec.height);
  const [left, width] = shrunk(where.left, where.width, whole.width / spec.width);
  return cropped(whole, { top, left, height, width });
}

/**
 * @param {number} start
 * @param {number} length
 * @param {number} factor
 * @returns {[number, number]} start and length
 */
function shrunk(start, length, factor) {
  const first = roundHalfEven(start * factor);
  return [first, Math.max(roundHalfEven((start + length) * factor), first + 1) - first];
}

/**
 * @param {Prediction} whole
 * @param {Box} box
 * @returns {Prediction}
 */
function cropped(whole, { top, left, height, width }) {
  if (height === whole.height && width === whole.width) return whole;
  const planes = new Float32Array(whole.channels * height * width);
  for (let row = 0; row < whole.channels * height; row++) {
    const plane = Math.floor(row / height);
    const from = (plane * whole.height + top + (row % height)) * whole.width + left;
    planes.set(whole.planes.subarray(from, from + width), row * width);
  }
  return { channels: whole.channels, height, width, planes };
}

/**
 * Run tiles that overlap by a quarter, and let each fade into the next.
 * @param {Network} network
 * @param {ImageSpec} spec
 * @param {Photo} photo
 * @param {{height: number, width: number}} sides
 * @param {(done: number, all: number) => void} onTile
 * @returns {Promise<Prediction>}
 */
async function tiled(network, spec, photo, sides, onTile) {
  const filled = mirrored(photo, sides.height, sides.width);
  const tops = starts(filled.height, sides.height);
  const boxes = tops.flatMap((top) => starts(filled.width, sides.width).map((left) => ({ top, left, ...sides })));
  const weight = { rows: fade(sides.height), columns: fade(sides.width) };
  const mass = new Float32Array(filled.height * filled.width);
  /** @type {Prediction | null} */
  let total = null;
  for (const [done, box] of boxes.entries()) {
    const piece = await once(network, normalized(cut(filled, box), spec), sides.height, sides.width);
    if (piece.height !== sides.height || piece.width !== sides.width) {
      throw new Error(`a tile of ${sides.height}x${sides.width} came back as ${piece.height}x${piece.width}`);
    }
    const { height, width } = filled;
    total ??= { ...piece, height, width, planes: new Float32Array(piece.channels * height * width) };
    lay(total, mass, piece, box, weight);
    onTile(done + 1, boxes.length);
  }
  if (!total) throw new Error(`no tiles in a photo of ${photo.height}x${photo.width}`);
  for (let at = 0; at < total.planes.length; at++) total.planes[at] /= mass[at % mass.length];
  return cropped(total, { top: 0, left: 0, height: photo.height, width: photo.width });
}

/**
 * Add a tile to the whole, each pixel with its weight.
 * @param {Prediction} total
 * @param {Float32Array} mass
 * @param {Prediction} piece
 * @param {Box} box
 * @param {{rows: number[], columns: number[]}} weight
 */
function lay(total, mass, piece, box, weight) {
  for (let row = 0; row < box.height; row++) {
    for (let column = 0; column < box.width; column++) {
      const share = Math.fround(weight.rows[row] * weight.columns[column]);
      const at = (box.top + row) * total.width + box.left + column;
      mass[at] += share;
      for (let channel = 0; channel < piece.channels; channel++) {
        const value = piece.planes[(channel * box.height + row) * box.width + column];
        total.planes[channel * mass.length + at] += Math.fround(value * share);
      }
    }
  }
}

/**
 * Where tiles begin: evenly spread, each overlapping the one before by a quarter at least.
 * @param {number} length
 * @param {number} side
 */
function starts(length, side) {
  const step = Math.max(roundHalfEven(side * (1 - OVERLAP)), 1);
  const count = Math.ceil((length - side) / step) + 1;
  return Array.from({ length: count }, (_, k) => roundHalfEven((k * (length - side)) / Math.max(count - 1, 1)));
}

/**
 * Weights of a tile's rows: rising from its borders over the part that it shares.
 * @param {number} side
 */
function fade(side) {
  const ramp = Array.from({ length: side }, (_, k) => (k + 0.5) / Math.max(side * OVERLAP, 1));
  return ramp.map((value, k) => Math.min(value, ramp[side - 1 - k], 1));
}
