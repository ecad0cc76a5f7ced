// @ts-check
/** The one place where a browser's latency is measured. */

/**
 * Time something that ends when its data is in JavaScript's memory.
 *
 * @param {() => Promise<unknown>} run
 * @param {number} count
 * @returns {Promise<number[]>} seconds of each
 */
export async function timeRuns(run, count) {
  const seconds = [];
  for (let turn = 0; turn < count; turn++) {
    const start = performance.now();
    await run();
    seconds.push((performance.now() - start) / 1000);
  }
  return seconds;
}
