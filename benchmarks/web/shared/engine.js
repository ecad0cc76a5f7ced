// @ts-check
/** One way to run a network in a browser, whatever runtime does it. Works in a page and in a module worker. */

import { requireBackend } from "./probe.js";

/**
 * @typedef {"tfjs" | "ort-web"} Runtime
 * @typedef {"webgl" | "wasm" | "webgpu" | "cpu"} Backend
 * @typedef {{ runtime: Runtime, backend: Backend, vendor: string | URL, threads?: number, half?: boolean }} EngineOptions
 *   vendor: base address of the runtimes' npm packages, laid out as in node_modules; threads: 0 for the runtime's choice;
 *   half: numbers of 16 bits where the backend can (float16 textures of WebGL)
 * @typedef {(fraction: number) => void} Progress
 * @typedef {{ data: Float32Array, shape: number[] }} Picture
 * @typedef {{ gpu?: number, wasm?: number }} Memory bytes held now
 * @typedef {object} Model
 * @property {"NHWC" | "NCHW"} layout of what `run` takes and gives
 * @property {number[]} shape that the input must have, -1 where any will do
 * @property {(data: Float32Array, shape: number[]) => Promise<Picture>} run
 * @property {() => Memory} memory
 * @property {() => void | Promise<void>} dispose
 * @typedef {{ runtime: Runtime, version: string, backend: Backend, provider: string, threads: number, simd: boolean,
 *   renderer: string, software: boolean, half: boolean }} Describe
 * @typedef {object} Engine
 * @property {Describe} describe
 * @property {(url: string | URL, options?: { onProgress?: Progress }) => Promise<Model>} load
 * @property {() => void} close
 */

/**
 * Fetch a runtime, start its backend, and make sure that it is that backend which runs.
 *
 * @param {EngineOptions} options
 * @returns {Promise<Engine>}
 * @throws {Error} if this browser lacks the backend: there is no silent fall back to another one
 */
export async function openEngine(options) {
  const found = await requireBackend(options.backend);
  if (options.runtime === "tfjs") {
    const { openTfjs } = await import("./engine-tfjs.js");
    return openTfjs(options, found);
  }
  const { openOrt } = await import("./engine-ort.js");
  return openOrt(options, found);
}
