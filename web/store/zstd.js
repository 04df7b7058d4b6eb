// Zstandard frames (RFC 8878), for what lies beside the embeddings: names, labels, validity. Few browsers have a decoder
// of their own. Checksums of frames are not looked at: Zarr's CRC-32C over the whole chunk has been checked before.

import { CorruptError } from "../codec/errors.js";

const LITERAL_BITS = [...Array(16).fill(0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const MATCH_BITS = [...Array(32).fill(0), 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
const upTo = (bits, first) => bits.map((_, i) => bits.slice(0, i).reduce((sum, count) => sum + 2 ** count, first));
const LITERAL_BASES = upTo(LITERAL_BITS, 0);
const MATCH_BASES = upTo(MATCH_BITS, 3);
const times = (count, value) => Array(count).fill(value);
const LITERALS = [4, 3, ...times(11, 2), 1, 1, 1, ...times(9, 2), 3, 2, ...times(5, 1), ...times(4, -1)];
const OFFSETS = [...times(6, 1), 2, 2, 2, ...times(15, 1), ...times(5, -1)];
const MATCHES = [1, 4, 3, ...times(6, 2), ...times(37, 1), ...times(7, -1)];

const damaged = () => new CorruptError("its compressed data are damaged");

/**
 * Bytes of one frame or several, each of `most` bytes at most.
 * @param {Uint8Array} data
 * @param {number} most
 * @returns {Uint8Array}
 */
export function unzstd(data, most = 2 ** 28) {
  const view = new DataView(data.buffer, data.byteOffset, data.length);
  const parts = [];
  try {
    for (let at = 0; at < data.length;) {
      const magic = view.getUint32(at, true);
      if (magic >>> 4 === 0x184d2a5) at += 8 + view.getUint32(at + 4, true);
      else if (magic === 0xfd2fb528) at = readFrame(data, view, at + 4, most, parts);
      else throw damaged();
    }
  } catch (error) {
    throw error instanceof RangeError ? damaged() : error;
  }
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((place, part) => (whole.set(part, place), place + part.length), 0);
  return whole;
}

/** @returns {number} where the frame ends */
function readFrame(data, view, at, most, parts) {
  const head = data[at++];
  const single = (head >> 5) & 1;
  if (!single) at++;
  at += [0, 1, 2, 4][head & 3];
  const bytes = [single, 2, 4, 8][head >> 6];
  if (!bytes || head & 8) throw damaged(); // every writer that knows its data's size says it
  const size = bytes === 8 ? Number(view.getBigUint64(at, true)) : number(data, at, bytes) + (bytes === 2 ? 256 : 0);
  if (size > most) throw damaged();
  at += bytes;
  const frame = { out: new Uint8Array(size), end: 0, recent: [1, 4, 8], huffman: null, tables: [null, null, null] };
  for (let last = 0; !last;) {
    const header = number(data, at, 3);
    last = header & 1;
    const kind = (header >> 1) & 3;
    const count = header >>> 3;
    const stored = kind === 1 ? 1 : count;
    at += 3;
    if (at + stored > data.length || kind === 3) throw damaged();
    const block = data.subarray(at, at + stored);
    if (kind === 2) readBlock(block, frame);
    else append(frame, kind === 1 ? new Uint8Array(count).fill(block[0]) : block);
    at += stored;
  }
  if (frame.end !== size) throw damaged();
  parts.push(frame.out);
  return at + (head & 4 ? 4 : 0);
}

function number(data, at, bytes) {
  if (at + bytes > data.length) throw damaged();
  let found = 0;
  for (let i = 0; i < bytes; i++) found += data[at + i] * 2 ** (8 * i);
  return found;
}

function append(frame, bytes) {
  if (frame.end + bytes.length > frame.out.length) throw damaged();
  frame.out.set(bytes, frame.end);
  frame.end += bytes.length;
}

// ---- blocks

function readBlock(data, frame) {
  const { literals, at: start } = readLiterals(data, frame);
  let at = start;
  let count = data[at++];
  if (count === 255) {
    count = number(data, at, 2) + 0x7f00;
    at += 2;
  } else if (count >= 128) count = ((count - 128) << 8) | data[at++];
  if (!count) return append(frame, literals);
  const modes = data[at++];
  [LITERALS, OFFSETS, MATCHES].forEach((standard, i) => {
    const mode = (modes >> (6 - 2 * i)) & 3;
    if (mode === 0) frame.tables[i] = stateTable(standard, i === 1 ? 5 : 6);
    if (mode === 1) frame.tables[i] = { log: 0, symbols: [data[at++]], bits: [0], bases: [0] };
    if (mode === 2) {
      const { counts, log, at: end } = readCounts(data, at, 9);
      frame.tables[i] = stateTable(counts, log);
      at = end;
    }
    if (!frame.tables[i]) throw damaged();
  });
  readSequences(data.subarray(at), count, literals, frame);
}

function readSequences(data, count, literals, frame) {
  const bits = new BackwardBits(data);
  const [literal, offset, match] = frame.tables.map((table) => new State(table, bits));
  let taken = 0;
  for (let i = 0; i < count; i++) {
    const code = offset.symbol;
    if (code > 31 || literal.symbol > 35 || match.symbol > 52) throw damaged();
    const value = 2 ** code + bits.take(code);
    const length = MATCH_BASES[match.symbol] + bits.take(MATCH_BITS[match.symbol]);
    const before = LITERAL_BASES[literal.symbol] + bits.take(LITERAL_BITS[literal.symbol]);
    if (i < count - 1) [literal, match, offset].forEach((state) => state.next());
    if (taken + before > literals.length) throw damaged();
    append(frame, literals.subarray(taken, taken + before));
    taken += before;
    copy(frame, distance(frame.recent, value, before), length);
  }
  append(frame, literals.subarray(taken));
}

/** The distance that an offset value stands for; the last three are remembered. */
function distance(recent, value, before) {
  const place = value > 3 ? 3 : value - 1 + (before === 0 ? 1 : 0);
  const found = value > 3 ? value - 3 : place === 3 ? recent[0] - 1 : recent[place];
  if (place > 0) {
    if (place > 1) recent[2] = recent[1];
    recent[1] = recent[0];
    recent[0] = found;
  }
  return found;
}

function copy(frame, back, length) {
  const { out, end } = frame;
  if (back < 1 || back > end || end + length > out.length) throw damaged();
  for (let i = end; i < end + length; i++) out[i] = out[i - back];
  frame.end += length;
}

// ---- literals

function readLiterals(data, frame) {
  const kind = data[0] & 3;
  const form = (data[0] >> 2) & 3;
  if (kind < 2) {
    const bytes = [1, 2, 1, 3][form];
    const size = Math.floor(number(data, 0, bytes) / (bytes === 1 ? 8 : 16));
    const stored = kind === 1 ? 1 : size;
    if (bytes + stored > data.length || size > frame.out.length) throw damaged();
    const found = data.subarray(bytes, bytes + stored);
    return { literals: kind === 1 ? new Uint8Array(size).fill(found[0]) : found, at: bytes + stored };
  }
  const bytes = [3, 3, 4, 5][form];
  const width = [10, 10, 14, 18][form];
  const sizes = Math.floor(number(data, 0, bytes) / 16);
  const size = sizes % 2 ** width;
  const end = bytes + Math.floor(sizes / 2 ** width);
  if (end > data.length || size > frame.out.length) throw damaged();
  let at = bytes;
  if (kind === 2) ({ huffman: frame.huffman, at } = readHuffman(data, at));
  if (!frame.huffman) throw damaged();
  const literals = new Uint8Array(size);
  if (form === 0) decodeHuffman(data.subarray(at, end), frame.huffman, literals);
  else {
    const part = (size + 3) >> 2;
    let from = at + 6;
    for (let i = 0; i < 4; i++) {
      const to = i < 3 ? from + number(data, at + 2 * i, 2) : end;
      if (to > end || from > to || i * part > size) throw damaged();
      decodeHuffman(data.subarray(from, to), frame.huffman, literals.subarray(i * part, i < 3 ? (i + 1) * part : size));
      from = to;
    }
  }
  return { literals, at: end };
}

function decodeHuffman(data, { log, symbols, lengths }, out) {
  const bits = new BackwardBits(data);
  for (let i = 0; i < out.length; i++) {
    const code = bits.peek(log);
    out[i] = symbols[code];
    bits.skip(lengths[code]);
  }
  if (bits.left !== 0) throw damaged();
}

function readHuffman(data, at) {
  const head = data[at++];
  const weights = [];
  if (head >= 128) {
    for (let i = 0; i < head - 127; i++) weights.push(i % 2 ? data[at + (i >> 1)] & 15 : data[at + (i >> 1)] >> 4);
    at += (head - 126) >> 1;
  } else {
    const { counts, log, at: start } = readCounts(data, at, 6);
    at += head;
    const bits = new BackwardBits(data.subarray(start, at));
    const table = stateTable(counts, log);
    const states = [new State(table, bits), new State(table, bits)];
    for (let i = 0; weights.length < 255; i = 1 - i) {
      weights.push(states[i].symbol);
      states[i].next();
      if (bits.left < 0) {
        weights.push(states[1 - i].symbol);
        break;
      }
    }
  }
  return { huffman: huffmanTable(weights), at };
}

function huffmanTable(weights) {
  const sum = weights.reduce((total, weight) => total + (weight ? 2 ** (weight - 1) : 0), 0);
  const log = 32 - Math.clz32(sum);
  const last = Math.log2(2 ** log - sum);
  if (!sum || log > 11 || !Number.isInteger(last)) throw damaged();
  const all = [...weights, last + 1];
  const [symbols, lengths] = [new Uint8Array(2 ** log), new Uint8Array(2 ** log)];
  for (let weight = 1, place = 0; weight <= log; weight++) {
    all.forEach((found, symbol) => {
      if (found !== weight) return;
      symbols.fill(symbol, place, place + 2 ** (weight - 1));
      lengths.fill(log + 1 - weight, place, (place += 2 ** (weight - 1)));
    });
  }
  return { log, symbols, lengths };
}

// ---- finite state entropy

/** How often each symbol occurs, in 2^log; -1 stands for less than once. */
function readCounts(data, at, most) {
  let place = 8 * at;
  const take = (count) => {
    let found = 0;
    for (let i = 0; i < count; i++, place++) found |= ((data[place >> 3] >> (place & 7)) & 1) << i;
    if (place > 8 * data.length + 8) throw damaged();
    return found;
  };
  const log = take(4) + 5;
  if (log > most) throw damaged();
  const counts = [];
  for (let left = 2 ** log; left > 0;) {
    const width = 31 - Math.clz32(left + 1);
    const spare = 2 ** (width + 1) - 2 - left;
    let value = take(width);
    if (value >= spare && take(1)) value += 2 ** width - spare;
    counts.push(value - 1);
    left -= Math.abs(value - 1);
    for (let zeros = value === 1 ? 3 : 0; zeros === 3;) {
      zeros = take(2);
      counts.push(...times(zeros, 0));
    }
    if (left < 0 || counts.length > 256) throw damaged();
  }
  return { counts, log, at: (place + 7) >> 3 };
}

function stateTable(counts, log) {
  const size = 2 ** log;
  const symbols = new Uint8Array(size);
  const next = counts.map((count) => Math.abs(count));
  let top = size - 1;
  counts.forEach((count, symbol) => {
    if (count === -1) symbols[top--] = symbol;
  });
  let place = 0;
  counts.forEach((count, symbol) => {
    for (let i = 0; i < count; i++) {
      symbols[place] = symbol;
      do place = (place + (size >> 1) + (size >> 3) + 3) & (size - 1);
      while (place > top);
    }
  });
  const [bits, bases] = [new Uint8Array(size), new Uint16Array(size)];
  symbols.forEach((symbol, state) => {
    const x = next[symbol]++;
    bits[state] = log - (31 - Math.clz32(x));
    bases[state] = (x << bits[state]) - size;
  });
  return { log, symbols, bits, bases };
}

class State {
  constructor(table, bits) {
    this.table = table;
    this.bits = bits;
    this.state = bits.take(table.log);
  }

  get symbol() {
    return this.table.symbols[this.state];
  }

  next() {
    this.state = this.table.bases[this.state] + this.bits.take(this.table.bits[this.state]);
  }
}

/** Bits from the end of bytes on, below the mark of the last one; zeros beyond the beginning. */
class BackwardBits {
  constructor(data) {
    const last = data[data.length - 1];
    if (!last) throw damaged();
    this.data = data;
    this.left = 8 * data.length - 1 - Math.clz32(last << 24);
  }

  peek(count) {
    let found = 0;
    const end = this.left - count;
    for (let place = this.left - 1; place >= end;) {
      if (place < 0) return found * 2 ** (place - end + 1);
      const low = Math.max(end, place & ~7);
      const width = place - low + 1;
      found = found * 2 ** width + ((this.data[place >> 3] >> (low & 7)) & (2 ** width - 1));
      place = low - 1;
    }
    return found;
  }

  skip(count) {
    this.left -= count;
  }

  take(count) {
    const found = this.peek(count);
    this.skip(count);
    return found;
  }
}
