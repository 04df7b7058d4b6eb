"""Binary codes: signs of centred channels, and of principal components after a learned rotation (ITQ)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.fitted import FittedMethod, centred, check_rank, coefficients_of, principal, whole
from nec.codec.transform import Transform

_TURNS = 50  # iterations, as published


class SignBits(FittedMethod):
    """One bit a channel: whether it is above its mean. Decodes to the channel's mean above or below, of the sample."""

    family, setting, label, bits = "sign", 1.0, "1 bit a channel", 1

    @property
    def name(self) -> str:
        return "sign"

    @property
    def columns(self) -> int:
        return self._fitted().dimensions

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        transform = centred(sample)
        values = coefficients_of(transform, sample)
        above = values > 0
        means = [np.where(side, values, 0).sum(axis=0) / np.maximum(side.sum(axis=0), 1) for side in (~above, above)]
        smallest = np.finfo(np.float16).smallest_subnormal
        return transform, {"levels": np.stack([means[0], np.maximum(means[1], smallest)]).astype(np.float16)}

    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
        return (coefficients > 0).astype(np.uint8)

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        low, high = self.tables["levels"].astype(np.float64)
        return np.where(codes > 0, high, low)


class Itq(FittedMethod):
    """Iterative quantisation (Gong & Lazebnik 2011): signs of principal components after the rotation that makes
    them nearest to signs. Decodes linearly, by least squares on the sample.

    Side information holds what decodes, not the rotation, which the producer alone needs.
    """

    family, bits = "itq", 1
    repeats = False  # the linear decoder need not give a vector of the same signs
    rotation: NDArray[np.float64]

    def __init__(self, bits: float) -> None:
        self.rank = whole(self.family, bits, "bits a token", 1, 65535)
        self.setting, self.label = float(self.rank), f"{self.rank} bit a token"

    @property
    def columns(self) -> int:
        return self.rank

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        transform = principal(sample, check_rank(self.family, self.rank, sample.shape[3]))
        values = coefficients_of(transform, sample)
        self.rotation = rotation(values[:: max(1, len(values) // 16384)])
        signs = np.where(values @ self.rotation > 0, 1.0, -1.0)
        decoder = np.linalg.lstsq(signs.T @ signs, signs.T @ values, rcond=None)[0]
        return transform, {"decoder": decoder.astype(np.float16)}

    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
        return (coefficients @ self.rotation > 0).astype(np.uint8)

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        return np.where(codes > 0, 1.0, -1.0) @ self.tables["decoder"].astype(np.float64)


def rotation(values: NDArray[np.float64], turns: int = _TURNS) -> NDArray[np.float64]:
    """Orthogonal matrix R (k, k) that lowers |sign(V R) - V R|^2 for V (n, k), from a random one (seed 0)."""
    draw = np.random.default_rng(0).normal(size=(values.shape[1],) * 2)
    found = np.linalg.qr(draw)[0]
    for _ in range(turns):
        left, _, right = np.linalg.svd(values.T @ np.sign(values @ found))
        found = left @ right
    return found
