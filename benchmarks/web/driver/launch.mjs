// @ts-check
/** Launches a browser with a fresh profile and opens our page in it. */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import puppeteer from "puppeteer-core";
import { attempts, environment, hasCard, PREFERENCES, sandboxes } from "./flags.mjs";
import { openScreen } from "./screen.mjs";

const GRACE = 200; // milliseconds

/**
 * @typedef {"chromium" | "firefox"} Kind
 * @typedef {{ kind: Kind, program: string, headed: boolean, backend: string, folder: string, url: string,
 *   seconds: number }} Wish
 *   folder: an empty one, for all that the browser writes; url: of the page, which has `bench.probe`; seconds: how long
 *   a start may take
 * @typedef {object} Launched
 * @property {import("puppeteer-core").Browser} browser
 * @property {import("puppeteer-core").Page} page
 * @property {<T>(asked: Promise<T>) => Promise<T>} lost awaits an answer; throws when browser or page are gone
 * @property {() => string[]} complaints what the page told its console since it was asked last
 * @property {() => Promise<void>} closeBrowser
 * @property {() => Promise<void>} close it and its screen
 */

/**
 * Launch a browser: with the card first, if there is one, and with a rasteriser where the card does not serve.
 *
 * @param {Wish} wish
 * @returns {Promise<Launched>}
 */
export async function launchBrowser(wish) {
  const card = hasCard();
  const screen = await openScreen(needsWindow(wish), wish.folder);
  const tries = attempts(wish.kind, wish.backend, card);
  for (const [index, flags] of tries.entries()) {
    const last = index === tries.length - 1;
    const launched = await open(wish, flags, card, screen, `profile-${index}`).catch(async (error) => {
      if (last) await screen.close();
      if (last) throw error;
    });
    if (!launched) continue;
    if (last || (await serves(launched, wish.backend))) return launched;
    await launched.closeBrowser();
  }
  throw new Error("there is always a last attempt");
}

/**
 * Firefox has WebGL only where it has a window.
 *
 * @param {Wish} wish
 */
function needsWindow({ kind, backend, headed }) {
  return headed || (kind === "firefox" && (backend === "webgl" || backend === "webgpu"));
}

/**
 * @param {Wish} wish
 * @param {string[]} flags
 * @param {boolean} card
 * @param {import("./screen.mjs").Screen} screen
 * @param {string} profile
 */
async function open(wish, flags, card, screen, profile) {
  let reason = new Error();
  for (const sandbox of sandboxes(wish.kind)) {
    try {
      const browser = await start(wish, [...sandbox, ...flags], card, screen, profile);
      return await watched(wish, browser, screen);
    } catch (error) {
      reason = /** @type {Error} */ (error);
    }
  }
  throw reason;
}

/**
 * @param {Wish} wish
 * @param {string[]} args
 * @param {boolean} card
 * @param {import("./screen.mjs").Screen} screen
 * @param {string} profile
 */
async function start(wish, args, card, screen, profile) {
  const chromium = wish.kind === "chromium";
  const userDataDir = join(wish.folder, profile);
  await mkdir(userDataDir, { recursive: true });
  const launching = puppeteer.launch({
    browser: chromium ? "chrome" : "firefox",
    executablePath: wish.program,
    headless: !needsWindow(wish),
    pipe: chromium, // Chromium ends itself when the pipe breaks, and listens on no port
    args,
    userDataDir,
    env: { ...environment(wish.folder, wish.kind, card), ...screen.environment },
    extraPrefsFirefox: PREFERENCES,
    timeout: wish.seconds * 1000,
    protocolTimeout: 0, // Python counts the time
    waitForInitialPage: chromium,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  });
  return launching.catch((error) => {
    throw new Error(`the browser ${wish.program} does not start: ${error.message.split("\n\n")[0]}`);
  });
}

/**
 * Open our page and watch it.
 *
 * @param {Wish} wish
 * @param {import("puppeteer-core").Browser} browser
 * @param {import("./screen.mjs").Screen} screen
 * @returns {Promise<Launched>}
 */
async function watched(wish, browser, screen) {
  const closeBrowser = () => kill(browser.process());
  try {
    const page = (await browser.pages())[0] ?? (await browser.newPage());
    const complaints = listen(page);
    const lost = watch(browser, page);
    const patience = { timeout: wish.seconds * 1000 };
    await lost(page.goto(wish.url, patience));
    await lost(page.waitForFunction("globalThis.bench", patience));
    const close = async () => {
      await closeBrowser();
      await screen.close();
    };
    return { browser, page, lost, complaints, closeBrowser, close };
  } catch (error) {
    await closeBrowser();
    throw error;
  }
}

/**
 * Collect what the page tells its console.
 *
 * @param {import("puppeteer-core").Page} page
 */
function listen(page) {
  let said = /** @type {string[]} */ ([]);
  page.on("console", (message) => message.type() === "error" && said.push(message.text()));
  page.on("pageerror", (error) => said.push(String(error)));
  return () => {
    const told = [...new Set(said)].slice(-3);
    said = [];
    return told;
  };
}

/**
 * Return a function that awaits an answer, and throws why there will be none when browser or page are gone.
 *
 * @param {import("puppeteer-core").Browser} browser
 * @param {import("puppeteer-core").Page} page
 * @returns {Launched["lost"]}
 */
function watch(browser, page) {
  let over = /** @type {(reason: string) => void} */ (() => {});
  const ended = new Promise((resolve) => {
    over = resolve;
  });
  browser.process()?.on("exit", (code, signal) => over(`the browser ended (${signal ?? `exit code ${code}`})`));
  browser.on("disconnected", () => setTimeout(over, GRACE, "the browser is gone"));
  page.on("error", () => over("the page crashed (most often memory ran out)"));
  return async (asked) => {
    const failed = asked.then(
      (value) => ({ value }),
      async (error) => {
        // a broken connection is noticed before its cause
        const why = await Promise.race([ended, new Promise((resolve) => setTimeout(resolve, 2 * GRACE))]);
        throw new Error(why ?? `the page is gone, most often memory ran out (${error.message.split("\n")[0]})`);
      },
    );
    const first = await Promise.race([failed, ended.then((why) => ({ why }))]);
    if ("why" in first) throw new Error(first.why);
    return first.value;
  };
}

/**
 * Ask the page whether a backend is there and is more than a rasteriser.
 *
 * @param {Launched} launched
 * @param {string} backend
 */
async function serves({ page, lost }, backend) {
  const probe = page.evaluate((name) => /** @type {any} */ (globalThis).bench.probe(name), backend);
  const found = await lost(probe).catch(() => undefined);
  return Boolean(found?.available && !found.software);
}

/**
 * End a browser and its whole process group: a hung page would not answer a polite request.
 *
 * @param {import("node:child_process").ChildProcess | null} child
 */
async function kill(child) {
  if (!child?.pid) return;
  const running = child.exitCode === null && child.signalCode === null;
  const gone = running ? new Promise((resolve) => child.once("exit", resolve)) : undefined;
  try {
    process.kill(process.platform === "win32" ? child.pid : -child.pid, "SIGKILL");
  } catch {
    // it was gone already
  }
  await gone;
}
