// Symbols of a frame: spacing level by spacing level, wave by wave, in blocks of images (docs/format.md, section 3).

import { Coder } from "./ans.js";
import { Contexts } from "./contexts.js";
import { CorruptError, InputError } from "./errors.js";
import { along, waves } from "./waves.js";

const BLOCK_VALUES = 1 << 20;

/**
 * Symbols at the multiples of a spacing, and if `centred` where each one's values lie in its cell, in 1/256.
 *
 * @param {import("./config.js").Config} config
 * @param {import("./frame.js").Frame} frame
 * @param {Uint8Array} code the words of the levels that are wanted
 * @param {number} spacing
 * @param {boolean} centred
 * @returns {{grid: import("./contexts.js").Grid, centroids: Int8Array | null}}
 */
export function decodeSymbols(config, frame, code, spacing, centred) {
  const { n, channels, width } = frame;
  const [y, x] = [Math.ceil(frame.y / spacing), Math.ceil(frame.x / spacing)];
  const images = Math.min(n, Math.max(1, Math.floor(BLOCK_VALUES / (frame.y * frame.x * channels))));
  const levels = waves(config, frame.y, frame.x, spacing);
  const steps = levels
    .flatMap((level, i) => level.map((wave) => stepOf(wave, y, x, frame.live[i])))
    .filter((step) => step.live);
  const largest = Math.max(0, ...steps.map(({ rows, columns, live }) => rows * columns * live)) * images;
  const { grid, centroids, contexts, residual } = allocated(() => {
    const grid = { symbols: new Int32Array((y * x + 1) * n * channels), y, x, n, channels };
    return {
      grid,
      centroids: centred ? new Int8Array(y * x * n * channels) : null,
      contexts: new Contexts(config, frame.level, grid, largest),
      residual: new Int32Array(largest),
    };
  });
  const coder = new Coder(code);
  for (const step of steps) {
    for (let first = 0; first < n; first += images) {
      const block = { ...step, first, count: Math.min(images, n - first) };
      const size = contexts.fill(block);
      coder.pullBlock(config.tables, contexts.table, size, residual);
      const low = contexts.shifted ? pullLow(coder, contexts.shift, size) : null;
      place(block, contexts, residual, low, 2 ** width, grid, centroids, config.centroids);
    }
  }
  if (spacing === 1 && !coder.finished) {
    throw new CorruptError("code is damaged: words are left over after the last symbol");
  }
  return { grid, centroids };
}

const stepOf = (wave, y, x, live) => ({
  wave,
  rows: along(y, wave.row, wave.step),
  columns: along(x, wave.column, wave.step),
  live,
});

/** Raw low bits of a block's residuals: those with fewest bits first. */
function pullLow(coder, shift, size) {
  const low = new Float64Array(size);
  /** @type {number[][]} */
  const places = [];
  for (let i = 0; i < size; i++) if (shift[i] > 0) (places[shift[i]] ??= []).push(i);
  places.forEach((chosen, bits) => {
    const values = coder.pullRaw(chosen.length, bits);
    for (let k = 0; k < chosen.length; k++) low[chosen[k]] = values[k];
  });
  return low;
}

/** A block's symbols and centroids to their places in the grid. */
function place(block, contexts, residual, low, limit, grid, centroids, centroidOf) {
  const { wave, rows, columns, first, count, live } = block;
  const { symbols, x, n, channels } = grid;
  const { table, shift, base, mirror, predicted } = contexts;
  for (let row = 0, i = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const token = (wave.row + row * wave.step) * x + wave.column + column * wave.step;
      for (let image = first; image < first + count; image++) {
        const to = (token * n + image) * channels;
        for (let c = 0; c < live; c++, i++) {
          let value = residual[i];
          if (low !== null && shift[i]) value = value * 2 ** shift[i] + low[i] - 2 ** (shift[i] - 1);
          const symbol = predicted ? base[i] + mirror[i] * value : value;
          if (symbol >= limit || symbol <= -limit) {
            throw new CorruptError("code is damaged: a symbol exceeds its declared width");
          }
          symbols[to + c] = symbol;
          if (centroids !== null) {
            const near = centroidOf[5 * table[i] + 2 + (value > 2 ? 2 : value < -2 ? -2 : value)];
            centroids[to + c] = predicted ? near * mirror[i] : near;
          }
        }
      }
    }
  }
}

/** What `make` gives; one clear error where there is no memory for it. */
export function allocated(make) {
  try {
    return make();
  } catch (error) {
    if (error instanceof RangeError)
      throw new InputError("there is no memory for a frame of this size", { cause: error });
    throw error;
  }
}
