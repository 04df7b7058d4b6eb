"""Values stored as they are: raw data (RDC in the paper) and float embeddings, with and without Blosc."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods import frame
from nec.bench.methods.blosc import compress, decompress
from nec.bench.methods.method import Domain, Method, check_embeddings, check_images
from nec.errors import CorruptError, InputError


class Raw(Method):
    """A batch as one array of `stored` dtype ("uint8", "uint16", "float16", "float32"), in Blosc where `zstd`.

    Unsigned types store images (family "rdc"), float types embeddings (family "float"). Images of 8 bits in 16 are
    widened and come back as they were; 16 in 8 are refused.

    >>> import numpy as np
    >>> images = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3)
    >>> method = Raw("uint16", zstd=True)
    >>> bool((method.decode(method.encode(images)) == images).all())
    True
    """

    def __init__(self, stored: str, zstd: bool = False) -> None:
        if stored not in ("uint8", "uint16", "float16", "float32"):
            raise InputError(f"raw values are stored as uint8, uint16, float16 or float32, not {stored!r}")
        self.stored, self.zstd = np.dtype(stored).newbyteorder("<"), zstd
        self.domain: Domain = "images" if self.stored.kind == "u" else "embeddings"
        self.family = "rdc" if self.domain == "images" else "float"
        self.setting = 8.0 * self.stored.itemsize
        self.label = f"{stored}{', zstd' if zstd else ''}"
        self.lossless = stored != "float16"

    @property
    def name(self) -> str:
        return f"{self.family}-{np.dtype(self.stored).name}{'-zstd' if self.zstd else ''}"

    def encode(self, batch: NDArray[Any]) -> bytes:
        batch = check_images(batch) if self.domain == "images" else check_embeddings(batch)
        if self.domain == "images" and batch.dtype.itemsize > self.stored.itemsize:
            raise InputError(f"{self.name} stores 8 bits a value and the images have 16: use rdc:uint16")
        values = half_precision(batch) if self.stored.itemsize == 2 and batch.dtype.kind == "f" else batch
        values = values.astype(self.stored, copy=False)
        return frame.pack(self.name, batch, compress(values) if self.zstd else values.tobytes())

    def decode(self, blob: bytes) -> NDArray[Any]:
        header, payload = frame.unpack(blob, self.name)
        if header.dtype.kind != self.stored.kind:
            raise CorruptError(f"frame of {self.name} declares {header.dtype} values")
        if self.zstd:
            values = decompress(payload, header.shape, self.stored)
        elif len(payload) * header.dtype.itemsize != header.nbytes * self.stored.itemsize:
            raise CorruptError(f"frame holds {len(payload)} bytes where its shape {header.shape} takes another number")
        else:
            values = np.frombuffer(payload, self.stored).reshape(header.shape)
        return values.astype(header.dtype.newbyteorder("="))


def half_precision(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Values cast to float16; `InputError` for those beyond its range, which would become infinite."""
    with np.errstate(over="ignore"):
        half = values.astype("<f2")
    if not np.isfinite(half).all():
        raise InputError(f"values up to {np.abs(values).max():g} lie beyond float16's range of 65504: use float:32")
    return half
