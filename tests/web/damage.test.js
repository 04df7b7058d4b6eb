// What is damaged, forged or not ours is refused with one clear error, before memory of the declared size is taken.

import assert from "node:assert/strict";
import { test } from "node:test";
import { EmbeddingCodec, InputError, NecError } from "../../web/nec.js";
import { codecOf, committedFrames, FIXTURES, forged, json } from "./support.js";

const CORRUPT = { name: "CorruptError" };

function varints(...numbers) {
  const out = [];
  for (let number of numbers) {
    for (; number >= 128; number = Math.floor(number / 128)) out.push((number % 128) + 128);
    out.push(number);
  }
  return out;
}

test("every flipped bit and every truncation is found", () => {
  for (const { codec: path, bytes: frame } of committedFrames()) {
    if (frame.length > 300) continue;
    const codec = codecOf(path);
    for (let bit = 0; bit < 8 * frame.length; bit++) {
      const damaged = frame.slice();
      damaged[bit >> 3] ^= 1 << (bit & 7);
      assert.throws(() => codec.decode(damaged), CORRUPT);
    }
    for (let size = 0; size < frame.length; size++) assert.throws(() => codec.decode(frame.subarray(0, size)), CORRUPT);
    assert.throws(() => codec.decode(new Uint8Array([...frame, 0])), CORRUPT);
  }
});

test("forged frames give an error or symbols within their width, never anything else", () => {
  let refused = 0;
  for (const { codec: path, bytes: frame } of committedFrames()) {
    if (frame.length > 300 || frame.length < 24) continue;
    const codec = codecOf(path);
    for (let i = 12; i < frame.length; i++) {
      const damaged = frame.slice();
      damaged[i] ^= 1 + ((i * 37) % 255);
      try {
        const { data, shape } = codec.decode(forged(damaged), { limit: [8, 8, 8] });
        assert.equal(
          data.length,
          shape.reduce((product, size) => product * size, 1),
        );
        assert(data.every(Number.isFinite));
      } catch (error) {
        assert(error instanceof NecError, error.stack);
        refused++;
      }
    }
  }
  assert(refused > 100);
});

test("declared sizes are bounded", () => {
  const codec = codecOf(FIXTURES, "codec", "v1", "hierarchical.json");
  const head = [0x9a, 0x4e, 1, 0, ...Buffer.from(codec.id.slice(0, 8), "hex"), 0, 0, 0, 0];
  const made = (...numbers) => forged(Uint8Array.from([...head, ...varints(...numbers)]));
  const sizes = [[2 ** 28, 1, 1, 1, 1], [1, 2 ** 20, 1, 0, 0], [1, 2, 2, 6, 1, 0], [1, 1, 1, 1, 25], [2 ** 40, 1, 1, 0, 0]]; // prettier-ignore
  for (const numbers of sizes)
    assert.throws(() => codec.decode(made(...numbers)), { ...CORRUPT, message: /limit|channels/ });
  assert.throws(() => codec.decode(forged(Uint8Array.from([...head, 255, 255, 255, 255, 255, 255, 255, 1]))), CORRUPT);
  assert.throws(() => codec.decode(made(9, 1, 1, 0, 0), { limit: [8, 1, 1] }), { ...CORRUPT, message: /at most/ });
  assert.throws(() => codec.symbols(made(1, 1, 1, 0, 0).slice(0, 16)), CORRUPT);
  assert.deepEqual(codec.symbols(made(1, 1, 1, 0, 0)).data, new Int32Array(5));
});

test("frames of no images return at once, however large their grid", () => {
  for (const name of ["v1/hierarchical", "v1/positions", "v1/factorized", "v2/haar", "v2/haar-plain"]) {
    const codec = codecOf(FIXTURES, "codec", `${name}.json`);
    const head = [0x9a, 0x4e, 1, 0, ...Buffer.from(codec.id.slice(0, 8), "hex"), 0, 0, 0, 0];
    const frame = forged(Uint8Array.from([...head, ...varints(0, 65536, 65536, 0, 0)]));
    assert.deepEqual(codec.symbols(frame).shape, [0, 65536, 65536, codec.rank]);
    assert.deepEqual(codec.decode(frame).shape, [0, 65536, 65536, codec.dimensions]);
    if (codec.prior === "hierarchical")
      assert.deepEqual(codec.decodeCoarse(frame, 4096).shape, [0, 16, 16, codec.dimensions]);
    const none = forged(Uint8Array.from([...head, ...varints(7, 0, 3, 0, 0)]));
    assert.deepEqual(codec.decode(none), { data: new Float32Array(0), shape: [7, 0, 3, codec.dimensions] });
  }
});

test("what is not a frame, or another codec's, is named", () => {
  const [first, second] = [
    codecOf(FIXTURES, "codec", "v1", "hierarchical.json"),
    codecOf(FIXTURES, "codec", "v2", "haar.json"),
  ];
  const { bytes: frame } = [...committedFrames()].find(({ name }) => name === "v1/hierarchical-8x8-q1.bin");
  assert.throws(() => second.decode(frame), { ...CORRUPT, message: /codec a94b4931/ });
  assert.throws(() => first.decode(new TextEncoder().encode("<!DOCTYPE html>")), {
    ...CORRUPT,
    message: /not a nec frame/,
  });
  assert.throws(() => first.decode(new Uint8Array(3)), { ...CORRUPT, message: /3 bytes/ });
  assert.throws(() => first.decode("text"), { name: "InputError", message: /Uint8Array/ });
  const later = frame.slice();
  later[2] = 2;
  assert.throws(() => first.decode(later), { ...CORRUPT, message: /version 2/ });
});

test("codecs that are altered, damaged or unknown are refused", () => {
  const codec = (good, key, value) => EmbeddingCodec.fromJSON({ ...good, [key]: value });
  for (const name of ["v1/hierarchical", "v1/factorized", "v1/positions", "v2/haar", "v2/haar-plain"]) {
    const good = json(FIXTURES, "codec", `${name}.json`);
    for (const key of Object.keys(good)) {
      for (const value of [
        undefined,
        null,
        -1,
        "x",
        [],
        {},
        { ...good[key], data: "eJw=" },
        { ...good[key], shape: [1e9, 1e9] },
      ]) {
        assert.throws(() => codec(good, key, value), InputError, `${name}: ${key} = ${JSON.stringify(value)}`);
      }
    }
    assert.throws(() => codec(good, "step", good.step * 1.5), { message: /altered or damaged/ });
    assert.throws(() => codec(good, "version", 3), { message: /version 3 is not known/ });
    const packed = { ...good.mean, data: good.base.data };
    assert.throws(() => codec(good, "mean", packed), { message: /mean/ });
  }
  for (const value of [null, undefined, 3, "text", [], {}])
    assert.throws(() => EmbeddingCodec.fromJSON(value), InputError);
});
