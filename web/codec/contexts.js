// From symbols already known to a table for each symbol (docs/format.md, section 4). All numbers are integers below
// 2^53, computed in doubles, so that every frame takes the same path whatever the size of its symbols.
//
// A grid of symbols lies (y, x, n, channels) in memory, so that a token of all images is one run; behind the last token
// there is one of zeros, where tokens look that have no neighbour in a direction.

import { along, PLACES } from "./waves.js";

/**
 * Symbols known so far.
 *
 * @typedef {object} Grid
 * @property {Int32Array} symbols (y x + 1, n, channels)
 * @property {number} y
 * @property {number} x
 * @property {number} n
 * @property {number} channels
 */

/**
 * What is coded at once: of a wave, `count` images from `first` on, and the channels below `live`.
 *
 * @typedef {object} Block
 * @property {import("./waves.js").Wave} wave
 * @property {number} rows of the wave's tokens
 * @property {number} columns
 * @property {number} first
 * @property {number} count
 * @property {number} live
 */

const CACHED = 1 << 13;
const RECIPROCALS = [0, 64, 32, 21, 16, 13, 11, 9, 8];
const DIAGONAL = [[-1, -1], [-1, 1], [1, -1], [1, 1]]; // prettier-ignore
const AXIS = [[-1, 0], [1, 0], [0, -1], [0, 1]]; // prettier-ignore
const KNIGHT = [[-2, -1], [-2, 1], [2, -1], [2, 1], [-1, -2], [1, -2], [-1, 2], [1, 2]]; // prettier-ignore
const NEAR = { diag: DIAGONAL, across: AXIS, down: AXIS };
const FAR = {
  diag: [[-3, -1], [-3, 1], [3, -1], [3, 1], [-1, -3], [-1, 3], [1, -3], [1, 3]], // prettier-ignore
  across: KNIGHT,
  down: DIAGONAL,
};

/** Contexts of the blocks of one frame, each as long as the next block is not asked for. */
export class Contexts {
  /**
   * @param {import("./config.js").Config} config
   * @param {number} level of quality
   * @param {Grid} grid which is filled block by block
   * @param {number} size values of the largest block
   */
  constructor(config, level, grid, size) {
    this.scales = config.scales;
    this.pyramid = config.version === 2;
    this.rank = config.rank;
    this.at = config.parametersAt(level);
    this.grid = grid;
    /** Of each value: its table, and how many low bits of its residual are raw. */
    this.table = new Uint16Array(size);
    this.shift = new Uint8Array(size);
    /** A symbol is `base` + `mirror` residual where `predicted`; elsewhere it is the residual. */
    this.predicted = false;
    this.base = new Int32Array(config.prior === "hierarchical" && !this.pyramid ? size : 0);
    this.mirror = new Int8Array(this.base.length);
    /** Whether any value of the block has raw low bits. */
    this.shifted = false;
    this.size = 0;
  }

  /** @param {Block} block @returns {number} how many values it has, in the order (row, column, image, channel) */
  fill(block) {
    const size = block.rows * block.columns * block.count * block.live;
    if (this.shifted) this.shift.fill(0, 0, this.size);
    this.shifted = false;
    this.size = size;
    this.predicted = !this.pyramid && block.wave.kind !== "root";
    if (block.wave.kind === "root") this.fillRoot(block, size);
    else if (this.pyramid) this.fillPyramid(block);
    else this.fillPredicted(block);
    return size;
  }

  /** Scale indices above the last one: the residual's low bits are raw. @returns {number} the index that is left */
  split(index, place) {
    const { split, wide } = this.scales;
    this.shift[place] = (index - (split + wide - 1) + 3) >> 2;
    this.shifted = true;
    return index - 4 * this.shift[place];
  }

  fillRoot({ wave, live }, size) {
    const { low, split, wide, firstOf } = this.scales;
    const first = wave.parameters * this.rank;
    for (let c = 0; c < live; c++) {
      const index = Math.max(0, scaleIndex(Math.max(1, this.at.b0[first + c])) - low);
      const wideIndex = index > split + wide - 1;
      for (let i = c; i < size; i += live) this.table[i] = firstOf[wideIndex ? this.split(index, i) : index];
    }
  }

  // ---- version 1: predictions and magnitudes from neighbours

  fillPredicted({ wave, rows, columns, first, count, live }) {
    const { grid, table, base, mirror, scales } = this;
    const { low, split, wide, firstOf, offsetOf } = scales;
    const { symbols, channels } = grid;
    const top = split + wide - 1;
    const [wn, wf, an, af, ap] = this.weightsOf(wave, live);
    const b0 = this.b0Of(wave, live);
    const near = new Int32Array(4);
    const far = new Int32Array(8);
    let out = 0;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const nearScale = RECIPROCALS[this.neighbours(wave, row, column, NEAR[wave.kind], near)];
        const farScale = RECIPROCALS[this.neighbours(wave, row, column, FAR[wave.kind], far)];
        for (let image = first; image < first + count; image++) {
          const shift = image * channels;
          const [n0, n1, n2, n3] = [near[0] + shift, near[1] + shift, near[2] + shift, near[3] + shift];
          const [f0, f1, f2, f3] = [far[0] + shift, far[1] + shift, far[2] + shift, far[3] + shift];
          const [f4, f5, f6, f7] = [far[4] + shift, far[5] + shift, far[6] + shift, far[7] + shift];
          for (let c = 0; c < live; c++, out++) {
            const a0 = symbols[n0 + c];
            const a1 = symbols[n1 + c];
            const a2 = symbols[n2 + c];
            const a3 = symbols[n3 + c];
            const s0 = symbols[f0 + c];
            const s1 = symbols[f1 + c];
            const s2 = symbols[f2 + c];
            const s3 = symbols[f3 + c];
            const s4 = symbols[f4 + c];
            const s5 = symbols[f5 + c];
            const s6 = symbols[f6 + c];
            const s7 = symbols[f7 + c];
            const nearSum = a0 + a1 + a2 + a3;
            const farSum = s0 + s1 + s2 + s3 + s4 + s5 + s6 + s7;
            const nearSize = Math.abs(a0) + Math.abs(a1) + Math.abs(a2) + Math.abs(a3);
            const farFirst = Math.abs(s0) + Math.abs(s1) + Math.abs(s2) + Math.abs(s3);
            const farSize = farFirst + Math.abs(s4) + Math.abs(s5) + Math.abs(s6) + Math.abs(s7);
            const prediction = wn[c] * nearSum * nearScale + wf[c] * farSum * farScale;
            const whole = Math.floor((prediction + 4096) / 8192);
            const fraction = prediction - 8192 * whole;
            const expected =
              an[c] * nearSize * nearScale +
              af[c] * farSize * farScale +
              ap[c] * Math.floor(Math.abs(prediction) / 128) +
              b0[c];
            let index = Math.max(0, scaleIndex(Math.max(1, expected)) - low);
            if (index > top) index = this.split(index, out);
            table[out] = index < split ? firstOf[index] + offsetOf[Math.abs(fraction) >> 6] : firstOf[index];
            base[out] = whole;
            mirror[out] = fraction < 0 ? -1 : 1;
          }
        }
      }
    }
  }

  /** Where a token's neighbours begin in the grid, the zeros for those outside; returns how many are inside. */
  neighbours(wave, row, column, offsets, found) {
    const { y, x, n, channels } = this.grid;
    const half = wave.step / 2;
    let count = 0;
    found.fill(y * x * n * channels);
    offsets.forEach(([dy, dx], i) => {
      const [row_, column_] = [wave.row + row * wave.step + dy * half, wave.column + column * wave.step + dx * half];
      if (row_ < 0 || row_ >= y || column_ < 0 || column_ >= x) return;
      found[i] = (row_ * x + column_) * n * channels;
      count++;
    });
    return count;
  }

  // ---- version 2: magnitudes from siblings and parents

  /** As many images at once as keep what is summed in the nearer caches. */
  fillPyramid(block) {
    const { rows, columns, count, live } = block;
    const group = Math.max(1, Math.min(count, Math.floor(CACHED / (rows * columns * live))));
    for (let start = 0; start < count; start += group) {
      this.fillGroup(
        { ...block, first: block.first + start, count: Math.min(group, count - start) },
        start * live,
        count * live,
      );
    }
  }

  /** Tables of some images; `out` is the first one's place in a token's run, `run` the length of that. */
  fillGroup(block, out, run) {
    const { wave, rows, columns, count, live } = block;
    const { low, split, wide, firstOf } = this.scales;
    const { table } = this;
    const top = split + wide - 1;
    const lanes = count * live;
    const above = this.above(block);
    const kinds = Object.keys(PLACES);
    const before = kinds.slice(0, kinds.indexOf(wave.kind));
    const siblings = this.sums(block, wave.step, before, rows, columns);
    const around = before.length ? blurred(siblings, rows, columns, lanes) : siblings;
    const [, , a3, a4] = this.weightsOf(wave, live);
    const aboveColumns = (columns + 1) >> 1;
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        const cell = (row * columns + column) * lanes;
        const parent = ((row >> 1) * aboveColumns + (column >> 1)) * lanes;
        const place = (row * columns + column) * run + out;
        for (let image = 0; image < lanes; image += live) {
          for (let c = 0; c < live; c++) {
            const i = image + c;
            const expected = above[parent + i] + 64 * a3[c] * siblings[cell + i] + 4 * a4[c] * around[cell + i];
            let index = scaleIndex(expected > 1 ? expected : 1) - low;
            if (index < 0) index = 0;
            if (index > top) index = this.split(index, place + i);
            table[place + i] = firstOf[index];
          }
        }
      }
    }
  }

  /** What each cell of two by two knows of the spacing above: b0, and the parents by their weights. */
  above(block) {
    const { wave, rows, columns, first, count, live } = block;
    const { symbols, y, x, n, channels } = this.grid;
    const lanes = count * live;
    const [a1, a2] = this.weightsOf(wave, live);
    const b0 = this.b0Of(wave, live);
    if (wave.step >= Math.max(y, x)) {
      const found = new Float64Array(lanes);
      for (let image = 0; image < count; image++) {
        const from = (first + image) * channels;
        for (let c = 0; c < live; c++) found[image * live + c] = b0[c] + 64 * a1[c] * Math.abs(symbols[from + c]);
      }
      return found;
    }
    const cells = [(rows + 1) >> 1, (columns + 1) >> 1];
    const same = this.sums(block, 2 * wave.step, [wave.kind], ...cells);
    const around = blurred(this.sums(block, 2 * wave.step, Object.keys(PLACES), ...cells), ...cells, lanes);
    for (let start = 0; start < same.length; start += live) {
      for (let c = 0; c < live; c++)
        same[start + c] = b0[c] + 64 * a1[c] * same[start + c] + 4 * a2[c] * around[start + c];
    }
    return same;
  }

  /** Sums of the kinds' magnitudes in cells (rows, columns, images, channels); beyond a band its last ones count. */
  sums({ first, count, live }, step, kinds, rows, columns) {
    const { symbols, y, x, n, channels } = this.grid;
    const lanes = count * live;
    const total = new Float64Array(rows * columns * lanes);
    for (const kind of kinds) {
      const top = (PLACES[kind][0] * step) / 2;
      const left = (PLACES[kind][1] * step) / 2;
      const [height, width] = [along(y, top, step), along(x, left, step)];
      if (!height || !width) continue;
      for (let row = 0, to = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const token = (top + Math.min(row, height - 1) * step) * x + left + Math.min(column, width - 1) * step;
          for (let image = first; image < first + count; image++, to += live) {
            const from = (token * n + image) * channels;
            for (let c = 0; c < live; c++) total[to + c] += Math.abs(symbols[from + c]);
          }
        }
      }
    }
    return total;
  }

  /** Of a wave's class, the first channels' weights. */
  weightsOf(wave, live) {
    const first = wave.parameters * this.rank;
    return this.at.weights.map((weight) => weight.subarray(first, first + live));
  }

  b0Of(wave, live) {
    return this.at.b0.subarray(wave.parameters * this.rank, wave.parameters * this.rank + live);
  }
}

/** Sums over 3 x 3 cells of `lanes` numbers, weighed (1, 2, 1) along both axes; cells at the edge repeat beyond it. */
function blurred(cells, rows, columns, lanes) {
  return blurredAlong(blurredAlong(cells, rows, columns, lanes), 1, rows, columns * lanes);
}

/** The same along the second of three axes. */
function blurredAlong(cells, lines, count, lanes) {
  const total = new Float64Array(cells.length);
  for (let line = 0; line < lines; line++) {
    for (let i = 0; i < count; i++) {
      const at = (line * count + i) * lanes;
      const before = i > 0 ? at - lanes : at;
      const after = i < count - 1 ? at + lanes : at;
      for (let c = 0; c < lanes; c++) total[at + c] = cells[before + c] + 2 * cells[at + c] + cells[after + c];
    }
  }
  return total;
}

/** 4 floor(log2 M) and the two bits after the leading one, for 1 <= M < 2^46. */
function scaleIndex(magnitude) {
  if (magnitude < 16777216) {
    const exponent = 31 - Math.clz32(magnitude);
    return 4 * exponent + (((magnitude << 2) >>> exponent) & 3);
  }
  const upper = Math.floor(magnitude / 4194304);
  const exponent = 31 - Math.clz32(upper);
  return 4 * (exponent + 22) + ((upper >>> (exponent - 2)) & 3);
}
