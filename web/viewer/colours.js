// Colours of tokens: the first three principal components of a sample as red, green and blue, as nec's quick-looks
// have them, and a ramp for similarities whose lightness rises throughout, so that it reads without colour.

const ITERATIONS = 300;
const BLOCK = 4; // one more than is needed: the third converges by the gap to the fourth
const STRETCH = [0.02, 0.98];

/** @typedef {{d: number, mean: Float64Array, axes: Float64Array[], low: number[], high: number[]}} Colouring */

/**
 * Axes through the mean of a sample and the scores that become 0 and 255. The largest entry of each axis is positive.
 * @param {Float32Array} tokens [n, d], n >= 1
 * @param {number} d
 * @returns {Colouring}
 */
export function fitColours(tokens, d) {
  const n = tokens.length / d;
  const mean = new Float64Array(d);
  for (let i = 0; i < tokens.length; i++) mean[i % d] += tokens[i] / n;
  const square = covariance(tokens, mean, d, n);
  let axes = Array.from({ length: Math.min(BLOCK, d) }, (_, k) => Float64Array.from({ length: d }, (_, i) => noise(k * d + i)));
  for (let step = 0; step < ITERATIONS; step++) axes = orthonormal(axes.map((axis) => times(square, axis, d)));
  axes = axes.slice(0, 3).map((axis) => {
    const largest = axis.reduce((best, value) => (Math.abs(value) > Math.abs(best) ? value : best), 0);
    return largest < 0 ? axis.map((value) => -value) : axis;
  });
  while (axes.length < 3) axes.push(new Float64Array(d));
  const found = { d, mean, axes, low: [], high: [] };
  axes.forEach((_, k) => {
    const scores = Float64Array.from({ length: n }, (_, i) => score(found, tokens, i * d, k)).sort();
    found.low[k] = quantile(scores, STRETCH[0]);
    found.high[k] = Math.max(quantile(scores, STRETCH[1]), found.low[k] + 1e-12);
  });
  return found;
}

/**
 * Pixels of tokens: red, green, blue, and 255.
 * @param {Colouring} colouring
 * @param {Float32Array} tokens [n, d]
 * @returns {Uint8ClampedArray} [n, 4]
 */
export function paint(colouring, tokens) {
  const n = tokens.length / colouring.d;
  const pixels = new Uint8ClampedArray(4 * n);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < 3; k++) {
      const part = score(colouring, tokens, i * colouring.d, k) - colouring.low[k];
      pixels[4 * i + k] = (255 * part) / (colouring.high[k] - colouring.low[k]);
    }
    pixels[4 * i + 3] = 255;
  }
  return pixels;
}

/** The value below which a share of sorted values lies, between two by their distances. */
export function quantile(sorted, share) {
  const at = share * (sorted.length - 1);
  const below = Math.floor(at);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (at - below) * (sorted[above] - sorted[below]);
}

const STOPS = [
  [20, 11, 52],
  [58, 30, 110],
  [112, 40, 120],
  [176, 56, 98],
  [229, 98, 60],
  [250, 164, 40],
  [252, 240, 150],
];

/** Colour of a share between 0 and 1. @returns {number[]} red, green, blue */
export function ramp(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const below = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[below].map((value, k) => Math.round(value + (at - below) * (STOPS[below + 1][k] - value)));
}

/** A vector of length 1, or zeros. */
export function unit(vector) {
  const length = Math.hypot(...vector);
  return Float32Array.from(vector, (value) => (length ? value / length : 0));
}

/** Cosine between the vector of length 1 and values from a place on. */
export function cosine(direction, values, start) {
  let [product, square] = [0, 0];
  for (let i = 0; i < direction.length; i++) {
    const value = values[start + i];
    product += direction[i] * value;
    square += value * value;
  }
  return square ? product / Math.sqrt(square) : 0;
}

function score({ d, mean, axes }, tokens, start, k) {
  let sum = 0;
  for (let i = 0; i < d; i++) sum += (tokens[start + i] - mean[i]) * axes[k][i];
  return sum;
}

function covariance(tokens, mean, d, n) {
  const square = new Float64Array(d * d);
  const row = new Float64Array(d);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < d; k++) row[k] = tokens[i * d + k] - mean[k];
    for (let k = 0; k < d; k++) {
      const value = row[k];
      for (let j = 0; j <= k; j++) square[k * d + j] += value * row[j];
    }
  }
  for (let k = 0; k < d; k++) for (let j = 0; j < k; j++) square[j * d + k] = square[k * d + j];
  return square;
}

function times(square, vector, d) {
  const found = new Float64Array(d);
  for (let k = 0; k < d; k++) for (let j = 0; j < d; j++) found[k] += square[k * d + j] * vector[j];
  return found;
}

function orthonormal(vectors) {
  const found = [];
  for (const vector of vectors) {
    for (const other of found) {
      const along = other.reduce((sum, value, i) => sum + value * vector[i], 0);
      for (let i = 0; i < vector.length; i++) vector[i] -= along * other[i];
    }
    const length = Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0));
    found.push(length > 1e-30 ? vector.map((value) => value / length) : vector.fill(0));
  }
  return found;
}

/** Numbers between -0.5 and 0.5 that are the same every time. */
const noise = (i) => ((Math.sin(12.9898 * (i + 1)) * 43758.5453) % 1) / 2;
