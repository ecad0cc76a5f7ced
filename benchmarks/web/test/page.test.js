// The demo's page in a real browser. tests/test_demo_page.py serves it and compares what is downloaded; it tells where
// and what in DEMO: {url, kind, program, folder, backends, photo, turned, refused: [file, words][]}.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DemoPage } from "./demo-page.js";

const job = JSON.parse(process.env.DEMO ?? "null");
const skip = job ? false : "DEMO names no page";

/** @type {DemoPage} */
let demo;

before(async () => {
  if (job) demo = await DemoPage.open(job);
});

after(() => demo?.close());

for (const [file, words] of job?.refused ?? []) {
  test(`a file that can't be is refused in words: ${words}`, { skip }, async () => {
    await demo.pick(file);
    assert.match(await demo.error(), new RegExp(words));
    assert.equal(await demo.page.$eval("div#compare", (found) => found.hidden), true);
  });
}

test("what is dropped and is no file is told", { skip }, async () => {
  await demo.page.evaluate(() => {
    const given = new DataTransfer();
    given.setData("text/uri-list", "http://127.0.0.1/a.png");
    document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: given, bubbles: true, cancelable: true }));
  });
  assert.match(await demo.error(), /not a file/);
});

test("what this browser lacks can't be chosen, and the reason is beside it", { skip }, async () => {
  const lacking = await demo.page.$$eval("#backends .lacking", (lines) =>
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
    await demo.visit();
    await demo.page.click(`#backend-${backend}`);
    await demo.pick(job.photo);
    assert.equal(await demo.error(), "");
    assert.match(await demo.text("status"), /^Done in \d/);
    assert.match(await demo.text("facts"), /Photo150 × 200.*First run\d/);
    for (const kind of ["mask", "cutout"]) await demo.keep(kind, backend);
    assert.doesNotMatch(await demo.text("facts"), /Later/);
    await demo.run(() => demo.page.click("#again"));
    assert.match(await demo.text("facts"), /Later\d.*one run/);
    await demo.run(() => demo.page.click("#again"));
    assert.match(await demo.text("facts"), /Later\d.*median of 2 runs/);
  });
}

test("a model tells what it does and how well, in words", { skip }, async () => {
  assert.match(await demo.text("about"), /main object/);
  assert.match(await demo.text("card"), /Download.*float32.*Parameters1,000.*Works at48 × 48 pixels/);
  assert.match(await demo.text("measured"), /on 12 pictures/);
  assert.match(await demo.text("metrics"), /MAE0\.0712mean absolute error.*lower is better/);
  assert.doesNotMatch(await demo.text("metrics"), /loss/i);
});

test("a dropped photo is taken, and lies as its EXIF says", { skip }, async () => {
  await demo.run(() => demo.give("drop", job.turned));
  assert.match(await demo.text("facts"), /40 × 60/);
  await demo.keep("cutout", "turned");
});

test("a pasted photo is taken", { skip }, async () => {
  await demo.run(() => demo.give("paste", job.photo));
  assert.match(await demo.text("facts"), /150 × 200/);
  await demo.keep("mask", "pasted");
});

test("people without a photo at hand take the made-up one", { skip }, async () => {
  await demo.run(() => demo.page.click("#sample"));
  assert.match(await demo.text("facts"), /512 × 512/);
});

test("the divider moves by keyboard", { skip }, async () => {
  const clipped = () => demo.page.$eval("#before", (found) => getComputedStyle(found).clipPath);
  await demo.page.focus("#split");
  const middle = await clipped();
  for (let presses = 0; presses < 10; presses++) await demo.page.keyboard.press("ArrowRight");
  assert.equal(await demo.page.$eval("#split", (found) => /** @type {HTMLInputElement} */ (found).value), "60");
  assert.notEqual(await clipped(), middle);
  await demo.page.keyboard.press("Home");
  assert.equal(await demo.page.$eval("div#compare", (found) => found.style.getPropertyValue("--split")), "0%");
});

test("a phone need not scroll sideways", { skip }, async () => {
  await demo.page.setViewport({ width: 390, height: 844 });
  const [wide, screen] = await demo.page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  await demo.page.setViewport({ width: 1280, height: 800 });
  assert.ok(wide <= screen, `${wide} of ${screen} pixels`);
});

test("a model that is slow to come can be cancelled, and another one taken", { skip }, async () => {
  await demo.page.select("#model", "slow");
  await demo.told("status", /^Loading/);
  await demo.page.click("#cancel");
  assert.equal(await demo.text("status"), "Cancelled.");
  await demo.idle();
  await demo.keep("mask", "cancelled"); // what is shown can be had, though its worker is gone
  await demo.page.select("#model", "pointwise");
  await demo.told("status", /^Done/);
});

test("models are listed by task, and the sample follows the task", { skip }, async () => {
  const names = () => demo.page.$$eval("#model option", (all) => all.map(({ value }) => value));
  assert.deepEqual(await names(), ["pointwise", "slow"]);
  await demo.run(() => demo.page.select("#task", "membrane"));
  assert.deepEqual(await names(), ["cells"]);
  assert.match(await demo.text("about"), /membranes/);
  const seen = await demo.page.$eval("#before", (canvas) => {
    const { data } = /** @type {HTMLCanvasElement} */ (canvas).getContext("2d")?.getImageData(0, 0, 64, 64) ?? {};
    return Array.from(data ?? []);
  });
  assert.ok(seen.length && seen.every((value, at) => at % 4 === 3 || value === seen[at - (at % 4)]), "cells are grey");
  await demo.run(() => demo.page.select("#task", "saliency"));
  assert.equal(await demo.error(), "");
});

test(
  "a graphics card that goes away is told, and comes back",
  { skip: skip || (!job.backends.includes("webgl") && "no WebGL") },
  async () => {
    await demo.page.click("#backend-webgl");
    await demo.told("facts", /WebGL/);
    await demo.idle();
    const [worker] = demo.page.workers();
    await worker.evaluate(() =>
      /** @type {any} */ (globalThis).tf.backend().gpgpu.gl.getExtension("WEBGL_lose_context").loseContext(),
    );
    await demo.run(() => demo.page.click("#again"));
    assert.match(await demo.error(), /lost WebGL context/);
    await demo.run(() => demo.page.click("#again"));
    assert.match(await demo.text("status"), /^Done/);
    assert.equal(await demo.error(), "");
  },
);

test("nothing was asked of another server, and the console is clean", { skip }, () => {
  const { origin } = new URL(job.url);
  const plain = demo.asked.map((url) => url.replace(/^blob:/, ""));
  const away = plain.filter((url) => !url.startsWith(origin) && !url.startsWith("data:")); // a browser brings its own fonts
  assert.deepEqual([...new Set(away)], []);
  assert.deepEqual(demo.complaints, []);
});
