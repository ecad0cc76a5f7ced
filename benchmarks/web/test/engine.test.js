// @ts-check
import assert from "node:assert/strict";
import { test } from "node:test";
import { timeRuns } from "../bench/timing.js";
import { bytesOf } from "../shared/engine-tfjs.js";
import { openEngine } from "../shared/engine.js";
import { fetchBytes, fetchJson, joined, nameOf } from "../shared/fetching.js";
import { isSoftware, probeBackend, rendererOf } from "../shared/probe.js";

/** @param {string | Uint8Array} content */
function url(content) {
  return `data:application/octet-stream;base64,${Buffer.from(content).toString("base64")}`;
}

test("rasterisers are told from cards", () => {
  for (const name of [
    "ANGLE (Google, Vulkan 1.3.0 (SwiftShader Device (Subzero) (0x0000C0DE)), SwiftShader driver)",
    "llvmpipe, or similar",
    "llvmpipe (LLVM 15.0.6, 256 bits)",
    "Microsoft Basic Render Driver",
    "google swiftshader",
    "Software Rasterizer",
  ]) {
    assert.ok(isSoftware(name), name);
  }
  for (const name of [
    "ANGLE (NVIDIA, NVIDIA GeForce RTX 3060 (0x00002503) Direct3D11 vs_5_0 ps_5_0, D3D11)",
    "ANGLE (Apple, ANGLE Metal Renderer: Apple M1, Unspecified Version)",
    "Intel(R) HD Graphics 400, or similar",
    "Mali-G78",
    "",
  ]) {
    assert.ok(!isSoftware(name), name);
  }
});

test("the renderer is asked for where the browser tells it", () => {
  /** @param {string} plain @param {string} [unmasked] */
  const context = (plain, unmasked) =>
    /** @type {any} */ ({
      RENDERER: 1,
      getExtension: () => (unmasked ? { UNMASKED_RENDERER_WEBGL: 2 } : null),
      getParameter: (/** @type {number} */ key) => (key === 1 ? plain : unmasked),
    });
  assert.equal(rendererOf(context("WebKit WebGL", "card")), "card");
  assert.equal(rendererOf(context("WebKit WebGL")), "WebKit WebGL");
  assert.equal(rendererOf(context("llvmpipe, or similar", "other")), "llvmpipe, or similar");
});

test("a backend that is not there is an error, not another backend", async () => {
  Object.defineProperty(globalThis, "navigator", { value: {}, configurable: true }); // as in a browser without WebGPU
  const options = /** @type {const} */ ({ runtime: "tfjs", backend: "webgpu", vendor: "http://127.0.0.1:9/" });
  await assert.rejects(openEngine(options), /this browser has no WebGPU$/);
  const gpu = { requestAdapter: async () => null };
  Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
  await assert.rejects(openEngine(options), /this browser has no WebGPU adapter$/);
  assert.equal((await probeBackend("wasm")).available, true);
});

test("an adapter that the browser itself falls back to is software", async () => {
  const info = { vendor: "acme", architecture: "", device: "", description: "Fast", isFallbackAdapter: true };
  const gpu = { requestAdapter: async () => ({ info }) };
  Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });
  const found = await probeBackend("webgpu");
  assert.deepEqual(found, { available: true, reason: "", renderer: "acme Fast", software: true });
  info.isFallbackAdapter = false;
  assert.equal((await probeBackend("webgpu")).software, false);
});

test("what a runtime can't do is refused before anything is fetched", async () => {
  const vendor = "http://127.0.0.1:9/";
  await assert.rejects(openEngine({ runtime: "ort-web", backend: "cpu", vendor }), /wasm and webgpu here, not on cpu/);
  await assert.rejects(openEngine({ runtime: "ort-web", backend: "wasm", vendor, half: true }), /float16 textures/);
  await assert.rejects(openEngine({ runtime: "tfjs", backend: "cpu", vendor, half: true }), /float16 textures/);
});

test("weights are counted as they are stored", () => {
  assert.equal(bytesOf({ shape: [3, 3, 2, 4], dtype: "float32" }), 288);
  assert.equal(bytesOf({ shape: [3, 3, 2, 4], dtype: "float32", quantization: { dtype: "uint8" } }), 72);
  assert.equal(bytesOf({ shape: [5], dtype: "float32", quantization: { dtype: "float16" } }), 10);
  assert.equal(bytesOf({ shape: [], dtype: "int32" }), 4);
  assert.throws(() => bytesOf({ shape: [1], dtype: "string" }), /type string/);
});

test("files come whole, with progress, or not at all", async () => {
  const content = new Uint8Array(300_000).map((_, index) => index % 251);
  let last = 0;
  const bytes = await fetchBytes(url(content), (received) => {
    assert.ok(received > last);
    last = received;
  });
  assert.deepEqual(bytes, content);
  assert.equal(last, content.length);
  assert.deepEqual(await fetchJson(url('{"a": 1}')), { a: 1 });
  await assert.rejects(fetchJson(url('{"a": ')), /is damaged/);
  const original = globalThis.fetch;
  try {
    globalThis.fetch = async () => new Response("", { status: 404 });
    await assert.rejects(fetchBytes("http://host/folder/model.bin"), /can't fetch model\.bin: .* 404/);
  } finally {
    globalThis.fetch = original;
  }
});

test("chunks are put together in order", () => {
  assert.deepEqual([...joined([Uint8Array.of(1, 2), Uint8Array.of(), Uint8Array.of(3)], 3)], [1, 2, 3]);
  assert.equal(nameOf("http://host/a/b.bin"), "b.bin");
});

test("each run is timed on its own, after the one before it has ended", async () => {
  const events = /** @type {string[]} */ ([]);
  const clock = [0, 10, 10, 40, 40, 41.5];
  const original = performance.now;
  try {
    performance.now = () => clock.shift() ?? Number.NaN;
    const seconds = await timeRuns(async () => {
      events.push("start");
      await new Promise((resolve) => setTimeout(resolve, 1));
      events.push("end");
    }, 3);
    assert.deepEqual(seconds, [0.01, 0.03, 0.0015]);
  } finally {
    performance.now = original;
  }
  assert.deepEqual(events, ["start", "end", "start", "end", "start", "end"]);
});
