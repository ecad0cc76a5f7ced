// Compares with what Python made of the same photos: tests/test_demo.py writes it and says where in FIXTURES.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { pictures } from "../shared/pictures.js";
import { predict } from "../shared/predict.js";
import { resizePhoto, resizePlane } from "../shared/resize.js";

const folder = process.env.FIXTURES ?? "";
const skip = folder ? false : "FIXTURES names no folder";
const cases = folder ? JSON.parse(readFileSync(join(folder, "cases.json"), "utf8")) : {};

/** @param {string} name of a file, its suffix the type of its numbers */
function numbers(name) {
  const bytes = Uint8Array.from(readFileSync(join(folder, name)));
  return name.endsWith("float32") ? new Float32Array(bytes.buffer) : bytes;
}

/** @param {{width: number, height: number, data: string}} kept */
const photo = (kept) => ({ ...kept, data: /** @type {Uint8Array} */ (numbers(kept.data)) });

/**
 * @param {ArrayLike<number>} found
 * @param {ArrayLike<number>} wanted
 */
function farthest(found, wanted) {
  assert.equal(found.length, wanted.length);
  let most = 0;
  for (let at = 0; at < found.length; at++) {
    assert.ok(Number.isFinite(found[at]), `${found[at]} at ${at}`);
    most = Math.max(most, Math.abs(found[at] - wanted[at]));
  }
  return most;
}

/**
 * The network of tests/web_fixtures.py.
 * @param {number} channels
 * @param {number} step
 * @param {"NHWC" | "NCHW"} layout
 * @returns {import("../shared/predict.js").Network}
 */
function halvedRamp(channels, step, layout) {
  return {
    layout,
    async run(image, shape) {
      const [height, width, inside] = layout === "NHWC" ? shape.slice(1) : [shape[2], shape[3], shape[1]];
      const [rows, columns] = [Math.ceil(height / step), Math.ceil(width / step)];
      const data = new Float32Array(rows * columns * channels);
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < columns; x++) {
          for (let c = 0; c < channels; c++) {
            const pixel = y * step * width + x * step;
            const value =
              layout === "NHWC" ? image[pixel * inside + (c % inside)] : image[(c % inside) * height * width + pixel];
            const at = layout === "NHWC" ? (y * columns + x) * channels + c : (c * rows + y) * columns + x;
            data[at] = value * 0.5 + (y * step) / 512 + (x * step) / 1024;
          }
        }
      }
      return { data, shape: layout === "NHWC" ? [1, rows, columns, channels] : [1, channels, rows, columns] };
    },
  };
}

test("photos are resized byte for byte as Pillow does", { skip }, () => {
  for (const { photo: kept, size, wanted } of cases.resize) {
    const found = resizePhoto(photo(kept), size[0], size[1]).data.filter((_, at) => at % 4 !== 3);
    assert.equal(farthest(found, numbers(wanted)), 0, `${kept.height}x${kept.width} to ${size}`);
  }
});

test("predicted maps are resized as Pillow does", { skip }, () => {
  for (const { plane, size, wanted } of cases.planes) {
    const [oldHeight, oldWidth, height, width] = size;
    const from = { height: oldHeight, width: oldWidth };
    const found = resizePlane(/** @type {Float32Array} */ (numbers(plane)), from, { height, width }, -0.5);
    assert.ok(farthest(found, numbers(wanted)) <= 1e-6, `to ${size}`);
  }
});

for (const layout of /** @type {const} */ (["NHWC", "NCHW"])) {
  test(`every fit feeds a network of ${layout} and reads it as Python does`, { skip }, async (context) => {
    for (const one of cases.predict) {
      await context.test(one.name, async () => {
        const network = halvedRamp(one.channels, one.step, layout);
        const found = await predict(network, one.spec, photo(one.photo), { tile: one.tile });
        assert.deepEqual([found.channels, found.height, found.width], one.shape);
        assert.ok(farthest(found.planes, numbers(one.wanted)) <= 1e-5);
      });
    }
  });
}

test("every task's pictures are Python's within a level", { skip }, async (context) => {
  for (const { task, photo: kept, prediction, shape, drawing, wanted } of cases.pictures) {
    await context.test(task, () => {
      const [channels, height, width] = shape;
      const made = { channels, height, width, planes: /** @type {Float32Array} */ (numbers(prediction)) };
      const found = pictures(task, photo(kept), made, drawing);
      assert.deepEqual(Object.keys(found), Object.keys(wanted));
      for (const [kind, picture] of Object.entries(found)) {
        const level = task === "segmentation" ? 0 : 1; // a class is right or wrong
        assert.ok(farthest(picture.data, numbers(wanted[kind])) <= level, `${task} ${kind}`);
      }
    });
  }
});
