"""What a producer does: images through the shipped model into a store, checked symbol by symbol. Needs `[torch]` and
`[geo]`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.datasets import ArrayDataset, Dataset, open_dataset
from nec.demo.scene import make_scene, write_scene
from nec.encode import ImagesReport, encode
from nec.encode.embed import Stream, plan_inputs
from nec.errors import NecError
from nec.store import open_store, verify

if TYPE_CHECKING:
    from nec.models.mae import NecModel
    from nec.store import ImageStore


class SymbolsDiffer(NecError):
    """A stored symbol is not the one that the encoder quantised: this must never happen."""


@dataclass(frozen=True)
class Encoded:
    """A store that the demo wrote, the images in it (n, h, w, c), and figures about it."""

    store: ImageStore
    images: NDArray[np.uint8]
    names: list[str]
    figures: dict[str, Any]


def encode_scene(model: NecModel, folder: Path, quality: float, size: int, seed: int) -> Encoded:
    """Generate the sample scene, write it as a GeoTIFF, encode that, and check every symbol."""
    path = folder / "scene.tif"
    write_scene(path, make_scene(size, seed))
    encoded = encode_checked(model, open_dataset(path), folder / "scene.zarr", quality)
    return Encoded(
        encoded.store, encoded.images, encoded.names, {"file": path.name, "size": size, "seed": seed} | encoded.figures
    )


def encode_checked(model: NecModel, dataset: Dataset, out: Path, quality: float) -> Encoded:
    """Encode a dataset into a store at `out`, verify its checksums, and compare every stored symbol with the encoder's.

    Raises:
        SymbolsDiffer: a symbol did not come back.
    """
    report = encode(dataset, out, model, quality=quality, mode="overwrite")
    assert isinstance(report, ImagesReport)
    store = open_store(out)
    order = np.arange(len(dataset))
    stream = Stream(model, dataset, order, plan_inputs(model, dataset, order))
    symbols = 0
    for (start, stop), blob in zip(chunk_ranges(store), stored_chunks(store), strict=True):
        embeddings = next(stream.blocks([(start, stop)]))
        sent = store.codec.symbols(embeddings, store.quality)
        received, _ = store.codec.decode_symbols(blob)
        if not np.array_equal(sent, received):
            raise SymbolsDiffer(f"{out}: {np.sum(sent != received)} symbols of images {start} to {stop - 1} differ")
        symbols += sent.size
    images = dataset.load(order)
    figures = {
        "images": len(dataset),
        "grid": list(store.grid),
        "symbols_checked": symbols,
        "symbols_equal": True,
        "verify_ok": verify(out).ok,
        "pixel_bytes": images.nbytes,
        "image_files_bytes": report.raw_bytes,
        "stored_bytes": store.stored_bytes,
        "images_per_second": report.images_per_second,
        "seconds": report.seconds,
    }
    return Encoded(store, images, dataset.names, figures)


def chunk_ranges(store: ImageStore) -> list[tuple[int, int]]:
    """[start, stop) of the images of each chunk."""
    size = store.images_per_chunk
    return [(start, min(start + size, len(store))) for start in range(0, len(store), size)]


def stored_chunks(store: ImageStore) -> list[bytes]:
    """The coded bytes of each chunk, as they lie in the shards."""
    return store.embeddings.frames.coded()


def class_map(head: Any, tokens: NDArray[np.float32], side: int) -> NDArray[np.int64]:
    """Classify each window of side x side tokens of a scene's grid (y, x, d) -> (y - side + 1, x - side + 1)."""
    y, x, _ = tokens.shape
    rows, columns = range(y - side + 1), range(x - side + 1)
    result = np.empty((len(rows), len(columns)), np.int64)
    for i, top in enumerate(rows):
        windows = np.stack([tokens[top : top + side, left : left + side] for left in columns])
        result[i] = head.predict(windows)
    return result


def reencode(
    model: NecModel, dataset: Dataset, store: ImageStore, head: Any, count: int, seed: int
) -> dict[str, Any] | None:
    """Encode `count` of the store's test images from their original files, and compare with what the store holds.

    Other machines may round an embedding beside the edge of a quantiser step differently, so a few symbols may differ
    there. None where the dataset has none of the store's images.
    """
    position = {name: i for i, name in enumerate(dataset.names)}
    test = [i for i in np.flatnonzero(np.asarray(store.split) == "test") if store.names[i] in position]
    if not test:
        return None
    chosen = np.sort(np.random.default_rng(seed).choice(test, min(count, len(test)), replace=False))
    order = np.array([position[store.names[i]] for i in chosen])
    stream = Stream(model, dataset, order, plan_inputs(model, dataset, order))
    embeddings = next(stream.blocks([(0, len(order))]))
    held = store.embeddings[chosen]
    ours, theirs = (store.codec.symbols(values, store.quality) for values in (embeddings, held))
    decoded = store.codec.decode(store.codec.encode(embeddings, store.quality))
    return {
        "images": len(chosen),
        "equal_symbols": float(np.mean(ours == theirs)),
        "accuracy": float(np.mean(head.predict(decoded) == np.asarray(store.labels)[chosen])),
    }


def encode_images(model: NecModel, dataset: Dataset, out: Path, quality: float, limit: int) -> Encoded:
    """Encode the first `limit` images of a dataset, cropped and resized to the model's input, and check them."""
    chosen = range(min(limit, len(dataset)))
    images = dataset.load(chosen, size=model.config.image_size)
    return encode_checked(model, ArrayDataset(images, names=[dataset.names[i] for i in chosen]), out, quality)


def open_model(location: str) -> NecModel:
    """The model, which must carry its codec."""
    from nec.models import load_model

    model = load_model(location)
    if model.codec is None:
        raise NecError(f"model {location} has no codec: fit one with `nec fit`")
    return model
