"""What one codec for every rate costs: its bytes beside those of codecs fitted to a single quality each.

    python benchmarks/one_codec.py EMBEDDINGS.npz [--seed S]

All share the transform; contexts and tables of the single ones are fitted at the one level that they then code, on the
same 60% of the images; the rest is coded in frames of 128. Bytes of the one codec are taken at the single one's error,
between neighbouring levels, since the tables also decide how an encoder rounds. Side information is not counted: a
codec for each rate would need as many sets of tables.
"""

from __future__ import annotations

from contextlib import ExitStack
from unittest import mock

import numpy as np
from embeddings import parts_of_arguments, rate_and_error
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec, fitting

LEVELS = (-32, -26, -20, -14, -8, -2, 4)


def main() -> None:
    sample, coding = parts_of_arguments(__doc__)
    every = EmbeddingCodec.fit(sample, spatial="haar", positions=None)
    print(f"fitted on {len(sample)}, coded {len(coding)} images of {coding.shape[1:]}; bytes an image")
    print(f"{'bits a value':>14}{'one for all':>14}{'for this rate':>14}{'lost':>8}")
    for level in LEVELS:
        size, error = rate_and_error(fitted_at(level, sample), coding, level)
        near = sorted(rate_and_error(every, coding, at)[::-1] for at in (level - 1, level, level + 1))
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


if __name__ == "__main__":
    main()
