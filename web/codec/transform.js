// From symbols to embeddings (docs/format.md, section 7): centroids, gains, the inverse pyramid, the basis, the means.
//
// Most symbols are 0 at the rates that this codec is for. So the basis is applied first, to those that are not, and the
// pyramid, which only adds and subtracts, runs over its result; the order makes no difference, both are linear.

import { allocated } from "./symbols.js";
import { cover } from "./waves.js";

const SLAB = 1 << 20;

/**
 * Embeddings (n, y, x, d) of symbols at the multiples of a spacing.
 *
 * @param {import("./config.js").Config} config
 * @param {import("./frame.js").Frame} frame
 * @param {import("./contexts.js").Grid} grid
 * @param {Int8Array | null} centroids
 * @param {number} spacing
 * @returns {Float32Array}
 */
export function reconstruct(config, frame, grid, centroids, spacing) {
  const { n, y, x } = grid;
  const d = config.dimensions;
  const out = allocated(() => new Float32Array(n * y * x * d));
  if (!out.length) return out;
  const steps = stepsOf(config, frame, y, x, spacing);
  const width = Math.min(d, Math.max(1, Math.floor(SLAB / Math.max(y * x, config.positions ? frame.y * frame.x : 0))));
  for (let from = 0; from < d; from += width) {
    const to = Math.min(from + width, d);
    const means = meansOf(config, frame, spacing, from, to);
    const slab = new Float64Array(y * x * (to - from));
    for (let image = 0; image < n; image++) {
      slab.fill(0);
      addSymbols(config, grid, centroids, steps, image, slab, from, to);
      if (config.gains) addUp(slab, y, x, to - from);
      write(slab, means, out, image, y * x, d, from, to);
    }
  }
  return out;
}

/** What a symbol's step is worth at each place, all that the pyramid divides by included. */
function stepsOf(config, frame, y, x, spacing) {
  const step = config.step * 2 ** (-frame.level / 8);
  const steps = new Float64Array(y * x).fill(step);
  if (!config.gains) return steps;
  const most = cover(y, x);
  const coarse = scale(frame.y, frame.x, spacing);
  for (let row = 0; row < y; row++) {
    for (let column = 0; column < x; column++) {
      const place = octave(row * spacing, column * spacing, cover(frame.y, frame.x));
      const gain = config.gains[Math.min(place, config.gains.length - 1)];
      const spread = scale(y, x, Math.min(2 ** (octave(row, column, most) + 1), most));
      steps[row * x + column] = step / (spread * coarse * gain);
    }
  }
  return steps;
}

/** How many of the spacings 2, 4, 8, ..., `most` both row and column are multiples of. */
function octave(row, column, most) {
  let found = 0;
  for (let step = 2; step <= most && row % step === 0 && column % step === 0; step *= 2) found++;
  return found;
}

/** What averages at a spacing are, in means of their cells: root 2 for each halving of a side above 1. */
function scale(y, x, spacing) {
  let halvings = 0;
  for (let step = 2; step <= Math.min(spacing, cover(y, x)); step *= 2)
    halvings += Number(y > step / 2) + Number(x > step / 2);
  return 2 ** (halvings >> 1) * (halvings & 1 ? Math.SQRT2 : 1);
}

/** Add what an image's symbols stand for, by the basis, to its tokens (y, x, to - from). */
function addSymbols(config, grid, centroids, steps, image, slab, from, to) {
  const { symbols, n, channels } = grid;
  const { basis, order, dimensions } = config;
  const chosen = new Int32Array(channels);
  const amounts = new Float64Array(channels + 3);
  for (let token = 0; token < steps.length; token++) {
    const at = (token * n + image) * channels;
    let count = 0;
    for (let c = 0; c < channels; c++) {
      const value = symbols[at + c] + (centroids === null ? 0 : centroids[at + c] / 256);
      if (value === 0) continue;
      chosen[count] = c;
      amounts[count++] = value * steps[token];
    }
    const first = token * (to - from);
    if (basis !== null) addRows(slab, first, to - from, basis, dimensions, from, chosen, amounts, count);
    else {
      for (let i = 0; i < count; i++) {
        const channel = order[chosen[i]];
        if (channel >= from && channel < to) slab[first + channel - from] += amounts[i];
      }
    }
  }
}

/** Add multiples of the chosen rows of the basis, four at once. */
function addRows(slab, first, width, basis, dimensions, from, chosen, amounts, count) {
  amounts.fill(0, count, count + 3);
  for (let i = 0; i < count; i += 4) {
    const [a0, a1, a2, a3] = [amounts[i], amounts[i + 1], amounts[i + 2], amounts[i + 3]];
    const row = (k) => chosen[Math.min(k, count - 1)] * dimensions + from;
    const [r0, r1, r2, r3] = [row(i), row(i + 1), row(i + 2), row(i + 3)];
    for (let j = 0; j < width; j++) {
      slab[first + j] += a0 * basis[r0 + j] + a1 * basis[r1 + j] + (a2 * basis[r2 + j] + a3 * basis[r3 + j]);
    }
  }
}

/** The inverse pyramid: sums and differences of pairs along the columns, then along the rows, coarse spacings first. */
function addUp(slab, y, x, width) {
  for (let half = cover(y, x) / 2; half >= 1; half /= 2) {
    for (let row = 0; row < y; row += half) {
      for (let column = 0; column + half < x; column += 2 * half) {
        butterfly(slab, (row * x + column) * width, (row * x + column + half) * width, width);
      }
    }
    for (let row = 0; row + half < y; row += 2 * half) {
      for (let column = 0; column < x; column += half) {
        butterfly(slab, (row * x + column) * width, ((row + half) * x + column) * width, width);
      }
    }
  }
}

function butterfly(slab, first, second, width) {
  for (let j = 0; j < width; j++) {
    const a = slab[first + j];
    const b = slab[second + j];
    slab[first + j] = a + b;
    slab[second + j] = a - b;
  }
}

/** Means of the coarse grid's tokens (y, x, to - from), or of one token where they are the same everywhere. */
function meansOf(config, frame, spacing, from, to) {
  const width = to - from;
  const { mean, positions, dimensions } = config;
  if (!positions) return Float64Array.from(mean.subarray(from, to));
  // Of a pyramid a coarse token is the mean of its cell, of version 1 its first token.
  const stride = config.gains ? 1 : spacing;
  let [y, x] = [Math.ceil(frame.y / stride), Math.ceil(frame.x / stride)];
  let found = new Float64Array(y * x * width);
  for (let token = 0; token < y * x; token++) {
    const row = (Math.floor(token / x) * stride) % positions.rows;
    const column = ((token % x) * stride) % positions.columns;
    const place = (row * positions.columns + column) * dimensions;
    for (let j = 0; j < width; j++) found[token * width + j] = mean[from + j] + positions.values[place + from + j];
  }
  for (let step = stride; step < spacing; step *= 2) {
    found = halved(halved(found, y, x, width), 1, y, Math.ceil(x / 2) * width);
    [y, x] = [Math.ceil(y / 2), Math.ceil(x / 2)];
  }
  return found;
}

/** Means of pairs along the second of three axes; a last one without partner stays as it is. */
function halved(values, lines, count, width) {
  const half = Math.ceil(count / 2);
  const found = new Float64Array(lines * half * width);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < half; i++) {
      const first = (line * count + 2 * i) * width;
      const second = 2 * i + 1 < count ? first + width : first;
      for (let j = 0; j < width; j++)
        found[(line * half + i) * width + j] = (values[first + j] + values[second + j]) / 2;
    }
  }
  return found;
}

/** An image's channels [from, to) with their means, in single precision. */
function write(slab, means, out, image, tokens, d, from, to) {
  const width = to - from;
  const repeated = means.length === width;
  for (let token = 0; token < tokens; token++) {
    const at = (image * tokens + token) * d + from;
    const mean = repeated ? 0 : token * width;
    for (let j = 0; j < width; j++) out[at + j] = slab[token * width + j] + means[mean + j];
  }
}
