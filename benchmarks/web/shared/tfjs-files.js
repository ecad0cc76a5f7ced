// @ts-check
/**
 * The files of TF.js that a page loads, by npm package of @tensorflow; the first one of each is its script.
 * Python (compress/jobs/demo_runtime.py) reads them from here too, as JSON from the first brace to the last.
 */

// prettier-ignore
export const TFJS_FILES = /** @type {const} */ ({
  "tfjs-core": ["dist/tf-core.es2017.min.js"],
  "tfjs-converter": ["dist/tf-converter.es2017.min.js"],
  "tfjs-backend-cpu": ["dist/tf-backend-cpu.es2017.min.js"],
  "tfjs-backend-webgl": ["dist/tf-backend-webgl.es2017.min.js"],
  "tfjs-backend-webgpu": ["dist/tf-backend-webgpu.es2017.min.js"],
  "tfjs-backend-wasm": [
    "dist/tf-backend-wasm.es2017.min.js",
    "dist/tfjs-backend-wasm.wasm",
    "dist/tfjs-backend-wasm-simd.wasm",
    "dist/tfjs-backend-wasm-threaded-simd.wasm"
  ]
});
