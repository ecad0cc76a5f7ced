/**
 * Pictures for the screen: no larger than one can show.
 * @module
 */

/** @typedef {Omit<import("../shared/spec.js").Picture, "data"> & {data: Uint8Array | Uint8ClampedArray}} Picture */

const LARGEST = 2048; // pixels of the longer side

/**
 * @param {Picture} picture
 * @returns {Promise<ImageBitmap>}
 */
export async function forScreen(picture) {
  const { width, height } = picture;
  const scale = Math.min(LARGEST / Math.max(width, height), 1);
  const whole = new ImageData(asRgba(picture), width, height);
  if (scale === 1) return createImageBitmap(whole);
  const [resizeWidth, resizeHeight] = [width, height].map((side) => Math.max(Math.round(side * scale), 1));
  return createImageBitmap(whole, { resizeWidth, resizeHeight, resizeQuality: "high" });
}

/** @param {Picture} picture */
function asRgba({ width, height, channels, data }) {
  const rgba = new Uint8ClampedArray(width * height * 4);
  if (channels === 4) rgba.set(data);
  else {
    for (let pixel = 0; pixel < width * height; pixel++) {
      for (let channel = 0; channel < 3; channel++) {
        rgba[pixel * 4 + channel] = data[pixel * channels + (channels === 1 ? 0 : channel)];
      }
      rgba[pixel * 4 + 3] = 255;
    }
  }
  return rgba;
}
