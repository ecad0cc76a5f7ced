// @ts-check
/** With what flags, preferences and environment a browser is started. */

import { existsSync, readdirSync } from "node:fs";
import { getuid } from "node:process";

const ALWAYS = [
  "--disable-quic",
  "--disable-component-update",
  "--no-default-browser-check",
  "--disable-gpu-watchdog",
  "--enable-precise-memory-info", // else performance.memory is rounded and stands still for minutes
];
const SOFTWARE = /** @type {Record<string, string[]>} */ ({
  webgl: ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"],
  webgpu: [
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--enable-features=Vulkan,WebGPU",
    "--ignore-gpu-blocklist",
  ],
});
const CARD = /** @type {Record<string, string[]>} */ ({
  webgl: ["--enable-gpu", "--ignore-gpu-blocklist"],
  webgpu: ["--enable-gpu", "--ignore-gpu-blocklist", "--enable-unsafe-webgpu", "--enable-features=Vulkan,WebGPU"],
});
const LINUX = /** @type {Record<string, string[]>} */ ({
  webgl: ["--use-gl=angle", "--use-angle=gl-egl"],
  webgpu: ["--use-angle=vulkan"],
});

/** Preferences of Firefox, beside those that puppeteer gives every automated one. */
export const PREFERENCES = {
  "webgl.force-enabled": true,
  "dom.webgpu.enabled": true,
  "gfx.webgpu.ignore-blocklist": true,
  "privacy.reduceTimerPrecision": false, // the clock that measures is not to be rounded
  "network.captive-portal-service.enabled": false,
  "network.connectivity-service.enabled": false,
  "toolkit.telemetry.enabled": false,
  "browser.tabs.unloadOnLowMemory": false,
};

/** Whether this machine has a graphics card that a browser could use. */
export function hasCard() {
  if (process.platform !== "linux") return true;
  if (existsSync("/dev/nvidia0")) return true;
  return existsSync("/dev/dri") && readdirSync("/dev/dri").some((name) => name.startsWith("renderD"));
}

/**
 * Return the sets of flags to try one after the other; the last one is taken as it comes.
 *
 * @param {"chromium" | "firefox"} kind
 * @param {string} backend
 * @param {boolean} card whether there is one
 * @returns {string[][]}
 */
export function attempts(kind, backend, card) {
  if (kind === "firefox") return [[]];
  const software = SOFTWARE[backend];
  if (!software) return [[...ALWAYS, "--disable-gpu"]];
  const native = [...ALWAYS, ...CARD[backend]];
  const linux = process.platform === "linux" ? [[...native, ...LINUX[backend]]] : [];
  return card ? [...linux, native, [...ALWAYS, ...software]] : [[...ALWAYS, ...software]];
}

/**
 * Return the flags of Chromium's sandbox to try: root can't have one, and in some containers nobody can.
 *
 * @param {"chromium" | "firefox"} kind
 */
export function sandboxes(kind) {
  if (kind === "firefox") return [[]];
  return process.platform === "linux" && getuid?.() === 0 ? [["--no-sandbox"]] : [[], ["--no-sandbox"]];
}

/**
 * Return a browser's environment: everything it writes goes below our folder.
 *
 * @param {string} folder
 * @param {"chromium" | "firefox"} kind
 * @param {boolean} card
 * @returns {Record<string, string | undefined>}
 */
export function environment(folder, kind, card) {
  const away = { TMPDIR: folder, TEMP: folder, TMP: folder, XDG_CACHE_HOME: folder, XDG_CONFIG_HOME: folder };
  const home = process.platform === "linux" ? { HOME: folder } : {};
  const firefox = { MOZ_CRASHREPORTER_DISABLE: "1", ...(card ? {} : { LIBGL_ALWAYS_SOFTWARE: "1" }) };
  return { ...process.env, ...away, ...home, ...(kind === "firefox" ? firefox : {}) };
}
