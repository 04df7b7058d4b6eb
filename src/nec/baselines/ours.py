"""Our own codec as one of the methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.baselines.method import Method, check_embeddings
from nec.errors import InputError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.codec.embedding_codec import PriorName


class CodecMethod(Method):
    """`EmbeddingCodec` at one quality; without a codec, `fit` fits one of `prior` to the sample."""

    domain = "embeddings"

    def __init__(
        self, codec: EmbeddingCodec | None = None, quality: float = 1.0, prior: PriorName = "hierarchical"
    ) -> None:
        if not quality > 0:
            raise InputError(f"the codec's quality is a positive number, not {quality:g}")
        self.codec, self.prior = codec, prior if codec is None else codec.prior
        self.family, self.setting, self.label = f"codec-{self.prior}", float(quality), f"quality {quality:g}"

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

        return CodecMethod(EmbeddingCodec.fit(sample, prior=self.prior, positions=None), self.setting)

    def encode(self, batch: NDArray[Any]) -> bytes:
        return self._fitted().encode(check_embeddings(batch), self.setting)

    def decode(self, blob: bytes) -> NDArray[np.float32]:
        return self._fitted().decode(blob)

    def _fitted(self) -> EmbeddingCodec:
        if self.codec is None:
            raise InputError(f"{self.name} has no codec yet: call fit(sample of embeddings) first")
        return self.codec
