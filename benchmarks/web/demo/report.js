/**
 * What is told of a run: times, sizes, what it was computed on, which classes it found.
 * @module
 */

import { nameOf } from "./compare.js";
import { count, element, median, seconds, showFacts } from "./page.js";
import { backendName } from "./settings.js";

/** @typedef {import("./protocol.js").Outcome} Outcome */

const MOST_CLASSES = 12; // of a legend: beyond, they are specks

/** The times of one model on one backend, and how they are shown. */
export class Report {
  /** @type {number | null} */
  #load = null;
  /** @type {number | null} */
  #first = null;
  /** @type {number[]} */
  #later = [];

  /** Begin anew: what was measured is another model's or another backend's. */
  forget() {
    [this.#load, this.#first, this.#later] = [null, null, []];
  }

  /**
   * @param {Outcome} outcome
   * @param {string} kind of the picture that is shown
   * @returns {string} a line on it
   */
  add(outcome, kind) {
    if (outcome.load !== null) this.#load = outcome.load;
    if (outcome.first) this.#first = outcome.run;
    else this.#later.push(outcome.run);
    this.#showTimes(outcome);
    showLegend(outcome);
    return `Done in ${seconds(outcome.run)}: ${nameOf(kind).toLowerCase()} of ${outcome.width} × ${outcome.height} pixels.`;
  }

  /** @param {Outcome} outcome */
  #showTimes({ width, height, engine }) {
    const later = `Later run${this.#later.length > 1 ? `s, median of ${count(this.#later.length)}` : ""}`;
    const threads = engine.threads > 1 ? `, ${engine.threads} threads` : "";
    const list = element("facts", HTMLDListElement);
    showFacts(list, [
      ["Photo", `${width} × ${height}`],
      ["Load", this.#load === null ? "–" : seconds(this.#load), "TensorFlow.js and the model"],
      ["First run", this.#first === null ? "–" : seconds(this.#first), "the backend compiles its programs in it"],
      [later, this.#later.length ? seconds(median(this.#later)) : "–"],
      ["Computed on", `${backendName(engine.backend)}${threads}`, engine.renderer],
    ]);
    list.hidden = false;
  }
}

/** @param {Outcome} outcome */
function showLegend({ legend }) {
  const list = element("legend", HTMLUListElement);
  list.hidden = legend.length === 0;
  list.replaceChildren(
    ...legend.slice(0, MOST_CLASSES).map(({ name, color, share }) => {
      const [line, swatch] = [document.createElement("li"), document.createElement("i")];
      swatch.style.background = `rgb(${color.join(" ")})`;
      line.append(swatch, `${name} ${share < 0.01 ? "< 1" : Math.round(share * 100)} %`);
      return line;
    }),
  );
}
