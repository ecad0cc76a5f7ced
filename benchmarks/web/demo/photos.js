/**
 * Files to photos, as compress/kit/images.py reads them: upright, transparency laid over white, no colour profile applied.
 * @module
 */

import { damageOf } from "../shared/png.js";

/** @typedef {import("../shared/spec.js").Photo} Photo */

const MAX_BYTES = 100e6;
const MAX_PIXELS = 40e6; // above, a tab's memory gives out
const STRIP = 4e6; // pixels that are read at once: a canvas has a largest size

/** @type {[string, number, string][]} kind, and what its files have at which byte, as Latin-1 */
const KINDS = [
  ["PNG", 0, "\x89PNG\r\n"],
  ["JPEG", 0, "\xff\xd8\xff"],
  ["WebP", 8, "WEBP"],
  ["GIF", 0, "GIF8"],
  ["BMP", 0, "BM"],
  ["AVIF", 4, "ftypavi"],
  ["HEIC", 4, "ftyphei"],
  ["HEIC", 4, "ftypmif"],
  ["TIFF", 0, "II*\0"],
  ["TIFF", 0, "MM\0*"],
  ["JPEG XL", 0, "\xff\x0a"],
  ["JPEG XL", 4, "JXL "],
];
const JPEG_END = "\xff\xd9"; // some browsers show the half of a cut file
const TAIL = 65536; // bytes at the end where that is looked for: some programs add their own
const DAMAGES = { cut: "its end is missing", spoilt: "it can't be decoded" };
const SELDOM = ["HEIC", "TIFF", "JPEG XL", "AVIF"]; // what many browsers can't read though it is whole

/**
 * @param {Uint8Array} head the first bytes of a file
 * @returns {string} its kind, "" if it is no picture
 */
export function kindOf(head) {
  const text = String.fromCharCode(...head.subarray(0, 16));
  return KINDS.find(([, at, magic]) => text.startsWith(magic, at))?.[0] ?? "";
}

/**
 * @param {Blob} file
 * @returns {Promise<Photo>}
 * @throws {Error} if it is no picture, damaged or too large, in words for the user
 */
export async function readPhoto(file) {
  if (file.size === 0) throw new Error("This file is empty. Choose a photo, such as a JPEG or a PNG.");
  if (file.size > MAX_BYTES)
    throw new Error(`This file has ${megas(file.size)} MB; at most ${megas(MAX_BYTES)} can be read.`);
  const kind = kindOf(new Uint8Array(await file.slice(0, 16).arrayBuffer()));
  if (!kind) throw new Error("This file is not an image. Choose a photo, such as a JPEG or a PNG.");
  const damage = await damageIn(file, kind);
  if (damage) throw new Error(damaged(kind, damage));
  const bitmap = await decode(file, kind);
  try {
    const pixels = bitmap.width * bitmap.height;
    if (pixels > MAX_PIXELS) {
      throw new Error(
        `This photo has ${megas(pixels)} megapixels (${bitmap.width} × ${bitmap.height}); at most ${megas(MAX_PIXELS)} ` +
          "fit into a browser's memory here. Make it smaller first.",
      );
    }
    return { width: bitmap.width, height: bitmap.height, data: pixelsOf(bitmap) };
  } finally {
    bitmap.close();
  }
}

/**
 * @param {Blob} file
 * @param {string} kind
 * @returns {Promise<"" | "cut" | "spoilt">}
 */
async function damageIn(file, kind) {
  if (kind === "PNG") return damageOf(new Uint8Array(await file.arrayBuffer()));
  if (kind !== "JPEG") return "";
  const tail = new Uint8Array(await file.slice(-TAIL).arrayBuffer());
  return new TextDecoder("latin1").decode(tail).includes(JPEG_END) ? "" : "cut";
}

/**
 * @param {string} kind
 * @param {"cut" | "spoilt"} damage
 */
function damaged(kind, damage) {
  return `This ${kind} file is damaged: ${DAMAGES[damage]}. Copy or save it again.`;
}

/**
 * @param {Blob} file
 * @param {string} kind
 */
async function decode(file, kind) {
  try {
    return await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error(
      SELDOM.includes(kind)
        ? `This browser can't read this ${kind} file. Save it as JPEG or PNG first.`
        : damaged(kind, "spoilt"),
    );
  }
}

/** @param {ImageBitmap} bitmap */
function pixelsOf(bitmap) {
  const { width, height } = bitmap;
  const rows = Math.max(Math.min(Math.floor(STRIP / width), height), 1);
  const context = new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Error("This browser gives no canvas to read a photo with.");
  const data = new Uint8Array(width * height * 4);
  context.fillStyle = "white";
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.fillRect(0, 0, width, rows);
    context.drawImage(bitmap, 0, -top);
    data.set(context.getImageData(0, 0, width, count).data, top * width * 4);
  }
  return data;
}

/** @param {number} value */
function megas(value) {
  return (value / 1e6).toLocaleString("en", { maximumFractionDigits: value < 1e7 ? 1 : 0 });
}
