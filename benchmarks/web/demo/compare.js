/**
 * The photo and one of its pictures over each other, with a divider between them, and the choice of the picture.
 * @module
 */

import { element, radio } from "./page.js";

/** @typedef {import("./protocol.js").Outcome} Outcome */

/** @type {Record<string, string>} */
const NAMES = { mask: "Mask", cutout: "Cut-out", retouched: "Retouched", overlay: "Overlay", color: "Coloured" };
const SHOWN_FIRST = ["cutout", "overlay"]; // what tells more than the prediction itself

const compare = element("compare", HTMLDivElement);
const before = element("before", HTMLCanvasElement);
const after = element("after", HTMLCanvasElement);
const split = element("split", HTMLInputElement);
const choices = element("pictures", HTMLFieldSetElement);

let chosen = "";

split.addEventListener("input", () => {
  compare.style.setProperty("--split", `${split.value}%`);
});

/** @param {string} kind of a picture */
function nameOf(kind) {
  return NAMES[kind] ?? kind;
}

/** The kind of the picture that is shown. */
export function shownKind() {
  return chosen;
}

/**
 * @param {Outcome} outcome
 * @param {boolean} grey whether the network sees no colours: they are not shown beside its own
 */
export function show(outcome, grey) {
  const kinds = outcome.pictures.map(({ kind }) => kind);
  if (!kinds.includes(chosen)) chosen = SHOWN_FIRST.find((kind) => kinds.includes(kind)) ?? kinds[0];
  compare.style.setProperty("--ratio", String(outcome.width / outcome.height));
  draw(before, outcome.photo);
  before.classList.toggle("grey", grey);
  const name = grey ? "Photo in grey" : "Photo";
  before.setAttribute("aria-label", name);
  element("tag-before", HTMLSpanElement).textContent = name;
  const legend = choices.firstElementChild;
  choices.replaceChildren(...(legend ? [legend] : []), ...kinds.flatMap((kind) => choice(kind, outcome)));
  choices.hidden = kinds.length < 2;
  showPicture(outcome);
  compare.hidden = false;
}

/**
 * @param {string} kind
 * @param {Outcome} outcome
 */
function choice(kind, outcome) {
  const { input, label } = radio("picture", kind, kind === chosen);
  input.className = "unseen";
  label.textContent = nameOf(kind);
  input.addEventListener("change", () => {
    chosen = kind;
    showPicture(outcome);
  });
  return [input, label];
}

/** @param {Outcome} outcome */
function showPicture(outcome) {
  const picture = outcome.pictures.find(({ kind }) => kind === chosen);
  if (!picture) return;
  draw(after, picture.bitmap);
  after.setAttribute("aria-label", nameOf(chosen));
  element("tag-after", HTMLSpanElement).textContent = nameOf(chosen);
}

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ImageBitmap} bitmap
 */
function draw(canvas, bitmap) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d")?.drawImage(bitmap, 0, 0);
}
