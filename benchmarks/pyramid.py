"""What each part of the pyramid codec saves: bytes an image at equal error, one part at a time.

    python benchmarks/pyramid.py EMBEDDINGS.npz [--seed S]

Codecs are fitted on a random 60% of the images and code the rest in frames of 128, framing counted. A row is a codec
with one more part; bytes are interpolated between levels of quality. Errors are shares of the variance that decoded
embeddings miss.
"""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
from embeddings import parts_of_arguments, rate_and_error
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec, fitting, prior

ERRORS = (0.3, 0.2, 0.1, 0.05, 0.02)


def main() -> None:
    sample, coding = parts_of_arguments(__doc__)
    flat: dict[str, Any] = {"positions": None, "spatial": "haar", "gains": (1.0,)}
    rows: list[tuple[str, dict[str, Any], dict[Any, Any]]] = [
        ("factorised", {"prior": "factorized"}, {}),
        ("+ means by position", {"prior": "factorized", "positions": None}, {}),
        ("contexts of tokens", {"positions": None}, {}),
        ("pyramid, no contexts", flat, {(fitting, "_fit_details"): without_contexts, (prior, "DEAD_ZONE"): 0.0}),
        ("+ contexts of relatives", flat, {(prior, "DEAD_ZONE"): 0.0}),
        ("+ rounding by cost", flat, {}),
        ("+ gains", {"positions": None, "spatial": "haar"}, {}),
    ]
    print(f"fitted on {len(sample)}, coded {len(coding)} images of {coding.shape[1:]}; bytes an image at an error of")
    print(f"{'':26}" + "".join(f"{error:9.2f}" for error in ERRORS))
    for name, options, patches in rows:
        errors, sizes = curve(sample, coding, options, patches)
        found = np.exp(np.interp(np.log(ERRORS), np.log(errors), np.log(sizes), left=np.nan, right=np.nan))
        print(f"{name:26}" + "".join(f"{size:9.1f}" for size in found), flush=True)


def without_contexts(waves: Any, symbols: Any, start: Any) -> Any:
    """As the fit of a detail's class, with a constant magnitude a channel and class."""
    target = np.concatenate([np.abs(symbols[w.row :: w.step, w.column :: w.step]) for w in waves], axis=None)
    b0, _ = fitting._fit_magnitude(target.reshape(-1, symbols.shape[3]), [], start)
    return b0, np.zeros((len(start), symbols.shape[3]), np.int16), start


def curve(
    sample: NDArray[np.float32], coding: NDArray[np.float32], options: dict[str, Any], patches: dict[Any, Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors, rising, and bytes an image over levels of quality, with parts of the codec replaced."""
    variance, points = float(np.square(coding - coding.mean((0, 1, 2))).sum()), []
    replaced = [mock.patch.object(module, name, value) for (module, name), value in patches.items()]
    for patch in replaced:
        patch.start()
    codec = EmbeddingCodec.fit(sample, **options)
    for level in range(-34, 9, 3):
        size, error = rate_and_error(codec, coding, level)
        points.append((error / variance, size))
    for patch in replaced:
        patch.stop()
    errors, sizes = np.array(sorted(points)).T
    return errors, sizes


if __name__ == "__main__":
    main()
