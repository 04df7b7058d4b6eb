// Arrays beside the embeddings: names, labels, splits, groups, validity. Zarr's own codecs, Zstandard and CRC-32C.

import { crc32c } from "../codec/crc32c.js";
import { CorruptError, InputError } from "../codec/errors.js";
import { hexadecimal } from "./document.js";
import { unzstd } from "./zstd.js";

const MOST_TEXT = 2 ** 28; // bytes
const TYPES = {
  bool: [1, (view, at) => view.getUint8(at)],
  uint8: [1, (view, at) => view.getUint8(at)],
  int8: [1, (view, at) => view.getInt8(at)],
  int64: [8, (view, at) => Number(view.getBigInt64(at, true))],
  float64: [8, (view, at) => view.getFloat64(at, true)],
};

/**
 * Values of one chunk, those beyond the array's edge included.
 * @param {import("./sources.js").Source} source
 * @param {string} name of the array
 * @param {any} metadata of the array
 * @param {number[]} place of the chunk
 * @returns {Promise<any[]>} numbers or texts, in C order
 */
export async function readChunk(source, name, metadata, place) {
  const { codecs, data_type, chunk_grid, chunk_key_encoding } = metadata;
  const separator = chunk_key_encoding.configuration?.separator ?? "/";
  const key = `${name}/c${separator}${place.join(separator)}`;
  const stored = await source.get(key);
  if (stored === null) throw damaged(source, key, new CorruptError("missing"));
  try {
    const count = chunk_grid.configuration.chunk_shape.reduce((product, size) => product * size, 1);
    const most = data_type === "string" ? MOST_TEXT : 8 * count;
    const bytes = codecs.slice(1).reduceRight((data, codec) => undo(codec.name, data, most), stored);
    const values = data_type === "string" ? texts(bytes) : numbers(bytes, data_type);
    if (values.length !== count) throw new CorruptError(`it holds ${values.length} values where ${count} belong`);
    return values;
  } catch (error) {
    throw error instanceof CorruptError ? damaged(source, key, error) : error;
  }
}

/** Values of an array of one axis, checked against the checksum that the store keeps of them. */
export async function readSide(source, name, metadata, sum) {
  const size = metadata.shape[0];
  const chunk = metadata.chunk_grid.configuration.chunk_shape[0];
  const chunks = Array.from({ length: Math.ceil(size / chunk) }, (_, i) => readChunk(source, name, metadata, [i]));
  const values = (await Promise.all(chunks)).flat().slice(0, size);
  if (hexadecimal(crc32c(summed(values, metadata.data_type))) !== sum) {
    throw damaged(source, name, new CorruptError("its values differ from their checksum"));
  }
  return values;
}

/** Of numbers little-endian int64, of texts UTF-8 joined by a zero byte. */
function summed(values, type) {
  if (type === "string") return new TextEncoder().encode(values.join("\0"));
  const view = new DataView(new ArrayBuffer(8 * values.length));
  values.forEach((value, i) => view.setBigInt64(8 * i, BigInt(value), true));
  return new Uint8Array(view.buffer);
}

function undo(codec, data, most) {
  if (codec === "zstd") return unzstd(data, most);
  if (codec !== "crc32c") throw new InputError(`the Zarr codec ${codec} is not known to this reader`);
  const end = data.length - 4;
  if (end < 0 || crc32c(data.subarray(0, end)) !== new DataView(data.buffer, data.byteOffset).getUint32(end, true)) {
    throw new CorruptError("its checksum differs (CRC-32C)");
  }
  return data.subarray(0, end);
}

function numbers(bytes, type) {
  const [size, read] = TYPES[type] ?? [];
  if (!size) throw new InputError(`the Zarr data type ${type} is not known to this reader`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: Math.floor(bytes.length / size) }, (_, i) => read(view, i * size));
}

/** Zarr's vlen-utf8: how many, then each one's bytes and how many these are. */
function texts(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const utf8 = new TextDecoder();
  const found = [];
  try {
    let at = 4;
    for (let left = view.getUint32(0, true); left > 0; left--) {
      const size = view.getUint32(at, true);
      if (at + 4 + size > bytes.length) throw new RangeError();
      found.push(utf8.decode(bytes.subarray(at + 4, at + 4 + size)));
      at += 4 + size;
    }
  } catch (error) {
    throw error instanceof RangeError ? new CorruptError("its texts end too early") : error;
  }
  return found;
}

const damaged = (source, what, cause) =>
  new CorruptError(`${source.name}: ${what} is damaged: ${cause.message}; copy the store again from its origin`, {
    cause,
  });
