/**
 * The records that Python writes and the browser reads: compress/core/types.py and compress/jobs/demo.py say the same.
 * @module
 */

/**
 * One image tensor at the edge of a network. A photo of values 0..255 becomes `(photo / divisor - mean) / std`, with
 * `divisor` 255 for scale "255" and the photo's own maximum for scale "max".
 * @typedef {object} ImageSpec
 * @property {number} channels
 * @property {number} height pixels the network was made for
 * @property {number} width
 * @property {boolean} dynamic whether other heights and widths run too
 * @property {"rgb" | "grey" | "lightness" | "ab" | "mask" | "classes"} color
 * @property {"stretch" | "pad" | "native"} fit how a photo of another size is brought in
 * @property {"255" | "max"} scale
 * @property {number[]} mean
 * @property {number[]} std
 * @property {number} low
 * @property {number} high
 */

/**
 * What drawing a task's pictures needs beside the numbers that a network gives; each task has its own part of it.
 * @typedef {object} Drawing
 * @property {number[][]} [palette] colours of the class numbers, and of pixels without a class at `none`
 * @property {number} [none] the number that stands for no class
 * @property {string[]} [labels] names of the classes, none where they are not known
 * @property {number[]} [tint] colour of what is marked on the photo
 * @property {number} [tintShare] 0..1, how much of it
 * @property {number} [ab] what a* and b* were divided by
 */

/**
 * A metric at birth, in the words of the report.
 * @typedef {object} Score
 * @property {string} name
 * @property {string} title
 * @property {number} value
 * @property {string} unit "1" and "count" for none
 * @property {"lower" | "higher" | "none"} better
 * @property {string} help what it measures
 */

/**
 * What a page knows of a model: manifest.json beside its model.json.
 * @typedef {object} ModelCard
 * @property {string} id
 * @property {string} name
 * @property {string} task
 * @property {string} weights how its weights are stored: "float32", "float16", "uint8", ...
 * @property {number} bytes that are downloaded
 * @property {number} parameters
 * @property {string} created day
 * @property {Score[]} metrics
 * @property {number} images how many they were measured on, 0 where that is not known
 * @property {ImageSpec} input
 * @property {ImageSpec} output
 * @property {Drawing} drawing
 */

/**
 * A photo: 4 bytes a pixel, red, green, blue and one that nothing reads, row by row.
 * @typedef {object} Photo
 * @property {number} width
 * @property {number} height
 * @property {Uint8Array | Uint8ClampedArray} data
 */

/**
 * What a network gave: `channels` planes of `height` rows of `width` numbers.
 * @typedef {object} Prediction
 * @property {number} channels
 * @property {number} height
 * @property {number} width
 * @property {Float32Array} planes
 */

/**
 * A finished picture: 1 (grey), 3 (RGB) or 4 (RGBA, alpha not premultiplied) bytes a pixel.
 * @typedef {object} Picture
 * @property {number} width
 * @property {number} height
 * @property {1 | 3 | 4} channels
 * @property {Uint8Array} data
 */

export {};
