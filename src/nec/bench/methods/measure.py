"""Stored bytes of every method on the same images, with what each promises of its bytes checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.method import Method
from nec.errors import InputError

Batch = tuple[NDArray[Any], NDArray[np.float32]]
EXACT = "bit-exact"
STABLE = "same bytes again"
ALIKE = "decodes alike"


@dataclass
class Measured:
    """What one method made of the images.

    Attributes:
        stored_bytes: bytes of all frames, headers included; `side_information` is beside them, once.
        per_image: each image's share of the frames where images are coded one by one, without what they share.
        file_bytes: the images as files of their own, nothing shared, or None.
        promise: what was checked of every batch: "bit-exact" (decoding gives the batch), "same bytes again" (encoding
            what was decoded gives the frame, hence the same symbols), "decodes alike" (decoding twice gives the same
            array of the batch's shape and type).
        exact: whether that held for every batch.
        refused: why the method does not store these images, or None.
    """

    method: Method
    promise: str
    images: int = 0
    stored_bytes: int = 0
    pixel_bytes: int = 0
    per_image: list[int] = field(default_factory=list)
    file_bytes: int | None = None
    exact: bool = True
    encode_seconds: float = 0.0
    decode_seconds: float = 0.0
    refused: str | None = None

    @property
    def side_information(self) -> int:
        """Bytes that a decoder needs once."""
        return 0 if self.refused else self.method.nbytes

    def add(self, images: NDArray[Any], embeddings: NDArray[np.float32]) -> None:
        """Encode, decode and check one more batch."""
        batch = images if self.method.domain == "images" else embeddings
        began = time.perf_counter()
        blob = self.method.encode(batch)
        encoded = time.perf_counter()
        decoded = self.method.decode(blob)
        self.decode_seconds += time.perf_counter() - encoded
        self.encode_seconds += encoded - began
        self.images += len(batch)
        self.stored_bytes += len(blob)
        self.pixel_bytes += images.nbytes
        self.per_image += self.method.image_bytes(blob) or []
        files = self.method.files(blob)
        if files is not None:
            self.file_bytes = (self.file_bytes or 0) + sum(map(len, files))
        self.exact &= self._holds(batch, blob, decoded)

    def _holds(self, batch: NDArray[Any], blob: bytes, decoded: NDArray[Any]) -> bool:
        if decoded.shape != batch.shape or decoded.dtype != batch.dtype:
            return False
        if self.promise == EXACT:
            return bool(np.array_equal(decoded, batch))
        if self.promise == STABLE:
            return self.method.encode(decoded) == blob
        return bool(np.array_equal(self.method.decode(blob), decoded))

    def to_dict(self, raw_file_bytes: int) -> dict[str, Any]:
        """JSON-able row; `raw_file_bytes` are those of the images' own files."""
        method = self.method
        head = {"method": method.name, "family": method.family, "setting": method.setting, "domain": method.domain}
        if self.refused:
            return {**head, "lossless": method.lossless, "refused": self.refused}
        return {
            **head,
            "lossless": method.lossless,
            "stored_bytes": self.stored_bytes,
            "side_information": self.side_information,
            **spread(self.stored_bytes / self.images, self.per_image),
            "file_bytes_per_image": None if self.file_bytes is None else self.file_bytes / self.images,
            "share_of_pixels": self.stored_bytes / self.pixel_bytes,
            "share_of_files": self.stored_bytes / raw_file_bytes,
            "promise": self.promise,
            "exact": self.exact,
            "seconds": {"encode": self.encode_seconds, "decode": self.decode_seconds},
        }


def spread(mean: float, per_image: Sequence[int]) -> dict[str, Any]:
    """`bytes_per_image`, with the least and the most of an image where they are known."""
    least, most = (min(per_image), max(per_image)) if per_image else (None, None)
    return {"bytes_per_image": mean, "min_bytes": least, "max_bytes": most}


def measure(
    wanted: Sequence[Method], batches: Iterable[Batch], done: Callable[[int], None] = lambda images: None
) -> list[Measured]:
    """Run fitted methods over batches of (images (n, h, w, c), their embeddings (n, y, x, d)).

    A method that cannot store the first batch (bands, type) is listed with the reason. `done` is called with the
    number of images of each finished batch. Raises `InputError` where a later batch is refused, or none comes.
    """
    measured = [Measured(method, _promise(method)) for method in wanted]
    began = False
    for images, embeddings in batches:
        for row in measured:
            if row.refused:
                continue
            try:
                row.add(images, embeddings)
            except InputError as error:
                if began:
                    raise
                row.refused = str(error)
        began = True
        done(len(images))
    if not began:
        raise InputError("there are no images to measure")
    return measured


def _promise(method: Method) -> str:
    if method.lossless:
        return EXACT
    return STABLE if method.domain == "embeddings" and method.repeats else ALIKE
