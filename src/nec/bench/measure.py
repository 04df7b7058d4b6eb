"""Encode a subset to real bytes by one method, decode it, check what came back, and embed what were images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nec.bench.cache import Cache, key_of
from nec.bench.fidelity import fidelity
from nec.bench.recipe import MethodPoint
from nec.bench.subset import PARTS, Subset, Tokens, batches, embedded, model_inputs, writing
from nec.codec import EmbeddingCodec
from nec.datasets.base import ArrayDataset
from nec.encode.embed import Inputs, Stream
from nec.errors import NecError

if TYPE_CHECKING:
    from nec.bench.methods import Method
    from nec.models import NecModel


class Coder(Protocol):
    """Batches to bytes and back."""

    def encode(self, batch: NDArray[Any]) -> bytes: ...

    def decode(self, blob: bytes) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Measured:
    """What a method's bytes are worth on a subset; fields as in `nec.bench.Row`."""

    bytes_per_image: float
    side_information: int
    exact: bool
    fidelity: dict[str, float] | None
    seconds: dict[str, float]

    def document(self) -> dict[str, Any]:
        """JSON-able form; `Measured(**document)` is its inverse."""
        return asdict(self)


Batches = Callable[[str, int, int], NDArray[Any]]  # part, start, stop -> what is coded


@dataclass
class Bytes:
    """Sums over the batches of one method."""

    test: int = 0
    encode: float = 0.0
    decode: float = 0.0

    def seconds(self) -> dict[str, float]:
        return {"encode": round(self.encode, 3), "decode": round(self.decode, 3)}


def measure_reference(subset: Subset, method: str, tokens: Tokens) -> Measured:
    """Float tokens as they are, or the files as they are (which a consumer who fine-tunes needs as well)."""
    size = float(tokens["test"][0].nbytes) if method == "float" else subset.file_bytes()
    return Measured(size, 0, True, None, {"encode": 0.0, "decode": 0.0})


def measure_lossless(subset: Subset, model: NecModel, method: Method) -> Measured:
    """Bytes of the test images by a lossless image method, which must give every one of them back."""
    size = model_inputs(model, subset).size
    count, sums = len(subset.indices["test"]), Bytes()
    for start, stop in batches(count):
        images = subset.images("test", start, stop, size)
        blob, decoded = _round_trip(method, images, sums)
        if not np.array_equal(decoded, images):
            raise NecError(f"{method.name} calls itself lossless, and did not give the images {start} to {stop} back")
        sums.test += len(blob)
    return Measured(sums.test / count, method.nbytes, True, None, sums.seconds())


def measure_images(subset: Subset, model: NecModel, method: Method, out: Path, reference: Tokens) -> Measured:
    """A lossy image method: the base model's tokens of the decoded images go to the folder `out`."""
    inputs = model_inputs(model, subset)

    def source(part: str, start: int, stop: int) -> NDArray[Any]:
        return subset.images(part, start, stop, inputs.size)

    def embed(images: NDArray[Any]) -> NDArray[np.float32]:
        return _embed(model, images, inputs)

    return _measure(subset, method, source, embed, out, reference, method.nbytes)


def measure_tokens(subset: Subset, coder: Coder, side_information: int, tokens: Tokens, out: Path) -> Measured:
    """A coder of embeddings: decoded tokens go to the folder `out`."""

    def source(part: str, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(tokens[part][start:stop])

    return _measure(subset, coder, source, lambda decoded: decoded, out, tokens, side_information)


def _measure(
    subset: Subset,
    coder: Coder,
    source: Batches,
    embed: Callable[[NDArray[Any]], NDArray[np.float32]],
    out: Path,
    reference: Tokens,
    side_information: int,
) -> Measured:
    sums, counts = Bytes(), {part: len(subset.indices[part]) for part in PARTS}
    with writing(out, counts, reference["test"].shape[1:]) as arrays:
        for part in PARTS:
            for start, stop in batches(counts[part]):
                blob, decoded = _round_trip(coder, source(part, start, stop), sums)
                if start == 0 and not np.array_equal(decoded, coder.decode(bytes(blob))):
                    raise NecError(f"{_name(coder)} decodes the same bytes to different values: it cannot be measured")
                if part == "test":
                    sums.test += len(blob)
                arrays[part][start:stop] = embed(decoded)
        faithful = fidelity(arrays["test"], reference["test"])
    return Measured(sums.test / counts["test"], side_information, True, faithful, sums.seconds())


def _round_trip(coder: Coder, batch: NDArray[Any], sums: Bytes) -> tuple[bytes, NDArray[Any]]:
    """Bytes of a batch, and what they decode to. Raises `NecError` where that has another shape or type."""
    began = time.perf_counter()
    blob = coder.encode(batch)
    coded = time.perf_counter()
    decoded = coder.decode(blob)
    sums.encode += coded - began
    sums.decode += time.perf_counter() - coded
    if decoded.shape != batch.shape or decoded.dtype != batch.dtype:
        raise NecError(
            f"{_name(coder)} gave {decoded.dtype} {decoded.shape} back for {batch.dtype} {batch.shape}: it cannot be "
            "measured"
        )
    return blob, decoded


def _name(coder: Coder) -> str:
    return str(getattr(coder, "name", type(coder).__name__))


def _embed(model: NecModel, images: NDArray[Any], inputs: Inputs) -> NDArray[np.float32]:
    stream = Stream(model, ArrayDataset(images), np.arange(len(images)), replace(inputs, size=None), len(images), 1)
    return next(stream.embed([range(len(images))]))


# -- coders that are fitted -------------------------------------------------------------------------------------------


def fitted_method(spec: str, cache: Cache, tokens_key: str, tokens: Tokens) -> Method:
    """The method of a spec, fitted to the training tokens; codecs are fitted once for all their qualities."""
    from nec.bench.methods import CodecMethod, methods

    method = methods(spec)[0]
    if not isinstance(method, CodecMethod):
        return method.fit(tokens["train"]) if method.domain == "embeddings" else method
    key = key_of({"codec": method.variant, "tokens": tokens_key})
    document = cache.get("codec", key)
    if document is None:
        fitted = method.fit(tokens["train"])
        assert isinstance(fitted, CodecMethod)
        assert fitted.codec is not None
        cache.put("codec", key, fitted.codec.to_dict())
        return fitted
    return CodecMethod(EmbeddingCodec.from_dict(document), method.setting)


def adapted_coder(point: MethodPoint, model: NecModel, tokens: Tokens) -> tuple[Coder, int]:
    """How an adapted model's tokens are coded, and the side information: its tables."""
    if point.family == "nec-hyperprior":
        from nec.models.hyperprior_stream import HyperpriorStream

        stream = HyperpriorStream(model)
        return stream, stream.nbytes
    from nec.bench.methods import CodecMethod

    if point.family == "nec-hierarchical":  # the codec that it was adapted through, and that its folder holds
        assert model.codec is not None
        return CodecMethod(model.codec, point.quality), model.codec.nbytes
    codec = EmbeddingCodec.fit(tokens["train"], prior="factorized", klt=False, step=1.0)
    return CodecMethod(codec, point.quality), codec.nbytes


def measure_adapted(subset: Subset, point: MethodPoint, model: NecModel, cache: Cache, out: Path) -> Measured:
    """An adapted model's tokens through its coder: decoded ones go to the folder `out`."""
    cache.drop("adapted")
    _, tokens = embedded(cache, "adapted", model, subset)
    coder, side_information = adapted_coder(point, model, tokens)
    try:
        return measure_tokens(subset, coder, side_information, tokens, out)
    finally:
        cache.drop("adapted")
