// @ts-check
/** Prints, for each file named, its bytes as a web server would send them: raw, gzip -9 and brotli -q 9 (11 takes minutes for big weights, and saves 1 % of them). */

import { readFile } from "node:fs/promises";
import { brotliCompressSync, constants, gzipSync } from "node:zlib";

const weights = [];
for (const file of process.argv.slice(2)) {
  const raw = await readFile(file);
  const params = { [constants.BROTLI_PARAM_QUALITY]: 9, [constants.BROTLI_PARAM_SIZE_HINT]: raw.length };
  weights.push({
    raw: raw.length,
    gzip: gzipSync(raw, { level: 9 }).length,
    brotli: brotliCompressSync(raw, { params }).length,
  });
}
process.stdout.write(JSON.stringify(weights));
