// @ts-check
/** A screen for a browser that needs a window on a machine that has none. */

import { spawn } from "node:child_process";

/** @typedef {{ environment: Record<string, string>, close: () => Promise<void> }} Screen */

const NONE = { environment: {}, close: async () => {} };
const MISSING =
  "a browser with a window needs a screen: none is here, and Xvfb is not installed (apt-get install -y xvfb)";

/**
 * Start Xvfb, unless no window is needed or there is a screen.
 *
 * @param {boolean} needed
 * @param {string} folder for what it writes
 * @returns {Promise<Screen>}
 */
export async function openScreen(needed, folder) {
  const there = process.platform !== "linux" || process.env.DISPLAY || process.env.WAYLAND_DISPLAY;
  if (!needed || there) return NONE;
  const child = spawn("Xvfb", ["-displayfd", "3", "-screen", "0", "1280x1024x24", "-nolisten", "tcp"], {
    stdio: ["ignore", "ignore", "ignore", "pipe"],
    env: { ...process.env, TMPDIR: folder },
  });
  const number = await new Promise((resolve, reject) => {
    child.on("error", () => reject(new Error(MISSING)));
    child.on("exit", () => reject(new Error("Xvfb ended before it had a screen")));
    child.stdio[3]?.once("data", (data) => resolve(String(data).trim()));
  });
  process.on("exit", () => child.kill());
  return {
    environment: { DISPLAY: `:${number}` },
    async close() {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const gone = new Promise((resolve) => child.once("exit", resolve));
      child.kill("SIGTERM"); // it takes its lock and its socket away
      await gone;
    },
  };
}
