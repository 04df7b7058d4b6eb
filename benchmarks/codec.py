"""Bytes and speed of the codec's priors beside general-purpose compressors, on the same symbols and in one run.

    python benchmarks/codec.py [STORE] [--images N] [--rounds R]

The symbols are those of a store (the shipped `eurosat` unless another is given). Speeds are medians of interleaved
rounds and are given as ratios to the factorised prior: absolute times on a shared machine mean little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numcodecs import Blosc, Zstd

import nec
from nec.codec import EmbeddingCodec

Coder = tuple[Callable[[np.ndarray], bytes], Callable[[bytes], np.ndarray]]


def coders(embeddings: np.ndarray, codec: EmbeddingCodec, quality: float) -> dict[str, Coder]:
    """Name -> (encode symbols, decode bytes), all lossless on the symbols of `codec`."""
    symbols = codec.symbols(embeddings[:1], quality)
    shape = (-1, *symbols.shape[1:])
    # A factorised prior over the same transform: fitted in the domain of the symbols, with steps of one.
    values = codec.symbols(embeddings, quality).astype(np.float32)
    factorised = EmbeddingCodec.fit(values[: len(values) // 2], prior="factorized", klt=False, step=1.0)

    def general(compressor: Zstd | Blosc) -> Coder:
        def encode(block: np.ndarray) -> bytes:
            if np.abs(block).max(initial=0) > 127:
                raise SystemExit("symbols beyond a byte: this comparison is for low rates, give a coarser store")
            return compressor.encode(block.astype(np.int8))

        return encode, lambda data: np.frombuffer(compressor.decode(data), np.int8).reshape(shape)

    return {
        "factorized prior": (lambda s: factorised.encode_symbols(factorised.symbols(s.astype(np.float32), 1.0), 1.0),
                             lambda b: factorised.decode_symbols(b)[0]),
        "hierarchical prior": (lambda s: codec.encode_symbols(s, quality), lambda b: codec.decode_symbols(b)[0]),
        "zstd 3 on int8": general(Zstd(3)),
        "zstd 19 on int8": general(Zstd(19)),
        "blosc zstd + bitshuffle": general(Blosc("zstd", 3, Blosc.BITSHUFFLE)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", default="eurosat")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    store = nec.open_store(args.store)
    chosen = np.sort(np.random.default_rng(0).choice(len(store), min(args.images, len(store)), replace=False))
    embeddings = store.embeddings[chosen]
    symbols = store.codec.symbols(embeddings, store.quality)
    rivals = coders(embeddings, store.codec, store.quality)
    times: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in rivals}
    sizes: dict[str, int] = {}
    for _ in range(args.rounds):
        for name, (encode, decode) in rivals.items():
            began = time.perf_counter()
            data = encode(symbols)
            between = time.perf_counter()
            back = decode(data)
            ended = time.perf_counter()
            if name != "factorized prior" and not np.array_equal(back, symbols):
                raise SystemExit(f"{name} did not give the symbols back")
            sizes[name] = len(data)
            times[name][0].append(between - began)
            times[name][1].append(ended - between)
    median = {name: [statistics.median(part) for part in parts] for name, parts in times.items()}
    base = median["factorized prior"]
    print(f"{len(symbols)} images of {args.store}, {symbols[0].size} symbols each, quality {store.quality:.3g}")
    print(f"{'':26}{'bytes/image':>12}{'of factorised':>15}{'encode speed':>14}{'decode speed':>14}")
    for name in rivals:
        share = sizes[name] / sizes["factorized prior"]
        speeds = [b / t for b, t in zip(base, median[name], strict=True)]
        print(f"{name:26}{sizes[name] / len(symbols):12.1f}{share:15.2f}{speeds[0]:13.1f}x{speeds[1]:13.1f}x")


if __name__ == "__main__":
    main()
