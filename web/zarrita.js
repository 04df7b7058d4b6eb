// Lets zarrita (https://zarrita.dev) read arrays of the Zarr codec `nec.embedding`:
//
//     import * as zarr from "zarrita";
//     import { register } from "./web/zarrita.js";
//     register(zarr.registry);
//     const array = await zarr.open(zarr.root(new zarr.FetchStore(url)).resolve("embeddings"), { kind: "array" });

import { CorruptError, InputError } from "./codec/errors.js";
import { EmbeddingCodec } from "./nec.js";

export const NAME = "nec.embedding";
const AXES = ["n", "y", "x", "c"];

/** Make the codec known. @param {Map<string, () => any>} registry zarrita's */
export function register(registry) {
  registry.set(NAME, () => NecEmbeddingCodec);
}

/** The array-to-bytes codec of docs/format.md, section 8. It reads only. */
export class NecEmbeddingCodec {
  kind = "array_to_bytes";

  /**
   * @param {{codec: any, axes: string[]}} configuration of the metadata
   * @param {{shape: number[], fillValue: any}} meta of the array's chunks
   */
  static fromConfig(configuration, meta) {
    return new NecEmbeddingCodec(configuration, meta);
  }

  constructor({ codec, axes } = /** @type {any} */ ({}), { shape, fillValue }) {
    if (!Array.isArray(axes) || [...axes].sort().join() !== [...AXES].sort().join()) {
      throw new InputError(`Zarr metadata: ${NAME} needs axes, ${AXES} in any order, not ${JSON.stringify(axes)}`);
    }
    this.codec = EmbeddingCodec.fromJSON(codec);
    this.shape = shape;
    this.fill = typeof fillValue === "number" ? fillValue : NaN;
    /** Of images, rows, columns and channels: which axis of the array they are. */
    this.places = AXES.map((axis) => axes.indexOf(axis));
  }

  /** @param {Uint8Array} bytes @returns {{data: Float32Array, shape: number[], stride: number[]}} */
  decode(bytes) {
    const { shape, places } = this;
    if (shape[places[3]] !== this.codec.dimensions) {
      throw new CorruptError(`frame holds ${this.codec.dimensions} channels for a chunk of shape ${shape}`);
    }
    const [n, y, x, d] = places.map((axis) => shape[axis]);
    const found = this.codec.decode(bytes, { limit: [n, y, x] });
    const stride = shape.map((_, axis) => shape.slice(axis + 1).reduce((product, size) => product * size, 1));
    const data = new Float32Array(n * y * x * d).fill(this.fill);
    const step = places.map((axis) => stride[axis]);
    let from = 0;
    for (let i = 0; i < found.shape[0]; i++) {
      for (let row = 0; row < found.shape[1]; row++) {
        for (let column = 0; column < found.shape[2]; column++) {
          const to = i * step[0] + row * step[1] + column * step[2];
          for (let c = 0; c < d; c++) data[to + c * step[3]] = found.data[from++];
        }
      }
    }
    return { data, shape, stride };
  }

  encode() {
    throw new InputError(`${NAME} is read-only in JavaScript: write with the Python package`);
  }
}
