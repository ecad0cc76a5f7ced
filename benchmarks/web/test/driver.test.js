// @ts-check
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { attempts, environment } from "../driver/flags.mjs";

const DRIVER = fileURLToPath(new URL("../driver/", import.meta.url));

test("a rasteriser is what is left when there is no card, and the last thing that is tried when there is one", () => {
  for (const backend of ["webgl", "webgpu"]) {
    const without = attempts("chromium", backend, false);
    const withCard = attempts("chromium", backend, true);
    assert.equal(without.length, 1);
    assert.deepEqual(withCard.at(-1), without[0]);
    assert.match(without[0].join(" "), /swiftshader/);
    for (const flags of withCard.slice(0, -1)) assert.doesNotMatch(flags.join(" "), /swiftshader/);
    assert.ok(withCard.length >= 2);
  }
  assert.equal(attempts("chromium", "wasm", true).length, 1);
  assert.deepEqual(attempts("firefox", "webgl", true), [[]]);
});

test("everything a browser writes goes below our folder", () => {
  const variables = environment("/our/folder", "firefox", false);
  for (const name of ["TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"]) assert.equal(variables[name], "/our/folder");
  assert.equal(variables.LIBGL_ALWAYS_SOFTWARE, "1");
  assert.equal(environment("/our/folder", "firefox", true).LIBGL_ALWAYS_SOFTWARE, process.env.LIBGL_ALWAYS_SOFTWARE);
});

test("a browser that does not start is told, and the driver goes when its parent does", async () => {
  const folder = await mkdtemp(join(tmpdir(), "driver-test-"));
  const child = spawn(process.execPath, [join(DRIVER, "main.mjs")], { stdio: ["pipe", "pipe", "inherit"] });
  const replies = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const ask = async (/** @type {object} */ request) => {
    child.stdin.write(`${JSON.stringify(request)}\n`);
    return JSON.parse((await replies.next()).value);
  };
  const early = await ask({ id: 1, do: "evaluate", script: "1" });
  assert.match(early.error, /no browser was launched/);
  const wish = { kind: "chromium", program: "/nowhere/browser", headed: false, backend: "wasm", folder };
  const reply = await ask({ id: 2, do: "launch", wish: { ...wish, url: "about:blank", seconds: 5 } });
  assert.match(reply.error, /the browser \/nowhere\/browser does not start/);
  assert.equal(reply.ended, true);
  const gone = new Promise((resolve) => child.once("exit", resolve));
  child.stdin.end();
  assert.equal(await gone, 0);
  assert.ok(!existsSync(folder));
});

test("downloads are weighed raw and compressed", async () => {
  const folder = await mkdtemp(join(tmpdir(), "driver-test-"));
  const file = join(folder, "text.js");
  await writeFile(file, "let value = 1;\n".repeat(1000));
  const child = spawn(process.execPath, [join(DRIVER, "weigh.mjs"), file], { stdio: ["ignore", "pipe", "inherit"] });
  let said = "";
  for await (const part of child.stdout) said += part;
  const [weight] = JSON.parse(said);
  assert.equal(weight.raw, 15_000);
  assert.ok(weight.brotli < weight.gzip && weight.gzip < 200);
});
