/**
 * How photos come in: picked, dropped anywhere on the page, or pasted.
 * @module
 */

import { element } from "./page.js";

/**
 * @param {(file: File) => void} take
 * @param {(reason: Error) => void} refuse called when what was dropped is no file
 */
export function onPhoto(take, refuse) {
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
    else refuse(new Error("What was dropped is not a file. Save the picture first, then drop or choose its file."));
  });
}
