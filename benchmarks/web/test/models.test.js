// Exported networks in the demo's page. tests/test_demo_models.py serves it and compares what is downloaded; it tells
// where and what in MODELS: {url, kind, program, folder, runs: {task, model, backend, photo, kinds, name}[]}.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { DemoPage } from "./demo-page.js";

const job = JSON.parse(process.env.MODELS ?? "null");
const skip = job ? false : "MODELS names no page";
const PATIENCE = 240_000; // milliseconds: a graphics card that the processor imitates is slow

/** @type {DemoPage} */
let demo;

before(async () => {
  if (job) demo = await DemoPage.open(job, ["webgl", "webgpu"]);
});

after(() => demo?.close());

for (const { task, model, backend, photo, kinds, name } of job?.runs ?? []) {
  test(`${name}: ${task} on ${backend}`, { skip }, async () => {
    await demo.visit();
    await demo.page.select("#task", task);
    await demo.page.select("#model", model);
    await demo.page.click(`#backend-${backend}`);
    await demo.run(() => demo.give("drop", photo), PATIENCE);
    assert.equal(await demo.error(), "");
    for (const kind of kinds) await demo.keep(kind, name);
  });
}

test("the console is clean", { skip }, () => assert.deepEqual(demo.complaints, []));
