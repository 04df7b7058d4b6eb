// Symbols a second of the JavaScript decoder on the shipped store:
//
//     node benchmarks/web.mjs [--chunks 64] [--rounds 5]
//
// Each figure is the best of the rounds: other work on the machine only makes it slower. One thread, chunk by chunk.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";
import { EmbeddingCodec } from "../web/nec.js";

const { values } = parseArgs({
  options: { chunks: { type: "string", default: "64" }, rounds: { type: "string", default: "5" } },
});
const store = new URL("../src/nec/assets/stores/eurosat.zarr/embeddings/", import.meta.url);
const metadata = JSON.parse(await readFile(new URL("zarr.json", store), "utf8"));
const sharding = metadata.codecs[0].configuration;
const codec = EmbeddingCodec.fromJSON(sharding.codecs[0].configuration.codec);
const slots = metadata.chunk_grid.configuration.chunk_shape[0] / sharding.chunk_shape[0];

const frames = [];
for (let shard = 0; frames.length < Number(values.chunks); shard++) {
  const file = await readFile(new URL(`c.${shard}.0.0.0`, store)).catch(() => null);
  if (file === null) break;
  const index = new DataView(file.buffer, file.byteOffset + file.length - 16 * slots - 4);
  for (let slot = 0; slot < slots; slot++) {
    const [offset, size] = [index.getBigUint64(16 * slot, true), index.getBigUint64(16 * slot + 8, true)];
    if (offset < 2n ** 64n - 1n) frames.push(new Uint8Array(file.subarray(Number(offset), Number(offset + size))));
  }
}
frames.length = Math.min(frames.length, Number(values.chunks));

const bytes = frames.reduce((sum, frame) => sum + frame.length, 0);
const count = frames.reduce((sum, frame) => sum + codec.symbols(frame).data.length, 0);
const rate = ((8 * bytes) / count).toFixed(3);
console.log(`${frames.length} chunks, ${count} symbols, ${rate} bits a symbol, Node ${process.version}`);
const work = {
  symbols: (frame) => codec.symbols(frame),
  decode: (frame) => codec.decode(frame),
  "decode at spacing 2": (frame) => codec.decodeCoarse(frame, 2),
  "decode at spacing 8": (frame) => codec.decodeCoarse(frame, 8),
};
for (const [name, run] of Object.entries(work)) {
  let best = Infinity;
  for (let round = 0; round < Number(values.rounds); round++) {
    const begin = performance.now();
    frames.forEach(run);
    best = Math.min(best, (performance.now() - begin) / 1000);
  }
  const speed = [count / best / 1e6, bytes / best / 1e6].map((value) => value.toFixed(1));
  console.log(`${name}: ${speed[0]} million symbols a second, ${speed[1]} MB of frames a second`);
}
