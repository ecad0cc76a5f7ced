/**
 * What the page and its worker tell each other.
 * @module
 */

/** @typedef {import("../shared/spec.js").ModelCard} ModelCard */
/** @typedef {import("../shared/engine.js").Backend} Backend */

/**
 * @typedef {object} Wish one photo through one model
 * @property {ModelCard} card
 * @property {string} model address of its model.json
 * @property {string} vendor address of the runtime's packages
 * @property {Backend} backend
 * @property {Blob} file
 */

/** @typedef {{kind: string, bitmap: ImageBitmap}} Shown a picture scaled for the screen */

/**
 * @typedef {object} Outcome
 * @property {number} width of the photo
 * @property {number} height
 * @property {ImageBitmap} photo
 * @property {Shown[]} pictures
 * @property {import("../shared/pictures.js").Pictures} drawn the same at the photo's size
 * @property {import("./legend.js").Entry[]} legend
 * @property {number | null} load seconds that runtime and model took, null where they were there already
 * @property {number} run seconds from the prepared photo to the prediction
 * @property {boolean} first whether the model ran for the first time
 * @property {import("../shared/engine.js").Describe} engine
 */

/** @typedef {Record<Backend, import("../shared/probe.js").Found>} Backends */
/** @typedef {{stage: string, fraction: number | null}} Step */

/**
 * @typedef {{id: number, does: "probe"} | {id: number, does: "run", wish: Wish}
 *   | {id: number, does: "save", picture: import("../shared/spec.js").Picture}} Request
 */

/**
 * @typedef {{id: number, step: Step} | {id: number, result: any} | {id: number, failed: Failure}} Answer
 */

/** @typedef {{message: string, spent: boolean}} Failure spent: the worker can't go on, a fresh one may */

/** @type {readonly Backend[]} */
export const BACKENDS = ["webgpu", "webgl", "wasm", "cpu"];
