"""Write the byte fixtures of the current format version: `python tests/codec/make_fixtures.py`.

Fixtures of a released format version are never made anew; a new version gets a new folder.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from codec_samples import smooth_embeddings

from nec.codec import EmbeddingCodec

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "codec"
CASES = {
    "v1/hierarchical": {"prior": "hierarchical"},
    "v1/factorized": {"prior": "factorized"},
    "v1/plain-rank3": {"prior": "hierarchical", "klt": False, "rank": 3},
    "v1/positions": {"prior": "hierarchical", "positions": True},
    "v2/haar": {"spatial": "haar"},
    "v2/haar-plain": {"spatial": "haar", "klt": False, "rank": 3, "positions": True, "gains": (0.7, 1.0, 1.5)},
}
BATCHES = {"8x8": (3, 8, 8), "7x5": (2, 7, 5), "1x6": (4, 1, 6), "one": (1, 1, 1), "empty": (0, 4, 4)}
QUALITIES = (0.3, 1.0, 12.0, 5000.0)


def main() -> None:
    for name, options in CASES.items():
        if (FOLDER / f"{name}.json").exists():  # frozen
            continue
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        codec = EmbeddingCodec.fit(smooth_embeddings(24, 8, 8, 5), **options)
        codec.save(FOLDER / f"{name}.json")
        for grid, shape in BATCHES.items():
            for quality in QUALITIES if grid == "8x8" else QUALITIES[1:2]:
                batch = smooth_embeddings(*shape, 5, seed=1)
                blob = codec.encode(batch, quality)
                stem = FOLDER / f"{name}-{grid}-q{quality:g}"
                Path(f"{stem}.bin").write_bytes(blob)
                symbols, _ = codec.decode_symbols(blob)
                np.savez_compressed(f"{stem}.npz", symbols=symbols, decoded=codec.decode(blob))


if __name__ == "__main__":
    main()
