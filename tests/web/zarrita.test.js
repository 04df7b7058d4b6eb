// zarrita (npm install in this folder) reads our stores by the codec of web/zarrita.js.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { openStore } from "../../web/store.js";
import { NecEmbeddingCodec, register } from "../../web/zarrita.js";
import { bytes, FIXTURES, json, MADE, NEEDS_MADE, npy, serve, SHIPPED } from "./support.js";

const zarr = await import("zarrita").catch(() => null);
if (zarr) register(zarr.registry);
const skip = zarr ? false : "zarrita is not installed: npm install in tests/web";

const arrayAt = (url) => zarr.open(zarr.root(new zarr.FetchStore(url)).resolve("embeddings"), { kind: "array" });

test("zarrita reads the shipped store over HTTP", { skip }, async (t) => {
  const { url } = await serve(t, SHIPPED);
  const array = await arrayAt(url);
  assert.deepEqual(array.shape, [27000, 8, 8, 192]);
  const wanted = await (await openStore(url)).read(100);
  assert.deepEqual((await array.getChunk([100, 0, 0, 0])).data, wanted.data);
  const part = await zarr.get(array, [zarr.slice(12801, 12803), 3, null, 7]);
  assert.deepEqual(part.shape, [2, 8]);
  assert.deepEqual(
    [...part.data],
    [1, 2].flatMap((i) => [...Array(8).keys()].map((x) => wanted.data[((i * 8 + 3) * 8 + x) * 192 + 7])),
  );
});

test("zarrita reads raster stores, NaN where there is no chunk", { skip: skip || NEEDS_MADE }, async (t) => {
  const { url } = await serve(t, join(MADE, "rasters", "earth"));
  const { data, shape } = await zarr.get(await arrayAt(url));
  const wanted = npy(readFileSync(join(MADE, "rasters", "earth.npy")));
  assert.deepEqual(shape, wanted.shape);
  assert.deepEqual(data, wanted.data);
});

test("chunks in any order of axes, filled beyond the frame", () => {
  const folder = join(FIXTURES, "codec", "v1");
  const frame = bytes(folder, "hierarchical-7x5-q1.bin");
  const plain = NecEmbeddingCodec.fromConfig(
    { codec: json(folder, "hierarchical.json"), axes: ["n", "y", "x", "c"] },
    { shape: [2, 7, 5, 5] },
  );
  const whole = plain.decode(frame);
  const meta = { shape: [8, 5, 3, 6], fillValue: -1 };
  const turned = NecEmbeddingCodec.fromConfig(
    { codec: json(folder, "hierarchical.json"), axes: ["y", "c", "n", "x"] },
    meta,
  ).decode(frame);
  for (let i = 0; i < turned.data.length; i++) {
    const [y, c, n, x] = turned.stride.map((step, axis) => Math.floor(i / step) % turned.shape[axis]);
    const inside = y < 7 && x < 5 && n < 2;
    assert.equal(turned.data[i], inside ? whole.data[((n * 7 + y) * 5 + x) * 5 + c] : -1);
  }
  const small = NecEmbeddingCodec.fromConfig(
    { codec: json(folder, "hierarchical.json"), axes: ["n", "y", "x", "c"] },
    { shape: [2, 6, 5, 5] },
  );
  assert.throws(() => small.decode(frame), { name: "CorruptError", message: /at most/ });
  assert.throws(() => new NecEmbeddingCodec({ axes: ["n"] }, meta), { name: "InputError" });
});
