// @ts-check
/// <reference types="@webgpu/types" />
/** What this browser can compute with, and on what: a graphics card or a rasteriser that only pretends to be one. */

/**
 * @typedef {import("./engine.js").Backend} Backend
 * @typedef {{ available: boolean, reason: string, renderer: string, software: boolean }} Found
 *   reason: why it is not available; renderer: the card or the rasteriser behind WebGL and WebGPU; software: it is none
 */

const SOFTWARE = /swiftshader|llvmpipe|lavapipe|softpipe|microsoft basic|software|\bcpu\b/i;

/**
 * Tell whether a renderer's or adapter's name is that of a rasteriser on the processor.
 *
 * @param {string} renderer
 */
export function isSoftware(renderer) {
  return SOFTWARE.test(renderer);
}

/**
 * Find out whether this browser has a backend.
 *
 * @param {Backend} backend
 * @returns {Promise<Found>}
 */
export async function probeBackend(backend) {
  if (backend === "webgl") return probeWebgl();
  if (backend === "webgpu") return probeWebgpu();
  if (backend === "wasm" && typeof WebAssembly === "undefined") return missing("this browser has no WebAssembly");
  return { available: true, reason: "", renderer: "", software: false };
}

/**
 * Return what was found of a backend.
 *
 * @param {Backend} backend
 * @throws {Error} if this browser lacks it
 */
export async function requireBackend(backend) {
  const found = await probeBackend(backend);
  if (!found.available) throw new Error(found.reason);
  return found;
}

/**
 * @param {string} reason
 * @returns {Found}
 */
function missing(reason) {
  return { available: false, reason, renderer: "", software: false };
}

/**
 * @param {string} renderer
 * @param {boolean} [fallback] the browser itself says that it is no card
 * @returns {Found}
 */
function found(renderer, fallback = false) {
  return { available: true, reason: "", renderer, software: fallback || isSoftware(renderer) };
}

function probeWebgl() {
  const canvas = typeof OffscreenCanvas === "undefined" ? document.createElement("canvas") : new OffscreenCanvas(1, 1);
  const context = /** @type {WebGL2RenderingContext | null} */ (canvas.getContext("webgl2"));
  if (!context) return missing("this browser has no WebGL 2");
  const renderer = rendererOf(context);
  context.getExtension("WEBGL_lose_context")?.loseContext();
  return found(renderer);
}

/**
 * Return the name of what draws for a WebGL context.
 *
 * @param {WebGL2RenderingContext} context
 * @returns {string}
 */
export function rendererOf(context) {
  const plain = String(context.getParameter(context.RENDERER));
  if (!/webkit webgl|mozilla/i.test(plain)) return plain; // Firefox tells it here and warns of the extension
  const extension = context.getExtension("WEBGL_debug_renderer_info");
  return extension ? String(context.getParameter(extension.UNMASKED_RENDERER_WEBGL)) : plain;
}

async function probeWebgpu() {
  if (!navigator.gpu) return missing("this browser has no WebGPU");
  const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return missing("this browser has no WebGPU adapter");
  const { vendor, architecture, device, description } = adapter.info;
  const name = [vendor, architecture, device, description].filter(Boolean).join(" ") || "an adapter without a name";
  return found(name, adapter.info.isFallbackAdapter);
}
