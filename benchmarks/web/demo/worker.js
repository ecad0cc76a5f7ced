/**
 * Everything heavy: reading photos, the network, drawing pictures, packing PNG files.
 * @module
 */

import { openEngine } from "../shared/engine.js";
import { pictures } from "../shared/pictures.js";
import { encodePng } from "../shared/png.js";
import { predict } from "../shared/predict.js";
import { probeBackend } from "../shared/probe.js";
import { legendOf } from "./legend.js";
import { readPhoto } from "./photos.js";
import { BACKENDS } from "./protocol.js";
import { forScreen } from "./screen.js";

/** @typedef {import("./protocol.js").Request} Request */
/** @typedef {import("./protocol.js").Wish} Wish */
/** @typedef {import("./protocol.js").Outcome} Outcome */
/** @typedef {import("./protocol.js").Step} Step */
/** @typedef {import("../shared/engine.js").Engine} Engine */
/** @typedef {import("../shared/engine.js").Model} Model */
/** @typedef {(stage: string, fraction?: number | null) => void} Tell */

const TILE = 1024; // pixels a side above which a photo at its own size goes through in parts, so that memory holds

/** What has happened to a graphics card that is gone. */
class Lost extends Error {}

/** @type {{backend: string, engine: Engine, lost: Promise<never>} | null} */
let running = null;
/** @type {{url: string, model: Model, ran: boolean} | null} */
let loaded = null;

self.addEventListener("message", (event) => {
  /** @type {Request} */
  const request = event.data;
  answer(request).then(
    ({ result, transfer }) => post({ id: request.id, result }, transfer),
    (error) => post({ id: request.id, failed: { message: String(error?.message ?? error), spent: isSpent(error) } }),
  );
});

/**
 * @param {Request} request
 * @returns {Promise<{result: unknown, transfer?: Transferable[]}>}
 */
async function answer(request) {
  if (request.does === "probe") return { result: await probe() };
  if (request.does === "save") return { result: await encodePng(request.picture) };
  const result = await run(request.wish, (stage, fraction = null) =>
    post({ id: request.id, step: { stage, fraction } }),
  );
  const shown = [result.photo, ...result.pictures.map(({ bitmap }) => bitmap)];
  return { result, transfer: [...shown, ...Object.values(result.drawn).map(({ data }) => data.buffer)] };
}

async function probe() {
  const found = BACKENDS.map(async (backend) => [backend, await probeBackend(backend)]);
  return Object.fromEntries(await Promise.all(found));
}

/**
 * @param {Wish} wish
 * @param {Tell} tell
 * @returns {Promise<Outcome>}
 */
async function run(wish, tell) {
  const { card } = wish;
  tell("Reading the photo");
  const photo = await readPhoto(wish.file);
  const started = performance.now();
  const { fresh, engine, network } = await ready(wish, tell);
  const load = fresh ? (performance.now() - started) / 1000 : null;
  tell(network.ran ? "Running the network" : "Running the network for the first time");
  const before = performance.now();
  const tile = card.input.fit === "native" && card.input.dynamic ? TILE : 0;
  const onTile = (/** @type {number} */ done, /** @type {number} */ all) => tell("Running the network", done / all);
  const prediction = await unlessLost(predict(network.model, card.input, photo, { tile, onTile }));
  const seconds = (performance.now() - before) / 1000;
  const first = !network.ran;
  network.ran = true;
  tell("Drawing");
  const drawn = pictures(card.task, photo, prediction, card.drawing);
  return {
    width: photo.width,
    height: photo.height,
    photo: await forScreen({ ...photo, channels: 4 }),
    pictures: await Promise.all(
      Object.entries(drawn).map(async ([kind, picture]) => ({ kind, bitmap: await forScreen(picture) })),
    ),
    drawn,
    legend: card.drawing.palette && drawn.mask ? legendOf(drawn.mask, card.drawing) : [],
    load,
    run: seconds,
    first,
    engine: engine.describe,
  };
}

/**
 * Have the runtime started and the model loaded.
 * @param {Wish} wish
 * @param {Tell} tell
 */
async function ready({ backend, vendor, model: url }, tell) {
  let fresh = false;
  if (!running) {
    tell("Starting TensorFlow.js");
    // threads need cross-origin isolation, which only special headers give
    const engine = await openEngine({ runtime: "tfjs", backend, vendor, threads: self.crossOriginIsolated ? 0 : 1 });
    running = { backend, engine, lost: loss(backend) };
    running.lost.catch(() => {}); // told where it matters, in unlessLost
    fresh = true;
  }
  if (running.backend !== backend) throw new Error(`this worker runs ${running.backend}, ${backend} was asked`);
  if (loaded?.url !== url) {
    await loaded?.model.dispose();
    loaded = null;
    tell("Loading the model", 0);
    const onProgress = (/** @type {number} */ fraction) => tell("Loading the model", fraction);
    loaded = { url, model: await unlessLost(running.engine.load(url, { onProgress })), ran: false };
    fresh = true;
  }
  return { fresh, engine: running.engine, network: loaded };
}

/**
 * A promise that fails when the graphics card goes away: a network on it would never end, or end in zeros.
 * @param {string} backend
 * @returns {Promise<never>}
 */
function loss(backend) {
  const device = /** @type {any} */ (globalThis).tf?.backend();
  return new Promise((_, reject) => {
    const gone = () => {
      const name = backend === "webgpu" ? "WebGPU device" : "WebGL context";
      reject(new Lost(`The browser took the graphics card away (lost ${name}). Try again, or run on WASM.`));
    };
    device?.gpgpu?.gl?.canvas?.addEventListener("webglcontextlost", gone);
    device?.device?.lost?.then(gone);
  });
}

/**
 * @template T
 * @param {Promise<T>} work
 * @returns {Promise<T>}
 */
function unlessLost(work) {
  return running ? Promise.race([work, running.lost]) : work;
}

/** @param {unknown} error */
function isSpent(error) {
  return error instanceof Lost || !running || !loaded;
}

/**
 * @param {import("./protocol.js").Answer} message
 * @param {Transferable[]} [transfer]
 */
function post(message, transfer = []) {
  self.postMessage(message, { transfer });
}
