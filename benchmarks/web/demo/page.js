/**
 * The page's elements, and what is shown in them.
 * @module
 */

/**
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} kind
 * @returns {T}
 */
export function element(id, kind) {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`the page has no ${kind.name} '${id}'`);
  return found;
}

/**
 * @param {HTMLElement} list a dl
 * @param {[string, string, string?][]} facts term, what it is, and more on it in small print
 */
export function showFacts(list, facts) {
  list.replaceChildren(
    ...facts.map(([term, told, more = ""]) => {
      const [group, name, value] = ["div", "dt", "dd"].map((tag) => document.createElement(tag));
      name.textContent = term;
      value.textContent = told;
      if (more) value.append(small(more));
      group.append(name, value);
      return group;
    }),
  );
}

/** @param {string} text */
export function small(text) {
  const made = document.createElement("small");
  made.textContent = text;
  return made;
}

/**
 * A radio button and its label.
 * @param {string} group
 * @param {string} value
 * @param {boolean} checked
 */
export function radio(group, value, checked) {
  const input = document.createElement("input");
  Object.assign(input, { type: "radio", name: group, value, checked, id: `${group}-${value}` });
  const label = document.createElement("label");
  label.htmlFor = input.id;
  return { input, label };
}

/** @param {number} value seconds */
export function seconds(value) {
  return value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(value < 10 ? 2 : 1)} s`;
}

/** @param {number} value bytes */
export function megabytes(value) {
  return value < 1e5
    ? `${Math.max(Math.round(value / 1e3), 1)} kB`
    : `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} MB`;
}

/** @param {number} value */
export function count(value) {
  return value < 1e6 ? value.toLocaleString("en") : `${(value / 1e6).toFixed(value < 1e7 ? 2 : 1)} million`;
}

/**
 * The middle one of some numbers, or the mean of the two in the middle.
 * @param {number[]} values
 */
export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
}
