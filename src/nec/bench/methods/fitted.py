"""Baselines that are fitted to a sample of embeddings: the affine transform and frame that they share, and PCA.

Principal components are quantised to 8 bits, or by reverse water-filling and entropy coding.
"""

from __future__ import annotations

import copy
import math
import struct
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.method import Method, check_embeddings, check_setting, pack, pack_codes, unpack, unpack_codes
from nec.codec.frame import crc32c
from nec.codec.tables import Bank, Reader, Writer, integer_table
from nec.codec.transform import Coefficients, Rotation, Selection, Transform, fit_transform
from nec.errors import CorruptError, InputError

FIT_TOKENS = 1 << 16
_HEADER = struct.Struct("<I")  # CRC-32C of the side information that the frame was written with


class FittedMethod(Method):
    """Tokens through an affine transform, the coefficients as codes of `bits` bits, packed or through Blosc zstd.

    The transform is the codec's (`nec.codec.transform`): means, by place of the grid where that explains 3% of the
    variance, and principal axes in half precision where the method wants them, so that no method gains by its
    centring alone. Side information is what a decoder needs: means, axes, `tables`.
    """

    domain = "embeddings"
    bits: int
    columns: int  # codes of a token, k
    transform: Transform | None = None
    tables: dict[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._side().values())

    @property
    def needs_fit(self) -> bool:
        return self.transform is None

    def fit(self, sample: NDArray[Any]) -> Self:
        """The method fitted to embeddings (n, y, x, d), of which whole images of some 65,000 tokens are drawn."""
        sample = check_embeddings(_drawn(np.asarray(sample)))
        made = copy.copy(self)
        made.transform, made.tables = made._fit(sample)
        return made

    def encode(self, batch: NDArray[Any]) -> bytes:
        values, transform = check_embeddings(batch), self._fitted()
        if values.shape[3] != transform.dimensions:
            raise InputError(
                f"{self.name} was fitted to tokens of {transform.dimensions} values, and these have {values.shape[3]}"
            )
        body = self._pack(self._codes(transform.project(values).reshape(-1, transform.rank)))
        return pack(self.family, values, _HEADER.pack(self._check()) + body)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        transform = self._fitted()
        header, payload = unpack(blob, self.family)
        if len(payload) < _HEADER.size or header.dtype != np.dtype("<f4") or header.shape[3] != transform.dimensions:
            raise CorruptError(f"frame of {self.family} is damaged, or of embeddings of another model")
        if _HEADER.unpack_from(payload)[0] != self._check():
            raise CorruptError(f"frame was written by a {self.family} of another setting or fit than this {self.name}")
        tokens = math.prod(header.shape[:3])
        coefficients = self._coefficients(self._unpack(payload[_HEADER.size :], tokens))
        return transform.reconstruct(Coefficients(coefficients.reshape(*header.shape[:3], -1), None, 0))

    @abstractmethod
    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        """Transform and tables for a sample (n, y, x, d)."""

    @abstractmethod
    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[Any]:
        """Codes (tokens, k) of coefficients (tokens, rank)."""

    @abstractmethod
    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        """Coefficients (tokens, rank) that codes (tokens, k) stand for."""

    def _pack(self, codes: NDArray[Any]) -> bytes:
        layout, body = pack_codes(np.ascontiguousarray(codes.T), self.bits)
        return bytes([layout]) + body

    def _unpack(self, body: bytes, tokens: int) -> NDArray[Any]:
        if not body:
            raise CorruptError(f"frame of {self.family} is truncated")
        return unpack_codes(body[1:], body[0], (self.columns, tokens), self.bits).T

    def _side(self) -> dict[str, NDArray[Any]]:
        """Arrays of the side information, as they are stored."""
        transform = self._fitted()
        arrays = {"mean": transform.mean, "positions": transform.positions, "basis": transform.basis, **self.tables}
        return {name: array for name, array in arrays.items() if array is not None}

    def _check(self) -> int:
        arrays = self._side()
        return crc32c(f"{self.name} {sorted(arrays)}".encode() + b"".join(a.tobytes() for a in arrays.values()))

    def _fitted(self) -> Transform:
        if self.transform is None:
            raise InputError(f"{self.name} is not fitted yet: call fit(sample of embeddings) first")
        return self.transform


def _drawn(sample: NDArray[Any]) -> NDArray[Any]:
    """Whole images of about `FIT_TOKENS` tokens, drawn without replacement."""
    if sample.ndim != 4 or sample.size == 0:
        return sample  # refused by whoever checks it
    limit = max(1, FIT_TOKENS // math.prod(sample.shape[1:3]))
    if len(sample) <= limit:
        return sample
    return sample[np.sort(np.random.default_rng(0).choice(len(sample), limit, replace=False))]


def centred(sample: NDArray[np.float32]) -> Transform:
    """Transform that takes the means away, and leaves the channels in their order."""
    found = fit_transform(sample, None, klt=False, step=1.0, positions=None)
    channels = np.arange(sample.shape[3])
    return Transform(found.mean, 1.0, Selection(channels, len(channels)), found.positions)


def principal(sample: NDArray[np.float32], rank: int) -> Transform:
    """Transform to the leading principal axes, those of largest variance first."""
    return fit_transform(sample, rank, klt=True, step=1.0, positions=None)


def coefficients_of(transform: Transform, sample: NDArray[np.float32]) -> NDArray[np.float64]:
    """(tokens, rank) of a sample."""
    return transform.project(sample).reshape(-1, transform.rank)


def check_rank(family: str, rank: int, dimensions: int) -> int:
    """The rank; `InputError` where the embeddings have fewer dimensions."""
    if rank > dimensions:
        raise InputError(f"{family}:{rank} needs more dimensions than the {dimensions} of these embeddings")
    return rank


_REACH = 255  # of the residuals that tables are counted over
_CENTROIDS = 256  # centroids are stored in units of a 256th of the step


class PcaInt8(FittedMethod):
    """The leading principal components as 8-bit integers, each over its own range in the sample; zstd where it pays."""

    family = "pca-int8"
    bits = 8

    def __init__(self, rank: float) -> None:
        self.columns = int(check_setting(self.family, rank, "rank", 1, 65535, whole=True))
        self.setting, self.label = float(self.columns), f"rank {self.columns}"

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        transform = principal(sample, check_rank(self.family, self.columns, sample.shape[3]))
        most = np.abs(coefficients_of(transform, sample)).max(axis=0)
        return transform, {"steps": np.where(most > 0, most / 127, 1).astype(np.float32)}

    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[np.uint8]:
        return (np.rint(coefficients / self.tables["steps"]).clip(-127, 127) + 128).astype(np.uint8)

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        return (codes.astype(np.float64) - 128) * self.tables["steps"]


class PcaEntropy(FittedMethod):
    """Principal components under reverse water-filling, entropy-coded with one static table a component.

    A Gaussian source of independent components of variance v is coded best, for an error D, with an error of
    min(v, w) in each, w the water level (Cover & Thomas, Elements of Information Theory, 10.3.3): components below the
    level are left out, the others quantised with one step whose error is w = step^2 / 12. The setting is D, a share
    of the variance; the step is the one that gives D on the sample. Symbols go through ANS (constriction)
    with tables counted on the sample, each decodes to its mean in the sample.
    """

    family = "pca-entropy"

    def __init__(self, error: float) -> None:
        if not 0 < error < 1:
            raise InputError(f"pca-entropy takes an error between 0 and 1, a share of the variance, not {error:g}")
        self.setting, self.label = float(error), f"error {error:g}"

    def _fit(self, sample: NDArray[np.float32]) -> tuple[Transform, dict[str, NDArray[Any]]]:
        whole_basis = principal(sample, sample.shape[3])
        coefficients = coefficients_of(whole_basis, sample)
        variances = (coefficients**2).mean(axis=0)
        step = _step_for(coefficients, variances, self.setting)
        # Axes are sorted by the covariance, before their rounding to half precision: those up to the last above stay.
        rank = max(1, int(np.max(np.flatnonzero(variances > step**2 / 12), initial=0)) + 1)
        assert whole_basis.basis is not None
        basis = whole_basis.basis[:rank]
        transform = Transform(whole_basis.mean, 1.0, Rotation(basis), whole_basis.positions)
        return transform, {"step": np.array(step, np.float32), **_tables(coefficients_of(transform, sample) / step)}

    def _codes(self, coefficients: NDArray[np.float64]) -> NDArray[np.int32]:
        scaled = np.rint(coefficients / self.tables["step"])
        if np.abs(scaled).max(initial=0) >= 1 << 24:
            raise InputError(f"{self.name}: values lie too far beyond those it was fitted to")
        return scaled.astype(np.int32)

    def _coefficients(self, codes: NDArray[Any]) -> NDArray[np.floating]:
        radii = self.tables["radii"].astype(np.int64)
        starts = np.concatenate([[0], np.cumsum(2 * radii + 1)])[:-1]
        inside = np.abs(codes) <= radii
        place = starts + np.where(inside, codes + radii, 0)
        shift = np.where(inside, self.tables["centroids"][place] / _CENTROIDS, 0)
        return (codes + shift) * np.float64(self.tables["step"])

    def _bank(self) -> Bank:
        return Bank(self.tables["radii"], self.tables["frequencies"].astype(np.int64))

    def _pack(self, codes: NDArray[Any]) -> bytes:
        bank, writer = self._bank(), Writer()
        writer.push_block(bank, _components(codes.shape), codes)
        return writer.finish().astype("<u4").tobytes()

    def _unpack(self, body: bytes, tokens: int) -> NDArray[Any]:
        if len(body) % 4:
            raise CorruptError("code stream is damaged: it is no row of 32-bit words")
        bank, reader = self._bank(), Reader(np.frombuffer(body, "<u4").astype(np.uint32))
        codes = reader.pull_block(bank, _components((tokens, len(bank))))
        reader.check_finished()
        return codes


def _components(shape: tuple[int, ...]) -> NDArray[np.uint16]:
    """The table of each symbol (tokens, components): one a component."""
    return np.broadcast_to(np.arange(shape[1], dtype=np.uint16), shape)


def _step_for(coefficients: NDArray[np.float64], variances: NDArray[np.float64], error: float) -> float:
    """Step whose quantiser, decoding to means, leaves this share of the variance, by bisection of its logarithm."""
    total = max(float(variances.sum()), 1e-30)
    some = coefficients[:: max(1, len(coefficients) // 8192)]
    low, high = np.log(np.sqrt(total) * 1e-5), np.log(np.sqrt(total) * 20)
    for _ in range(24):
        step = float(np.exp((low + high) / 2))
        kept = variances > step**2 / 12
        left = float(variances[~kept].sum()) + _error(some[:, kept], step)
        low, high = (low, (low + high) / 2) if left > error * total else ((low + high) / 2, high)
    return float(np.float32(np.exp(low)))


def _error(coefficients: NDArray[np.float64], step: float) -> float:
    """Squared error a token of a uniform quantiser whose innermost symbols decode to their means."""
    scaled = coefficients / step
    symbols = np.rint(scaled)
    total = 0.0
    for value in range(-2, 3):
        chosen = symbols == value
        count = chosen.sum(axis=0)
        rest = np.where(chosen, scaled - symbols, 0)
        sums = rest.sum(axis=0)
        total += float(((rest**2).sum(axis=0) - sums**2 / np.maximum(count, 1)).sum())
    outer = np.abs(symbols) > 2
    total += float((np.where(outer, scaled - symbols, 0) ** 2).sum())
    return total * step**2 / len(coefficients)


def _tables(scaled: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Frequencies and centroids of each column's symbols."""
    symbols = np.rint(scaled)
    radii, frequencies, centroids = [], [], []
    for values, rest in zip(symbols.T, (scaled - symbols).T, strict=True):
        places = np.clip(values, -_REACH, _REACH).astype(np.int64) + _REACH
        counts = np.bincount(places, minlength=2 * _REACH + 1)
        sums = np.bincount(places, rest, minlength=2 * _REACH + 1)
        table = integer_table(counts / counts.sum())
        radius = (len(table) - 2) // 2
        inside = slice(_REACH - radius, _REACH + radius + 1)
        means = sums[inside] / (counts[inside] + 4)  # held towards the middle where few symbols were seen
        radii.append(radius)
        frequencies.append(table)
        centroids.append(np.rint(means * _CENTROIDS).clip(-127, 127))
    return {
        "radii": np.array(radii, np.uint8),
        "frequencies": np.concatenate(frequencies).astype(np.uint16),
        "centroids": np.concatenate(centroids).astype(np.int8),
    }
