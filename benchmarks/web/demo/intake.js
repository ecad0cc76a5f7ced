/**
 * How photos come in: picked, dropped anywhere on the page, or pasted.
 * @module
 */

import { element } from "./page.js";

/** @param {(file: File) => void} take */
export function onPhoto(take) {
  const input = element("file", HTMLInputElement);
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file) take(file);
    input.value = ""; // so that the same file can be picked again
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) take(file);
  });
  const marked = (/** @type {boolean} */ on) => document.body.classList.toggle("dragged", on);
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    marked(event.dataTransfer?.types.includes("Files") ?? false);
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) marked(false);
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    marked(false);
    const file = event.dataTransfer?.files[0];
    if (file) take(file);
  });
}
