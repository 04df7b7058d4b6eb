"""Write tests/fixtures/vectors: `python tests/make_vectors.py`. Test vectors for a decoder in any language.

They hold what tests/fixtures/codec and tests/fixtures/bytes hold, as plain files: codecs as JSON, frames as bytes,
symbols as int32 and values as float32, little-endian, in C order. docs/decoders.md says how to use them.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

import make_bytes as made
import nec

FOLDER = made.TESTS / "fixtures" / "vectors"
COMMITTED = made.TESTS / "fixtures" / "codec"
CODECS = ("v1/hierarchical", "v1/factorized", "v1/positions", "v2/haar", "v2/haar-plain")
BATCHES = ("8x8-q0.3", "8x8-q5000", "7x5-q1", "1x6-q1", "one-q1", "empty-q1")


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    vectors: list[dict[str, Any]] = []
    for name in CODECS:
        codec, stem = nec.EmbeddingCodec.load(COMMITTED / f"{name}.json"), name.replace("/", "-")
        (folder / f"{stem}.json").write_text((COMMITTED / f"{name}.json").read_text())
        for batch in BATCHES:
            recorded = np.load(COMMITTED / f"{name}-{batch}.npz")
            frame = (COMMITTED / f"{name}-{batch}.bin").read_bytes()
            decoded = recorded["decoded"]
            vectors.append(write(folder, codec, stem, batch, frame, recorded["symbols"], decoded))
        symbols = made.symbols(1, 4, 3, codec.rank, 24)  # escapes, and raw low bits
        frame = codec.encode_symbols(symbols, 1.0)
        vectors.append(write(folder, codec, stem, "24-bits", frame, symbols, codec.decode(frame)))
        for reason, damaged in damage(frame).items():
            try:
                codec.decode(damaged)
                raise AssertionError(f"{stem}: {reason} is decoded")
            except nec.CorruptError:
                pass
            file = f"{stem}.{reason.replace(' ', '-')}.frame"
            (folder / file).write_bytes(damaged)
            vectors.append({"codec": f"{stem}.json", "frame": file, "refused": reason})
    about = "Test vectors of nec's codec: docs/decoders.md. int32 and float32, little-endian, C order."
    (folder / "vectors.json").write_text(json.dumps({"about": about, "vectors": vectors}, indent=1) + "\n")


def write(
    folder: Path, codec: nec.EmbeddingCodec, stem: str, batch: str, frame: bytes, symbols: Any, decoded: Any
) -> dict[str, Any]:
    """Files of one frame, and what vectors.json says of them."""
    name = f"{stem}.{batch}"
    (folder / f"{name}.frame").write_bytes(frame)

    def file(kind: str, values: Any, dtype: str) -> dict[str, Any]:
        (folder / f"{name}.{kind}").write_bytes(np.ascontiguousarray(values, dtype).tobytes())
        return {"file": f"{name}.{kind}", "shape": list(values.shape)}

    coarse: list[dict[str, Any]] = []
    spacing = 2
    while codec.prior == "hierarchical" and batch == "7x5-q1" and spacing <= 8:
        size = codec.coarse_size(frame[:64], spacing)
        found = file(f"coarse-{spacing}.values", codec.decode_coarse(frame, spacing), "<f4")
        coarse.append({"spacing": spacing, "bytes": size, **found})
        spacing *= 2
    return {
        "codec": f"{stem}.json",
        "frame": f"{name}.frame",
        "level": struct.unpack_from("<b", frame, 3)[0],
        "symbols": file("symbols", symbols, "<i4"),
        "values": file("values", decoded, "<f4"),
        "coarse": coarse,
    }


def damage(frame: bytes) -> dict[str, bytes]:
    """Frames that a decoder must refuse, by reason."""
    flipped = bytearray(frame)
    flipped[-1] ^= 1
    return {
        "a bit flipped": bytes(flipped),
        "cut short": frame[:-1],
        "a word too many": forged(frame + b"\1\0\0\0"),
        "too large": forged(frame[:12] + b"\xff\xff\xff\xff\x0f" + frame[13:]),
    }


def forged(frame: bytes) -> bytes:
    """The same bytes with a checksum that fits."""
    return frame[:8] + struct.pack("<I", google_crc32c.value(frame[:8] + frame[12:])) + frame[12:]


if __name__ == "__main__":
    main()
