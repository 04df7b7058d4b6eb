// Where a store's files come from: a web server or bucket, a folder of files, a zip. All count what they read.

import { AccessError, CorruptError, InputError } from "../codec/errors.js";

/**
 * @typedef {object} Source
 * @property {string} name for messages
 * @property {number} bytes read so far
 * @property {number} requests made so far
 * @property {(key: string) => Promise<Uint8Array | null>} get a file; null where there is none
 * @property {(key: string, start: number, stop: number) => Promise<Uint8Array | null>} range bytes [start, stop)
 */

/**
 * The source of a store.
 * @param {string | URL | Blob | Iterable<File>} location URL, zip, or the files of a folder
 * @param {typeof fetch} fetcher
 * @returns {Promise<Source>}
 */
export async function openSource(location, fetcher) {
  if (typeof location === "string" || location instanceof URL) return new WebSource(location, fetcher);
  if (location instanceof Blob) return openZip(location);
  if (location?.[Symbol.iterator]) return openFolder(location);
  throw new InputError("a store is a URL, a zip file, or the files of a folder");
}

class WebSource {
  constructor(location, fetcher) {
    this.fetch = fetcher;
    try {
      this.base = new URL(location, globalThis.location?.href);
    } catch (error) {
      throw new InputError(`${location} is not a URL`, { cause: error });
    }
    this.name = `${this.base.origin === "null" ? "" : this.base.origin}${this.base.pathname}`.replace(/\/$/, "");
    this.bytes = this.requests = 0;
  }

  async get(key) {
    const response = await this.ask(key, {});
    if (response.status === 404) return null;
    if (!response.ok) throw this.refused(key, response);
    return this.body(key, response);
  }

  async range(key, start, stop) {
    const response = await this.ask(key, { headers: { Range: `bytes=${start}-${stop - 1}` } });
    if (response.status === 404) return null;
    if (response.status === 416) throw new CorruptError(`${key} ends before byte ${start}`);
    if (response.status === 200) {
      await response.body?.cancel();
      throw new AccessError(
        `${this.base.origin} does not answer range requests, it sends whole files: use a server or bucket that does`,
      );
    }
    if (response.status !== 206) throw this.refused(key, response);
    const found = await this.body(key, response);
    if (found.length !== stop - start) throw new CorruptError(`${key} ends before byte ${stop}`);
    return found;
  }

  async ask(key, options) {
    const url = new URL(this.base);
    url.pathname = `${url.pathname.replace(/\/$/, "")}/${key}`;
    this.requests++;
    const { fetch } = this;
    try {
      return await fetch(url, options);
    } catch (error) {
      const why = error.cause?.message || error.message;
      throw new AccessError(`${this.name}/${key} cannot be reached: ${why}`, { cause: error });
    }
  }

  async body(key, response) {
    try {
      const found = new Uint8Array(await response.arrayBuffer());
      this.bytes += found.length;
      return found;
    } catch (error) {
      throw new AccessError(`${this.name}/${key}: the connection broke off: ${error.message}`, { cause: error });
    }
  }

  refused(key, response) {
    return new AccessError(`${this.name}/${key}: the server answers ${response.status} ${response.statusText}`.trim());
  }
}

/** Files by their names; `read(entry, start, stop)` gives the bytes of one, up to its end without `stop`. */
class FileSource {
  constructor(name, entries, read) {
    this.name = name;
    this.entries = entries;
    this.read = read;
    this.bytes = this.requests = 0;
  }

  get(key) {
    return this.range(key, 0, undefined);
  }

  async range(key, start, stop) {
    const entry = this.entries.get(key);
    if (entry === undefined) return null;
    const found = await this.read(entry, start, stop);
    if (stop !== undefined && found.length !== stop - start) throw new CorruptError(`${key} ends before byte ${stop}`);
    this.requests++;
    this.bytes += found.length;
    return found;
  }
}

const bytesOf = async (blob) => new Uint8Array(await blob.arrayBuffer());

/** @param {Iterable<File>} files as a browser gives them for a folder that was chosen */
function openFolder(files) {
  const named = [...files].map((file) => [file.webkitRelativePath || file.name, file]);
  const { root, entries } = rooted(named, "the folder");
  return new FileSource(root || "folder", entries, (file, start, stop) => bytesOf(file.slice(start, stop)));
}

/** Names counted from the folder that holds the first zarr.json. */
function rooted(named, what) {
  const roots = named.map(([name]) => name).filter((name) => /(^|\/)zarr\.json$/.test(name));
  if (!roots.length) throw new InputError(`${what} is not a store: it has no zarr.json`);
  const shortest = roots.reduce((best, name) => (name.length < best.length ? name : best));
  const root = shortest.slice(0, -"zarr.json".length);
  const inside = named.filter(([name]) => name.startsWith(root));
  const entries = new Map(inside.map(([name, entry]) => [name.slice(root.length), entry]));
  return { root: root.replace(/\/$/, ""), entries };
}

const END_OF_ZIP = 22;

/** @param {Blob} blob */
async function openZip(blob) {
  const name = /** @type {File} */ (blob).name ?? "zip";
  const tail = await bytesOf(blob.slice(Math.max(0, blob.size - END_OF_ZIP - 0xffff)));
  const end = new DataView(tail.buffer);
  let at = tail.length - END_OF_ZIP;
  while (at >= 0 && end.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw new InputError(`${name} is not a zip, or is cut short`);
  const [size, start] = [end.getUint32(at + 12, true), end.getUint32(at + 16, true)];
  if (start === 0xffffffff) throw new InputError(`${name} is a zip of more than 4 GiB: unpack it and serve the folder`);
  const { entries } = rooted(listed(await bytesOf(blob.slice(start, start + size))), name);
  return new FileSource(name, entries, (entry, first, last) => readEntry(blob, name, entry, first, last));
}

/** Entries of a zip's central directory. */
function listed(directory) {
  const view = new DataView(directory.buffer);
  const found = [];
  for (let at = 0; at + 46 <= directory.length && view.getUint32(at, true) === 0x02014b50;) {
    const [nameSize, extra, comment] = [28, 30, 32].map((field) => view.getUint16(at + field, true));
    const name = new TextDecoder().decode(directory.subarray(at + 46, at + 46 + nameSize));
    const method = view.getUint16(at + 10, true);
    found.push([name, { method, size: view.getUint32(at + 20, true), header: view.getUint32(at + 42, true) }]);
    at += 46 + nameSize + extra + comment;
  }
  return found;
}

async function readEntry(blob, name, { method, size, header }, first, last) {
  const head = new DataView(await blob.slice(header, header + 30).arrayBuffer());
  if (head.byteLength < 30) throw new CorruptError(`${name} is cut short`);
  const start = header + 30 + head.getUint16(26, true) + head.getUint16(28, true);
  if (method === 0) return bytesOf(blob.slice(start + first, start + Math.min(size, last ?? size)));
  if (method !== 8)
    throw new InputError(`${name} is compressed by method ${method}: zip the store without compression`);
  const inflated = blob
    .slice(start, start + size)
    .stream()
    .pipeThrough(new DecompressionStream("deflate-raw"));
  return (await bytesOf(await new Response(inflated).blob())).subarray(first, last);
}
