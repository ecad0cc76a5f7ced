/**
 * What is told of a run: times, sizes, what it was computed on, which classes it found.
 * @module
 */

import { element, median, seconds, showFacts } from "./page.js";
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
   * @returns {string} a line on it
   */
  add(outcome) {
    if (outcome.load !== null) this.#load = outcome.load;
    if (outcome.first) this.#first = outcome.run;
    else this.#later.push(outcome.run);
    this.#showTimes(outcome);
    showLegend(outcome);
    return `Done in ${seconds(outcome.run)}.`;
  }

  /** @param {Outcome} outcome */
  #showTimes({ width, height, engine }) {
    const threads = engine.threads > 1 ? `, ${engine.threads} threads` : "";
    /** @type {[string, string, string?][]} */
    const facts = [["Photo", `${width} × ${height}`]];
    if (this.#load !== null) facts.push(["Loading", seconds(this.#load), "runtime and model"]);
    if (this.#first !== null) facts.push(["First run", seconds(this.#first), "with warm-up"]);
    const many = this.#later.length;
    if (many > 0) facts.push(["Later", seconds(median(this.#later)), many > 1 ? `median of ${many} runs` : "one run"]);
    facts.push(["Computed on", `${backendName(engine.backend)}${threads}`, engine.renderer]);
    const list = element("facts", HTMLDListElement);
    showFacts(list, facts);
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
