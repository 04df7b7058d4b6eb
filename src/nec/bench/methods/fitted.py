"""What baselines share that are fitted to a sample of embeddings: the affine transform, its bytes, and the frame."""

from __future__ import annotations

import copy
import math
import struct
from abc import abstractmethod
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods import frame
from nec.bench.methods.codes import pack_codes, unpack_codes
from nec.bench.methods.method import Method, check_embeddings
from nec.codec.frame import crc32c
from nec.codec.transform import Coefficients, Selection, Transform, fit_transform
from nec.errors import CorruptError, InputError

FIT_TOKENS = 1 << 16
_HEADER = struct.Struct("<I")  # CRC-32C of the side information that the frame was written with

Codes = NDArray[np.uint8]


class FittedMethod(Method):
    """Tokens through an affine transform, the coefficients as codes of `bits` bits, packed or through Blosc zstd.

    The transform is the codec's (`nec.codec.transform`): means, by place of the grid where that explains 3% of the
    variance, and principal axes in half precision where the method wants them, so that no method gains by its
    centring alone. Side information is what a decoder needs: means, axes, `tables`.
    """

    domain = "embeddings"
    bits: int
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
        return frame.pack(self.family, values, _HEADER.pack(self._check()) + body)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        transform = self._fitted()
        header, payload = frame.unpack(blob, self.family)
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

    @property
    @abstractmethod
    def columns(self) -> int:
        """Codes of a token, k."""

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


def whole(family: str, value: float, what: str, low: int, high: int) -> int:
    """A whole setting from `low` to `high`; else `InputError`."""
    if not (float(value).is_integer() and low <= value <= high):
        raise InputError(f"{family} takes {what} from {low} to {high}, not {value:g}")
    return int(value)
