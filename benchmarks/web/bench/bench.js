// @ts-check
/** The page that measures: it loads one model, and runs and times it when the driver tells it to. */

import { openEngine } from "../shared/engine.js";
import { probeBackend } from "../shared/probe.js";
import { timeRuns } from "./timing.js";

/**
 * @typedef {import("../shared/engine.js").EngineOptions} EngineOptions
 * @typedef {import("../shared/engine.js").Memory} Memory
 */

const ROOT = new URL("../../", import.meta.url); // after the token

let engine = /** @type {import("../shared/engine.js").Engine | undefined} */ (undefined);
let model = /** @type {import("../shared/engine.js").Model | undefined} */ (undefined);
let image = { data: new Float32Array(), shape: /** @type {number[]} */ ([]) };
const peak = /** @type {Memory & { js?: number }} */ ({});

function loaded() {
  if (!model) throw new Error("no model is loaded");
  return model;
}

/** Remember the most memory that was in use. js: with the array buffers; only Chromium tells. */
function weigh() {
  const js = /** @type {any} */ (performance).memory?.usedJSHeapSize;
  for (const [kind, bytes] of Object.entries({ ...model?.memory(), ...(js && { js }) })) {
    const key = /** @type {keyof typeof peak} */ (kind);
    peak[key] = Math.max(peak[key] ?? 0, bytes);
  }
  return peak;
}

const bench = {
  probe: probeBackend,

  /**
   * Start a runtime; "seconds" from the fetch of its first file until its backend stands.
   *
   * @param {Omit<EngineOptions, "vendor">} options
   */
  async open(options) {
    const start = performance.now();
    engine = await openEngine({ ...options, vendor: new URL("vendor/", ROOT) });
    return { seconds: (performance.now() - start) / 1000, isolated: globalThis.crossOriginIsolated };
  },

  /**
   * Load the model; "seconds" of fetching, parsing and handing over its weights.
   *
   * @param {string} name of its first file
   */
  async load(name) {
    if (!engine) throw new Error("no runtime is started");
    const start = performance.now();
    model = await engine.load(new URL(`model/${name}`, ROOT));
    const seconds = (performance.now() - start) / 1000;
    weigh();
    return { seconds, layout: model.layout, describe: engine.describe };
  },

  /**
   * Fetch the image that the next runs take.
   *
   * @param {number[]} shape
   */
  async put(shape) {
    const response = await fetch(new URL("tensor/input", ROOT));
    image = { data: new Float32Array(await response.arrayBuffer()), shape };
  },

  /** Run once and post the picture; its shape. */
  async run() {
    const { data, shape } = await loaded().run(image.data, image.shape);
    weigh();
    const body = new Blob([/** @type {Float32Array<ArrayBuffer>} */ (data)]);
    await fetch(new URL("tensor/output", ROOT), { method: "POST", body });
    return shape;
  },

  /**
   * Run a number of times; seconds of each.
   *
   * @param {number} count
   */
  async time(count) {
    const { run } = loaded();
    const seconds = await timeRuns(() => run(image.data, image.shape), count);
    weigh();
    return seconds;
  },

  /**
   * Time an empty model: what measuring adds to each latency, in seconds.
   *
   * @param {number} count
   */
  empty: (count) => timeRuns(async () => {}, count),

  memory: weigh,
};

Object.assign(globalThis, { bench });
