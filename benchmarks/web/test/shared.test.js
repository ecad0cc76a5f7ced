// Small cases whose numbers were worked out by hand.
import assert from "node:assert/strict";
import { test } from "node:test";
import { inflateSync } from "node:zlib";
import { labToRgb, lightness } from "../shared/lab.js";
import { pictures } from "../shared/pictures.js";
import { damageOf, encodePng } from "../shared/png.js";
import { letterbox, mirrored, normalized } from "../shared/prepare.js";
import { mixes, resizePlane } from "../shared/resize.js";
import { roundHalfEven } from "../shared/rounding.js";

/** @typedef {import("../shared/spec.js").ImageSpec} ImageSpec */

/** @type {ImageSpec} */
const SPEC = {
  channels: 3,
  height: 2,
  width: 2,
  dynamic: true,
  color: "rgb",
  fit: "stretch",
  scale: "255",
  mean: [0.5, 0, 0],
  std: [0.5, 1, 2],
  low: 0,
  high: 1,
};

/**
 * @param {number} width
 * @param {number[][]} pixels
 */
function photo(width, ...pixels) {
  return { width, height: pixels.length / width, data: Uint8Array.from(pixels.flatMap((rgb) => [...rgb, 255])) };
}

/**
 * @param {ArrayLike<number>} found
 * @param {number[]} wanted
 * @param {number} [by]
 */
function close(found, wanted, by = 1e-6) {
  assert.equal(found.length, wanted.length);
  wanted.forEach((value, at) => {
    assert.ok(Math.abs(found[at] - value) <= by, `${found[at]} at ${at}, wanted ${value}`);
  });
}

test("a half is rounded to the even neighbour", () => {
  assert.deepEqual([0.5, 1.5, 2.5, -0.5, 0.49, 0.51].map(roundHalfEven), [0, 2, 2, 0, 0, 1]);
});

test("halving mixes four pixels, an eighth and three eighths of each", () => {
  const { first, weights } = mixes(6, 3);
  assert.deepEqual(first, [0, 1, 3]);
  close(weights[1], [1 / 8, 3 / 8, 3 / 8, 1 / 8]);
  close(weights[0], [3 / 7, 3 / 7, 1 / 7]);
});

test("a row grows by its neighbours' quarters", () => {
  const from = { height: 1, width: 2 };
  close(resizePlane(Float32Array.of(0, 1), from, { height: 1, width: 4 }), [0, 0.25, 0.75, 1]);
});

test("what a network can't have meant is cut before it is mixed", () => {
  const size = { height: 1, width: 4 };
  const wild = Float32Array.of(Number.NaN, Number.POSITIVE_INFINITY, -1, 0.5);
  close(resizePlane(wild, size, size), [0, 1, 0, 0.5]);
});

test("a photo becomes (photo / divisor - mean) / std", () => {
  const picture = photo(2, [255, 51, 0], [0, 102, 51]);
  close(normalized(picture, SPEC), [1, 0.2, 0, -1, 0.4, 0.1]);
  const dark = photo(1, [100, 50, 0]);
  close(normalized(dark, { ...SPEC, scale: "max" }), [1, 0.5, 0]);
  const black = photo(1, [0, 0, 0]); // the maximum is never taken as less than 1
  close(normalized(black, { ...SPEC, scale: "max", mean: [0, 0, 0] }), [0, 0, 0]);
});

test("grey is the luminance of BT.601, lightness is CIE L*", () => {
  const picture = photo(3, [255, 0, 0], [255, 255, 255], [119, 119, 119]);
  const grey = normalized(picture, { ...SPEC, channels: 1, color: "grey", mean: [0], std: [1] });
  close(grey, [76 / 255, 1, 119 / 255]);
  close(lightness(picture), [53.24 * 2.55, 255, 50.03 * 2.55], 0.03); // of the published sRGB colours
});

test("known colours come back from L*a*b*", () => {
  close(labToRgb(53.24, 80.09, 67.2), [1, 0, 0], 2e-3);
  close(labToRgb(100, 0, 0), [1, 1, 1], 1e-3);
  close(labToRgb(0, 0, 0), [0, 0, 0]);
});

test("a wide photo is fitted into a square with white above and below", () => {
  const { photo: box, where } = letterbox(photo(4, [9, 9, 9], [9, 9, 9], [9, 9, 9], [9, 9, 9]), 4, 4);
  assert.deepEqual(where, { top: 1, left: 0, height: 1, width: 4 });
  const reds = box.data.filter((_, at) => at % 4 === 0);
  assert.deepEqual([...reds], [255, 255, 255, 255, 9, 9, 9, 9, ...Array(8).fill(255)]);
});

test("a small photo is mirrored, its border repeated, as often as it takes", () => {
  const wide = mirrored(photo(2, [1, 1, 1], [2, 2, 2]), 1, 7);
  assert.deepEqual([...wide.data.filter((_, at) => at % 4 === 0)], [1, 2, 2, 1, 1, 2, 2]);
});

test("a cut-out has the mask as its alpha and the photo's colours", () => {
  const made = { channels: 1, height: 1, width: 2, planes: Float32Array.of(1, 0.2) };
  const { mask, cutout } = pictures("saliency", photo(2, [1, 2, 3], [4, 5, 6]), made, {});
  assert.deepEqual([...mask.data], [255, 51]);
  assert.deepEqual([...cutout.data], [1, 2, 3, 255, 4, 5, 6, 51]);
});

test("a task or a manifest that can't be drawn is named", () => {
  const made = { channels: 1, height: 1, width: 1, planes: Float32Array.of(1) };
  assert.throws(() => pictures("weather", photo(1, [0, 0, 0]), made, {}), /'weather'.*saliency/);
  assert.throws(() => pictures("membrane", photo(1, [0, 0, 0]), made, {}), /drawing\.tint/);
});

test("a PNG holds every byte, hidden colours too", async () => {
  const data = Uint8Array.of(10, 20, 30, 0, 200, 100, 50, 255, 1, 2, 3, 4, 255, 254, 253, 128);
  const png = await encodePng({ width: 2, height: 2, channels: 4, data });
  const bytes = Buffer.from(await png.arrayBuffer());
  assert.equal(bytes.subarray(1, 4).toString(), "PNG");
  assert.deepEqual([bytes.readUInt32BE(16), bytes.readUInt32BE(20), bytes[24], bytes[25]], [2, 2, 8, 6]);
  assert.equal(bytes.subarray(-12).toString("hex"), "0000000049454e44ae426082"); // the end of every PNG there is
  const at = bytes.indexOf("IDAT");
  const lines = inflateSync(bytes.subarray(at + 4, at + 4 + bytes.readUInt32BE(at - 4)));
  // first row: each byte less its left neighbour; second row: less the nearest of left, upper and corner
  assert.deepEqual([...lines], [4, 10, 20, 30, 0, 190, 80, 20, 255, 4, 247, 238, 229, 4, 55, 154, 223, 129]);
});

test("a PNG that is cut or spoilt is told from a whole one", async () => {
  const png = await encodePng({ width: 2, height: 1, channels: 3, data: Uint8Array.of(1, 2, 3, 4, 5, 6) });
  const whole = new Uint8Array(await png.arrayBuffer());
  assert.equal(damageOf(whole), "");
  assert.equal(damageOf(Uint8Array.of(...whole, 7, 7, 7)), ""); // some programs add their own at the end
  for (let length = 8; length < whole.length; length++) assert.equal(damageOf(whole.subarray(0, length)), "cut");
  for (const at of [16, 29, 43, 50]) {
    const changed = whole.map((byte, place) => (place === at ? byte ^ 1 : byte));
    assert.equal(damageOf(changed), "spoilt", `byte ${at}`);
  }
  const note = Uint8Array.of(0, 0, 0, 1, ...Buffer.from("tEXt"), 65, 0, 0, 0, 0); // its wrong checksum harms nothing
  assert.equal(damageOf(Uint8Array.of(...whole.subarray(0, 33), ...note, ...whole.subarray(33))), "");
});
