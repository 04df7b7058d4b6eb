"""What a store, a codec or a model is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from nec.errors import InputError
from nec.report import Report
from nec.store.images import ImageStore
from nec.store.location import Location
from nec.store.opening import open as open_any
from nec.store.opening import resolve, shipped
from nec.store.rasters import RasterStore


class Info(dict[str, Any], Report):
    """Facts, which differ by `kind`: "store", "product" (a raster), "codec" or "model".

    Sizes are in bytes. Of a store, `stored_bytes` (the embeddings) and `side_information` are all there is.
    """

    def to_dict(self) -> dict[str, Any]:
        return dict(self)

    def __str__(self) -> str:
        return "\n".join(_table(self))


def info(location: Location) -> Info:
    """What a store, a codec file or a model folder holds.

    Args:
        location: what `nec.open` takes, a codec file, a model folder, or the name of a shipped store or model. Of an
            incomplete store, what is written so far is counted.

    Returns:
        The facts; `kind` says of what.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(location, str | Path):
        path = Path(location)
        if path.is_file() and path.suffix != ".zip":
            return Info(_codec(path))
        if path.is_dir() and not any((path / marker).is_file() for marker in ("zarr.json", "config.json")):
            raise InputError(f"{path} is neither a store (it has no zarr.json) nor a model (it has no config.json)")
        if (path / "config.json").is_file() or (not path.exists() and str(location) in shipped("models")):
            return Info(_model(resolve(location, "models")))
    store = open_any(location, allow_incomplete=True)
    return Info(_raster(store) if isinstance(store, RasterStore) else _images(store))


def _images(store: ImageStore) -> dict[str, Any]:
    values = len(store) * store.grid[0] * store.grid[1] * store.dimensions
    stored = store.stored_bytes
    return {
        "kind": "store",
        "path": store.path,
        "complete": store.complete,
        "format_version": store.attrs["format_version"],
        "images": len(store),
        "grid": list(store.grid),
        "dimensions": store.dimensions,
        "stored_bytes": stored,
        "bytes_per_image": stored / len(store),
        "bits_per_value": 8 * stored / values,
        "side_information": store.side_information(),
        "quality": store.quality,
        "model": store.attrs["model"],
        "codec": store.attrs["codec"],
        "classes": store.class_names,
        "split": _counts(store),
        "masks": None if store.masks is None else {"size": list(store.masks.shape[1:]), "classes": store.mask_classes},
        "groups": None if store.groups is None else len(np.unique(store.groups)),
        "chunks": store.tiling.chunks,
        "shards": store.tiling.shards[0],
        "provenance": store.attrs["provenance"],
    }


def _counts(store: ImageStore) -> dict[str, int] | None:
    if store.split is None:
        return None
    names, counts = np.unique(store.split, return_counts=True)
    return {name or "unassigned": count for name, count in zip(names.tolist(), counts.tolist(), strict=True)}


def _raster(store: RasterStore) -> dict[str, Any]:
    """`bytes_per_token` and `bits_per_value` are of valid tokens; `bytes_per_km2` is None without a projected CRS."""
    stored, tokens = store.stored_bytes, store.valid_tokens
    size = store.token_size
    area = None if size is None else tokens * size[0] * size[1] / 1e6
    return {
        "kind": "product",
        "path": store.path,
        "complete": store.complete,
        "format_version": store.attrs["format_version"],
        "title": store.conventions.get("title"),
        "times": [entry["time"] for entry in store.attrs["times"]],
        "pending": store.pending,
        "grid": list(store.grid),
        "dimensions": store.dimensions,
        "valid_tokens": tokens,
        "stored_bytes": stored,
        "bytes_per_token": stored / tokens if tokens else None,
        "bits_per_value": 8 * stored / (tokens * store.dimensions) if tokens else None,
        "bytes_per_km2": stored / area if area else None,
        "side_information": store.side_information(),
        "quality": store.quality,
        "model": store.attrs["model"],
        "codec": store.attrs["codec"],
        "crs": store.crs,
        "transform": list(store.transform),
        "token_metres": None if size is None else list(size),
        "patch_px": store.patch_px,
        "bands": store.attrs["bands"],
        "chunk": list(store.tiling.chunk),
        "shard": list(store.tiling.shard),
        "source": store.attrs["source"],
    }


def _codec(file: Path) -> dict[str, Any]:
    from nec.codec import EmbeddingCodec

    codec = EmbeddingCodec.load(file)
    return {
        "kind": "codec",
        "path": str(file),
        "prior": codec.prior,
        "id": codec.id,
        "dimensions": codec.dimensions,
        "rank": codec.rank,
        "nbytes": codec.nbytes,
        "side_information": codec.side_information(),
    }


def _model(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not JSON: {error}") from error
    codec = folder / "codec.json"
    return {
        "kind": "model",
        "path": str(folder),
        "name": folder.name,
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()},
        "config": config,
        "codec": _codec(codec) if codec.is_file() else None,
    }


def _table(report: dict[str, Any], indent: str = "") -> list[str]:
    """The report as aligned lines, nested facts indented."""
    lines = []
    width = max(map(len, report), default=0)
    for key, value in report.items():
        name = f"{indent}{key.replace('_', ' '):<{width}}"
        if isinstance(value, dict) and value:
            lines += [name.rstrip(), *_table(value, indent + "  ")]
        else:
            lines.append(f"{name}  {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)
