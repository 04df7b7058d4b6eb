// The head of a frame (docs/format.md, section 1): checked before memory of the declared size is taken.

import { crc32c } from "./crc32c.js";
import { CorruptError } from "./errors.js";

const FIXED = 12;
const MAX_VALUES = 2 ** 30;
const MAX_SIDE = 2 ** 16;

/**
 * @typedef {object} Frame
 * @property {number} level quality is 2^(level / 8)
 * @property {number} n images
 * @property {number} y rows
 * @property {number} x columns
 * @property {number} channels that are coded
 * @property {number} width bits of the largest absolute symbol
 * @property {number[]} live channels that each spacing level codes, coarse first
 * @property {number[]} words that each spacing level adds, but the last
 * @property {number} start of the code
 */

/**
 * Head of a frame, or of its beginning.
 * @param {Uint8Array} bytes
 * @param {import("./config.js").Config} config
 * @param {(y: number, x: number) => number} levelsOf how many spacing levels a grid has
 * @param {boolean} whole whether all of it must be there and intact
 * @returns {Frame}
 */
export function readFrame(bytes, config, levelsOf, whole) {
  if (bytes.length < FIXED) {
    throw new CorruptError(`not a nec frame: ${bytes.length} bytes, a header alone takes more; the data are truncated`);
  }
  if (bytes[0] !== 0x9a || bytes[1] !== 0x4e) throw new CorruptError("not a nec frame: it starts with other bytes");
  if (bytes[2] !== 1) throw new CorruptError(`frame version ${bytes[2]} is not known to this decoder (it reads 1)`);
  const writer = Array.from(bytes.subarray(4, 8), (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (writer !== config.id.slice(0, 8)) {
    throw new CorruptError(`frame was written by codec ${writer}..., this is codec ${config.id}: use its own codec`);
  }
  const sum = new DataView(bytes.buffer, bytes.byteOffset).getUint32(8, true);
  if (whole && crc32c(bytes.subarray(FIXED), crc32c(bytes.subarray(0, 8))) !== sum) {
    throw new CorruptError(
      `checksum mismatch in a frame of ${bytes.length} bytes: damaged or truncated; fetch it again`,
    );
  }
  const frame = readNumbers(bytes, config, levelsOf);
  const rest = bytes.length - frame.start;
  const coarse = total(frame.words);
  if (whole && (rest % 4 || rest < 4 * coarse || (!frame.channels && rest))) {
    throw new CorruptError(`frame holds ${rest} bytes of code, which its header does not account for`);
  }
  return frame;
}

/** @returns {Frame} */
function readNumbers(bytes, config, levelsOf) {
  let start = FIXED;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (start >= bytes.length || scale > 2 ** 35) throw damaged("a number runs past its end");
      const byte = bytes[start++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  const n = varint();
  const y = varint();
  const x = varint();
  const channels = varint();
  const width = varint();
  if (y > MAX_SIDE || x > MAX_SIDE || n * y * x * config.dimensions > MAX_VALUES || width > 24) {
    throw new CorruptError(
      `frame declares ${n} images of ${y}x${x} tokens and ${width} bits a symbol: beyond the limit`,
    );
  }
  const live = [];
  const words = [];
  for (let left = channels ? levelsOf(y, x) : 0; left > 0; left--) {
    live.push(config.version === 2 ? varint() : channels);
    if (left > 1) words.push(varint());
  }
  if (Math.max(0, ...live) > channels) throw damaged(`a level has ${Math.max(...live)} live channels of ${channels}`);
  if (channels > config.rank) {
    throw new CorruptError(`frame declares ${channels} channels where the codec has ${config.rank}`);
  }
  return { level: (bytes[3] << 24) >> 24, n, y, x, channels, width, live, words, start };
}

/** @param {number[]} numbers */
export const total = (numbers) => numbers.reduce((sum, number) => sum + number, 0);

const damaged = (why) => new CorruptError(`frame header is damaged: ${why}`);
