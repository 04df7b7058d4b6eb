"""Encode a subset to real bytes by one method, decode it, check what came back, and how near that is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nec.bench.methods import CodecMethod, Method, methods
from nec.bench.methods.method import round_trip
from nec.bench.recipe import MethodPoint
from nec.bench.subset import PARTS, Cache, Subset, Tokens, batches, embedded, key_of, model_inputs, writing
from nec.codec import EmbeddingCodec
from nec.encoding.images import embed
from nec.errors import NecError

if TYPE_CHECKING:
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


def measure_reference(subset: Subset, method: str, tokens: Tokens) -> Measured:
    """Float tokens as they are, or the files as they are (which a consumer who fine-tunes needs as well)."""
    size = float(tokens["test"][0].nbytes) if method == "float" else subset.file_bytes()
    return Measured(size, 0, True, None, {"encode": 0.0, "decode": 0.0})


def measure_lossless(subset: Subset, model: NecModel, method: Method) -> Measured:
    """Bytes of the test images by a lossless image method, which must give every one of them back."""
    size, coded, seconds = model_inputs(model, subset).size, 0, _clock()
    count = len(subset.indices["test"])
    for start, stop in batches(count):
        images = subset.images("test", start, stop, size)
        blob, decoded = _round_trip(method, images, seconds)
        if not np.array_equal(decoded, images):
            raise NecError(f"{method.name} calls itself lossless, and did not give the images {start} to {stop} back")
        coded += len(blob)
    return Measured(coded / count, method.nbytes, True, None, _rounded(seconds))


def measure_images(subset: Subset, model: NecModel, method: Method, out: Path, reference: Tokens) -> Measured:
    """A lossy image method: the base model's tokens of the decoded images go to the folder `out`."""
    inputs = model_inputs(model, subset)

    def source(part: str, start: int, stop: int) -> NDArray[Any]:
        return subset.images(part, start, stop, inputs.size)

    return _measure(subset, method, source, lambda images: embed(model, images, inputs), out, reference, method.nbytes)


def measure_tokens(subset: Subset, coder: Coder, side_information: int, tokens: Tokens, out: Path) -> Measured:
    """A coder of embeddings: decoded tokens go to the folder `out`."""

    def source(part: str, start: int, stop: int) -> NDArray[np.float32]:
        return np.asarray(tokens[part][start:stop])

    return _measure(subset, coder, source, lambda decoded: decoded, out, tokens, side_information)


def _measure(
    subset: Subset,
    coder: Coder,
    source: Callable[[str, int, int], NDArray[Any]],
    tokens_of: Callable[[NDArray[Any]], NDArray[np.float32]],
    out: Path,
    reference: Tokens,
    side_information: int,
) -> Measured:
    """`source`: part, start, stop -> what is coded."""
    coded, seconds, counts = 0, _clock(), {part: len(subset.indices[part]) for part in PARTS}
    with writing(out, counts, reference["test"].shape[1:]) as arrays:
        for part in PARTS:
            for start, stop in batches(counts[part]):
                blob, decoded = _round_trip(coder, source(part, start, stop), seconds)
                if start == 0 and not np.array_equal(decoded, coder.decode(bytes(blob))):
                    raise NecError(f"{_name(coder)} decodes the same bytes to different values: it cannot be measured")
                coded += len(blob) if part == "test" else 0
                arrays[part][start:stop] = tokens_of(decoded)
        faithful = fidelity(arrays["test"], reference["test"])
    return Measured(coded / counts["test"], side_information, True, faithful, _rounded(seconds))


def _clock() -> dict[str, float]:
    return {"encode": 0.0, "decode": 0.0}


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in seconds.items()}


def _round_trip(coder: Coder, batch: NDArray[Any], seconds: dict[str, float]) -> tuple[bytes, NDArray[Any]]:
    """As `round_trip`. Raises `NecError` where what is decoded has another shape or type."""
    blob, decoded = round_trip(coder, batch, seconds)
    if decoded.shape != batch.shape or decoded.dtype != batch.dtype:
        raise NecError(
            f"{_name(coder)} gave {decoded.dtype} {decoded.shape} back for {batch.dtype} {batch.shape}: it cannot be "
            "measured"
        )
    return blob, decoded


def _name(coder: Coder) -> str:
    return str(getattr(coder, "name", type(coder).__name__))


# -- coders that are fitted -------------------------------------------------------------------------------------------


def fitted_method(spec: str, cache: Cache, tokens_key: str, tokens: Tokens) -> Method:
    """The method of a spec, fitted to the training tokens; codecs are fitted once for all their qualities."""
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


# -- how near decoded embeddings are to the float ones ----------------------------------------------------------------

NEIGHBOURS = 10
SAMPLE = 1000  # images: their distances to each other are all computed
_BLOCK = 128


def fidelity(decoded: NDArray[np.floating], reference: NDArray[np.floating]) -> dict[str, float]:
    """`relative_error` and `neighbour_recall` of decoded token grids (n, y, x, d) against the float ones."""
    sample = slice(0, SAMPLE)
    return {
        "relative_error": relative_error(decoded, reference),
        "neighbour_recall": neighbour_recall(_pooled(decoded[sample]), _pooled(reference[sample])),
    }


def relative_error(decoded: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Squared error as a share of the reference's variance around the mean of each channel (last axis)."""
    count, total = reference.size // reference.shape[-1], np.zeros(reference.shape[-1])
    square = error = 0.0
    for start in range(0, len(reference), _BLOCK):
        block = reference[start : start + _BLOCK].astype(np.float64)
        total += block.reshape(-1, block.shape[-1]).sum(axis=0)
        square += float(np.square(block).sum())
        error += float(np.square(decoded[start : start + _BLOCK] - block).sum())
    variance = square - float(np.square(total).sum()) / count
    return error / variance if variance > 0 else float(error > 0)


def neighbour_recall(decoded: NDArray[np.floating], reference: NDArray[np.floating], k: int = NEIGHBOURS) -> float:
    """Share of each vector's `k` nearest others (Euclidean) among `reference` (n, d) that are so among `decoded` too.

    With fewer than k + 1 vectors, k is one less than their number.
    """
    k = min(k, len(reference) - 1)
    if k < 1:
        return 1.0
    found, wanted = _nearest(decoded, k), _nearest(reference, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, wanted, strict=True)]))


def _nearest(vectors: NDArray[np.floating], k: int) -> NDArray[np.int64]:
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    norms = np.square(centred).sum(axis=1)
    distances = norms[:, None] + norms - 2 * centred @ centred.T
    np.fill_diagonal(distances, np.inf)
    return np.argsort(distances, axis=1, kind="stable")[:, :k]


def _pooled(tokens: NDArray[np.floating]) -> NDArray[np.float64]:
    return tokens.reshape(len(tokens), -1, tokens.shape[-1]).mean(axis=1, dtype=np.float64)
