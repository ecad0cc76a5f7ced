/**
 * PNG files of pictures, bytes exact: a canvas premultiplies, and so loses colours where alpha is low.
 * W3C PNG, second edition; packed by the browser's own CompressionStream.
 * @module
 */

/** @typedef {import("./spec.js").Picture} Picture */

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];
const COLOR_TYPES = { 1: 0, 3: 2, 4: 6 }; // channels to grey, RGB, RGBA
const PAETH = 4;

const CRC = Uint32Array.from({ length: 256 }, (_, byte) => {
  let value = byte;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

/**
 * @param {Picture} picture
 * @returns {Promise<Blob>}
 */
export async function encodePng(picture) {
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, picture.width);
  view.setUint32(4, picture.height);
  header.set([8, COLOR_TYPES[picture.channels]], 8);
  const packed = new Blob([filtered(picture)]).stream().pipeThrough(new CompressionStream("deflate"));
  const body = new Uint8Array(await new Response(packed).arrayBuffer());
  const parts = [
    Uint8Array.from(SIGNATURE),
    chunk("IHDR", header),
    chunk("IDAT", body),
    chunk("IEND", new Uint8Array()),
  ];
  return new Blob(parts, { type: "image/png" });
}

/**
 * Every row as its difference from what its neighbours foretell (section 9.4), which packs better.
 * @param {Picture} picture
 */
function filtered({ width, height, channels, data }) {
  const row = width * channels;
  const lines = new Uint8Array((row + 1) * height);
  for (let y = 0; y < height; y++) {
    lines[y * (row + 1)] = PAETH;
    for (let x = 0; x < row; x++) {
      const at = y * row + x;
      const left = x >= channels ? data[at - channels] : 0;
      const up = y > 0 ? data[at - row] : 0;
      const corner = x >= channels && y > 0 ? data[at - row - channels] : 0;
      lines[at + y + 1] = data[at] - nearest(left, up, corner);
    }
  }
  return lines;
}

/**
 * @param {number} left
 * @param {number} up
 * @param {number} corner
 */
function nearest(left, up, corner) {
  const [byLeft, byUp] = [Math.abs(up - corner), Math.abs(left - corner)];
  const byCorner = Math.abs(left + up - 2 * corner);
  if (byLeft <= byUp && byLeft <= byCorner) return left;
  return byUp <= byCorner ? up : corner;
}

/**
 * @param {string} type
 * @param {Uint8Array} body
 */
function chunk(type, body) {
  const bytes = new Uint8Array(body.length + 12);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, body.length);
  bytes.set(new TextEncoder().encode(type), 4);
  bytes.set(body, 8);
  view.setUint32(body.length + 8, checksum(bytes.subarray(4, body.length + 8)));
  return bytes;
}

/** @param {Uint8Array} bytes */
function checksum(bytes) {
  let crc = 0xffffffff;
  for (let at = 0; at < bytes.length; at++) crc = CRC[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * Look whether a PNG file is whole: some browsers show what they can read of a spoilt one.
 * @param {Uint8Array} file
 * @returns {"" | "cut" | "spoilt"} spoilt: the checksum of a chunk that a decoder needs is wrong
 */
export function damageOf(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  for (let at = SIGNATURE.length; at + 12 <= file.length;) {
    const end = at + 12 + view.getUint32(at);
    const needed = (file[at + 4] & 32) === 0; // upper case: section 5.4
    if (end > file.length) return "cut";
    if (needed && view.getUint32(end - 4) !== checksum(file.subarray(at + 4, end - 4))) return "spoilt";
    if (String.fromCharCode(...file.subarray(at + 4, at + 8)) === "IEND") return "";
    at = end;
  }
  return "cut";
}
