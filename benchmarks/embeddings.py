"""What benchmarks work on: embeddings, a random part to fit codecs to and the rest to code, their rate and error."""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec

FRAME = 128


def parts_of_arguments(about: str | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """`split` as the command line says: EMBEDDINGS.npz [--seed S]."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help=".npz with an array `embeddings` (n, y, x, d)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    return split(args.embeddings, args.seed)


def split(path: str, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(fitting, coding): 60% and 40% of the images of the array `embeddings` (n, y, x, d) in an .npz."""
    with np.load(path) as file:
        values = file["embeddings"].astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(values))
    cut = len(order) * 3 // 5
    return values[order[:cut]], values[order[cut:]]


def rate_and_error(codec: EmbeddingCodec, coding: NDArray[np.float32], level: int) -> tuple[float, float]:
    """Bytes an image in frames of 128, and the squared error of all."""
    size = error = 0.0
    for start in range(0, len(coding), FRAME):
        batch = coding[start : start + FRAME]
        blob = codec.encode(batch, 2 ** (level / 8))
        size += len(blob)
        error += float(np.square(codec.decode(blob) - batch).sum())
    return size / len(coding), error
