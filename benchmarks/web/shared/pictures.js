/**
 * What a user wants to see of a prediction, at the photo's size: the `pictures` of compress/tasks.
 * The first picture is the prediction itself.
 * @module
 */

import { labToRgb, lightness } from "./lab.js";
import { resizePlane } from "./resize.js";
import { roundHalfEven } from "./rounding.js";

/** @typedef {import("./spec.js").Photo} Photo */
/** @typedef {import("./spec.js").Picture} Picture */
/** @typedef {import("./spec.js").Prediction} Prediction */
/** @typedef {import("./spec.js").Drawing} Drawing */
/** @typedef {Record<string, Picture>} Pictures */
/** @typedef {(photo: Photo, prediction: Prediction, drawing: Drawing) => Pictures} Draw */

/** @type {Record<string, Draw>} */
const TASKS = { saliency, retouch, segmentation, membrane, color };

/**
 * @param {string} task
 * @param {Photo} photo
 * @param {Prediction} prediction
 * @param {Drawing} drawing from the model's manifest
 * @returns {Pictures}
 */
export function pictures(task, photo, prediction, drawing) {
  const draw = TASKS[task];
  if (!draw) throw new Error(`pictures of task '${task}' can't be drawn here; known: ${Object.keys(TASKS).join(", ")}`);
  return draw(photo, prediction, drawing);
}

/** @type {Draw} */
function saliency(photo, prediction) {
  const mask = resized(prediction, 0, photo).map((value) => roundHalfEven(value * 255));
  const cutout = Uint8Array.from(photo.data);
  for (let pixel = 0; pixel < mask.length; pixel++) cutout[pixel * 4 + 3] = mask[pixel];
  return { mask: picture(photo, 1, Uint8Array.from(mask)), cutout: picture(photo, 4, cutout) };
}

/** @type {Draw} */
function retouch(photo, prediction) {
  const data = new Uint8Array(photo.width * photo.height * 3);
  for (let channel = 0; channel < 3; channel++) {
    const plane = resized(prediction, channel, photo);
    for (let pixel = 0; pixel < plane.length; pixel++) data[pixel * 3 + channel] = roundHalfEven(plane[pixel] * 255);
  }
  return { retouched: picture(photo, 3, data) };
}

/** @type {Draw} */
function segmentation(photo, prediction, drawing) {
  const palette = needed(drawing.palette, "palette");
  const ids = new Uint8Array(photo.width * photo.height).fill(needed(drawing.none, "none"));
  const best = new Float32Array(ids.length);
  // plane by plane: all at once, those of a large photo fill the memory
  for (let number = 0; number < prediction.channels; number++) {
    const plane = resized(prediction, number, photo);
    for (let pixel = 0; pixel < plane.length; pixel++) {
      if (plane[pixel] <= best[pixel]) continue;
      ids[pixel] = number;
      best[pixel] = plane[pixel];
    }
  }
  const mask = new Uint8Array(ids.length * 3);
  const overlay = new Uint8Array(ids.length * 3);
  for (let at = 0; at < mask.length; at++) {
    const pixel = Math.floor(at / 3);
    mask[at] = palette[ids[pixel]][at % 3];
    overlay[at] = (mask[at] + photo.data[pixel * 4 + (at % 3)] + 1) >> 1;
  }
  return { mask: picture(photo, 3, mask), overlay: picture(photo, 3, overlay) };
}

/** @type {Draw} */
function membrane(photo, prediction, drawing) {
  const tint = needed(drawing.tint, "tint");
  const most = needed(drawing.tintShare, "tintShare");
  const plane = resized(prediction, 0, photo);
  const overlay = new Uint8Array(plane.length * 3);
  for (let at = 0; at < overlay.length; at++) {
    const pixel = Math.floor(at / 3);
    const share = most * (1 - plane[pixel]);
    overlay[at] = roundHalfEven(photo.data[pixel * 4 + (at % 3)] * (1 - share) + tint[at % 3] * share);
  }
  const mask = Uint8Array.from(plane, (value) => roundHalfEven(value * 255));
  return { mask: picture(photo, 1, mask), overlay: picture(photo, 3, overlay) };
}

/** @type {Draw} */
function color(photo, prediction, drawing) {
  const unit = needed(drawing.ab, "ab");
  const own = lightness(photo);
  const a = resized(prediction, 0, photo, -1);
  const b = resized(prediction, 1, photo, -1);
  const data = new Uint8Array(own.length * 3);
  for (let pixel = 0; pixel < own.length; pixel++) {
    const rgb = labToRgb(own[pixel] / 2.55, a[pixel] * unit, b[pixel] * unit);
    for (let channel = 0; channel < 3; channel++) data[pixel * 3 + channel] = roundHalfEven(rgb[channel] * 255);
  }
  return { color: picture(photo, 3, data) };
}

/**
 * One plane of a prediction at the photo's size.
 * @param {Prediction} prediction
 * @param {number} channel
 * @param {Photo} photo
 * @param {number} [low]
 */
function resized(prediction, channel, photo, low = 0) {
  const pixels = prediction.height * prediction.width;
  return resizePlane(prediction.planes.subarray(channel * pixels, (channel + 1) * pixels), prediction, photo, low);
}

/**
 * @param {Photo} photo whose size it has
 * @param {1 | 3 | 4} channels
 * @param {Uint8Array} data
 * @returns {Picture}
 */
function picture({ width, height }, channels, data) {
  return { width, height, channels, data };
}

/**
 * @template T
 * @param {T | undefined} value
 * @param {string} name
 * @returns {T}
 */
function needed(value, name) {
  if (value === undefined) throw new Error(`the model's manifest lacks drawing.${name}; write the demo again`);
  return value;
}
