// @ts-check
/** Drives one browser for the Python process that started this one: JSON lines in, JSON lines out. */

import { rmSync } from "node:fs";
import { createInterface } from "node:readline";
import { launchBrowser } from "./launch.mjs";

/**
 * @typedef {import("./launch.mjs").Launched} Launched
 * @typedef {import("./launch.mjs").Wish} Wish
 * @typedef {{ id: number, do: string, script?: string, wish?: Wish }} Request
 */

const LEAVE = 3000; // milliseconds that a launch under way has to come to an end

let launching = /** @type {Promise<Launched> | undefined} */ (undefined);
let launched = /** @type {Launched | undefined} */ (undefined);
let folder = "";

/** @param {object} reply */
function tell(reply) {
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}

const actions = /** @type {Record<string, (request: Request) => Promise<object>>} */ ({
  async launch({ wish }) {
    if (!wish) throw new Error("launch needs a wish");
    folder = wish.folder;
    launching = launchBrowser(wish);
    launched = await launching;
    return { pid: launched.browser.process()?.pid ?? 0, version: await launched.browser.version() };
  },

  async evaluate({ script = "" }) {
    const { page, lost } = need();
    const said = /** @type {{ value?: any, thrown?: string, gone?: boolean }} */ (
      await lost(page.evaluate(caught(script)))
    );
    if (said.gone)
      throw new Error("the page crashed, most often because memory ran out, and the browser shows another");
    return said.thrown === undefined ? { value: said.value ?? null } : { error: reasonOf(said.thrown), ended: false };
  },
});

function need() {
  if (!launched) throw new Error("no browser was launched");
  return launched;
}

/** @param {Request} request */
async function answer(request) {
  try {
    tell({ id: request.id, ...(await actions[request.do](request)) });
  } catch (error) {
    // the page puts into words what goes wrong inside it: this is the browser's end, or the driver's
    tell({ id: request.id, error: reasonOf(/** @type {Error} */ (error).message), ended: true });
  }
}

/**
 * Wrap an expression so that the page itself puts into words what it throws: also numbers and plain objects.
 *
 * @param {string} script
 */
function caught(script) {
  return `(async () => {
    if (!globalThis.bench) return { gone: true };
    try { return { value: await (${script}) }; }
    catch (error) { return { thrown: String(error?.message ?? error) }; }
  })()`;
}

/**
 * Put what went wrong into one line, with what the page told its console.
 *
 * @param {string} said
 */
function reasonOf(said) {
  const beside = (launched?.complaints() ?? []).filter((line) => !said.includes(line));
  return [said, ...beside].join("; ").replace(/\s+/g, " ").trim();
}

/** Leave nothing: no browser, no screen, no profile. */
async function leave() {
  setTimeout(finish, LEAVE);
  const last = await launching?.catch(() => undefined);
  await last?.close();
  finish();
}

function finish() {
  // as the last of the handlers: those before it kill a browser and a screen that are still being started
  process.on("exit", () => folder && rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 }));
  process.exit(0);
}

for (const signal of ["SIGTERM", "SIGINT", "SIGHUP"]) process.on(signal, leave);
const lines = createInterface({ input: process.stdin });
lines.on("line", (line) => answer(JSON.parse(line)));
lines.on("close", leave); // whoever started us is gone
