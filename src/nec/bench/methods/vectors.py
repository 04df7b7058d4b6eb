"""Vector quantisation by faiss (product, residual) and binary codes (signs, ITQ). faiss needs the extra `[bench]`."""

from __future__ import annotations

import functools
from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.fitted import FittedMethod, centred, check_rank, coefficients_of, principal
from nec.bench.methods.method import check_setting
from nec.codec.transform import Rotation, Transform
from nec.errors import InputError, missing_extra

_TRAINING = 1 << 15  # tokens that codebooks are trained on: 128 a codeword


class _VectorQuantiser(FittedMethod):
    """So many bits a token: one codebook of up to 8 bits, or one of 8 for each byte. Codewords in half precision."""

    words: str  # faiss's name of the codebooks

    def __init__(self, bits: float) -> None:
        token = int(check_setting(self.family, bits, "number of bits a token", 1, 1024, whole=True))
        if token > 8 and token % 8:
            raise InputError(f"{self.family} takes 1 to 8 bits a token, or whole bytes of them, not {token}")
        self.setting, self.label = float(token), f"{token} bit a token"
        self.bits, self.columns = min(token, 8), max(token // 8, 1)

    @abstractmethod
    def _quantiser(self, dimensions: int) -> Any:
        """faiss's quantiser without codebooks."""

    def _transform(self, sample: NDArray[np.float32]) -> Transform:
        return centred(sample)

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        transform, quantiser = self._transform(sample), self._quantiser(sample.shape[3])
        quantiser.train(_training(coefficients_of(transform, sample)))
        words = faiss().vector_to_array(getattr(quantiser, self.words)).reshape(self.columns, 1 << self.bits, -1)
        return transform, {"codebooks": words.astype(np.float16)}

    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
        quantiser = self._quantiser(coefficients.shape[1])
        books = self.tables["codebooks"].astype(np.float32)
        faiss().copy_array_to_vector(books.ravel(), getattr(quantiser, self.words))
        quantiser.is_trained = True
        codes = quantiser.compute_codes(coefficients.astype(np.float32)).reshape(-1, self.columns)
        return codes & np.uint8((1 << self.bits) - 1)  # a single code of less than 8 bits has a byte of its own

    def _chosen(self, codes: NDArray[Any]) -> list[NDArray[np.float32]]:
        """Of each codebook the words that codes (n, books) name."""
        books = self.tables["codebooks"].astype(np.float32)
        return [book[code] for book, code in zip(books, codes.T, strict=True)]


class ProductQuantiser(_VectorQuantiser):
    """Product quantisation (Jégou et al. 2011): a token in equal parts, each by the nearest of its codewords.

    Parts are made of principal components so that the products of their variances are alike, which is optimal for
    Gaussian tokens ("parametric OPQ", Ge et al. 2013); one part needs no rotation.
    """

    family, words = "pq", "centroids"

    def _quantiser(self, dimensions: int) -> Any:
        if dimensions % self.columns:
            raise InputError(
                f"pq:{self.setting:g} has {self.columns} parts, which {dimensions} dimensions do not divide in"
            )
        return faiss().ProductQuantizer(dimensions, self.columns, self.bits)

    def _transform(self, sample: NDArray[np.float32]) -> Transform:
        self._quantiser(sample.shape[3])  # refuses dimensions that do not divide
        return centred(sample) if self.columns == 1 else _balanced(sample, self.columns)

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        return np.concatenate(self._chosen(codes), axis=1)


class ResidualQuantiser(_VectorQuantiser):
    """Residual quantisation (Chen et al. 2010, beam search of faiss): a token as a sum of one word of each codebook."""

    family, words = "rq", "codebooks"
    repeats = False  # the beam may find another sum of the same words' distance

    def _quantiser(self, dimensions: int) -> Any:
        quantiser = faiss().ResidualQuantizer(dimensions, self.columns, self.bits)
        quantiser.cp.niter = 10
        quantiser.train_type = 0  # k-means by codebook; faiss's default takes many times longer
        return quantiser

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        return functools.reduce(np.add, self._chosen(codes))


def _balanced(sample: NDArray[np.float32], parts: int) -> Transform:
    """Principal axes in an order whose equal parts have products of variances that are alike."""
    found = principal(sample, sample.shape[3])
    assert found.basis is not None
    variances = np.maximum((coefficients_of(found, sample) ** 2).mean(axis=0), 1e-30)
    members: list[list[int]] = [[] for _ in range(parts)]
    room = len(variances) // parts
    for axis in np.argsort(-variances, kind="stable"):
        open_parts = [part for part in members if len(part) < room]
        min(open_parts, key=lambda part: float(np.log(variances[part]).sum()) if part else -np.inf).append(int(axis))
    order = [axis for part in members for axis in part]
    return Transform(found.mean, 1.0, Rotation(found.basis[order]), found.positions)


def _training(coefficients: NDArray[np.float64]) -> NDArray[np.float32]:
    """Tokens drawn for training, as faiss takes them."""
    if len(coefficients) > _TRAINING:
        chosen = np.random.default_rng(0).choice(len(coefficients), _TRAINING, replace=False)
        coefficients = coefficients[np.sort(chosen)]
    return np.ascontiguousarray(coefficients, np.float32)


def faiss() -> Any:
    """The package faiss."""
    try:
        import faiss as module  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError as error:
        missing_extra("faiss-cpu", "bench", error)
    return module


_TURNS = 50  # iterations, as published


class SignBits(FittedMethod):
    """One bit a channel: whether it is above its mean. Decodes to the channel's mean above or below, of the sample."""

    family, setting, label, bits = "sign", 1.0, "1 bit a channel", 1

    @property
    def name(self) -> str:
        return "sign"

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        self.columns, transform = sample.shape[3], centred(sample)
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
        self.columns = int(check_setting(self.family, bits, "number of bits a token", 1, 65535, whole=True))
        self.setting, self.label = float(self.columns), f"{self.columns} bit a token"

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        transform = principal(sample, check_rank(self.family, self.columns, sample.shape[3]))
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
