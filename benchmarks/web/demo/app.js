/**
 * The page: what is chosen, what is asked of the worker, what comes of it.
 * @module
 */

import { show, shownKind } from "./compare.js";
import { onPhoto } from "./intake.js";
import { element } from "./page.js";
import { Report } from "./report.js";
import { Session, Stopped } from "./session.js";
import { chosenBackend, chosenExhibit, offerBackends, offerModels, readExhibits } from "./settings.js";

/** @typedef {import("./protocol.js").Outcome} Outcome */
/** @typedef {import("./protocol.js").Step} Step */
/** @typedef {import("./settings.js").Exhibit} Exhibit */

const stage = element("stage", HTMLElement);
const bar = element("bar", HTMLDivElement);
const status = element("status", HTMLParagraphElement);
const error = element("error", HTMLDivElement);
const progress = element("progress", HTMLProgressElement);
const cancel = element("cancel", HTMLButtonElement);
const again = element("again", HTMLButtonElement);
const save = element("save", HTMLButtonElement);
const sample = element("sample", HTMLButtonElement);

const session = new Session();
/** @type {Exhibit[]} */
let exhibits = [];
/** @type {Blob | null} */
let photo = null;
let photoName = "photo";
/** @type {{name: string, drawn: import("../shared/pictures.js").Pictures}} the photo whose pictures are shown, and they */
let result = { name: "", drawn: {} };
let sampleOf = ""; // task whose made-up picture the photo is
let runsOn = ""; // backend that the worker was started with
let turns = 0; // runs that were begun: the answer to an earlier one counts no more
const report = new Report();

start().catch(fail);

async function start() {
  element("unserved", HTMLParagraphElement).hidden = true;
  element("main", HTMLElement).hidden = false;
  status.textContent = "Looking at what this browser can do …";
  const [found, backends] = await Promise.all([readExhibits(), session.ask({ does: "probe" })]);
  exhibits = found;
  offerModels(exhibits, renew);
  offerBackends(backends, renew);
  onPhoto((file) => {
    photo = file;
    photoName = file.name.replace(/\.[^.]*$/, "") || "photo";
    sampleOf = "";
    run();
  }, fail);
  cancel.addEventListener("click", () => {
    session.stop();
    status.textContent = "Cancelled.";
  });
  again.addEventListener("click", run);
  save.addEventListener("click", () => download().catch(fail));
  sample.addEventListener("click", () => takeSample().catch(fail));
  document.documentElement.dataset.ready = "true";
  status.textContent = "Ready. Choose a photo.";
}

/** Another model or backend: what was measured is another's. A made-up picture follows the task. */
function renew() {
  report.forget();
  if (sampleOf && sampleOf !== chosenExhibit(exhibits).card.task) takeSample().catch(fail);
  else if (photo) run();
}

async function run() {
  const exhibit = chosenExhibit(exhibits);
  const backend = chosenBackend();
  if (!photo) return;
  if (cancel.hidden === false || (runsOn && runsOn !== backend)) session.stop(); // a network can't be interrupted otherwise
  runsOn = backend;
  const turn = ++turns;
  const name = photoName;
  const { card, model } = exhibit;
  const vendor = new URL("vendor/", document.baseURI).href;
  busy(true);
  try {
    const outcome = await session.ask({ does: "run", wish: { card, model, vendor, backend, file: photo } }, tell);
    if (turn !== turns) return;
    finish(outcome, card.input.color === "lightness");
    result = { name, drawn: outcome.drawn };
  } catch (reason) {
    if (turn === turns) fail(reason);
  } finally {
    if (turn === turns) busy(false);
  }
}

/** @param {boolean} on */
function busy(on) {
  stage.setAttribute("aria-busy", String(on));
  progress.hidden = !on;
  cancel.hidden = !on;
  again.disabled = on;
  save.disabled = on;
  if (!on) return;
  error.hidden = true;
  if (stage.getBoundingClientRect().top > window.innerHeight / 2) stage.scrollIntoView();
  progress.removeAttribute("value");
}

/** @param {Step} step */
function tell({ stage: told, fraction }) {
  const line = `${told} …`;
  if (status.textContent !== line) status.textContent = line; // a screen reader says it once
  if (fraction === null) progress.removeAttribute("value");
  else progress.value = fraction;
}

/**
 * @param {Outcome} outcome
 * @param {boolean} grey whether the network sees no colours
 */
function finish(outcome, grey) {
  show(outcome, grey);
  bar.hidden = false;
  element("empty", HTMLLabelElement).hidden = true;
  status.textContent = report.add(outcome);
}

/** @param {unknown} reason */
function fail(reason) {
  if (reason instanceof Stopped) return;
  status.textContent = "";
  error.textContent = reason instanceof Error ? reason.message : String(reason);
  error.hidden = false;
  error.scrollIntoView({ block: "nearest" });
}

async function download() {
  const kind = shownKind();
  const png = await session.ask({ does: "save", picture: result.drawn[kind] });
  const link = document.createElement("a");
  link.href = URL.createObjectURL(png);
  link.download = `${result.name}.${kind}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000); // by then the browser has taken it
  status.textContent = `Saved ${link.download}.`;
}

async function takeSample() {
  const { card, task } = chosenExhibit(exhibits);
  const response = await fetch(new URL(task.sample, document.baseURI));
  if (!response.ok) throw new Error(`The made-up picture can't be loaded: the server answered ${response.status}.`);
  photo = await response.blob();
  photoName = "made-up";
  sampleOf = card.task;
  run();
}
