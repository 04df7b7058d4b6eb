// Reads image stores and raster stores of nec (docs/store.md, docs/products.md) with range requests: of a chunk its
// frame alone, of a coarse chunk the beginning of that.
//
//     import { openStore } from "./web/store.js";
//     const store = await openStore("https://example.org/eurosat.zarr");
//     const { data, shape } = await store.read(0); // Float32Array, [n, y, x, d]
//     const coarse = await store.readCoarse(0, 8);
//     console.log(store.bytesRead, store.requests);

import { crc32c } from "./codec/crc32c.js";
import { AccessError, CorruptError, InputError } from "./codec/errors.js";
import { EmbeddingCodec } from "./nec.js";
import { hexadecimal, readDocument } from "./store/document.js";
import { readChunk, readSide } from "./store/side.js";
import { openSource } from "./store/sources.js";

export { AccessError, CorruptError, InputError, NecError } from "./codec/errors.js";

// Bytes of a frame that are asked for first: its header, and all of a coarse grid where rates are low.
const START = 512;
const ABSENT = 2n ** 64n - 1n;

/** @typedef {import("./nec.js").Embeddings} Embeddings */

/**
 * A chunk's shard and slot in it, the shard's bytes, the chunk's images, rows and columns, and its name in messages.
 * @typedef {{key: string, slot: number, size: number, shape: [number, number, number], words: string}} Place
 */

/**
 * Open a store.
 * @param {string | URL | Blob | Iterable<File>} location its URL, a zip of it, or the files of its folder
 * @param {{fetch?: typeof fetch}} [options] what fetches, for headers of one's own
 * @returns {Promise<ImageStore | RasterStore>}
 * @throws {InputError | CorruptError | AccessError} there is no store, it is damaged, or it cannot be reached
 */
export async function openStore(location, options = {}) {
  const source = await openSource(location, options.fetch ?? globalThis.fetch);
  const { attributes, arrays, kind } = readDocument(await source.get("zarr.json"), source.name);
  return kind === "raster" ? new RasterStore(source, attributes, arrays) : new ImageStore(source, attributes, arrays);
}

/** What both kinds of stores have in common. */
class Store {
  /** @param {import("./store/sources.js").Source} source */
  constructor(source, attributes, arrays) {
    this.source = source;
    /** What the store says of itself: model, codec, quality, classes, ... */
    this.attributes = attributes.nec;
    /** Metadata of its arrays. */
    this.arrays = arrays;
    const { shape, chunk_grid, chunk_key_encoding, codecs } = arrays.embeddings;
    const sharding = codecs[0];
    const inner = sharding?.configuration?.codecs?.[0];
    if (sharding?.name !== "sharding_indexed" || inner?.name !== "nec.embedding") {
      throw new InputError(`${source.name}: its embeddings are not shards of nec.embedding`);
    }
    /** @type {EmbeddingCodec} */
    this.codec = EmbeddingCodec.fromJSON(inner.configuration.codec);
    this.quality = this.attributes.quality;
    this.arrayShape = shape;
    this.shard = chunk_grid.configuration.chunk_shape;
    this.chunk = sharding.configuration.chunk_shape;
    this.separator = chunk_key_encoding.configuration?.separator ?? "/";
    this.slots = this.shard.reduce((product, size, axis) => (product * size) / this.chunk[axis], 1);
    this.kept = new Map();
  }

  /** Values of a token. */
  get dimensions() {
    return this.codec.dimensions;
  }

  /** Bytes that were read so far. */
  get bytesRead() {
    return this.source.bytes;
  }

  /** Requests that were made so far. */
  get requests() {
    return this.source.requests;
  }

  /** @returns {Promise<Embeddings | null>} */
  async readAt(place, spacing) {
    try {
      const found = (await this.index(place))[place.slot];
      if (found === null) return null;
      return spacing === 1 ? await this.whole(place, found) : await this.beginning(place, found, spacing);
    } catch (error) {
      if (!(error instanceof CorruptError)) throw error;
      throw damaged(this.source.name, place.words, error);
    }
  }

  async whole(place, [offset, length]) {
    const frame = await this.bytes(place.key, offset, offset + length);
    return checked(this.codec.decode(frame, { limit: place.shape }), place.shape, 1);
  }

  async beginning(place, [offset, length], spacing) {
    const some = await this.bytes(place.key, offset, offset + Math.min(length, START));
    const needed = Math.min(this.codec.coarseSize(some, spacing), length);
    const frame = new Uint8Array(needed);
    frame.set(some.subarray(0, needed));
    if (needed > some.length)
      frame.set(await this.bytes(place.key, offset + some.length, offset + needed), some.length);
    return checked(this.codec.decodeCoarse(frame, spacing, { limit: place.shape }), place.shape, spacing);
  }

  /** What `read` gives, which is asked once; again after an error. */
  once(name, read) {
    if (!this.kept.has(name)) {
      const reading = read();
      reading.catch(() => this.kept.delete(name));
      this.kept.set(name, reading);
    }
    return this.kept.get(name);
  }

  /** Where each chunk of a shard lies, [offset, length] or null. */
  index({ key, size }) {
    return this.once(key, () => this.readIndex(key, size));
  }

  async readIndex(key, size) {
    const length = 16 * this.slots + 4;
    if (size < length) throw new CorruptError(`${key} is cut short: its ${size} bytes do not hold its index`);
    const data = await this.bytes(key, size - length, size);
    const view = new DataView(data.buffer, data.byteOffset);
    if (crc32c(data.subarray(0, length - 4)) !== view.getUint32(length - 4, true)) {
      throw new CorruptError("its shard's index is damaged (CRC-32C)");
    }
    return Array.from({ length: this.slots }, (_, slot) => {
      const [offset, count] = [view.getBigUint64(16 * slot, true), view.getBigUint64(16 * slot + 8, true)];
      if (offset === ABSENT) return null;
      if (offset + count > BigInt(size - length)) throw new CorruptError("its shard's index points beyond the shard");
      return [Number(offset), Number(count)];
    });
  }

  async bytes(key, start, stop) {
    const found = await this.source.range(key, start, stop);
    if (found === null) throw new CorruptError(`${key} is missing`);
    return found;
  }

  key(...place) {
    return `embeddings/c${this.separator}${place.join(this.separator)}`;
  }
}

/** Embeddings of separate images. A chunk, a number from 0, holds `imagesPerChunk` of them, the last one fewer. */
export class ImageStore extends Store {
  constructor(source, attributes, arrays) {
    super(source, attributes, arrays);
    const [images, y, x] = this.arrayShape;
    this.kind = "images";
    this.images = images;
    /** Rows and columns of an image's tokens. @type {[number, number]} */
    this.grid = [y, x];
    this.imagesPerChunk = this.chunk[0];
    this.chunks = Math.ceil(images / this.chunk[0]);
  }

  /** Images [first, last) of a chunk. @param {number} chunk @returns {[number, number]} */
  imagesOf(chunk) {
    return [chunk * this.chunk[0], Math.min((chunk + 1) * this.chunk[0], this.images)];
  }

  /** @param {number} chunk @returns {Promise<Embeddings>} [images, y, x, d] */
  read(chunk) {
    return this.readCoarse(chunk, 1);
  }

  /** The coarse grids of a chunk: see `EmbeddingCodec.decodeCoarse`. @param {number} chunk @param {number} spacing */
  async readCoarse(chunk, spacing) {
    const place = this.place(chunk);
    const found = await this.readAt(place, spacing);
    if (found === null) throw damaged(this.source.name, place.words, new CorruptError("missing"));
    return found;
  }

  /**
   * What lies beside the embeddings, one value an image: "names" and "groups" (texts), "labels" (numbers of
   * `attributes.classes`, -1: none), "split" (0 none, 1 train, 2 val, 3 test).
   * @param {"names" | "labels" | "split" | "groups"} name
   * @returns {Promise<any[] | null>} null where the store has none
   */
  async side(name) {
    const metadata = this.arrays[name];
    return metadata ? readSide(this.source, name, metadata, this.attributes.checksums[name]) : null;
  }

  /** @returns {Place} */
  place(chunk) {
    if (!Number.isInteger(chunk) || chunk < 0 || chunk >= this.chunks) {
      throw new InputError(`no chunk ${chunk}: ${this.source.name} has ${this.chunks}`);
    }
    const shard = Math.floor(chunk / this.slots);
    const key = this.key(shard, 0, 0, 0);
    const [first, last] = this.imagesOf(chunk);
    const words = `chunk ${chunk} (images ${first} to ${last - 1}, in ${key})`;
    return {
      key,
      slot: chunk % this.slots,
      size: this.attributes.shards.bytes[shard],
      shape: [last - first, ...this.grid],
      words,
    };
  }
}

/** A raster of embeddings over time. A chunk is [time, row, column], each counted from 0. */
export class RasterStore extends Store {
  constructor(source, attributes, arrays) {
    super(source, attributes, arrays);
    const [, , y, x] = this.arrayShape;
    this.kind = "raster";
    /** Rows and columns of tokens. */
    this.grid = [y, x];
    /** Rows and columns of chunks, and of tokens in a chunk. */
    this.chunks = [Math.ceil(y / this.chunk[2]), Math.ceil(x / this.chunk[3])];
    this.tokensPerChunk = [this.chunk[2], this.chunk[3]];
    /** ISO texts of its dates. @type {string[]} */
    this.times = this.attributes.times.map((entry) => entry.time);
    /** Code or WKT2, or null. @type {string | null} */
    this.crs = attributes["proj:code"] ?? attributes["proj:wkt2"] ?? null;
    /** Six numbers of a token: x = a column + b row + c, y = d column + e row + f. @type {number[]} */
    this.transform = attributes["spatial:transform"];
  }

  /** Rows and columns [first, last) of a chunk's tokens. @param {[number, number, number]} chunk */
  windowOf([, row, column]) {
    const side = (i, axis) => [
      i * this.tokensPerChunk[axis],
      Math.min((i + 1) * this.tokensPerChunk[axis], this.grid[axis]),
    ];
    return [side(row, 0), side(column, 1)];
  }

  /**
   * @param {[number, number, number]} chunk
   * @returns {Promise<Embeddings | null>} [1, y, x, d]; null where no token saw data. Tokens without data hold anything
   * where others of the chunk have some: `readValid` says which.
   */
  read(chunk) {
    return this.readCoarse(chunk, 1);
  }

  /** The coarse grid of a chunk: see `EmbeddingCodec.decodeCoarse`. */
  async readCoarse(chunk, spacing) {
    const place = await this.place(chunk);
    return place.size === 0 ? null : this.readAt(place, spacing);
  }

  /**
   * Which tokens of a chunk saw data.
   * @param {[number, number, number]} chunk
   * @returns {Promise<{data: Uint8Array, shape: [number, number]}>} 1 where they did, [y, x]
   */
  async readValid(chunk) {
    this.check(chunk);
    const [rows, columns] = this.windowOf(chunk);
    const [height, width] = [this.shard[2], this.shard[3]];
    const shard = [chunk[0], Math.floor(rows[0] / height), Math.floor(columns[0] / width)];
    const whole = await this.once(`valid ${shard}`, () => readChunk(this.source, "valid", this.arrays.valid, shard));
    /** @type {[number, number]} */
    const shape = [rows[1] - rows[0], columns[1] - columns[0]];
    const data = new Uint8Array(shape[0] * shape[1]);
    for (let i = 0; i < data.length; i++) {
      const row = (rows[0] % height) + Math.floor(i / shape[1]);
      data[i] = whole[row * width + (columns[0] % width) + (i % shape[1])];
    }
    return { data, shape };
  }

  check(chunk) {
    const counts = [this.times.length, ...this.chunks];
    if (!counts.every((count, axis) => Number.isInteger(chunk[axis]) && chunk[axis] >= 0 && chunk[axis] < count)) {
      throw new InputError(
        `no chunk ${chunk}: ${this.source.name} has ${this.times.length} dates of ${this.chunks.join(" x ")}`,
      );
    }
  }

  /** @returns {Promise<Place>} */
  async place(chunk) {
    this.check(chunk);
    const [time, row, column] = chunk;
    const perShard = [this.shard[2] / this.chunk[2], this.shard[3] / this.chunk[3]];
    const shard = [Math.floor(row / perShard[0]), Math.floor(column / perShard[1])];
    const slot = (row % perShard[0]) * perShard[1] + (column % perShard[1]);
    const key = this.key(time, 0, ...shard);
    const across = Math.ceil(this.grid[1] / this.shard[3]);
    const [rows, columns] = this.windowOf(chunk);
    const window = `rows ${rows[0]} to ${rows[1] - 1}, columns ${columns[0]} to ${columns[1] - 1}`;
    const words = `chunk ${time}, ${row}, ${column} (${window}, in ${key})`;
    const size = (await this.list(time))[shard[0] * across + shard[1]][0];
    return { key, slot, size, shape: [1, rows[1] - rows[0], columns[1] - columns[0]], words };
  }

  /** Sizes and checksums of a date's files, row by row. */
  list(time) {
    return this.once(`list ${time}`, () => this.readList(time));
  }

  async readList(time) {
    const key = `shards/${time}.json`;
    const data = await this.source.get(key);
    if (data === null || hexadecimal(crc32c(data)) !== this.attributes.times[time].list) {
      throw damaged(this.source.name, key, new CorruptError(data === null ? "missing" : "its checksum differs"));
    }
    return JSON.parse(new TextDecoder().decode(data)).shards;
  }
}

/** @param {Embeddings} found */
function checked(found, wanted, spacing) {
  const shape = [wanted[0], Math.ceil(wanted[1] / spacing), Math.ceil(wanted[2] / spacing)];
  if (shape.some((size, axis) => size !== found.shape[axis])) {
    throw new CorruptError(`it holds ${found.shape.slice(0, 3)} images, rows and columns where ${shape} belong`);
  }
  return found;
}

const damaged = (name, words, cause) =>
  new CorruptError(`${name}: ${words} is damaged: ${cause.message}; copy the store again from its origin`, { cause });
