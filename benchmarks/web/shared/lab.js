/**
 * CIE 1976 L*a*b* of sRGB pictures under D65, as far as colorization needs it: compress/kit/lab.py.
 * @module
 */

/** @typedef {import("./spec.js").Photo} Photo */

// IEC 61966-2-1: linear sRGB to XYZ, and the white of D65 seen by the two degree observer
const LUMINANCE = [0.212671, 0.71516, 0.072169];
const XYZ = [[0.412453, 0.35758, 0.180423], LUMINANCE, [0.019334, 0.119193, 0.950227]];
const WHITE = [0.95047, 1, 1.08883];
// CIE 15:2004, section 8.2.1: where the cube root gives way to a line, and that line
const EDGE = (6 / 29) ** 3;
const SLOPE = (29 / 6) ** 2 / 3;
const OFFSET = 4 / 29;

const BACK = inverse(XYZ);
const LINEAR = Float32Array.from({ length: 256 }, (_, level) => light(level / 255));

/**
 * Light of displayed values 0..1 (IEC 61966-2-1, section 5.2).
 * @param {number} value
 */
function light(value) {
  return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
}

/**
 * Displayed values of light, both 0..1; what lies outside is clipped.
 * @param {number} value
 */
function shown(value) {
  const curve = value > 0.0031308 ? 1.055 * value ** (1 / 2.4) - 0.055 : 12.92 * value;
  return Math.min(Math.max(curve, 0), 1);
}

/** @param {number} root */
function cube(root) {
  return root > 6 / 29 ? root ** 3 : (root - OFFSET) / SLOPE;
}

/**
 * Give L* of a photo, its 0..100 laid over 0..255.
 * @param {Photo} photo
 * @returns {Float32Array} (height * width)
 */
export function lightness(photo) {
  const { data } = photo;
  const plane = new Float32Array(photo.width * photo.height);
  for (let pixel = 0, at = 0; pixel < plane.length; pixel++, at += 4) {
    const y =
      LUMINANCE[0] * LINEAR[data[at]] + LUMINANCE[1] * LINEAR[data[at + 1]] + LUMINANCE[2] * LINEAR[data[at + 2]];
    plane[pixel] = 2.55 * (116 * (y > EDGE ? Math.cbrt(y) : SLOPE * y + OFFSET) - 16);
  }
  return plane;
}

/**
 * Turn one colour into sRGB; what sRGB lacks is clipped plane by plane.
 * @param {number} l L*, 0..100
 * @param {number} a
 * @param {number} b
 * @returns {[number, number, number]} 0..1
 */
export function labToRgb(l, a, b) {
  const y = (l + 16) / 116;
  const fx = cube(y + a / 500) * WHITE[0];
  const fy = cube(y) * WHITE[1];
  const fz = cube(Math.max(y - b / 200, 0)) * WHITE[2];
  const [red, green, blue] = BACK;
  return [
    shown(red[0] * fx + red[1] * fy + red[2] * fz),
    shown(green[0] * fx + green[1] * fy + green[2] * fz),
    shown(blue[0] * fx + blue[1] * fy + blue[2] * fz),
  ];
}

/**
 * Invert a 3 x 3 matrix by its cofactors.
 * @param {number[][]} m
 * @returns {number[][]}
 */
function inverse(m) {
  /** @type {(row: number, column: number) => number} */
  const cofactor = (row, column) => {
    const [r, s] = [(row + 1) % 3, (row + 2) % 3];
    const [c, d] = [(column + 1) % 3, (column + 2) % 3];
    return m[r][c] * m[s][d] - m[r][d] * m[s][c];
  };
  const size = [0, 1, 2].reduce((sum, column) => sum + m[0][column] * cofactor(0, column), 0);
  return [0, 1, 2].map((row) => [0, 1, 2].map((column) => cofactor(column, row) / size));
}
