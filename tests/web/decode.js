// Answers test_web.py: a line of JSON in, a line out. {"codec", "frame", "spacing", "limit"}, bytes in base64, gives
// {"symbols", "values", "shape", "quality"}, or {"error", "message"} where the decoder refuses. {"zstd"} gives {"bytes"}.

import { createInterface } from "node:readline";
import { EmbeddingCodec, NecError } from "../../web/nec.js";
import { unzstd } from "../../web/store/zstd.js";

const codecs = new Map();
const base64 = ({ buffer, byteOffset, byteLength }) => Buffer.from(buffer, byteOffset, byteLength).toString("base64");

function answer({ codec: text, frame, spacing, limit, zstd }) {
  if (zstd !== undefined) return { bytes: base64(unzstd(new Uint8Array(Buffer.from(zstd, "base64")))) };
  if (!codecs.has(text)) codecs.set(text, EmbeddingCodec.fromJSON(JSON.parse(text)));
  const codec = codecs.get(text);
  const bytes = new Uint8Array(Buffer.from(frame, "base64"));
  if (spacing > 1) {
    const { data, shape } = codec.decodeCoarse(bytes, spacing, { limit });
    return { values: base64(data), shape, size: codec.coarseSize(bytes, spacing) };
  }
  const symbols = codec.symbols(bytes, { limit });
  const values = codec.decode(bytes, { limit });
  return { symbols: base64(symbols.data), values: base64(values.data), shape: values.shape, quality: symbols.quality };
}

for await (const line of createInterface({ input: process.stdin })) {
  let found;
  try {
    found = answer(JSON.parse(line));
  } catch (error) {
    if (!(error instanceof NecError)) throw error;
    found = { error: error.name, message: error.message };
  }
  process.stdout.write(`${JSON.stringify(found)}\n`);
}
