// @ts-check
/** TF.js graph models (NHWC) on any of its backends, from the pinned UMD files of its packages. */

import { fetchBytes, fetchJson, joined } from "./fetching.js";
import { isSoftware, rendererOf } from "./probe.js";
import { TFJS_FILES } from "./tfjs-files.js";

/**
 * @typedef {import("./engine.js").Backend} Backend
 * @typedef {import("./engine.js").EngineOptions} EngineOptions
 * @typedef {import("./engine.js").Model} Model
 * @typedef {import("./engine.js").Progress} Progress
 * @typedef {import("./probe.js").Found} Found
 * @typedef {any} Tf TF.js' global object: its UMD files put it there, a module that imports them sees no exports
 */

const SCOPE = "@tensorflow/";
// numbers that the model file stores in few bits and that are widened on arrival
const WIDTHS = /** @type {Record<string, number>} */ ({
  float32: 4,
  int32: 4,
  float16: 2,
  uint16: 2,
  uint8: 1,
  bool: 1,
});

const SMALL = 1000; // numbers that TF.js rather computes on the processor

/**
 * Start TF.js on a backend.
 *
 * @param {EngineOptions} options
 * @param {Found} found
 * @returns {Promise<import("./engine.js").Engine>}
 */
export async function openTfjs(options, found) {
  const { backend, vendor, threads = 0, half = false } = options;
  if (half && backend !== "webgl") throw new Error(`float16 textures are WebGL's, not ${backend}'s`);
  const base = new URL(String(vendor).replace(/\/?$/, "/"), globalThis.location?.href);
  const tf = await loadScripts(base, backend);
  if (half) tf.env().set("WEBGL_FORCE_F16_TEXTURES", true);
  if (backend === "wasm") prepareWasm(tf, base, threads);
  await start(tf, backend);
  if (backend === "webgpu") keepNumbers(tf.backend());
  const renderer = backend === "webgl" ? rendererOf(tf.backend().gpgpu.gl) : found.renderer;
  return {
    describe: {
      runtime: "tfjs",
      version: tf.version_core,
      backend,
      provider: backend,
      threads: backend === "wasm" ? wasmThreads(tf) : 0,
      simd: backend === "wasm" && (await tf.env().getAsync("WASM_HAS_SIMD_SUPPORT")),
      renderer,
      software: found.software || isSoftware(renderer),
      // a phone that can't draw into float32 textures computes in float16 though nobody asked for it
      half: backend === "webgl" && !tf.env().getBool("WEBGL_RENDER_FLOAT32_ENABLED"),
    },
    load: (url, { onProgress = () => {} } = {}) => load(tf, url, onProgress),
    close: () => tf.removeBackend(backend),
  };
}

/**
 * @param {URL} base
 * @param {Backend} backend
 * @returns {Promise<Tf>}
 */
async function loadScripts(base, backend) {
  for (const name of /** @type {const} */ (["tfjs-core", "tfjs-converter", `tfjs-backend-${backend}`])) {
    const script = `${SCOPE}${name}/${TFJS_FILES[name][0]}`;
    await import(new URL(script, base).href); // in this order: each adds to what the one before it left
  }
  const tf = /** @type {any} */ (globalThis).tf;
  tf.enableProdMode();
  return tf;
}

/**
 * @param {Tf} tf
 * @param {URL} base
 * @param {number} threads
 */
function prepareWasm(tf, base, threads) {
  tf.wasm.setWasmPaths(new URL(`${SCOPE}tfjs-backend-wasm/dist/`, base).href);
  if (threads > 0) tf.wasm.setThreadsCount(threads);
  // one thread is what a page without cross-origin isolation has: the build without threads
  if (threads === 1 || losesThreads()) tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
}

/**
 * Whether threads may never start here: in a worker's worker, Firefox (153) fails now and then to import the blob that
 * holds TF.js' thread, with a NetworkError that TF.js waits out for ever. In a page it does not.
 */
function losesThreads() {
  return !("document" in globalThis) && /firefox/i.test(navigator.userAgent);
}

/** @param {Tf} tf */
function wasmThreads(tf) {
  return Math.max(1, tf.wasm.getThreadsCount());
}

/**
 * @param {Tf} tf
 * @param {Backend} backend
 */
async function start(tf, backend) {
  let why = "";
  const started = await tf.setBackend(backend).catch((/** @type {any} */ error) => {
    why = `: ${error?.message ?? error}`;
    return false;
  });
  if (!started || tf.getBackend() !== backend) throw new Error(`TF.js can't start its ${backend} backend here${why}`);
}

/**
 * Keep the numbers of small tensors that go to the card. TF.js' WebGPU forgets them, and where an operation then wants
 * them as a parameter (an axis, the begin of a range) it reads them back through a canvas: slow on a card, and zeros or
 * the end of the GPU's process on a rasteriser. With them sizes are also computed without the card, as they should be.
 *
 * @param {any} backend of TF.js 4.22, whose fields these are
 */
function keepNumbers(backend) {
  const upload = backend.uploadToGPU.bind(backend);
  backend.uploadToGPU = (/** @type {object} */ dataId) => {
    const { values, shape } = backend.tensorMap.get(dataId);
    upload(dataId);
    if (values && numbersIn(shape) < SMALL) backend.tensorMap.get(dataId).values = values;
  };
  backend.shouldExecuteOnCPU = (/** @type {{ dataId: object, shape: number[] }[]} */ inputs, limit = SMALL) =>
    inputs.every(({ dataId, shape }) => backend.tensorMap.get(dataId).values && numbersIn(shape) < limit);
}

/** @param {number[]} shape */
function numbersIn(shape) {
  return shape.reduce((product, size) => product * size, 1);
}

/**
 * @param {Tf} tf
 * @param {string | URL} url
 * @param {Progress} onProgress
 * @returns {Promise<Model>}
 */
async function load(tf, url, onProgress) {
  const artifacts = await fetchArtifacts(new URL(url, globalThis.location?.href), onProgress);
  const graph = await tf.loadGraphModel({ load: async () => artifacts });
  if (graph.inputs.length !== 1) throw new Error(`the model has ${graph.inputs.length} inputs, not one`);
  onProgress(1);
  return {
    layout: "NHWC",
    shape: graph.inputs[0].shape ?? [-1, -1, -1, -1],
    run: (data, shape) => run(tf, graph, data, shape),
    memory: () => memory(tf),
    dispose: () => graph.dispose(),
  };
}

/**
 * Fetch model.json and its weights.
 *
 * @param {URL} url
 * @param {Progress} onProgress
 */
async function fetchArtifacts(url, onProgress) {
  const json = await fetchJson(url);
  if (!json?.modelTopology || !Array.isArray(json.weightsManifest)) {
    throw new Error("model.json is damaged: it has no modelTopology or no weightsManifest");
  }
  const weightSpecs = json.weightsManifest.flatMap((/** @type {any} */ group) => group.weights);
  const paths = json.weightsManifest.flatMap((/** @type {any} */ group) => group.paths);
  const expected = weightSpecs.reduce((/** @type {number} */ sum, /** @type {any} */ spec) => sum + bytesOf(spec), 0);
  let before = 0;
  const chunks = [];
  for (const path of paths) {
    const chunk = await fetchBytes(new URL(path, url), (received) => onProgress((before + received) / (expected + 1)));
    before += chunk.length;
    chunks.push(chunk);
  }
  if (before !== expected) {
    throw new Error(`the model is damaged: its weights have ${before} bytes, model.json tells of ${expected}`);
  }
  return { ...json, weightSpecs, weightData: joined(chunks, before).buffer };
}

/**
 * Return the bytes of one weight as it is stored.
 *
 * @param {{ shape: number[], dtype: string, quantization?: { dtype: string } }} spec
 */
export function bytesOf(spec) {
  const dtype = spec.quantization?.dtype ?? spec.dtype;
  const width = WIDTHS[dtype];
  if (!width) throw new Error(`a weight of the type ${dtype} can't be loaded`);
  return numbersIn(spec.shape) * width;
}

/**
 * @param {Tf} tf
 * @param {any} graph
 * @param {Float32Array} data
 * @param {number[]} shape
 */
async function run(tf, graph, data, shape) {
  const output = tf.tidy(() => {
    const outputs = graph.execute(tf.tensor(data, shape, "float32"));
    return Array.isArray(outputs) ? outputs[0] : outputs;
  });
  const picture = { data: await output.data(), shape: output.shape };
  output.dispose();
  return picture;
}

/** @param {Tf} tf */
function memory(tf) {
  if (tf.getBackend() === "wasm") return { wasm: tf.backend().wasm.HEAPU8.byteLength };
  const { numBytesInGPUAllocated, numBytesAllocatedInGPU, numBytesInGPU } = tf.memory();
  const gpu = numBytesInGPUAllocated ?? numBytesAllocatedInGPU ?? numBytesInGPU;
  return gpu === undefined ? {} : { gpu };
}
