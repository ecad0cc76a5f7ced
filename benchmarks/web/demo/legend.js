/**
 * Which classes a picture of class colours shows.
 * @module
 */

/** @typedef {{name: string, color: number[], share: number}} Entry share: 0..1 of the pixels */

/**
 * @param {import("../shared/spec.js").Picture} mask RGB in the palette's colours
 * @param {import("../shared/spec.js").Drawing} drawing
 * @returns {Entry[]} the most frequent first
 */
export function legendOf(mask, { palette = [], labels = [], none }) {
  const numbers = new Map(palette.map((color, number) => [packed(color, 0), number]));
  const counts = new Map();
  for (let at = 0; at < mask.data.length; at += 3) {
    const color = packed(mask.data, at);
    counts.set(color, (counts.get(color) ?? 0) + 1);
  }
  const pixels = mask.width * mask.height;
  return [...counts]
    .sort((one, other) => other[1] - one[1])
    .map(([color, count]) => {
      const number = numbers.get(color) ?? -1;
      const name = number === none ? "no class" : (labels[number] ?? `class ${number}`);
      return { name, color: palette[number] ?? [0, 0, 0], share: count / pixels };
    });
}

/**
 * @param {ArrayLike<number>} bytes
 * @param {number} at
 */
function packed(bytes, at) {
  return (bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2];
}
