// The group's zarr.json and its seal (docs/store.md): a checksum of all that decides how a store is read.

import { crc32c } from "../codec/crc32c.js";
import { CorruptError, InputError } from "../codec/errors.js";

const FORMAT_VERSION = 1;
const SEALED = ["shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "dimension_names"];

/**
 * The checked group document.
 * @param {Uint8Array | null} data
 * @param {string} name of the store
 * @returns {{attributes: any, arrays: any, kind: "images" | "raster"}}
 */
export function readDocument(data, name) {
  if (data === null) throw new InputError(`${name} is not a store: it has no zarr.json`);
  let text;
  let document;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(data);
    document = JSON.parse(text);
  } catch (error) {
    throw damaged(name, error);
  }
  const attributes = document?.attributes;
  const nec = attributes?.nec;
  if (typeof nec !== "object" || nec === null) {
    throw new InputError(`${name} is Zarr, but not a store that nec wrote (no "nec" attributes)`);
  }
  if (nec.format_version > FORMAT_VERSION) {
    throw new InputError(`${name} has format version ${nec.format_version}, newer than this reader: upgrade it`);
  }
  if (nec.seal !== seal(text)) throw damaged(name);
  const kind = nec.kind === "product" ? "raster" : "images";
  if (kind === "images" ? !nec.complete : !nec.times.length) {
    throw new InputError(`${name} is incomplete: it was not finished; run \`nec encode --resume\` on it`);
  }
  return { attributes, arrays: document.consolidated_metadata.metadata, kind };
}

function damaged(name, cause) {
  const why = "is damaged or was changed (its checksum differs): copy it again from its origin";
  return new CorruptError(`${name}/zarr.json ${why}`, { cause });
}

/** Checksum of what is sealed in a document; null where it has no such form. */
function seal(text) {
  const document = new Parser(text).value();
  const attributes = document.get("attributes");
  const arrays = document.get("consolidated_metadata")?.get?.("metadata");
  if (!(arrays instanceof Map)) return null;
  const nec = new Map(attributes.get("nec"));
  const raster = nec.get("kind") === "product";
  nec.delete("seal");
  const kept = (meta) => new Map(SEALED.map((key) => [key, meta.get?.(key) ?? null]));
  const sealed = new Map([
    ["nec", nec],
    ["arrays", new Map([...arrays].map(([name, meta]) => [name, kept(meta)]))],
  ]);
  const place = [...attributes].filter(([key]) => key.startsWith("proj:") || key.startsWith("spatial:"));
  if (raster && place.length) sealed.set("attributes", new Map(place));
  return hexadecimal(crc32c(new TextEncoder().encode(written(sealed))));
}

/** @param {number} sum */
export const hexadecimal = (sum) => sum.toString(16).padStart(8, "0");

/** JSON with sorted keys, no blanks and non-ASCII characters escaped, as Python writes it. */
function written(value) {
  if (value instanceof Map) {
    const keys = [...value.keys()].sort();
    return `{${keys.map((key) => `${quoted(key)}:${written(value.get(key))}`).join(",")}}`;
  }
  if (Array.isArray(value)) return `[${value.map(written).join(",")}]`;
  if (typeof value === "string") return quoted(value);
  return value instanceof Numeral ? value.text : String(value);
}

function quoted(text) {
  const escaped = (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, escaped);
}

/** A number as it is spelled: 1.0 and 1 are the same for JSON.parse, and not for a checksum. */
class Numeral {
  constructor(text) {
    this.text = text;
  }
}

/** Reads JSON that JSON.parse has taken: objects as maps, numbers as numerals. */
class Parser {
  constructor(text) {
    this.tokens = text.matchAll(/"(?:[^"\\]|\\.)*"|[-+.\deE]+|true|false|null|[[\]{},:]/g);
  }

  next() {
    return this.tokens.next().value[0];
  }

  value(token = this.next()) {
    if (token === "{") return this.object();
    if (token === "[") return this.list();
    if (token[0] === '"') return JSON.parse(token);
    return { true: true, false: false, null: null }[token] ?? (token === "null" ? null : new Numeral(token));
  }

  object() {
    const found = new Map();
    for (let token = this.next(); token !== "}"; token = this.next()) {
      if (token === ",") continue;
      this.next(); // the colon
      found.set(JSON.parse(token), this.value());
    }
    return found;
  }

  list() {
    const found = [];
    for (let token = this.next(); token !== "]"; token = this.next()) {
      if (token !== ",") found.push(this.value(token));
    }
    return found;
  }
}
