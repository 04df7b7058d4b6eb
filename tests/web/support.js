// What several tests share: fixtures, digests as tests/test_bytes.py computes them, and a web server for stores.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { inflateRawSync } from "node:zlib";
import { crc32c } from "../../web/codec/crc32c.js";
import { EmbeddingCodec } from "../../web/nec.js";

const ROOT = fileURLToPath(new URL("../../", import.meta.url));
export const FIXTURES = join(ROOT, "tests", "fixtures");
export const SHIPPED = join(ROOT, "src", "nec", "assets", "stores", "eurosat.zarr");

/** What tests/web/test_web.py makes with the Python package: frames and stores whose digests are fixtures. */
export const MADE = process.env.NEC_WEB_MADE ?? "";
export const NEEDS_MADE = MADE ? false : "needs what Python makes: run pytest tests/web";

export const json = (...path) => JSON.parse(readFileSync(join(...path), "utf8"));
export const bytes = (...path) => new Uint8Array(readFileSync(join(...path)));
export const codecOf = (...path) => EmbeddingCodec.fromJSON(json(...path));

/** Committed frames: their codec's JSON, and the symbols and values that they were written with. */
export function* committedFrames() {
  for (const version of ["v1", "v2"]) {
    const folder = join(FIXTURES, "codec", version);
    for (const file of readdirSync(folder).filter((name) => name.endsWith(".bin"))) {
      const [, codec] = /^(.*)-[^-]+-q[^-]+\.bin$/.exec(file);
      yield {
        name: `${version}/${file}`,
        codec: join(folder, `${codec}.json`),
        bytes: bytes(folder, file),
        recorded: npz(join(folder, file.replace(/bin$/, "npz"))),
      };
    }
  }
}

/** Arrays of a NumPy archive. */
export function npz(path) {
  const data = readFileSync(path);
  const found = {};
  let at = data.length - 22;
  while (data.readUInt32LE(at) !== 0x06054b50) at--;
  let entry = data.readUInt32LE(at + 16);
  for (let left = data.readUInt16LE(at + 10); left > 0; left--) {
    const [size, name] = [data.readUInt32LE(entry + 20), data.readUInt16LE(entry + 28)];
    const header = data.readUInt32LE(entry + 42);
    const start = header + 30 + data.readUInt16LE(header + 26) + data.readUInt16LE(header + 28);
    const stored = data.subarray(start, start + size);
    const raw = data.readUInt16LE(entry + 10) === 8 ? inflateRawSync(stored) : stored;
    found[data.toString("utf8", entry + 46, entry + 46 + name).replace(/\.npy$/, "")] = npy(raw);
    entry += 46 + name + data.readUInt16LE(entry + 30) + data.readUInt16LE(entry + 32);
  }
  return found;
}

/** @param {Buffer} data */
export function npy(data) {
  const size = data[6] === 1 ? data.readUInt16LE(8) : data.readUInt32LE(8);
  const start = (data[6] === 1 ? 10 : 12) + size;
  const header = data.toString("latin1", start - size, start);
  const shape = /'shape': \(([^)]*)\)/
    .exec(header)[1]
    .split(",")
    .filter((part) => part.trim())
    .map(Number);
  const Values = { "<i4": Int32Array, "<f4": Float32Array }[/'descr': '([^']*)'/.exec(header)[1]];
  assert(Values && header.includes("'fortran_order': False"), header);
  return { shape, data: new Values(new Uint8Array(data.subarray(start)).buffer) };
}

/** SHA-256 of an array's type, shape and values (0 for -0). */
export function digest({ data, shape }) {
  const type = data instanceof Int32Array ? "<i4" : data instanceof BigInt64Array ? "<i8" : "<f4";
  const plain = type === "<i8" ? data : data.map((value) => value + 0);
  const text = `${type}(${shape.length === 1 ? `${shape[0]},` : shape.join(", ")})`;
  return createHash("sha256").update(text).update(new Uint8Array(plain.buffer)).digest("hex");
}

export const sha256 = (data) => createHash("sha256").update(data).digest("hex");

/** Values agree to 1e-6 of their size, or of 1 where they are smaller. */
export function assertClose(found, wanted, tolerance = 1e-6) {
  assert.equal(found.length, wanted.length);
  for (let i = 0; i < found.length; i++) {
    const error = Math.abs(found[i] - wanted[i]) / Math.max(1, Math.abs(wanted[i]));
    assert(error <= tolerance, `value ${i} is ${found[i]}, not ${wanted[i]}: ${error}`);
  }
}

/** The same frame with a checksum that fits. */
export function forged(frame) {
  const found = frame.slice();
  new DataView(found.buffer).setUint32(8, crc32c(found.subarray(12), crc32c(found.subarray(0, 8))), true);
  return found;
}

/**
 * A web server of a folder, closed when the test ends. `change(path, data)` may give other bytes of a file, or null.
 * @returns {Promise<{url: string, requests: string[]}>}
 */
export async function serve(t, folder, { ranges = true, change = (_, data) => data } = {}) {
  const requests = [];
  const server = createServer((request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname).slice(1);
    const file = join(folder, path);
    requests.push(`${path} ${request.headers.range ?? ""}`.trim());
    const data = change(path, existsSync(file) && statSync(file).isFile() ? readFileSync(file) : null);
    const range = rangeOf(request.headers.range, data?.length);
    if (data === null) response.writeHead(404).end();
    else if (!range || !ranges) response.writeHead(200, { "Content-Length": data.length }).end(data);
    else if (range[0] >= data.length) response.writeHead(416).end();
    else {
      const part = data.subarray(...range);
      const place = `bytes ${range[0]}-${range[0] + part.length - 1}/${data.length}`;
      response.writeHead(206, { "Content-Length": part.length, "Content-Range": place }).end(part);
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { url: `http://127.0.0.1:${server.address().port}`, requests };
}

/** [start, stop) that a Range header asks for, null without one. */
function rangeOf(header, size) {
  const [, first, last] = /^bytes=(\d*)-(\d*)$/.exec(header ?? "") ?? [];
  if (first === undefined) return null;
  return first === "" ? [Math.max(0, size - Number(last)), size] : [Number(first), Number(last) + 1];
}
