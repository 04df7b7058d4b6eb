// Stores over HTTP, from files and from a zip: the shipped one, and those that tests/test_bytes.py holds.

import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { test } from "node:test";
import { openStore } from "../../web/store.js";
import {
  assertClose,
  bytes,
  digest,
  FIXTURES,
  json,
  MADE,
  NEEDS_MADE,
  npy,
  serve,
  sha256,
  SHIPPED,
} from "./support.js";

const { shipped, images, rasters } = json(FIXTURES, "bytes", "digests.json");

test("the shipped store over HTTP", async (t) => {
  const { url, requests } = await serve(t, SHIPPED);
  const store = await openStore(`${url}/`);
  assert.equal(store.kind, "images");
  assert.deepEqual([store.images, store.grid, store.dimensions, store.chunks], [27000, [8, 8], 192, 211]);
  assert.equal(store.codec.id, shipped.codec);
  const opened = store.bytesRead;
  assert.deepEqual([requests, opened], [["zarr.json"], bytes(SHIPPED, "zarr.json").length]);
  for (const number of [0, 1, 100, 210]) {
    const { data, shape } = await store.read(number);
    const [first, last] = store.imagesOf(number);
    assert.deepEqual(shape, [last - first, 8, 8, 192]);
    // The values are those of the symbols whose digests are held.
    const { key, slot } = store.place(number);
    const [offset, length] = (await store.index({ key }))[slot];
    const frame = bytes(SHIPPED, key).subarray(offset, offset + length);
    assert.equal(digest(store.codec.symbols(frame)), shipped[`chunk ${number}`].symbols);
    assert.deepEqual(store.codec.decode(frame).data, data);
  }
  assert(store.bytesRead - opened < 4 * 30_000, `${store.bytesRead} bytes`);
  assert.equal(store.requests, requests.length);
});

test("names, labels and split of the shipped store", async (t) => {
  const { url } = await serve(t, SHIPPED);
  const store = await openStore(url);
  const names = await store.side("names");
  assert.equal(sha256(names.join("\0")), shipped.names);
  const labels = await store.side("labels");
  assert(names.every((name, i) => name.includes(store.attributes.classes[labels[i]])));
  const counts = [0, 0, 0, 0];
  for (const part of await store.side("split")) counts[part]++;
  assert.deepEqual(counts, [0, 18900, 2700, 5400]);
  assert.equal(await store.side("groups"), null);
  for (const name of ["names/c.0", "labels/c.0"]) {
    const change = (path, data) => (path === name ? data.map((byte, i) => byte ^ Number(i === 40)) : data);
    const damaged = await openStore((await serve(t, SHIPPED, { change })).url);
    await assert.rejects(damaged.side(name.slice(0, -4)), {
      name: "CorruptError",
      message: /is damaged: its checksum/,
    });
  }
});

test("coarse chunks need the beginnings of frames alone", async (t) => {
  const { url } = await serve(t, SHIPPED);
  const store = await openStore(url);
  await store.read(0);
  const before = store.bytesRead;
  const coarse = await store.readCoarse(1, 8);
  assert.deepEqual(coarse.shape, [128, 1, 1, 192]);
  const taken = store.bytesRead - before;
  const whole = await store.read(1);
  assert(taken < (store.bytesRead - before - taken) / 2, `${taken} bytes`);
  const means = new Float64Array(128 * 192);
  whole.data.forEach((value, i) => (means[Math.floor(i / (64 * 192)) * 192 + (i % 192)] += value / 64));
  assertClose(coarse.data, means, 1e-5);
  assert.deepEqual(await store.readCoarse(1, 1), whole);
  await assert.rejects(store.readCoarse(1, 16), { name: "InputError", message: /power of 2 from 1 to 8/ });
  for (const chunk of [-1, 211, 0.5, "0"])
    await assert.rejects(store.read(chunk), { name: "InputError", message: /no chunk/ });
});

/** All files of a folder, as a browser gives them. */
function filesOf(folder) {
  const names = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return names.map((entry) => {
    const path = join(entry.parentPath ?? entry.path, entry.name);
    const file = new Blob([readFileSync(path)]);
    return Object.assign(file, { name: entry.name, webkitRelativePath: `picked/${relative(folder, path)}` });
  });
}

test("stores of images in files and zips", { skip: NEEDS_MADE }, async () => {
  for (const name of Object.keys(images)) {
    const opened = [await openStore(filesOf(join(MADE, "images", name)))];
    for (const kind of ["stored", "deflated"])
      opened.push(await openStore(new Blob([bytes(MADE, "images", `${name}-${kind}.zip`)])));
    for (const store of opened) {
      const { read } = images[name];
      assert.equal(store.quality, read.quality);
      for (const side of ["names", "groups"]) {
        const texts = await store.side(side);
        assert.equal(texts && sha256(texts.join("\0")), read[side]);
      }
      const labels = await store.side("labels");
      assert.equal(labels && digest({ data: BigInt64Array.from(labels, BigInt), shape: [store.images] }), read.labels);
      const parts = [];
      for (let chunk = 0; chunk < store.chunks; chunk++) parts.push((await store.read(chunk)).data);
      const data = Float32Array.from(parts.flatMap((part) => [...part]));
      assert.equal(
        digest({ data, shape: [store.images, ...store.grid, store.dimensions] }),
        images[name].read.whole,
        name,
      );
    }
  }
  await assert.rejects(openStore(new Blob(["PK no zip"])), { name: "InputError", message: /not a zip/ });
  await assert.rejects(openStore([]), { name: "InputError", message: /no zarr.json/ });
  await assert.rejects(openStore(3), { name: "InputError", message: /URL/ });
});

test("raster stores", { skip: NEEDS_MADE }, async (t) => {
  for (const name of Object.keys(rasters)) {
    const { url } = await serve(t, join(MADE, "rasters", name));
    const store = await openStore(url);
    assert.equal(store.kind, "raster");
    const { read } = rasters[name];
    assert.deepEqual([store.crs, store.transform], [read.crs, read.transform]);
    assert.deepEqual([store.grid, store.chunks, store.tokensPerChunk], [[23, 31], [6, 8], [4, 4]]); // prettier-ignore
    const wanted = npy(readFileSync(join(MADE, "rasters", `${name}.npy`))); // as Zarr reads it, NaN where no chunk is
    assert.deepEqual(wanted.shape, [2, 5, 23, 31]);
    let absent = 0;
    let valid = 0;
    for (let time = 0; time < store.times.length; time++) {
      for (let row = 0; row < store.chunks[0]; row++) {
        for (let column = 0; column < store.chunks[1]; column++) {
          const found = await store.read([time, row, column]);
          absent += found === null;
          const [rows, columns] = store.windowOf([time, row, column]);
          const [height, width] = [rows[1] - rows[0], columns[1] - columns[0]];
          if (found) assert.deepEqual(found.shape, [1, height, width, 5]);
          const seen = await store.readValid([time, row, column]);
          assert.deepEqual(seen.shape, [height, width]);
          assert.equal(found === null, !seen.data.includes(1));
          valid += seen.data.reduce((sum, value) => sum + value, 0);
          for (let i = 0; i < height * width * 5; i++) {
            const [y, x, c] = [rows[0] + Math.floor(i / (5 * width)), columns[0] + (Math.floor(i / 5) % width), i % 5];
            const value = wanted.data[((time * 5 + c) * 23 + y) * 31 + x];
            assert.deepEqual(found === null ? NaN : found.data[i], value);
          }
          if (found && width === 4 && height === 4) {
            const coarse = await store.readCoarse([time, row, column], 4);
            assert.deepEqual(coarse.shape, [1, 1, 1, 5]);
          }
        }
      }
    }
    assert(absent > 2 * 4);
    assert.equal(valid, read.valid_tokens);
    await assert.rejects(store.readValid([0, 6, 0]), { name: "InputError", message: /no chunk/ });
    await assert.rejects(store.read([2, 0, 0]), { name: "InputError", message: /no chunk/ });
  }
});

test("damage is found and named", async (t) => {
  const key = "embeddings/c.3.0.0.0";
  const flipped = (at) => (path, data) => {
    if (path !== key || data === null) return data;
    const found = Buffer.from(data);
    found[at < 0 ? found.length + at : at] ^= 1;
    return found;
  };
  const cases = {
    "a frame": [flipped(500), /chunk 24 \(images 3072 to 3199, in embeddings\/c\.3\.0\.0\.0\) is damaged: checksum/],
    "the index": [flipped(-20), /index is damaged/],
    "a shard that is missing": [(path, data) => (path === key ? null : data), /c\.3\.0\.0\.0 is missing/],
    "a shard that is cut short": [(path, data) => (path === key ? data.subarray(0, 9000) : data), /ends before byte/],
  };
  for (const [what, [change, message]] of Object.entries(cases)) {
    const { url } = await serve(t, SHIPPED, { change });
    const store = await openStore(url);
    await assert.rejects(store.read(24), { name: "CorruptError", message }, what);
    assert.equal((await store.read(23)).shape[0], 128, "the others stay readable");
  }
  const { url } = await serve(t, SHIPPED, { change: flipped(13) });
  await assert.rejects((await openStore(url)).readCoarse(24, 8), { name: "CorruptError" });
});

test("metadata that were changed are refused", async (t) => {
  const replaced = (from, to) => (path, data) =>
    path === "zarr.json" ? Buffer.from(data.toString().replace(from, to)) : data;
  const cases = [
    [replaced('"images":27000', '"images":27001'), "CorruptError", /checksum differs/],
    [replaced('"separator":"."', '"separator":"/"'), "CorruptError", /checksum differs/],
    [replaced('"nec":', '"other":'), "InputError", /not a store that nec wrote/],
    [replaced('"format_version":1', '"format_version":2'), "InputError", /newer/],
    [(path, data) => (path === "zarr.json" ? data.subarray(0, 700) : data), "CorruptError", /damaged/],
    [(path, data) => (path === "zarr.json" ? null : data), "InputError", /no zarr.json/],
  ];
  for (const [change, name, message] of cases) {
    const { url } = await serve(t, SHIPPED, { change });
    await assert.rejects(openStore(url), { name, message });
  }
});

test("a server without range requests is named, and one that is not there", async (t) => {
  const { url } = await serve(t, SHIPPED, { ranges: false });
  const store = await openStore(url);
  await assert.rejects(store.read(0), {
    name: "AccessError",
    message: /127\.0\.0\.1:\d+ does not answer range requests/,
  });
  assert(store.bytesRead < 200_000, "the whole shard was not taken");
  const failing = async (_, options) =>
    options.headers ? new Response("", { status: 503, statusText: "Slow Down" }) : fetch(`${url}/zarr.json`);
  await assert.rejects((await openStore("http://made.example/s.zarr", { fetch: failing })).read(0), {
    name: "AccessError",
    message: /503 Slow Down/,
  });
  await assert.rejects(openStore("http://127.0.0.1:9/store.zarr"), {
    name: "AccessError",
    message: /cannot be reached/,
  });
  await assert.rejects(openStore("not a url"), { name: "InputError" });
});
