/**
 * The choice of a model and of what it runs on.
 * @module
 */

import { fetchJson } from "../shared/fetching.js";
import { count, element, megabytes, radio, showFacts, small } from "./page.js";
import { BACKENDS } from "./protocol.js";

/** @typedef {import("../shared/spec.js").ModelCard} ModelCard */
/** @typedef {import("./protocol.js").Backend} Backend */
/** @typedef {import("./protocol.js").Backends} Backends */
/** @typedef {{title: string, about: string, sample: string}} TaskCard */
/** @typedef {{card: ModelCard, task: TaskCard, model: string}} Exhibit model: address of its model.json */

/** @type {Record<Backend, [string, string]>} */
const TOLD = {
  webgpu: ["WebGPU", "graphics card, newest way"],
  webgl: ["WebGL", "graphics card"],
  wasm: ["WASM", "processor, compiled code"],
  cpu: ["CPU", "processor, plain JavaScript: slow"],
};

const tasks = element("task", HTMLSelectElement);
const models = element("model", HTMLSelectElement);
const backends = element("backends", HTMLFieldSetElement);

/** @param {Backend} backend */
export function backendName(backend) {
  return TOLD[backend][0];
}

/**
 * Read what is on show: models.json, and the manifest beside each model.
 * @returns {Promise<Exhibit[]>}
 */
export async function readExhibits() {
  const listed = await fetchJson(new URL("models.json", document.baseURI));
  return Promise.all(
    listed.models.map(async (/** @type {string} */ place) => {
      const folder = new URL(`${place}/`, document.baseURI);
      const card = /** @type {ModelCard} */ (await fetchJson(new URL("manifest.json", folder)));
      return { card, task: listed.tasks[card.task], model: new URL("model.json", folder).href };
    }),
  );
}

/**
 * Offer what there is to do, and the models that do it.
 * @param {Exhibit[]} exhibits
 * @param {() => void} onChange
 */
export function offerModels(exhibits, onChange) {
  const titles = new Map(exhibits.map(({ card, task }) => [card.task, task.title]));
  tasks.replaceChildren(...Array.from(titles, ([name, title]) => new Option(title, name)));
  element("wanted", HTMLDivElement).hidden = titles.size < 2;
  tasks.addEventListener("change", () => {
    offerModelsOf(tasks.value, exhibits);
    onChange();
  });
  models.addEventListener("change", () => {
    describe(chosenExhibit(exhibits));
    onChange();
  });
  offerModelsOf(tasks.value, exhibits);
}

/**
 * @param {string} task
 * @param {Exhibit[]} exhibits
 */
function offerModelsOf(task, exhibits) {
  const able = exhibits.filter(({ card }) => card.task === task);
  models.replaceChildren(...able.map(({ card }) => new Option(`${card.name} (${megabytes(card.bytes)})`, card.id)));
  describe(able[0]);
}

/** @param {Exhibit} exhibit */
function describe({ card, task }) {
  element("about", HTMLParagraphElement).textContent = task.about;
  showFacts(element("card", HTMLDListElement), [
    ["Download", megabytes(card.bytes), `weights stored as ${card.weights}`],
    ["Parameters", count(card.parameters)],
    ["Works at", sizeOf(card.input)],
  ]);
  const scores = card.metrics.filter(({ name }) => name !== "loss");
  element("scores", HTMLDetailsElement).hidden = scores.length === 0;
  element("measured", HTMLParagraphElement).textContent = card.images
    ? `Measured when it was made, on ${count(card.images)} ${card.images === 1 ? "picture" : "pictures"} it was not taught with.`
    : "Measured when it was made, on pictures it was not taught with.";
  showFacts(element("metrics", HTMLDListElement), scores.map(scored));
}

/** @param {import("../shared/spec.js").ImageSpec} input */
function sizeOf({ width, height, fit, dynamic }) {
  if (fit === "native" && dynamic) return "the photo's own size";
  return `${fit === "native" ? "tiles of " : ""}${width} × ${height} pixels`;
}

/**
 * @param {import("../shared/spec.js").Score} score
 * @returns {[string, string, string]}
 */
function scored({ title, value, unit, better, help }) {
  const measured = ["1", "count"].includes(unit) ? "" : ` ${unit}`;
  const way = better === "none" ? "" : `; ${better} is better`;
  return [title, `${value.toLocaleString("en", { maximumSignificantDigits: 4 })}${measured}`, help + way];
}

/**
 * @param {Exhibit[]} exhibits
 * @returns {Exhibit}
 */
export function chosenExhibit(exhibits) {
  return /** @type {Exhibit} */ (exhibits.find(({ card }) => card.id === models.value));
}

/**
 * @param {Backends} found
 * @param {() => void} onChange
 */
export function offerBackends(found, onChange) {
  const best = bestOf(found);
  for (const backend of BACKENDS) {
    const { available, reason, software, renderer } = found[backend];
    const { input, label: line } = radio("backend", backend, backend === best);
    const [name, about] = TOLD[backend];
    const more = small(available ? (software ? "imitated by the processor here: slow" : about) : `not here: ${reason}`);
    line.title = renderer;
    line.className = available ? "backend" : "backend lacking";
    line.append(input, name, more);
    input.disabled = !available;
    input.addEventListener("change", onChange);
    backends.append(line);
  }
}

/**
 * The fastest: a graphics card where there is one, and never one that the processor pretends to be.
 * @param {Backends} found
 * @returns {Backend}
 */
export function bestOf(found) {
  const real = BACKENDS.find((backend) => found[backend].available && !found[backend].software);
  return real ?? "cpu";
}

/** @returns {Backend} */
export function chosenBackend() {
  const checked = /** @type {HTMLInputElement | null} */ (backends.querySelector("input:checked"));
  return /** @type {Backend} */ (checked?.value ?? "cpu");
}
