// zlib streams (RFC 1950 and 1951), for the packed arrays of a codec. The browser's own DecompressionStream is
// asynchronous, and does not stop where more comes out than was declared.

import { InputError } from "./errors.js";

const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const LENGTHS = LENGTH_BITS.map((_, i) => LENGTH_BITS.slice(0, i).reduce((sum, bits) => sum + 2 ** bits, 3));
LENGTHS[28] = 258;
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
const MAX_BITS = 15;

/**
 * Bytes of a zlib stream, which must be `size`.
 * @param {Uint8Array} data
 * @param {number} size
 * @returns {Uint8Array}
 */
export function inflate(data, size) {
  if (data.length < 6 || (data[0] & 15) !== 8 || ((data[0] << 8) | data[1]) % 31 || data[1] & 32) throw damaged();
  const bits = new Bits(data, 2);
  const out = new Uint8Array(size);
  let count = 0;
  for (let last = 0; !last;) {
    last = bits.take(1);
    const kind = bits.take(2);
    if (kind === 0) count = stored(bits, out, count);
    else if (kind === 1) count = coded(bits, out, count, FIXED, FIXED_DISTANCES);
    else if (kind === 2) count = coded(bits, out, count, ...described(bits));
    else throw damaged();
  }
  if (count !== size) throw new InputError(`it holds ${count} bytes where its shape needs ${size}`);
  bits.align();
  let check = 0;
  for (let i = 0; i < 4; i++) check = (check << 8) | bits.take(8);
  if (check !== adler32(out)) throw damaged();
  return out;
}

function adler32(bytes) {
  let a = 1;
  let b = 0;
  for (let i = 0; i < bytes.length;) {
    for (const end = Math.min(i + 3800, bytes.length); i < end; i++) b += a += bytes[i];
    a %= 65521;
    b %= 65521;
  }
  return (b << 16) | a;
}

const damaged = () => new InputError("its compressed data are damaged");

class Bits {
  constructor(data, position) {
    this.data = data;
    this.position = position;
    this.held = 0;
    this.count = 0;
  }

  take(count) {
    while (this.count < count) {
      if (this.position >= this.data.length) throw damaged();
      this.held |= this.data[this.position++] << this.count;
      this.count += 8;
    }
    const value = this.held & ((1 << count) - 1);
    this.held >>>= count;
    this.count -= count;
    return value;
  }

  align() {
    this.take(this.count & 7);
  }
}

/** A canonical Huffman code: how many codes there are of each length, and the symbols in the order of their codes. */
class Code {
  constructor(lengths) {
    this.counts = new Uint16Array(MAX_BITS + 1);
    this.symbols = new Uint16Array(lengths.length);
    for (const length of lengths) this.counts[length]++;
    this.counts[0] = 0;
    const next = new Uint16Array(MAX_BITS + 2);
    let left = 1;
    for (let length = 1; length <= MAX_BITS; length++) {
      left = 2 * left - this.counts[length];
      if (left < 0) throw damaged();
      next[length + 1] = next[length] + this.counts[length];
    }
    lengths.forEach((length, symbol) => {
      if (length) this.symbols[next[length]++] = symbol;
    });
  }

  read(bits) {
    let code = 0;
    let first = 0;
    let index = 0;
    for (let length = 1; length <= MAX_BITS; length++) {
      code |= bits.take(1);
      const count = this.counts[length];
      if (code - first < count) return this.symbols[index + code - first];
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw damaged();
  }
}

const FIXED = new Code([...Array(144).fill(8), ...Array(112).fill(9), ...Array(24).fill(7), ...Array(8).fill(8)]);
const FIXED_DISTANCES = new Code(Array(30).fill(5));

/** The two codes that a dynamic block begins with. */
function described(bits) {
  const literals = bits.take(5) + 257;
  const distances = bits.take(5) + 1;
  const given = bits.take(4) + 4;
  const first = Array(19).fill(0);
  for (let i = 0; i < given; i++) first[ORDER[i]] = bits.take(3);
  const code = new Code(first);
  const lengths = [];
  while (lengths.length < literals + distances) {
    const symbol = code.read(bits);
    if (symbol < 16) {
      lengths.push(symbol);
      continue;
    }
    if (symbol === 16 && !lengths.length) throw damaged();
    const value = symbol === 16 ? lengths[lengths.length - 1] : 0;
    const times = symbol === 16 ? 3 + bits.take(2) : symbol === 17 ? 3 + bits.take(3) : 11 + bits.take(7);
    for (let i = 0; i < times; i++) lengths.push(value);
  }
  if (lengths.length > literals + distances) throw damaged();
  return [new Code(lengths.slice(0, literals)), new Code(lengths.slice(literals))];
}

function stored(bits, out, count) {
  bits.align();
  const length = bits.take(8) | (bits.take(8) << 8);
  const inverse = bits.take(8) | (bits.take(8) << 8);
  if ((length ^ inverse) !== 0xffff) throw damaged();
  check(out, count + length);
  for (let i = 0; i < length; i++) out[count++] = bits.take(8);
  return count;
}

function coded(bits, out, count, literals, distances) {
  for (;;) {
    const symbol = literals.read(bits);
    if (symbol === 256) return count;
    if (symbol < 256) {
      check(out, count + 1);
      out[count++] = symbol;
      continue;
    }
    if (symbol > 285) throw damaged();
    const length = LENGTHS[symbol - 257] + bits.take(LENGTH_BITS[symbol - 257]);
    const place = distances.read(bits);
    if (place > 29) throw damaged();
    const more = Math.max(0, (place >> 1) - 1);
    const distance = place < 4 ? place + 1 : 1 + ((2 + (place & 1)) << more) + bits.take(more);
    if (distance > count) throw damaged();
    check(out, count + length);
    for (let i = 0; i < length; i++, count++) out[count] = out[count - distance];
  }
}

function check(out, end) {
  if (end > out.length) throw new InputError(`it holds more than the ${out.length} bytes that its shape needs`);
}
