"""What one codec for every rate costs: its bytes beside those of codecs fitted to a single quality each.

    python benchmarks/one_codec.py EMBEDDINGS.npz [--seed S]

All share the transform; contexts and tables of the single ones are fitted at the one level that they then code, on the
same 60% of the images; the rest is coded in frames of 128. Bytes of the one codec are taken at the single one's error,
between neighbouring levels, since the tables also decide how an encoder rounds. Side information is not counted: a
codec for each rate would need as many sets of tables.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from unittest import mock

import numpy as np
from embeddings import split
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec, fitting

LEVELS = (-32, -26, -20, -14, -8, -2, 4)
FRAME = 128


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help=".npz with an array `embeddings` (n, y, x, d)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sample, coding = split(args.embeddings, args.seed)
    every = EmbeddingCodec.fit(sample, spatial="haar", positions=None)
    print(f"fitted on {len(sample)}, coded {len(coding)} images of {coding.shape[1:]}; bytes an image")
    print(f"{'bits a value':>14}{'one for all':>14}{'for this rate':>14}{'lost':>8}")
    for level in LEVELS:
        size, error = point(fitted_at(level, sample), coding, level)
        near = sorted(point(every, coding, at)[::-1] for at in (level - 1, level, level + 1))
        errors, sizes = np.log(near).T
        whole = float(np.exp(np.interp(np.log(error), errors, sizes)))
        bits = 8 * size / np.prod(coding.shape[1:])
        print(f"{bits:14.3f}{whole:14.1f}{size:14.1f}{whole / size - 1:8.1%}", flush=True)


def fitted_at(level: int, sample: NDArray[np.float32]) -> EmbeddingCodec:
    """A codec whose contexts and tables have seen one level only."""
    only = {"FIRST_LEVEL": level, "LAST_LEVEL": level, "_TABLE_LEVELS": (level,)}
    with ExitStack() as patches:
        for name, value in only.items():
            patches.enter_context(mock.patch.object(fitting, name, value))
        return EmbeddingCodec.fit(sample, spatial="haar", positions=None)


def point(codec: EmbeddingCodec, coding: NDArray[np.float32], level: int) -> tuple[float, float]:
    """Bytes an image, and squared error."""
    size = error = 0.0
    for start in range(0, len(coding), FRAME):
        batch = coding[start : start + FRAME]
        blob = codec.encode(batch, 2 ** (level / 8))
        size += len(blob)
        error += float(np.square(codec.decode(blob) - batch).sum())
    return size / len(coding), error


if __name__ == "__main__":
    main()
