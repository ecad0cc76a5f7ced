// The demo's page in a real browser. tests/test_demo.py serves it and compares what is downloaded; it tells where and
// what in DEMO: {url, kind, program, folder, backends, photo, turned, note, damaged}.
import assert from "node:assert/strict";
import { mkdir, readdir, readFile, rename } from "node:fs/promises";
import { basename, join } from "node:path";
import { after, before, test } from "node:test";
import puppeteer from "puppeteer-core";
import { attempts, PREFERENCES, sandboxes } from "../driver/flags.mjs";

const job = JSON.parse(process.env.DEMO ?? "null");
const skip = job ? false : "DEMO names no page";
const patience = { timeout: 15_000 };

/** @type {import("puppeteer-core").Browser} */
let browser;
/** @type {import("puppeteer-core").Page} */
let page;
/** @type {string[]} */
const complaints = [];
/** @type {string[]} */
const asked = [];

before(async () => {
  if (!job) return;
  const downloads = join(job.folder, "downloads");
  await mkdir(downloads, { recursive: true });
  const firefox = job.kind === "firefox";
  browser = await puppeteer.launch({
    browser: firefox ? "firefox" : "chrome",
    executablePath: job.program,
    headless: true,
    args: [...sandboxes(job.kind).slice(-1)[0], ...attempts(job.kind, "webgl", false)[0]],
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
  page = await browser.newPage();
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("request", (request) => asked.push(request.url()));
  await page.goto(job.url);
  await page.waitForSelector("html[data-ready]", patience);
});

after(async () => browser?.close());

/** @param {string} id */
const textOf = (id) => page.$eval(`#${id}`, (found) => found.textContent ?? "");
const idle = () => page.waitForSelector("#stage[aria-busy=false]", patience);

/** @param {string} file */
async function pick(file) {
  const input = /** @type {import("puppeteer-core").ElementHandle<HTMLInputElement>} */ (await page.$("#file"));
  await page.$eval("#stage", (found) => found.removeAttribute("aria-busy")); // it has one again when the run is over
  await input.uploadFile(file);
  await idle();
}

/**
 * Drop a file on the page, as an event: no driver drags files.
 * @param {string} file
 */
async function drop(file) {
  const bytes = (await readFile(file)).toString("base64");
  await page.evaluate(
    (packed, name) => {
      const given = new DataTransfer();
      given.items.add(new File([Uint8Array.from(atob(packed), (letter) => letter.charCodeAt(0))], name));
      document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
    },
    bytes,
    basename(file),
  );
}

/** @param {string} kind of the picture */
async function download(kind) {
  await page.click(`label[for=picture-${kind}]`);
  await page.click("#save");
  const folder = join(job.folder, "downloads");
  for (let tries = 0; tries < 200; tries++) {
    const found = (await readdir(folder)).filter((name) => name.endsWith(".png"));
    if (found.length && (await textOf("status")).startsWith("Saved")) {
      const path = join(folder, found[0]);
      const bytes = await readFile(path);
      if (bytes.subarray(-8, -4).toString() === "IEND") return path;
    }
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`no download of ${kind}: ${await readdir(folder)}, ${await textOf("status")}`);
}

test("files that are no photos are refused in words", { skip }, async () => {
  await pick(job.note);
  assert.match(await textOf("error"), /not an image/);
  await pick(job.damaged);
  assert.match(await textOf("error"), /PNG file is damaged/);
  assert.equal(await page.$eval("div#compare", (found) => found.hidden), true);
});

test("what this browser lacks can't be chosen, and the reason is beside it", { skip }, async () => {
  const lacking = await page.$$eval("#backends .lacking", (lines) =>
    lines.map((line) => ({ told: line.textContent, off: line.querySelector("input")?.disabled })),
  );
  assert.ok(lacking.length > 0, "no software browser has every backend");
  for (const { told, off } of lacking) {
    assert.ok(off);
    assert.match(told ?? "", /not here: this browser has no/);
  }
});

for (const backend of job?.backends ?? []) {
  test(`a photo goes through the network on ${backend} and comes back as PNG`, { skip }, async () => {
    await page.click(`#backend-${backend}`);
    await idle();
    await pick(job.photo);
    assert.equal(await page.$eval("div#error", (found) => (found.hidden ? "" : found.textContent)), "");
    assert.match(await textOf("status"), /^Done in .*: /);
    assert.match(await textOf("facts"), /First run\d/);
    for (const kind of ["mask", "cutout"])
      await rename(await download(kind), join(job.folder, `${backend}.${kind}.png`));
    await page.click("#again");
    await page.waitForFunction(
      () => /Later run[^–]*\d/.test(document.getElementById("facts")?.textContent ?? ""),
      patience,
    );
    await idle();
  });
}

test("a dropped photo is taken, and lies as its EXIF says", { skip }, async () => {
  await drop(job.turned);
  await page.waitForFunction(() => document.getElementById("facts")?.textContent?.includes("40 × 60"), patience);
  await idle();
  await rename(await download("cutout"), join(job.folder, "turned.cutout.png"));
});

test("people without a photo at hand take the made-up one", { skip }, async () => {
  await page.click("#sample");
  await page.waitForFunction(() => document.getElementById("facts")?.textContent?.includes("512 × 512"), patience);
  await idle();
});

test("the divider moves by keyboard", { skip }, async () => {
  const clipped = () => page.$eval("#before", (found) => getComputedStyle(found).clipPath);
  await page.focus("#split");
  const middle = await clipped();
  for (let presses = 0; presses < 10; presses++) await page.keyboard.press("ArrowRight");
  assert.equal(await page.$eval("#split", (found) => /** @type {HTMLInputElement} */ (found).value), "60");
  assert.notEqual(await clipped(), middle);
  await page.keyboard.press("Home");
  assert.equal(await page.$eval("div#compare", (found) => found.style.getPropertyValue("--split")), "0%");
});

test("a model that is slow to come can be cancelled, and another one taken", { skip }, async () => {
  await page.select("#model", "1");
  await page.waitForFunction(() => document.getElementById("status")?.textContent?.startsWith("Loading"), patience);
  await page.click("#cancel");
  assert.equal(await textOf("status"), "Cancelled.");
  await idle();
  await page.select("#model", "0");
  await page.waitForFunction(() => document.getElementById("status")?.textContent?.startsWith("Done"), patience);
});

test(
  "a graphics card that goes away is told, and comes back",
  { skip: skip || (!job.backends.includes("webgl") && "no WebGL") },
  async () => {
    await page.click("#backend-webgl");
    await page.waitForFunction(() => document.getElementById("facts")?.textContent?.includes("WebGL"), patience);
    await idle();
    const [worker] = page.workers();
    await worker.evaluate(() =>
      /** @type {any} */ (globalThis).tf.backend().gpgpu.gl.getExtension("WEBGL_lose_context").loseContext(),
    );
    await page.click("#again");
    await page.waitForSelector("#error:not([hidden])", patience);
    assert.match(await textOf("error"), /lost WebGL context/);
    await idle();
    await page.click("#again");
    await page.waitForFunction(() => document.getElementById("status")?.textContent?.startsWith("Done"), patience);
    assert.equal(await page.$eval("div#error", (found) => found.hidden), true);
  },
);

test("nothing was asked of another server, and the console is clean", { skip }, () => {
  const { origin } = new URL(job.url);
  assert.deepEqual(
    [...new Set(asked.map((url) => url.replace(/^blob:/, "")).filter((url) => !url.startsWith(origin)))],
    [],
  );
  assert.deepEqual(complaints, []);
});
