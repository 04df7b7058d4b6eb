// CRC-32C (Castagnoli), as frames and the indices of shards carry it; eight bytes a step.

const TABLES = tables();

function tables() {
  const found = new Int32Array(8 * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
    found[byte] = crc;
  }
  for (let i = 256; i < found.length; i++) found[i] = (found[i - 256] >>> 8) ^ found[found[i - 256] & 255];
  return found;
}

/**
 * Checksum of bytes; `before` is that of what comes before them.
 * @param {Uint8Array} bytes
 * @param {number} [before]
 * @returns {number} unsigned 32-bit integer
 */
export function crc32c(bytes, before = 0) {
  let crc = ~before;
  let i = 0;
  for (; i + 8 <= bytes.length; i += 8) {
    crc ^= bytes[i] | (bytes[i + 1] << 8) | (bytes[i + 2] << 16) | (bytes[i + 3] << 24);
    crc =
      TABLES[1792 + (crc & 255)] ^
      TABLES[1536 + ((crc >>> 8) & 255)] ^
      TABLES[1280 + ((crc >>> 16) & 255)] ^
      TABLES[1024 + (crc >>> 24)] ^
      TABLES[768 + bytes[i + 4]] ^
      TABLES[512 + bytes[i + 5]] ^
      TABLES[256 + bytes[i + 6]] ^
      TABLES[bytes[i + 7]];
  }
  for (; i < bytes.length; i++) crc = (crc >>> 8) ^ TABLES[(crc ^ bytes[i]) & 255];
  return ~crc >>> 0;
}
