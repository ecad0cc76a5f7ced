// What tests do with the demo's page: open it in a browser, bring photos in, take pictures out.
import { mkdir, readdir, readFile, rename } from "node:fs/promises";
import { basename, join } from "node:path";
import puppeteer from "puppeteer-core";
import { attempts, PREFERENCES, sandboxes } from "../driver/flags.mjs";

/** @typedef {"paste" | "drop"} Way how a file comes in that is not picked */
/** @typedef {{url: string, kind: "chromium" | "firefox", program: string, folder: string}} Job folder: where pictures go */

const SOON = { timeout: 15_000 };

/** The page in a browser of its own. */
export class DemoPage {
  /** @type {string[]} what the console complained of */
  complaints = [];
  /** @type {string[]} addresses that were asked for */
  asked = [];

  /**
   * @param {import("puppeteer-core").Browser} browser
   * @param {import("puppeteer-core").Page} page
   * @param {Job} job
   */
  constructor(browser, page, job) {
    this.browser = browser;
    this.page = page;
    this.job = job;
    page.on("console", (message) => message.type() === "error" && this.complaints.push(message.text()));
    page.on("pageerror", (error) => this.complaints.push(String(error)));
    page.on("request", (request) => this.asked.push(request.url()));
  }

  /**
   * @param {Job} job
   * @param {string[]} [backends] that the browser shall have, imitated where there is no graphics card
   */
  static async open(job, backends = ["webgl"]) {
    const downloads = join(job.folder, "downloads");
    await mkdir(downloads, { recursive: true });
    const firefox = job.kind === "firefox";
    const flags = backends.flatMap((backend) => attempts(job.kind, backend, false)[0]);
    const browser = await puppeteer.launch({
      browser: firefox ? "firefox" : "chrome",
      executablePath: job.program,
      headless: true,
      args: [...sandboxes(job.kind).slice(-1)[0], ...new Set(flags)],
      userDataDir: join(job.folder, "profile"),
      env: { ...process.env, HOME: job.folder, XDG_CACHE_HOME: job.folder, XDG_CONFIG_HOME: job.folder },
      downloadBehavior: { policy: "allow", downloadPath: downloads },
      extraPrefsFirefox: {
        ...PREFERENCES,
        "browser.download.folderList": 2,
        "browser.download.dir": downloads,
        "browser.download.useDownloadDir": true,
        "browser.download.manager.showAlertOnComplete": false,
        "browser.helperApps.neverAsk.saveToDisk": "image/png",
      },
    });
    const opened = new DemoPage(browser, await browser.newPage(), job);
    await opened.visit();
    return opened;
  }

  /** Open the page, anew if it is open. */
  async visit() {
    await this.page.goto(this.job.url);
    await this.page.waitForSelector("html[data-ready]", SOON);
  }

  close() {
    return this.browser.close();
  }

  /** @param {string} id */
  text(id) {
    return this.page.$eval(`#${id}`, (found) => found.textContent ?? "");
  }

  /** What the page complains of, "" if nothing. */
  error() {
    return this.page.$eval("div#error", (found) => (found.hidden ? "" : (found.textContent ?? "")));
  }

  /** @param {number} [timeout] milliseconds */
  idle(timeout = SOON.timeout) {
    return this.page.waitForSelector("#stage[aria-busy=false]", { timeout });
  }

  /**
   * Wait until an element's text holds something.
   * @param {string} id
   * @param {RegExp} wanted
   */
  told(id, wanted) {
    return this.page.waitForFunction(
      (place, source) => new RegExp(source).test(document.getElementById(place)?.textContent ?? ""),
      SOON,
      id,
      wanted.source,
    );
  }

  /**
   * Do something that makes the page run, and wait for its end.
   * @param {() => Promise<unknown>} act
   * @param {number} [timeout] milliseconds
   */
  async run(act, timeout) {
    await this.page.$eval("#stage", (found) => found.removeAttribute("aria-busy")); // it has one again afterwards
    await act();
    await this.idle(timeout);
  }

  /**
   * Choose a file, and wait until the page is done with it.
   * @param {string} file
   */
  pick(file) {
    return this.run(async () => {
      const input = await this.page.$("input#file");
      await /** @type {import("puppeteer-core").ElementHandle<HTMLInputElement>} */ (input).uploadFile(file);
    });
  }

  /**
   * Drop or paste a file, as an event: no driver drags files.
   * @param {Way} way
   * @param {string} file
   */
  async give(way, file) {
    const bytes = (await readFile(file)).toString("base64");
    await this.page.evaluate(
      (packed, name, kind) => {
        const given = new DataTransfer();
        given.items.add(new File([Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0))], name));
        const settings = { bubbles: true, cancelable: true };
        const event =
          kind === "drop"
            ? new DragEvent("drop", { ...settings, dataTransfer: given })
            : new ClipboardEvent("paste", { ...settings, clipboardData: given });
        // Firefox empties the clipboard of an event that a script makes
        if (kind === "paste") Object.defineProperty(event, "clipboardData", { value: given });
        document.body.dispatchEvent(event);
      },
      bytes,
      basename(file),
      way,
    );
  }

  /**
   * Download a picture and keep it as `<name>.<kind>.png` in the job's folder.
   * @param {string} kind of the picture
   * @param {string} name
   */
  async keep(kind, name) {
    const tab = await this.page.$(`label[for=picture-${kind}]`);
    if (await tab?.isVisible()) await tab?.click(); // there are tabs only where there is a choice
    await this.page.click("#save");
    await this.told("status", new RegExp(`^Saved .*\\.${kind}\\.png`));
    await rename(await this.#downloaded(), join(this.job.folder, `${name}.${kind}.png`));
  }

  async #downloaded() {
    const folder = join(this.job.folder, "downloads");
    for (let tries = 0; tries < 200; tries++) {
      for (const name of (await readdir(folder)).filter((found) => found.endsWith(".png"))) {
        const path = join(folder, name);
        if ((await readFile(path)).subarray(-8, -4).toString() === "IEND") return path;
      }
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
    throw new Error(`no download: ${await readdir(folder)}`);
  }
}
