// @ts-check
/** Fetch files with progress, and refuse what is not whole. */

/**
 * Fetch a file.
 *
 * @param {string | URL} url
 * @returns {Promise<Response>}
 * @throws {Error} if the server does not give it
 */
async function fetchOk(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`can't fetch ${nameOf(url)}: the server answered ${response.status}`);
  return response;
}

/**
 * Fetch a JSON file.
 *
 * @param {string | URL} url
 * @returns {Promise<any>}
 * @throws {Error} if it is not there or no JSON
 */
export async function fetchJson(url) {
  const text = await (await fetchOk(url)).text();
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`${nameOf(url)} is damaged: ${/** @type {Error} */ (error).message}`);
  }
}

/**
 * Fetch the bytes of a file.
 *
 * @param {string | URL} url
 * @param {(received: number, total: number) => void} [onBytes] total: 0 where the server doesn't tell
 * @returns {Promise<Uint8Array<ArrayBuffer>>}
 */
export async function fetchBytes(url, onBytes = () => {}) {
  const response = await fetchOk(url);
  // a compressed answer's Content-Length is not the length of what comes out of it
  const told = response.headers.get("Content-Encoding") ? 0 : Number(response.headers.get("Content-Length"));
  if (!response.body) return new Uint8Array(await response.arrayBuffer());
  const chunks = [];
  let received = 0;
  const reader = response.body.getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    chunks.push(part.value);
    received += part.value.length;
    onBytes(received, told);
  }
  return joined(chunks, received);
}

/**
 * Put chunks together.
 *
 * @param {Uint8Array[]} chunks
 * @param {number} length of all of them
 */
export function joined(chunks, length) {
  const whole = new Uint8Array(length);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.length;
  }
  return whole;
}

/** @param {string | URL} url */
export function nameOf(url) {
  return String(url).split("/").pop() ?? String(url);
}
