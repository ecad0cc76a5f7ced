/**
 * Photos brought to what a network is fed: compress/kit/images.py.
 * @module
 */

import { lightness } from "./lab.js";
import { resizePhoto } from "./resize.js";
import { roundHalfEven } from "./rounding.js";

/** @typedef {import("./spec.js").ImageSpec} ImageSpec */
/** @typedef {import("./spec.js").Photo} Photo */
/** @typedef {{top: number, left: number, height: number, width: number}} Box */

/**
 * Turn a photo into numbers: `(photo / divisor - mean) / std`, in single precision at every step.
 * @param {Photo} photo
 * @param {ImageSpec} spec
 * @returns {Float32Array} (height, width, channels)
 */
export function normalized(photo, spec) {
  const values = levels(photo, spec);
  const divisor = spec.scale === "255" ? 255 : values.reduce((most, value) => Math.max(most, value), 1);
  const { channels } = spec;
  const mean = Float32Array.from(spec.mean.slice(0, channels));
  const std = Float32Array.from(spec.std.slice(0, channels));
  for (let at = 0, channel = 0; at < values.length; at++, channel = (channel + 1) % channels) {
    values[at] = Math.fround(Math.fround(values[at] / divisor) - mean[channel]) / std[channel];
  }
  return values;
}

/**
 * @param {Photo} photo
 * @param {ImageSpec} spec
 * @returns {Float32Array} (height, width, channels), 0..255
 */
function levels(photo, spec) {
  if (spec.color === "lightness") return lightness(photo);
  return spec.channels === 1 ? luminance(photo) : colors(photo);
}

/**
 * Luminance, rounded: ITU-R BT.601-2 in Pillow's own 16-bit fixed point.
 * @param {Photo} photo
 */
function luminance({ data, width, height }) {
  const plane = new Float32Array(width * height);
  for (let pixel = 0, at = 0; pixel < plane.length; pixel++, at += 4) {
    plane[pixel] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return plane;
}

/** @param {Photo} photo */
function colors({ data, width, height }) {
  const values = new Float32Array(width * height * 3);
  for (let to = 0, from = 0; to < values.length; to += 3, from += 4) {
    values[to] = data[from];
    values[to + 1] = data[from + 1];
    values[to + 2] = data[from + 2];
  }
  return values;
}

/**
 * Resize a photo to the size a network was made for, and turn it into numbers.
 * @param {Photo} photo
 * @param {ImageSpec} spec
 * @returns {Float32Array} (spec.height, spec.width, channels)
 */
export function prepare(photo, spec) {
  return normalized(resizePhoto(photo, spec.height, spec.width), spec);
}

/**
 * Fit a photo into a box, its aspect kept, white around, and tell where it lies.
 * @param {Photo} photo
 * @param {number} height
 * @param {number} width
 * @returns {{photo: Photo, where: Box}}
 */
export function letterbox(photo, height, width) {
  const scale = Math.min(height / photo.height, width / photo.width);
  const rows = Math.max(roundHalfEven(photo.height * scale), 1);
  const columns = Math.max(roundHalfEven(photo.width * scale), 1);
  const [top, left] = [Math.floor((height - rows) / 2), Math.floor((width - columns) / 2)];
  const small = resizePhoto(photo, rows, columns);
  const data = new Uint8Array(height * width * 4).fill(255);
  for (let row = 0; row < rows; row++) {
    const from = row * columns * 4;
    data.set(small.data.subarray(from, from + columns * 4), ((top + row) * width + left) * 4);
  }
  return { photo: { width, height, data }, where: { top, left, height: rows, width: columns } };
}

/**
 * Mirror a photo to the right and below until it has those sides at least.
 * @param {Photo} photo
 * @param {number} height
 * @param {number} width
 * @returns {Photo}
 */
export function mirrored(photo, height, width) {
  if (photo.height >= height && photo.width >= width) return photo;
  const sides = { height: Math.max(photo.height, height), width: Math.max(photo.width, width) };
  const from = new Uint32Array(photo.data.buffer, photo.data.byteOffset, photo.width * photo.height);
  const to = new Uint32Array(sides.height * sides.width);
  for (let row = 0; row < sides.height; row++) {
    const source = reflected(row, photo.height) * photo.width;
    for (let column = 0; column < sides.width; column++) {
      to[row * sides.width + column] = from[source + reflected(column, photo.width)];
    }
  }
  return { ...sides, data: new Uint8Array(to.buffer) };
}

/**
 * Where a place beyond the border falls when the border is a mirror, its own pixel repeated.
 * @param {number} place
 * @param {number} length
 */
function reflected(place, length) {
  const within = place % (2 * length);
  return within < length ? within : 2 * length - 1 - within;
}

/**
 * Cut a part out of a photo.
 * @param {Photo} photo
 * @param {Box} box
 * @returns {Photo}
 */
export function cut(photo, { top, left, height, width }) {
  const data = new Uint8Array(height * width * 4);
  for (let row = 0; row < height; row++) {
    const from = ((top + row) * photo.width + left) * 4;
    data.set(photo.data.subarray(from, from + width * 4), row * width * 4);
  }
  return { width, height, data };
}
