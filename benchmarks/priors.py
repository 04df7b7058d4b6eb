"""Bytes an image of the factorised and the hierarchical prior on the same embeddings, over qualities, and of pyramids.

    python benchmarks/priors.py EMBEDDINGS.npz [--seed S]

Both codecs are fitted on a random 60% of the images and code the rest with the same transform and steps, in frames of
all images; framing is counted. `error` is the share of the variance that the decoded embeddings miss. A pyramid has
other symbols: its bytes are those at the same error, between two levels of quality, for equal steps in all octaves
("flat") and for the default gains, which spend more on coarse ones.
"""

from __future__ import annotations

import argparse

import numpy as np
from embeddings import split

from nec.codec import EmbeddingCodec
from nec.codec.embedding_codec import DEFAULT_GAINS

LEVELS = (-25, -20, -16, -13, -8, 0, 8)  # eight a factor of 2 in quality


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help=".npz with an array `embeddings` (n, y, x, d)")
    parser.add_argument(
        "--positions", action="store_true", help="take out the means by position first, as nec fit does"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fitting, coding = split(args.embeddings, args.seed)
    factorised, hierarchical = (
        EmbeddingCodec.fit(fitting, prior=p, positions=args.positions) for p in ("factorized", "hierarchical")
    )
    pyramids = {
        name: EmbeddingCodec.fit(fitting, positions=args.positions, spatial="haar", gains=gains)
        for name, gains in (("flat", (1.0,)), ("gains", DEFAULT_GAINS))
    }
    variance = np.square(coding - coding.mean((0, 1, 2))).sum()
    curves = {name: curve(codec, coding, variance) for name, codec in pyramids.items()}
    print(f"fitted on {len(fitting)}, coded {len(coding)} images of {coding.shape[1:]}; bytes an image")
    print(
        f"{'quality':>8}{'factorised':>12}{'hierarchical':>14}{'saved':>8}{'error':>8}{'flat':>8}{'saved':>8}{'gains':>8}"
    )
    for level in LEVELS:
        quality = 2 ** (level / 8)
        symbols = hierarchical.symbols(coding, quality)
        assert np.array_equal(symbols, factorised.symbols(coding, quality))
        blobs = [codec.encode_symbols(symbols, quality) for codec in (factorised, hierarchical)]
        decoded = [codec.decode_symbols(blob)[0] for codec, blob in zip((factorised, hierarchical), blobs, strict=True)]
        assert all(np.array_equal(part, symbols) for part in decoded)
        a, b = (len(blob) / len(coding) for blob in blobs)
        error = np.square(hierarchical.decode(blobs[1]) - coding).sum() / variance
        flat, gained = (np.exp(np.interp(np.log(error), *np.log(curves[name]))) for name in ("flat", "gains"))
        print(
            f"{quality:8.3f}{a:12.1f}{b:14.1f}{1 - b / a:8.1%}{error:8.3f}{flat:8.1f}{1 - flat / a:8.1%}{gained:8.1f}"
        )
    for name, codec in (("factorised", factorised), ("hierarchical", hierarchical), ("pyramid", pyramids["gains"])):
        print(f"side information, {name}: {codec.side_information()}")


def curve(codec: EmbeddingCodec, coding: np.ndarray, variance: float) -> tuple[list[float], list[float]]:
    """Errors, rising, and bytes an image at every level of quality."""
    points = []
    for level in range(-34, 13, 2):
        blob = codec.encode(coding, 2 ** (level / 8))
        points.append((float(np.square(codec.decode(blob) - coding).sum() / variance), len(blob) / len(coding)))
    errors, sizes = zip(*sorted(points), strict=True)
    return list(errors), list(sizes)


if __name__ == "__main__":
    main()
