// @ts-check
/** ONNX files (NCHW) on onnxruntime-web, on WASM or WebGPU. */

import { fetchBytes } from "./fetching.js";

/**
 * @typedef {import("./engine.js").EngineOptions} EngineOptions
 * @typedef {import("./engine.js").Model} Model
 * @typedef {import("./engine.js").Progress} Progress
 * @typedef {any} Ort the module onnxruntime-web, imported by its address
 */

const DIST = "onnxruntime-web/dist/";
const BUNDLES = /** @type {Record<string, string>} */ ({
  wasm: "ort.wasm.bundle.min.mjs",
  webgpu: "ort.webgpu.bundle.min.mjs",
});

const IDENTITY = "CAgSADo3ChAKAXgSAXkiCElkZW50aXR5EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ==";

/**
 * Start onnxruntime-web on a backend.
 *
 * @param {EngineOptions} options
 * @param {import("./probe.js").Found} found
 * @returns {Promise<import("./engine.js").Engine>}
 */
export async function openOrt(options, found) {
  const { backend, vendor, threads = 0, half = false } = options;
  const bundle = BUNDLES[backend];
  if (!bundle) throw new Error(`onnxruntime-web is run on wasm and webgpu here, not on ${backend}`);
  if (half) throw new Error("float16 textures are TF.js' WebGL's, not onnxruntime-web's");
  const base = new URL(String(vendor).replace(/\/?$/, "/"), globalThis.location?.href);
  const ort = (await import(new URL(DIST + bundle, base).href)).default;
  ort.env.logLevel = "error";
  if (threads > 0) ort.env.wasm.numThreads = threads;
  const heap = watchHeap();
  try {
    await start(ort, backend);
  } finally {
    heap.stop();
  }
  return {
    describe: {
      runtime: "ort-web",
      version: ort.env.versions.web ?? ort.env.versions.common,
      backend,
      provider: backend,
      threads: backend === "wasm" ? Math.max(1, ort.env.wasm.numThreads) : 0,
      simd: true, // it has no build without
      renderer: found.renderer,
      software: found.software,
      half: false,
    },
    load: (url, { onProgress = () => {} } = {}) => load(ort, backend, url, onProgress, heap),
    close: () => {},
  };
}

/**
 * Fetch and start the WASM module now, with a model of one Identity: onnxruntime-web does so at its first model only.
 *
 * @param {Ort} ort
 * @param {string} backend
 */
async function start(ort, backend) {
  const bytes = Uint8Array.from(atob(IDENTITY), (letter) => letter.charCodeAt(0));
  const session = await ort.InferenceSession.create(bytes, { executionProviders: [backend] });
  await session.release();
}

/**
 * @param {Ort} ort
 * @param {string} backend
 * @param {string | URL} url
 * @param {Progress} onProgress
 * @param {{ bytes: () => number }} heap
 * @returns {Promise<Model>}
 */
async function load(ort, backend, url, onProgress, heap) {
  const bytes = await fetchBytes(url, (received, total) => total && onProgress(received / (total + 1)));
  const session = await ort.InferenceSession.create(bytes, {
    executionProviders: [backend],
    graphOptimizationLevel: "all",
  });
  const [input, ...more] = session.inputMetadata;
  if (!input?.isTensor || more.length)
    throw new Error(`the model has ${session.inputNames.length} inputs, not one tensor`);
  if (input.type !== "float32") throw new Error(`the model takes numbers of the type ${input.type}, not float32`);
  onProgress(1);
  return {
    layout: "NCHW",
    shape: input.shape.map((/** @type {number | string} */ size) => (typeof size === "number" ? size : -1)),
    run: (data, shape) => run(ort, session, data, shape),
    memory: () => ({ wasm: heap.bytes() }),
    dispose: () => session.release(),
  };
}

/**
 * @param {Ort} ort
 * @param {any} session
 * @param {Float32Array} data
 * @param {number[]} shape
 */
async function run(ort, session, data, shape) {
  const input = new ort.Tensor("float32", data, shape);
  const outputs = await session.run({ [session.inputNames[0]]: input }, [session.outputNames[0]]);
  const output = outputs[session.outputNames[0]];
  const picture = { data: await output.getData(), shape: [...output.dims] };
  output.dispose();
  return picture;
}

/** Remember the WASM memory that is made: onnxruntime-web doesn't tell how large its own is. */
function watchHeap() {
  const Original = WebAssembly.Memory;
  const memories = /** @type {WebAssembly.Memory[]} */ ([]);
  class Watched extends Original {
    /** @param {WebAssembly.MemoryDescriptor} descriptor */
    constructor(descriptor) {
      super(descriptor);
      memories.push(this);
    }
  }
  WebAssembly.Memory = Watched;
  return {
    bytes: () => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0),
    stop: () => {
      WebAssembly.Memory = Original;
    },
  };
}
