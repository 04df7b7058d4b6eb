// What the decoder and the store reader throw: one sentence that says what is wrong, and where it can, what to do.

/** Base of all errors of this folder. */
export class NecError extends Error {
  /** @param {string} message @param {ErrorOptions} [options] */
  constructor(message, options) {
    super(message, options);
    this.name = new.target.name;
  }
}

/** Bytes are damaged, truncated, or not what they should be. */
export class CorruptError extends NecError {}

/** The caller asked for what cannot be given, or gave a codec that is not one. */
export class InputError extends NecError {}

/** A place cannot be read: the network, a server that refuses, or one that does not answer range requests. */
export class AccessError extends NecError {}
