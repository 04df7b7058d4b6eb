"""Our own codec as one of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods.method import Method, check_embeddings
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec


Variant = Literal["factorized", "hierarchical", "pyramid"]
_OPTIONS: dict[Variant, dict[str, Any]] = {
    "factorized": {"prior": "factorized"},
    "hierarchical": {"prior": "hierarchical"},
    "pyramid": {"prior": "hierarchical", "spatial": "haar"},
}


def _variant(codec: EmbeddingCodec) -> Variant:
    return "pyramid" if codec.spatial else codec.prior


class CodecMethod(Method):
    """`EmbeddingCodec` at one quality; without a codec, `fit` fits one of a `variant` to the sample.

    Variants: "factorized", "hierarchical" (the prior, on the tokens themselves), "pyramid" (it on a Haar pyramid).
    """

    domain = "embeddings"

    def __init__(self, codec: EmbeddingCodec | None = None, quality: float = 1.0, variant: Variant = "pyramid") -> None:
        if not quality > 0:
            raise InputError(f"the codec's quality is a positive number, not {quality:g}")
        self.codec, self.variant = codec, variant if codec is None else _variant(codec)
        self.family, self.setting, self.label = f"codec-{self.variant}", float(quality), f"quality {quality:g}"

    @property
    def nbytes(self) -> int:
        return self._fitted().nbytes

    @property
    def needs_fit(self) -> bool:
        return self.codec is None

    def fit(self, sample: NDArray[Any]) -> CodecMethod:
        """Itself where it has a codec, else the method with one fitted to embeddings (n, y, x, d)."""
        if self.codec is not None:
            return self
        from nec.codec import EmbeddingCodec

        options = _OPTIONS[self.variant]
        return CodecMethod(EmbeddingCodec.fit(sample, positions=None, **options), self.setting)

    def encode(self, batch: NDArray[Any]) -> bytes:
        return self._fitted().encode(check_embeddings(batch), self.setting)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        return self._fitted().decode(blob)

    def _fitted(self) -> EmbeddingCodec:
        if self.codec is None:
            raise InputError(f"{self.name} has no codec yet: call fit(sample of embeddings) first")
        return self.codec
