/**
 * The page's side of the worker: requests that are answered, and a worker that can be stopped in the midst of a network.
 * @module
 */

/** @typedef {import("./protocol.js").Answer} Answer */
/** @typedef {import("./protocol.js").Step} Step */
/** @typedef {{resolve: (value: any) => void, reject: (error: Error) => void, onStep: (step: Step) => void}} Waiting */

/** What a request ends with that was stopped. */
export class Stopped extends Error {}

/** One worker at a time; a fresh one starts with the next request. */
export class Session {
  /** @type {Worker | null} */
  #worker = null;
  /** @type {Map<number, Waiting>} */
  #waiting = new Map();
  #count = 0;

  /**
   * @param {Record<string, unknown>} request
   * @param {(step: Step) => void} [onStep]
   * @returns {Promise<any>}
   */
  ask(request, onStep = () => {}) {
    const worker = this.#worker ?? this.#start();
    const id = ++this.#count;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, onStep });
      worker.postMessage({ ...request, id });
    });
  }

  /** End the worker, whatever it is at. */
  stop() {
    this.#end(new Stopped("stopped"));
  }

  #start() {
    const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
    worker.addEventListener("message", (event) => this.#answered(event.data));
    worker.addEventListener("error", (event) => {
      this.#end(new Error(event.message ? `The worker failed: ${event.message}` : "The worker could not be started."));
    });
    this.#worker = worker;
    return worker;
  }

  /** @param {Answer} answer */
  #answered(answer) {
    const waiting = this.#waiting.get(answer.id);
    if (!waiting) return;
    if ("step" in answer) {
      waiting.onStep(answer.step);
      return;
    }
    this.#waiting.delete(answer.id);
    if ("result" in answer) {
      waiting.resolve(answer.result);
      return;
    }
    waiting.reject(new Error(answer.failed.message));
    if (answer.failed.spent) this.stop();
  }

  /** @param {Error} error */
  #end(error) {
    this.#worker?.terminate();
    this.#worker = null;
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const { reject } of waiting) reject(error);
  }
}
