// The entropy decoder (docs/format.md, sections 2 and 5): rANS with a 64-bit state, kept as three integers of 32, 24
// and 8 bits. All frequencies are multiples of 2^8, so the lowest 8 bits of the state change only with a new word, and
// 256 f (state >> 24) + q - c' is, without these 8 bits, f (state >> 24) + (q >> 8) - c with f and c of 16 bits.

import { CorruptError, InputError } from "./errors.js";

const TOTAL = 1 << 16;
const INVERSE = 1 / TOTAL;
const MAX_ESCAPE = 2 ** 30;
const DRAW = 16;

/** Frequency tables, laid out for the decoder: a table of radius R has 2 R + 2 entries, of -R..R and of "escape". */
export class Tables {
  /**
   * @param {ArrayLike<number>} radii (tables)
   * @param {ArrayLike<number>} frequencies all tables' one after another, each table's sum 2^16
   */
  constructor(radii, frequencies) {
    this.count = radii.length;
    this.radii = Int32Array.from(radii);
    const entries = this.radii.reduce((sum, radius) => sum + 2 * radius + 2, 0);
    if (!this.count || entries !== frequencies.length) throw malformed("radii and frequencies do not fit together");
    /** Where each table begins among `frequency` and `start`; both have an entry more at each table's end. */
    this.first = new Int32Array(this.count);
    this.frequency = new Int32Array(entries + this.count);
    this.start = new Int32Array(entries + this.count);
    /** Where the search for the upper 8 bits of a quantile begins, counted from the table's first entry. */
    this.buckets = new Int32Array(256 * this.count);
    /** The most frequent entry of each table. */
    this.likely = new Int32Array(this.count);
    let taken = 0;
    let end = 0;
    for (let table = 0; table < this.count; table++) {
      this.first[table] = this.likely[table] = end;
      let sum = 0;
      for (let i = 2 * this.radii[table] + 2; i > 0; i--, end++) {
        const frequency = frequencies[taken++];
        if (frequency < 1) throw malformed(`frequencies must be positive and sum to ${TOTAL}`);
        this.frequency[end] = frequency;
        this.start[end] = sum;
        if (frequency > this.frequency[this.likely[table]]) this.likely[table] = end;
        sum += frequency;
      }
      if (sum !== TOTAL) throw malformed(`frequencies must be positive and sum to ${TOTAL}`);
      this.start[end++] = TOTAL;
      for (let bucket = 0, entry = 0; bucket < 256; bucket++) {
        while (this.start[this.first[table] + entry + 1] <= bucket << 8) entry++;
        this.buckets[256 * table + bucket] = entry;
      }
    }
  }
}

/** Of the bit lengths 0..39 of escaped residuals. */
const ESCAPE = escapeFrequencies();

function escapeFrequencies() {
  const found = Int32Array.from({ length: 40 }, (_, length) => (length < 15 ? 1 << (15 - length) : 1));
  found[0] += TOTAL - found.reduce((sum, frequency) => sum + frequency, 0);
  return found;
}

/** Reads a code, block by block. */
export class Coder {
  /** @param {Uint8Array} bytes words of 32 bits, little-endian */
  constructor(bytes) {
    const words = new Uint32Array(bytes.length >> 2);
    for (let i = 0, at = 0; i < words.length; i++, at += 4) {
      words[i] = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    }
    if (words.length && words[0] === 0) throw new CorruptError("code is damaged: it starts with a zero word");
    this.words = words;
    this.position = 0;
    /** The state is hi 2^32 + mid 2^8 + low; hi is a signed integer of the same 32 bits. */
    this.hi = this.mid = this.low = 0;
    while (this.hi === 0 && this.position < words.length) this.refill();
    this.ends = new Int32Array(0);
    this.order = new Int32Array(0);
  }

  refill() {
    const word = this.words[this.position++];
    this.hi = (this.mid << 8) | this.low;
    this.mid = word >>> 8;
    this.low = word & 255;
  }

  /** Whether every word was used and the coder is back in its first state. */
  get finished() {
    return this.position === this.words.length && (this.hi | this.mid | this.low) === 0;
  }

  /** Go on after a symbol of frequency f at a distance from its beginning. */
  advance(f, distance) {
    const upper = (f * (this.hi >>> 0) * INVERSE) >>> 0;
    const mid = ((Math.imul(f, this.hi) & 0xffff) << 8) + Math.imul(f, this.mid >>> 16) + distance;
    this.hi = (upper + (mid >>> 24)) | 0;
    this.mid = mid & 0xffffff;
    if (this.hi === 0 && this.position < this.words.length) this.refill();
  }

  /**
   * Residuals of a block, each under its table.
   *
   * @param {Tables} tables
   * @param {Uint16Array} table of each value
   * @param {number} size how many values there are
   * @param {Int32Array} high where the residuals go, or where they have raw low bits the parts above
   */
  pullBlock(tables, table, size, high) {
    if (this.ends.length < tables.count + 1) this.ends = new Int32Array(tables.count + 1);
    if (this.order.length < size) this.order = new Int32Array(size);
    const { ends, order } = this;
    ends.fill(0);
    for (let i = 0; i < size; i++) ends[table[i] + 1]++;
    for (let t = 0; t < tables.count; t++) ends[t + 1] += ends[t];
    for (let i = 0; i < size; i++) order[ends[table[i]]++] = i;
    const escaped = [];
    for (let t = 0, begin = 0; t < tables.count; begin = ends[t++]) {
      if (ends[t] > begin) this.pullRun(tables, t, begin, ends[t], high, escaped);
    }
    if (escaped.length) this.pullEscapes(tables.radii, table, escaped, high);
  }

  /** The values of one table, at places `order[begin]` to `order[end - 1]`; those of escapes are added to `escaped`. */
  pullRun(tables, table, begin, end, high, escaped) {
    const { frequency, start, buckets } = tables;
    const { words, order } = this;
    const first = tables.first[table];
    const zero = first + tables.radii[table];
    const last = zero + tables.radii[table];
    const likely = tables.likely[table];
    const likelyStart = start[likely];
    const likelyFrequency = frequency[likely];
    const search = 256 * table;
    let { hi, mid, low, position } = this;
    for (let i = begin; i < end; i++) {
      const place = order[i];
      const quantile = mid & 0xffff;
      let entry = likely;
      let f = likelyFrequency;
      let distance = quantile - likelyStart;
      if (distance < 0 || distance >= f) {
        entry = first + buckets[search + (quantile >>> 8)];
        while (start[entry + 1] <= quantile) entry++;
        f = frequency[entry];
        distance = quantile - start[entry];
        if (entry > last) escaped.push(place);
      }
      high[place] = entry - zero;
      const upper = (f * (hi >>> 0) * INVERSE) >>> 0;
      mid = ((Math.imul(f, hi) & 0xffff) << 8) + Math.imul(f, mid >>> 16) + distance;
      hi = (upper + (mid >>> 24)) | 0;
      mid &= 0xffffff;
      if (hi === 0 && position < words.length) {
        const word = words[position++];
        hi = (mid << 8) | low;
        mid = word >>> 8;
        low = word & 255;
      }
    }
    this.hi = hi;
    this.mid = mid;
    this.low = low;
    this.position = position;
  }

  /** Residuals beyond their tables. */
  pullEscapes(radii, table, escaped, high) {
    const lengths = escaped.map(() => this.pullLength());
    for (let length = 0; length < ESCAPE.length; length++) {
      const chosen = escaped.filter((_, i) => lengths[i] === length);
      const low = this.pullRaw(chosen.length, length);
      chosen.forEach((place, i) => {
        const code = 2 ** length + low[i];
        if (code > MAX_ESCAPE) throw new CorruptError("code is damaged: an escaped symbol is out of range");
        const excess = code - 1;
        const size = (excess >> 1) + radii[table[place]] + 1;
        high[place] = excess & 1 ? -size : size;
      });
    }
  }

  pullLength() {
    let length = 0;
    let quantile = this.mid & 0xffff;
    while (ESCAPE[length] <= quantile) quantile -= ESCAPE[length++];
    this.advance(ESCAPE[length], quantile);
    return length;
  }

  /**
   * Values of so many bits that were stored as they are, low parts first.
   * @param {number} count
   * @param {number} bits at most 52
   */
  pullRaw(count, bits) {
    const values = new Float64Array(count);
    for (let shift = 0; shift < bits; shift += DRAW) {
      const rest = DRAW - Math.min(DRAW, bits - shift);
      for (let i = 0; i < count; i++) {
        const quantile = this.mid & 0xffff;
        values[i] += (quantile >>> rest) * 2 ** shift;
        this.advance(1 << rest, quantile & ((1 << rest) - 1));
      }
    }
    return values;
  }
}

const malformed = (why) => new InputError(`codec tables are malformed: ${why}`);
