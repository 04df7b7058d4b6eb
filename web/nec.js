// Decodes frames of nec, written by the Python package, in any JavaScript: docs/format.md says what their bytes mean.
//
//     import { EmbeddingCodec } from "./web/nec.js";
//     const codec = EmbeddingCodec.fromJSON(await (await fetch("codec.json")).json());
//     const { data, shape } = codec.decode(frame); // Float32Array, [n, y, x, d]
//
// Decoding is in integers up to the last step, so every machine decodes every frame alike.

import { readConfig } from "./codec/config.js";
import { CorruptError, InputError } from "./codec/errors.js";
import { readFrame, total } from "./codec/frame.js";
import { allocated, decodeSymbols } from "./codec/symbols.js";
import { reconstruct } from "./codec/transform.js";
import { levelsOf } from "./codec/waves.js";

export { CorruptError, InputError, NecError } from "./codec/errors.js";

/** @typedef {Uint8Array | ArrayBuffer} Bytes */
/**
 * `limit`: the most images, rows and columns that are expected. Larger frames are refused before memory is taken.
 * @typedef {{limit?: [number, number, number]}} Options
 */
/** @typedef {{data: Int32Array, shape: [number, number, number, number], quality: number}} Symbols (n, y, x, k) */
/** @typedef {{data: Float32Array, shape: [number, number, number, number]}} Embeddings (n, y, x, d) */

/** A fitted codec, as its JSON has it. Immutable. */
export class EmbeddingCodec {
  #config;

  /** @param {import("./codec/config.js").Config} config checked; use `fromJSON` */
  constructor(config) {
    this.#config = config;
  }

  /**
   * A codec of its JSON object (`codec.json` of a model, "codec" in the metadata of a store).
   * @param {any} json
   * @returns {EmbeddingCodec}
   * @throws {InputError} that names the field which is missing, malformed or altered
   */
  static fromJSON(json) {
    return new EmbeddingCodec(readConfig(json));
  }

  /** 16 hex digits that identify it. */
  get id() {
    return this.#config.id;
  }

  /** d, the channels of embeddings. */
  get dimensions() {
    return this.#config.dimensions;
  }

  /** k, the channels of symbols. */
  get rank() {
    return this.#config.rank;
  }

  /** "hierarchical" or "factorized"; only the first has coarse grids. */
  get prior() {
    return this.#config.prior;
  }

  /**
   * Integers of a frame.
   * @param {Bytes} bytes
   * @param {Options} [options]
   * @returns {Symbols}
   * @throws {CorruptError} where any bit changed, another codec wrote it, or it is larger than `limit`
   */
  symbols(bytes, options = {}) {
    const { rank } = this.#config;
    const { frame, grid } = this.#decoded(asBytes(bytes), 1, false, options);
    const { symbols, y, x, n, channels } = grid;
    const data = allocated(() => new Int32Array(n * y * x * rank));
    for (let token = 0; channels > 0 && token < y * x; token++) {
      for (let image = 0; image < n; image++) {
        const from = (token * n + image) * channels;
        const to = (image * y * x + token) * rank;
        for (let c = 0; c < channels; c++) data[to + c] = symbols[from + c];
      }
    }
    return { data, shape: [n, y, x, rank], quality: 2 ** (frame.level / 8) };
  }

  /**
   * Embeddings of a frame.
   * @param {Bytes} bytes
   * @param {Options} [options]
   * @returns {Embeddings}
   * @throws {CorruptError} as `symbols`
   */
  decode(bytes, options = {}) {
    return this.#values(asBytes(bytes), 1, options);
  }

  /**
   * A coarse grid (n, ceil(y / spacing), ceil(x / spacing), d) from a frame or its first `coarseSize` bytes.
   *
   * Its tokens are those at multiples of the spacing; of a codec of version 2 they are the means of cells. A prefix is
   * not protected by the frame's checksum.
   *
   * @param {Bytes} bytes
   * @param {number} spacing power of 2, up to what covers the grid
   * @param {Options} [options]
   * @returns {Embeddings}
   * @throws {CorruptError | InputError} damage that can be seen; a spacing that the frame has not
   */
  decodeCoarse(bytes, spacing, options = {}) {
    return this.#values(asBytes(bytes), spacing, options);
  }

  /**
   * Bytes of a frame that `decodeCoarse` needs.
   * @param {Bytes} start of the frame, 64 bytes or more
   * @param {number} spacing
   * @returns {number}
   */
  coarseSize(start, spacing) {
    const frame = this.#head(asBytes(start), false);
    return frame.start + 4 * total(frame.words.slice(0, levelsAt(this.#config, frame, spacing)));
  }

  /** @returns {Embeddings} */
  #values(bytes, spacing, options) {
    const { frame, grid, centroids } = this.#decoded(bytes, spacing, true, options);
    const { n, y, x } = grid;
    const data = reconstruct(this.#config, frame, grid, centroids, spacing);
    return { data, shape: [n, y, x, this.#config.dimensions] };
  }

  #head(bytes, whole) {
    return readFrame(bytes, this.#config, (y, x) => levelsOf(this.#config.prior === "hierarchical", y, x), whole);
  }

  /** @param {Uint8Array} bytes @param {number} spacing @param {boolean} centred @param {Options} options */
  #decoded(bytes, spacing, centred, { limit }) {
    const frame = this.#head(bytes, spacing === 1);
    const levels = levelsAt(this.#config, frame, spacing);
    const { n, y, x, channels } = frame;
    if (limit && (n > limit[0] || y > limit[1] || x > limit[2])) {
      throw new CorruptError(`frame holds ${n} images of ${y}x${x} where at most ${limit.join(", ")} were expected`);
    }
    const end = spacing === 1 ? bytes.length : frame.start + 4 * total(frame.words.slice(0, levels));
    if (bytes.length < end) {
      throw new CorruptError(`frame is cut after ${bytes.length} bytes: spacing ${spacing} needs ${end}; fetch them`);
    }
    if (n * y * x * channels === 0) {
      const side = (size) => Math.ceil(size / spacing);
      const grid = { symbols: new Int32Array(0), y: side(y), x: side(x), n, channels: 0 };
      return { frame, grid, centroids: null };
    }
    return { frame, ...decodeSymbols(this.#config, frame, bytes.subarray(frame.start, end), spacing, centred) };
  }
}

/** How many spacing levels hold the tokens at a spacing. */
function levelsAt(config, frame, spacing) {
  const most = 2 ** Math.max(levelsOf(config.prior === "hierarchical", frame.y, frame.x) - 1, 0);
  if (!Number.isInteger(spacing) || spacing < 1 || !Number.isInteger(Math.log2(spacing)) || spacing > most) {
    throw new InputError(`spacing must be a power of 2 from 1 to ${most} for this frame, not ${spacing}`);
  }
  return Math.log2(most / spacing) + 1;
}

/** @param {Bytes} bytes @returns {Uint8Array} */
function asBytes(bytes) {
  if (bytes instanceof Uint8Array) return bytes;
  if (bytes instanceof ArrayBuffer) return new Uint8Array(bytes);
  throw new InputError(`a frame is a Uint8Array or an ArrayBuffer, not ${Object.prototype.toString.call(bytes)}`);
}
