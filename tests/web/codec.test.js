// Committed frames of both versions, and those whose digests are committed (tests/fixtures/bytes).

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { inflate } from "../../web/codec/inflate.js";
import { sha256 as ownSha256 } from "../../web/codec/sha256.js";
import { crc32c } from "../../web/codec/crc32c.js";
import { deflateSync } from "node:zlib";
import {
  bytes,
  codecOf,
  committedFrames,
  digest,
  FIXTURES,
  json,
  MADE,
  NEEDS_MADE,
  sha256,
  assertClose,
} from "./support.js";

for (const { name, codec: path, bytes: frame, recorded } of committedFrames()) {
  test(`fixture ${name}`, () => {
    const codec = codecOf(path);
    const symbols = codec.symbols(frame);
    assert.deepEqual(symbols.shape, recorded.symbols.shape);
    assert.deepEqual(symbols.data, recorded.symbols.data);
    const quality = Number(/-q([\d.]+)\.bin$/.exec(name)[1]);
    assert.equal(symbols.quality, 2 ** (Math.round(8 * Math.log2(quality)) / 8));
    const decoded = codec.decode(frame);
    assert.deepEqual(decoded.shape, recorded.decoded.shape);
    assertClose(decoded.data, recorded.decoded.data);
    assert.deepEqual(codec.decodeCoarse(frame, 1), decoded);
    assert.deepEqual(codec.decode(new Uint8Array(frame).buffer), decoded);
  });

  test(`coarse grids of ${name}`, () => {
    const codec = codecOf(path);
    const whole = codec.decode(frame);
    const [n, y, x, d] = whole.shape;
    const most = codec.prior === "hierarchical" ? 2 ** Math.ceil(Math.log2(Math.max(y, x))) : 1;
    for (let spacing = 2; spacing <= most; spacing *= 2) {
      const size = codec.coarseSize(frame.subarray(0, 64), spacing);
      const coarse = codec.decodeCoarse(frame.subarray(0, size), spacing);
      assert.deepEqual(coarse, codec.decodeCoarse(frame, spacing));
      assert.deepEqual(coarse.shape, [n, Math.ceil(y / spacing), Math.ceil(x / spacing), d]);
      assertClose(coarse.data, expectedCoarse(whole, spacing, json(path).version === 2));
      if (size > 12)
        assert.throws(() => codec.decodeCoarse(frame.subarray(0, size - 1), spacing), /cut after|past its end/);
    }
    for (const spacing of [2 * most, 3, 0, -1, 1.5, "2"]) {
      assert.throws(() => codec.decodeCoarse(frame, spacing), { name: "InputError", message: /power of 2/ });
    }
  });
}

/** Tokens at a spacing, or of a pyramid the means of cells, halving by halving, where a last one counts alone. */
function expectedCoarse({ data, shape: [n, y, x, d] }, spacing, means) {
  let rows = Array.from({ length: n }, (_, i) =>
    Array.from({ length: y }, (_, row) =>
      Array.from({ length: x }, (_, column) => [
        ...data.subarray(((i * y + row) * x + column) * d, ((i * y + row) * x + column + 1) * d),
      ]),
    ),
  );
  const mean = (a, b) => a.map((value, k) => (value + b[k]) / 2);
  for (let step = 1; step < spacing; step *= 2) {
    const pairs = (list, join) =>
      list.flatMap((_, i) => (i % 2 ? [] : [i + 1 < list.length && means ? join(list[i], list[i + 1]) : list[i]]));
    rows = rows.map((image) =>
      pairs(image, (one, other) => one.map((token, i) => mean(token, other[i]))).map((row) => pairs(row, mean)),
    );
  }
  return rows.flat(3);
}

test("frames of fixed inputs have the committed digests", { skip: NEEDS_MADE }, () => {
  let checked = 0;
  for (const [name, cases] of Object.entries(json(FIXTURES, "bytes", "digests.json").frames)) {
    const codec = codecOf(FIXTURES, "bytes", "codecs", `${name}.json`);
    assert.equal(codec.id, cases.id);
    for (const [title, held] of Object.entries(cases).filter(([title]) => title !== "id")) {
      const frame = bytes(MADE, "frames", name, `${title}.bin`);
      assert.equal(sha256(frame), held.frame, `${name} ${title}: these are not the frames of the digests`);
      assert.equal(digest(codec.symbols(frame)), held.symbols, `${name} ${title}`);
      if (held.decoded) assert.equal(digest(codec.decode(frame)), held.decoded, `${name} ${title}`);
      for (const spacing of [2, 4, 8].filter((spacing) => held[`coarse ${spacing}`])) {
        const size = held[`coarse ${spacing} bytes`];
        assert.equal(codec.coarseSize(frame.subarray(0, 64), spacing), size);
        assert.equal(
          digest(codec.decodeCoarse(frame.subarray(0, size), spacing)),
          held[`coarse ${spacing}`],
          `${name} ${title}`,
        );
        checked++;
      }
    }
  }
  assert(checked > 50);
});

test("images are coded in blocks", { skip: NEEDS_MADE }, () => {
  for (const [name, held] of Object.entries(json(FIXTURES, "bytes", "digests.json").blocks)) {
    const frame = bytes(MADE, "blocks", name, "frame.bin");
    assert.equal(sha256(frame), held);
    assert.equal(
      digest(codecOf(FIXTURES, "bytes", "codecs", `${name}.json`).symbols(frame)),
      json(MADE, "blocks", name, "symbols.json"),
    );
  }
});

test("test vectors", () => {
  const folder = join(FIXTURES, "vectors");
  const { vectors } = json(folder, "vectors.json");
  assert(vectors.length > 8);
  for (const vector of vectors) {
    const codec = codecOf(folder, vector.codec);
    const frame = bytes(folder, vector.frame);
    if (vector.refused) {
      assert.throws(() => codec.decode(frame), { name: "CorruptError" }, vector.refused);
      continue;
    }
    const symbols = codec.symbols(frame);
    assert.deepEqual(symbols.shape, vector.symbols.shape);
    assert.deepEqual(symbols.data, new Int32Array(bytes(folder, vector.symbols.file).buffer));
    const found = [[vector.values, codec.decode(frame)]];
    for (const coarse of vector.coarse)
      found.push([coarse, codec.decodeCoarse(frame.subarray(0, coarse.bytes), coarse.spacing)]);
    for (const [wanted, values] of found) {
      assert.deepEqual(values.shape, wanted.shape);
      assertClose(values.data, new Float32Array(bytes(folder, wanted.file).buffer));
    }
  }
});

test("checksums, digests and inflating agree with Node's own", () => {
  assert.equal(crc32c(new TextEncoder().encode("123456789")), 0xe3069283); // RFC 3720
  const random = Uint8Array.from({ length: 70_000 }, (_, i) => (Math.imul(i, 2654435761) >>> 13) % (1 + (i >> 8)));
  for (const size of [0, 1, 55, 56, 63, 64, 65, 1000, 70_000]) {
    const part = random.subarray(0, size);
    assert.equal(ownSha256([part.subarray(0, size >> 1), part.subarray(size >> 1)]), sha256(part));
    for (const options of [{ level: 9 }, { level: 0 }, { strategy: 4 }]) {
      assert.deepEqual(inflate(new Uint8Array(deflateSync(part, options)), size), new Uint8Array(part));
    }
    assert.equal(crc32c(part.subarray(size >> 1), crc32c(part.subarray(0, size >> 1))), crc32c(part));
  }
});
