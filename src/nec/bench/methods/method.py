"""What every way to store images or embeddings offers: the codec's encode and decode, and what its bytes are worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError

Domain = Literal["images", "embeddings"]


class Method(ABC):
    """One way of storing batches at one setting.

    Attributes:
        family: what it is, apart from its setting: "uqe", "jpeg2000", ...
        setting: the number that orders the family's points: bits, compression ratio, quality.
        label: that setting in words.
        domain: whether it stores images (n, h, w, c), uint8 or uint16, or embeddings (n, y, x, d), float32.
        repeats: whether encoding what was decoded gives the same bytes again, of methods with loss on embeddings.
        version: of what it makes of the same images; results of another one are not its own.
        lossless: whether `decode(encode(batch))` is `batch`, bit by bit.
    """

    family: str
    setting: float
    label: str
    domain: Domain
    lossless: bool = False
    repeats: bool = True
    version: int = 1

    @property
    def name(self) -> str:
        """Unique among the methods, and what `methods` reads: "uqe-4", "jpeg2000-24"."""
        return f"{self.family}-{self.setting:g}"

    @property
    def nbytes(self) -> int:
        """Side information: bytes a decoder needs once, beside the frames."""
        return 0

    @property
    def needs_fit(self) -> bool:
        """Whether `fit` must come before `encode`."""
        return False

    def fit(self, sample: NDArray[Any]) -> Method:
        """The method fitted to a sample of its domain; itself where nothing is fitted."""
        return self

    @abstractmethod
    def encode(self, batch: NDArray[Any]) -> bytes:
        """Bytes of a whole batch. Raises `InputError` for shapes, dtypes and values that the method does not store."""

    @abstractmethod
    def decode(self, blob: bytes) -> NDArray[Any]:
        """The batch, in the shape and dtype that `encode` was given (embeddings: float32).

        Raises `CorruptError` for bytes that are damaged, truncated or another method's.
        """

    def image_bytes(self, blob: bytes) -> list[int] | None:
        """Each image's own share of a frame in bytes, where images are coded one by one; else None."""
        return None

    def files(self, blob: bytes) -> list[bytes] | None:
        """The images of a frame as files of their own that other programs open, where there is such a format."""
        return None


def check_images(batch: NDArray[Any]) -> NDArray[Any]:
    """Contiguous images (n, h, w, c) of uint8 or uint16, at least one; else `InputError`."""
    batch = np.ascontiguousarray(batch)
    if batch.ndim != 4 or batch.size == 0 or batch.dtype not in (np.uint8, np.uint16):
        raise InputError(f"images must be (n, h, w, c) of uint8 or uint16, not {batch.dtype} {batch.shape}")
    return batch.astype(batch.dtype.newbyteorder("="), copy=False)


def check_embeddings(batch: NDArray[Any]) -> NDArray[np.float32]:
    """Contiguous finite float32 embeddings (n, y, x, d), at least one; else `InputError`."""
    batch = np.asarray(batch)
    if batch.ndim != 4 or batch.size == 0 or batch.dtype.kind != "f":
        raise InputError(f"embeddings must be floats (n, y, x, d), not {batch.dtype} {batch.shape}")
    with np.errstate(over="ignore"):
        values = np.ascontiguousarray(batch, np.float32)
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=(1, 2, 3)).argmax())
        raise InputError(f"embeddings have NaN or infinite values, first in image {bad}; leave such images out")
    return values
