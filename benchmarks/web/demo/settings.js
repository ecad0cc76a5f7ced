/**
 * The choice of a model and of what it runs on.
 * @module
 */

import { fetchJson } from "../shared/fetching.js";
import { count, element, megabytes, radio, showFacts } from "./page.js";
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

const select = element("model", HTMLSelectElement);
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
 * @param {Exhibit[]} exhibits
 * @param {() => void} onChange
 */
export function offerModels(exhibits, onChange) {
  const groups = new Map(exhibits.map(({ task }) => [task.title, document.createElement("optgroup")]));
  for (const [title, group] of groups) group.label = title;
  exhibits.forEach(({ card, task }, place) => {
    groups.get(task.title)?.append(new Option(`${card.name} (${megabytes(card.bytes)})`, String(place)));
  });
  select.replaceChildren(...groups.values());
  select.addEventListener("change", () => {
    describe(exhibits[select.selectedIndex]);
    onChange();
  });
  describe(exhibits[0]);
}

/** @param {Exhibit} exhibit */
function describe({ card, task }) {
  element("about", HTMLParagraphElement).textContent = task.about;
  const { width, height, fit, dynamic } = card.input;
  const own =
    fit === "native" ? (dynamic ? "the photo's own" : `tiles of ${width} × ${height}`) : `${width} × ${height}`;
  showFacts(element("card", HTMLDListElement), [
    ["Download", `${megabytes(card.bytes)}, ${card.weights}`],
    ["Parameters", count(card.parameters)],
    ["Sees", `${own} pixels`],
    ...card.metrics
      .filter(({ name }) => name !== "loss")
      .slice(0, 3)
      .map(({ name, value, help }) => /** @type {[string, string, string]} */ ([label(name), shown(value), help])),
  ]);
}

/** @param {string} name of a metric */
function label(name) {
  return name.length <= 4 ? name.toUpperCase() : name[0].toUpperCase() + name.slice(1).replaceAll("_", " ");
}

/** @param {number} value */
function shown(value) {
  return value.toLocaleString("en", { maximumSignificantDigits: 3 });
}

/** @returns {number} place of the chosen model */
export function chosenModel() {
  return select.selectedIndex;
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
    const more = document.createElement("small");
    more.textContent = available ? (software ? "drawn by the processor here: slow" : about) : `not here: ${reason}`;
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
