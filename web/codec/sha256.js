// SHA-256 (FIPS 180-4), of which a codec's id is a part. WebCrypto's is asynchronous, and absent on plain http pages.

/** The first 32 bits of the fractional parts of the n-th roots of the first primes. */
function roots(count, power) {
  const found = [];
  for (let n = 2; found.length < count; n++) {
    let prime = true;
    for (let i = 2; i * i <= n; i++) prime = prime && n % i !== 0;
    if (prime) found.push(((n ** power % 1) * 2 ** 32) | 0);
  }
  return found;
}

const K = new Int32Array(roots(64, 1 / 3));

/** @param {Uint8Array[]} parts @returns {string} hex digits of the digest of the parts one after another */
export function sha256(parts) {
  const size = parts.reduce((total, part) => total + part.length, 0);
  const message = new Uint8Array((((size + 8) >> 6) + 1) << 6);
  let end = 0;
  for (const part of parts) {
    message.set(part, end);
    end += part.length;
  }
  message[size] = 0x80;
  const view = new DataView(message.buffer);
  view.setUint32(message.length - 8, Math.floor(size / 2 ** 29));
  view.setUint32(message.length - 4, size << 3);
  const hash = new Int32Array(roots(8, 1 / 2));
  const w = new Int32Array(64);
  for (let block = 0; block < message.length; block += 64) {
    for (let i = 0; i < 16; i++) w[i] = view.getInt32(block + 4 * i);
    for (let i = 16; i < 64; i++)
      w[i] = (w[i - 16] + low(w[i - 15], 7, 18, 3) + w[i - 7] + low(w[i - 2], 17, 19, 10)) | 0;
    mix(hash, w);
  }
  return Array.from(hash, (word) => (word >>> 0).toString(16).padStart(8, "0")).join("");
}

/** @param {number} x */
const turned = (x, bits) => (x >>> bits) | (x << (32 - bits));
const low = (x, a, b, c) => turned(x, a) ^ turned(x, b) ^ (x >>> c);
const high = (x, a, b, c) => turned(x, a) ^ turned(x, b) ^ turned(x, c);

function mix(hash, w) {
  let [a, b, c, d, e, f, g, h] = hash;
  for (let i = 0; i < 64; i++) {
    const first = (h + high(e, 6, 11, 25) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
    const second = (high(a, 2, 13, 22) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((value, i) => (hash[i] += value));
}
