// The order in which a grid's tokens are coded (docs/format.md, section 3).

/**
 * Tokens of rows `row`, `row + step`, ... and columns `column`, `column + step`, ...
 *
 * @typedef {object} Wave
 * @property {string} kind "root", or a key of `PLACES`
 * @property {number} row
 * @property {number} column
 * @property {number} step
 * @property {number} parameters the number of its class
 */

/** Kinds of details, and where they lie in a cell of four tokens. */
export const PLACES = { across: [0, 1], down: [1, 0], diag: [1, 1] };
const CLASSES = ["diag", "across", "down"];

/** The least power of 2 that covers a grid. @param {number} y @param {number} x */
export function cover(y, x) {
  let step = 1;
  while (step < Math.max(y, x)) step *= 2;
  return step;
}

/**
 * How many spacing levels a grid has.
 * @param {boolean} hierarchical
 * @param {number} y
 * @param {number} x
 */
export function levelsOf(hierarchical, y, x) {
  if (y === 0 || x === 0) return 0;
  return hierarchical ? 1 + Math.log2(cover(y, x)) : 1;
}

/**
 * Waves by spacing level, coarse first, of a grid's lattice of a spacing, in whose units they are counted.
 * @param {import("./config.js").Config} config
 * @param {number} y of the whole grid
 * @param {number} x
 * @param {number} spacing
 * @returns {Wave[][]}
 */
export function waves(config, y, x, spacing) {
  if (config.prior === "factorized") return [[{ kind: "root", row: 0, column: 0, step: 1, parameters: 0 }]];
  const order = config.version === 2 ? Object.keys(PLACES) : CLASSES;
  const most = cover(y, x);
  const levels = [[{ kind: "root", row: 0, column: 0, step: most / spacing, parameters: 0 }]];
  for (let step = most; step > spacing; step /= 2) {
    const half = step / 2;
    const octave = Math.min(Math.log2(step), 3) - 1;
    levels.push(
      order
        .map((kind) => ({
          kind,
          row: (PLACES[kind][0] * half) / spacing,
          column: (PLACES[kind][1] * half) / spacing,
          step: step / spacing,
          parameters: 1 + 3 * octave + CLASSES.indexOf(kind),
        }))
        .filter((wave) => wave.row < Math.ceil(y / spacing) && wave.column < Math.ceil(x / spacing)),
    );
  }
  return levels;
}

/** How many of a wave's tokens lie along a side. @param {number} size @param {number} first @param {number} step */
export const along = (size, first, step) => Math.max(0, Math.ceil((size - first) / step));
