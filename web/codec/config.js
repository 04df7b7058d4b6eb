// The codec's JSON (docs/format.md, section 6): unpacked, checked and identified.

import { Tables } from "./ans.js";
import { InputError } from "./errors.js";
import { inflate } from "./inflate.js";
import { sha256 } from "./sha256.js";

export const FORMAT = "nec.embedding-codec";
const MAX_BYTES = 2 ** 28;
const MAX_CENTROID = 115;
const MANTISSAS = [256, 279, 304, 332, 362, 395, 431, 470];
const TRANSFORM = ["mean", "positions", "gains", "basis", "order"];
const HASHED = [...TRANSFORM, "base", "weights", "offset_of", "radii", "frequencies", "centroids"];

/** What reads a value of each dtype, and its bytes. */
const DTYPES = {
  "<f4": { bytes: 4, Array: Float32Array, read: (view, at) => view.getFloat32(at, true) },
  "<f2": { bytes: 2, Array: Float32Array, read: (view, at) => half(view.getUint16(at, true)) },
  "<u2": { bytes: 2, Array: Uint16Array, read: (view, at) => view.getUint16(at, true) },
  "<i2": { bytes: 2, Array: Int16Array, read: (view, at) => view.getInt16(at, true) },
  "<u1": { bytes: 1, Array: Uint8Array, read: (view, at) => view.getUint8(at) },
  "<i1": { bytes: 1, Array: Int8Array, read: (view, at) => view.getInt8(at) },
};

/** @typedef {{shape: number[], values: any, raw: Uint8Array}} Packed an array: its values, and its bytes */

/**
 * A codec's JSON, checked.
 *
 * @typedef {object} Config
 * @property {string} id
 * @property {1 | 2} version
 * @property {"hierarchical" | "factorized"} prior
 * @property {number} dimensions d
 * @property {number} rank k
 * @property {number} step
 * @property {Float32Array} mean (d)
 * @property {{rows: number, columns: number, values: Float32Array} | null} positions
 * @property {Float32Array | null} gains of a pyramid's octaves; null in version 1
 * @property {Float32Array | null} basis (k, d)
 * @property {Uint16Array | null} order (k)
 * @property {Scales} scales
 * @property {Tables} tables
 * @property {Int8Array} centroids (tables, 5)
 * @property {(level: number) => Parameters} parametersAt
 */

/**
 * How magnitudes choose tables.
 *
 * @typedef {object} Scales
 * @property {number} low
 * @property {number} split
 * @property {number} wide
 * @property {number} offsets how many bins of fractions there are
 * @property {Uint8Array} offsetOf
 * @property {Int32Array} firstOf of a scale index: its table where the bin is 0
 */

/**
 * Integers of a level: `b0` (classes, k), and `weights`, for each weight (classes, k).
 * @typedef {{b0: Float64Array, weights: Float64Array[]}} Parameters
 */

/** @param {any} json @returns {Config} */
export function readConfig(json) {
  if (typeof json !== "object" || json === null || json.format !== FORMAT) {
    throw new InputError(`not a codec: its JSON must be an object with "format": "${FORMAT}"`);
  }
  if (json.version !== 1 && json.version !== 2) {
    const found = JSON.stringify(json.version);
    throw new InputError(`codec version ${found} is not known to this decoder (it reads 1 and 2)`);
  }
  if (json.prior !== "hierarchical" && json.prior !== "factorized") {
    throw bad(`prior must be "hierarchical" or "factorized", not ${JSON.stringify(json.prior)}`);
  }
  if (json.version === 2 && json.prior !== "hierarchical") throw bad("a pyramid needs the hierarchical prior");
  /** @type {Record<string, Packed>} */
  const packed = {};
  const unpacked = (name, dtype, axes) => (packed[name] = unpack(json[name], name, dtype, axes));
  const dimensions = whole(json, "dimensions", 1, 1 << 16);
  const rank = whole(json, "rank", 1, dimensions);
  if (typeof json.step !== "number" || !Number.isFinite(json.step) || json.step <= 0) {
    throw bad(`step must be a positive number, not ${JSON.stringify(json.step)}`);
  }
  const transform = readTransform(json, unpacked, dimensions, rank);
  const prior = readPrior(json, unpacked, rank);
  const id = identity(json, packed);
  if (json.id !== id) throw bad(`its content has id ${id}, not ${JSON.stringify(json.id)}: it was altered or damaged`);
  return { id, version: json.version, prior: json.prior, dimensions, rank, step: json.step, ...transform, ...prior };
}

function readTransform(json, unpacked, dimensions, rank) {
  const mean = unpacked("mean", "<f4", 1);
  let positions = null;
  if ("positions" in json) {
    positions = unpacked("positions", "<f2", 3);
    if (positions.shape[2] !== dimensions || positions.shape.includes(0) || !positions.values.every(Number.isFinite)) {
      throw bad(`positions (${positions.shape}) do not fit ${dimensions} dimensions, or hold NaN`);
    }
  }
  const basis = "basis" in json ? unpacked("basis", "<f2", 2) : null;
  const order = basis ? null : unpacked("order", "<u2", 1);
  const fits = basis ? basis.shape[0] === rank && basis.shape[1] === dimensions : order.shape[0] === rank;
  if (mean.shape[0] !== dimensions || !fits || (order && order.values.some((channel) => channel >= dimensions))) {
    throw bad(`mean and basis (or order) do not fit ${dimensions} dimensions and rank ${rank}`);
  }
  if (!mean.values.every(Number.isFinite) || (basis && !basis.values.every(Number.isFinite))) {
    throw bad("mean or basis holds NaN or infinity");
  }
  let gains = null;
  if (json.version === 2) {
    gains = unpacked("gains", "<f4", 1).values;
    if (gains.length < 1 || gains.length > 16 || !gains.every((gain) => Number.isFinite(gain) && gain > 0)) {
      throw bad("gains must be 1 to 16 positive numbers");
    }
  }
  const places = positions && { rows: positions.shape[0], columns: positions.shape[1], values: positions.values };
  return { mean: mean.values, positions: places, gains, basis: basis?.values ?? null, order: order?.values ?? null };
}

function readPrior(json, unpacked, rank) {
  const base = unpacked("base", "<i2", 3);
  const weights = unpacked("weights", "<i2", 4);
  const classes = json.prior === "hierarchical" ? 10 : 1;
  const anchors = base.shape[0];
  const names = json.version === 2 ? ["a1", "a2", "a3", "a4"] : ["wn", "wf", "an", "af", "ap"];
  const wanted = [names.length, anchors, classes, rank];
  if (anchors < 1 || String(base.shape) !== String(wanted.slice(1)) || String(weights.shape) !== String(wanted)) {
    throw bad(`base (${base.shape}) and weights (${weights.shape}) do not fit ${classes} classes of ${rank}`);
  }
  const size = base.values.length;
  const ranges = names.map((name) => (name[0] === "w" ? [-128, 127] : [0, 255]));
  const outside = (weight, range) => weight < range[0] || weight > range[1];
  if (weights.values.some((weight, i) => outside(weight, ranges[Math.floor(i / size)])))
    throw bad("weights are out of range");
  const offsetOf = unpacked("offset_of", "<u1", 1).values;
  if (offsetOf.length !== 65 || offsetOf.some((offset) => offset > 32))
    throw bad("offset_of must have 65 entries below 33");
  const low = whole(json, "scale_low", 0, 255);
  const split = whole(json, "scale_split", 1, 255);
  const wide = whole(json, "scale_wide", 4, 255);
  const offsets = 1 + Math.max(...offsetOf);
  const firstOf = Int32Array.from({ length: split + wide }, (_, i) =>
    i < split ? i * offsets : split * (offsets - 1) + i,
  );
  const tables = new Tables(unpacked("radii", "<u2", 1).values, unpacked("frequencies", "<u2", 1).values);
  if (tables.count !== split * offsets + wide) {
    throw bad(`${tables.count} tables where the scales need ${split * offsets + wide}`);
  }
  const centroids = unpacked("centroids", "<i1", 2);
  if (
    centroids.shape[0] !== tables.count ||
    centroids.shape[1] !== 5 ||
    centroids.values.some((c) => Math.abs(c) > MAX_CENTROID)
  ) {
    throw bad(`centroids must be ${tables.count} rows of 5 within +-${MAX_CENTROID}`);
  }
  const firstLevel = whole(json, "first_level", -128, 127);
  const spacing = whole(json, "spacing", 1, 255);
  return {
    scales: { low, split, wide, offsets, offsetOf, firstOf },
    tables,
    centroids: centroids.values,
    parametersAt: interpolation(base.values, weights.values, names.length, anchors, firstLevel, spacing),
  };
}

/** Parameters of a level, from those of the anchors around it; the last ones are kept. */
function interpolation(base, weights, count, anchors, firstLevel, spacing) {
  const size = base.length / anchors;
  let kept = { level: NaN, found: null };
  return (level) => {
    if (kept.level === level) return kept.found;
    const place = Math.min(Math.max(level - firstLevel, 0), spacing * (anchors - 1));
    const index = Math.floor(place / spacing);
    const part = place - index * spacing;
    const above = Math.min(index + 1, anchors - 1);
    const blend = (values, first) =>
      Float64Array.from({ length: size }, (_, i) => {
        const one = values[first + index * size + i];
        const other = values[first + above * size + i];
        return Math.floor(((spacing - part) * one + part * other + (spacing >> 1)) / spacing);
      });
    const b0 = blend(base, 0).map((value) => {
      const b = Math.min(Math.max(value + level, 0), 352);
      return Math.floor((MANTISSAS[b & 7] * 2 ** (b >> 3)) / 256);
    });
    kept = { level, found: { b0, weights: Array.from({ length: count }, (_, i) => blend(weights, i * base.length)) } };
    return kept.found;
  };
}

/** @returns {string} the first 16 hex digits of the SHA-256 over all that decides bytes and values */
function identity(json, packed) {
  const text = [json.format, json.version, json.prior].map((value) => JSON.stringify(value));
  text.push(JSON.stringify(hexadecimal(json.step)));
  text.push(...["first_level", "spacing", "scale_low", "scale_split", "scale_wide"].map((key) => String(json[key])));
  const utf8 = new TextEncoder();
  const parts = [utf8.encode(`[${text.join(", ")}]`)];
  for (const name of HASHED.filter((name) => name in packed)) {
    const shape = packed[name].shape;
    parts.push(utf8.encode(`${name}(${shape.length === 1 ? `${shape[0]},` : shape.join(", ")})`), packed[name].raw);
  }
  return sha256(parts).slice(0, 16);
}

/** A positive double as C99's %a and Python's float.hex write it. */
function hexadecimal(value) {
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, value);
  const bits = view.getBigUint64(0);
  const exponent = Number(bits >> 52n) & 0x7ff;
  const power = exponent ? exponent - 1023 : -1022;
  const digits = (bits & 0xfffffffffffffn).toString(16).padStart(13, "0");
  return `0x${exponent ? 1 : 0}.${digits}p${power < 0 ? "-" : "+"}${Math.abs(power)}`;
}

/** @returns {Packed} */
function unpack(packed, name, dtype, axes) {
  const { bytes, Array: Values, read } = DTYPES[dtype];
  const shape = packed?.shape;
  const sizes = Array.isArray(shape) && shape.every((size) => Number.isSafeInteger(size) && size >= 0);
  if (!sizes || typeof packed.data !== "string") {
    throw bad(`${name} is missing or damaged`);
  }
  if (packed.dtype !== dtype || shape.length !== axes) {
    throw bad(`${name} must be ${dtype} with ${axes} axes, not ${packed.dtype} (${shape})`);
  }
  const count = shape.reduce((product, size) => product * size, 1);
  if (count * bytes > MAX_BYTES) {
    throw bad(`${name} declares ${count * bytes} bytes, more than the limit of ${MAX_BYTES}`);
  }
  let planes;
  try {
    planes = inflate(
      Uint8Array.from(atob(packed.data), (letter) => letter.charCodeAt(0)),
      count * bytes,
    );
  } catch (error) {
    throw bad(`${name} is damaged: ${error.message}`);
  }
  const raw = new Uint8Array(planes.length);
  for (let plane = 0; plane < bytes; plane++) {
    for (let i = 0; i < count; i++) raw[i * bytes + plane] = planes[plane * count + i];
  }
  const view = new DataView(raw.buffer);
  const values = new Values(count);
  for (let i = 0; i < count; i++) values[i] = read(view, i * bytes);
  return { shape, values, raw };
}

/** The number that 16 bits of half precision stand for. */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  let size = (1024 + fraction) * 2 ** (exponent - 25);
  if (exponent === 0) size = fraction * 2 ** -24;
  if (exponent === 31) size = fraction ? NaN : Infinity;
  return bits & 0x8000 ? -size : size;
}

function whole(json, key, least, most) {
  const value = json[key];
  if (!Number.isInteger(value) || value < least || value > most) {
    throw bad(`${key} must be an integer from ${least} to ${most}, not ${JSON.stringify(value)}`);
  }
  return value;
}

const bad = (message) => new InputError(`codec JSON: ${message}`);
