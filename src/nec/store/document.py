"""The group's zarr.json: what a store says about itself, written with its checksum, and read with every check.

A store is one Zarr v3 group, specified in docs/store.md and docs/products.md:

    zarr.json               group; attributes "nec"; consolidated metadata of the arrays
    embeddings/c.<...>      shards; inner chunks coded by `nec.embedding`
    labels/ names/ split/ groups/ masks/        of stores of images
    valid/ time/ x/ y/ spatial_ref/ shards/     of rasters

`Store` is such a group that is open for reading.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import zarr
from zarr.storage import StorePath

from nec.errors import CorruptError, IncompleteError, InputError, NecError
from nec.files import checksum, parse_json
from nec.store.location import CountingStore, Location, ZarrStore, open_location, read_key, size_of_key
from nec.store.shards import Tiling

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec

FORMAT_VERSION = 1
EMBEDDINGS, LABELS, NAMES, SPLIT, GROUPS, MASKS = "embeddings", "labels", "names", "split", "groups", "masks"
VALID, TIME, X, Y, SPATIAL_REF = "valid", "time", "x", "y", "spatial_ref"
MASK_CHUNK_BYTES = 4 * 2**20  # pixels a chunk of masks, at most, if an image is no larger
KINDS = {"store": "open_store", "product": "open_product"}
# Another writer may add attributes to the arrays; what decides how bytes are read is covered by the checksum.
_COVERED = ("shape", "data_type", "chunk_grid", "chunk_key_encoding", "fill_value", "codecs", "dimension_names")


def group_document(
    nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """The group's zarr.json: checked attributes, and the arrays' metadata so that a remote reader asks once.

    `attributes` are those beside "nec".
    """
    beside = attributes or {}
    whole = {**nec, "seal": metadata_checksum(nec, arrays, covered_attributes({**beside, "nec": nec}))}
    return {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {**beside, "nec": whole},
        "consolidated_metadata": {"kind": "inline", "must_understand": False, "metadata": arrays},
    }


def metadata_checksum(
    nec: dict[str, Any], arrays: dict[str, dict[str, Any]], attributes: dict[str, Any] | None = None
) -> str:
    """ "seal" of the "nec" attributes: CRC-32C of these, of what decides how the arrays are read, of `attributes`."""
    covered: dict[str, Any] = {
        "nec": {key: value for key, value in nec.items() if key != "seal"},
        "arrays": {name: {key: meta.get(key) for key in _COVERED} for name, meta in arrays.items()},
    }
    if attributes:
        covered["attributes"] = attributes
    return checksum(json.dumps(covered, sort_keys=True, separators=(",", ":")).encode())


def covered_attributes(attributes: dict[str, Any]) -> dict[str, Any]:
    """The group's attributes beside "nec" that the checksum covers: where a raster lies."""
    if attributes["nec"].get("kind") != "product":
        return {}
    return {key: value for key, value in attributes.items() if key.startswith(("proj:", "spatial:"))}


def read_document(store: ZarrStore, path: str, kind: str | None) -> dict[str, Any]:
    """The checked group document under `store`, which messages call `path`.

    `kind` is "store" (images) or "product" (a raster); None takes either.

    Raises:
        InputError: there is none, it is not ours, of the other kind, or of a newer format version.
        CorruptError: it is damaged, or says what no store says.
    """
    where = f"{path}/zarr.json"
    data = read_key(store, "zarr.json")
    if data is None:
        raise InputError(f"{path} is not a store: it has no zarr.json")
    document = parse_json(data, where)
    nec = (document.get("attributes") or {}).get("nec") if isinstance(document.get("attributes"), dict) else None
    if not isinstance(nec, dict):
        raise InputError(f"{path} is Zarr, but not a store that nec wrote (no 'nec' attributes)")
    version = nec.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise InputError(f"{path} has format version {version}, newer than this nec reads: upgrade nec")
    _check_checksum(document, nec, where)
    found = kind_of(document)
    if kind is not None and found != kind:
        raise InputError(f"{path} is a {found}, not a {kind}: open it with nec.{KINDS.get(found, '?')}")
    with plausible(where):
        (_check_raster if found == "product" else _check_images)(document)
    return document


def kind_of(document: dict[str, Any]) -> str:
    """What a group document describes: "store" or "product"."""
    return str(document["attributes"]["nec"].get("kind", "store"))


def _check_checksum(document: dict[str, Any], nec: dict[str, Any], where: str) -> None:
    try:
        arrays = document["consolidated_metadata"]["metadata"]
        intact = nec["seal"] == metadata_checksum(nec, arrays, covered_attributes(document["attributes"]))
    except (LookupError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise CorruptError(f"{where} is damaged or was changed (its checksum differs): copy it again from its origin")


@contextmanager
def plausible(where: str) -> Iterator[None]:
    """A checksum is no signature: where a document fits its checksum and says nonsense, `CorruptError`."""
    try:
        yield
    except NecError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise CorruptError(f"{where} says what no store says ({type(error).__name__}: {error})") from error


# What documents hold, as far as readers use it: a type, a tuple of alternatives, [of each], {key: of its value}.
_NUMBER = (int, float)
_COMMON = {"complete": bool, "quality": _NUMBER, "codec": {"prior": str, "id": str}, "model": (dict, None)}
_IMAGES = {**_COMMON, "images": int, "classes": ([str], None), "checksums": {NAMES: str}, "provenance": (dict, None)}
_WRITTEN = {
    "figures": {"stored_bytes": int, "bytes_per_image": _NUMBER}, "shards": {"bytes": [int], "crc32c": [int]}
}  # fmt: skip
_MASKS = {MASKS: {"classes": [str], "colors": ([[int]], None)}, "checksums": {MASKS: [str]}}
_BEGUN = {"time": str, "source": (dict, None)}
_DATE = {**_BEGUN, "run": (dict, None), "stored_bytes": int, "valid_tokens": int, "list": str}
_RASTER = {
    **_COMMON, "dimensions": int, "patch_px": int, "source": (dict, None), "bands": ([str], None), "times": [_DATE],
    "pending": [_BEGUN],
}  # fmt: skip
_TYPES = {LABELS: "int64", SPLIT: "int8", NAMES: "string", GROUPS: "string"}


def _fits(value: Any, form: Any) -> bool:
    if form is None or isinstance(form, type):
        return value is None if form is None else type(value) is form
    if isinstance(form, tuple):
        return any(_fits(value, one) for one in form)
    if isinstance(form, list):
        return isinstance(value, list) and all(_fits(each, form[0]) for each in value)
    return isinstance(value, dict) and all(key in value and _fits(value[key], each) for key, each in form.items())


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(what)


def _check_common(document: dict[str, Any], form: dict[str, Any], axes: slice) -> Tiling:
    nec, arrays = document["attributes"]["nec"], document["consolidated_metadata"]["metadata"]
    for key, each in form.items():
        _require(key in nec and _fits(nec[key], each), f"{key} is {str(nec.get(key))[:40]}")
    _require(0 < float(nec["quality"]) < math.inf, "quality")
    embeddings = arrays[EMBEDDINGS]
    lengths = [*embeddings["shape"], *embeddings["chunk_grid"]["configuration"]["chunk_shape"]]
    lengths += embeddings["codecs"][0]["configuration"]["chunk_shape"]
    _require(len(lengths) == 12 and all(type(size) is int and 0 <= size < 2**48 for size in lengths), "shape")
    _require(embeddings["data_type"] == "float32" and len(embeddings["codecs"]) == 1, "embeddings")
    _require(embeddings["chunk_key_encoding"]["configuration"]["separator"] == ".", "chunk_key_encoding")
    tiling = Tiling.of(embeddings, axes)
    _require(min(*tiling.grid, *tiling.chunk, *tiling.shard) > 0, "grid")
    _require(not any(whole % size for whole, size in zip(tiling.shard, tiling.chunk, strict=True)), "shard")
    _require(math.prod(tiling.slots) < 2**24 and math.prod(tiling.shards) < 2**32, "shards")
    return tiling


def _check_images(document: dict[str, Any]) -> None:
    nec, arrays = document["attributes"]["nec"], document["consolidated_metadata"]["metadata"]
    form = {**_IMAGES, **(_WRITTEN if nec["complete"] is True else {})}
    tiling = _check_common(document, form, slice(0, 1))
    (images,) = tiling.grid
    shape = arrays[EMBEDDINGS]["shape"]
    _require(nec["images"] == images and min(shape) > 0, "images")
    for chunks in (arrays[EMBEDDINGS]["chunk_grid"], arrays[EMBEDDINGS]["codecs"][0]):
        _require(chunks["configuration"]["chunk_shape"][1:] == shape[1:], "chunks")
    if nec["complete"]:
        _require({len(values) for values in nec["shards"].values()} == {tiling.shards[0]}, "shards")
    _require(NAMES in arrays, "names")
    for name in side_arrays(arrays):
        size, chunk = arrays[name]["shape"], arrays[name]["chunk_grid"]["configuration"]["chunk_shape"]
        _require(size[0] == images and type(chunk[0]) is int and chunk[0] > 0, name)
        if name != MASKS:
            _require(len(size) == 1 and arrays[name]["data_type"] == _TYPES[name], name)
            _require(_fits(nec["checksums"][name], str), "checksums")
    if MASKS in arrays:
        size = arrays[MASKS]["shape"]
        _require(_fits(nec, _MASKS) and arrays[MASKS]["data_type"] == "uint8", MASKS)
        _require(len(size) == 3 and all(type(length) is int and length > 0 for length in size), MASKS)
        _require(len(nec["checksums"][MASKS]) == mask_tiling(tuple(size)).chunks, MASKS)
        _require(all(len(color) == 3 for color in nec[MASKS]["colors"] or []), MASKS)


def _check_raster(document: dict[str, Any]) -> None:
    nec, arrays = document["attributes"]["nec"], document["consolidated_metadata"]["metadata"]
    tiling = _check_common(document, _RASTER, slice(2, 4))
    shape = arrays[EMBEDDINGS]["shape"]
    _require(shape[:2] == [len(nec["times"]), nec["dimensions"]] and nec["patch_px"] > 0, "shape")
    valid = arrays[VALID]
    _require(valid["data_type"] == "bool" and valid["shape"] == [shape[0], *tiling.grid], VALID)
    _require(valid["chunk_grid"]["configuration"]["chunk_shape"] == [1, *tiling.shard], VALID)
    transform = document["attributes"]["spatial:transform"]
    a, b, c, d, e, f = (float(value) for value in transform if type(value) in _NUMBER)
    _require(len(transform) == 6 and all(map(math.isfinite, (a, b, c, d, e, f))) and a * e - b * d != 0, "transform")
    crs = document["attributes"].get("proj:code", document["attributes"].get("proj:wkt2"))
    _require(crs is None or isinstance(crs, str), "CRS")


def open_group(store: ZarrStore, path: str, document: dict[str, Any]) -> zarr.Group:
    """The Zarr group that `document`, which has been read, describes; nothing more is fetched.

    Raises:
        InputError: zarr or nec are too old for it.
    """
    import nec.codec  # noqa: F401  registers the Zarr codec, also where the package runs without being installed

    try:
        group = zarr.Group(zarr.AsyncGroup.from_dict(StorePath(store), copy.deepcopy(document)))
        _require(codec_of(group).dimensions == document["consolidated_metadata"]["metadata"][EMBEDDINGS]["shape"][
            1 if kind_of(document) == "product" else 3], "channels")  # fmt: skip
        return group
    except (NecError, MemoryError):
        raise
    except Exception as error:  # the checksum holds, so a codec or extension that is not installed, or too old
        raise InputError(f"{path}: this zarr or nec cannot open it ({error}): upgrade both") from error


def codec_of(group: zarr.Group) -> Any:
    """The codec that a group's embeddings are coded with."""
    return member(group, EMBEDDINGS).metadata.codecs[0].codecs[0].codec  # type: ignore[union-attr]


def member(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group that must have it."""
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise CorruptError(f"{name} is no array")
    return array


def side_arrays(arrays: dict[str, Any]) -> list[str]:
    """Names of the arrays beside the embeddings of images that are there, in a fixed order."""
    return [name for name in (LABELS, NAMES, SPLIT, GROUPS, MASKS) if name in arrays]


def side_keys(name: str, metadata: dict[str, Any]) -> Iterator[str]:
    """Paths of the chunks of one array beside the embeddings, of which `metadata` is the document."""
    shape, chunk = metadata["shape"], metadata["chunk_grid"]["configuration"]["chunk_shape"]
    rest = ".0" * (len(shape) - 1)  # chunks hold whole images
    return (f"{name}/c.{i}{rest}" for i in range(math.ceil(shape[0] / chunk[0])))


def mask_tiling(shape: tuple[int, ...]) -> Tiling:
    """How masks (n, h, w) are cut into chunks; a chunk is a file."""
    n, height, width = shape
    return Tiling.fit((n,), (max(1, MASK_CHUNK_BYTES // (height * width)),), (1,))


def values_checksum(values: Sequence[str] | np.ndarray) -> str:
    """Checksum of labels, names, split or groups as read, so that a lost or exchanged chunk is found."""
    if isinstance(values, np.ndarray):
        return checksum(values.astype("<i8").tobytes())
    return checksum("\0".join(values).encode())


def image_key(shard: tuple[int, ...]) -> str:
    """Path of a shard of a store of images: (shard,)."""
    return f"{EMBEDDINGS}/c.{shard[0]}.0.0.0"


def embeddings_key(shard: tuple[int, ...]) -> str:
    """Path of a shard of embeddings of a raster: (time, row, column)."""
    time, row, column = shard
    return f"{EMBEDDINGS}/c.{time}.0.{row}.{column}"


def valid_key(shard: tuple[int, ...]) -> str:
    """Path of the validity of the tokens of a raster's shard: (time, row, column)."""
    return f"{VALID}/c." + ".".join(map(str, shard))


def list_key(time: int) -> str:
    """Path of the list of a date's files with their checksums."""
    return f"shards/{time}.json"


class Store:
    """A store that is open for reading: `ImageStore` or `RasterStore`. It may be pickled, and shared by threads.

    Attributes:
        path: where it was opened, as text.
        attrs: what the store says about itself: model, codec, quality, ...
        metadata: the arrays' documents.
        zarr_store, group: the same, for Zarr.
        tiling: how its grid is cut into chunks and shards.
        quality: what it was coded with.
    """

    kind: ClassVar[str]
    tiling: Tiling

    def __init__(self, location: Location, *, allow_incomplete: bool = False) -> None:
        self.path = str(location)
        self.zarr_store: ZarrStore = open_location(location)
        document = read_document(self.zarr_store, self.path, self.kind)
        self.attrs: dict[str, Any] = document["attributes"]["nec"]
        self.conventions = {key: value for key, value in document["attributes"].items() if key != "nec"}
        self.metadata: dict[str, dict[str, Any]] = document["consolidated_metadata"]["metadata"]
        if not (self._is_readable or allow_incomplete):
            raise IncompleteError(f"{self.path} is incomplete: {self._unfinished}; run `nec encode --resume` on it")
        self.group = open_group(self.zarr_store, self.path, document)
        self.quality = float(self.attrs["quality"])

    _unfinished: ClassVar[str]

    @property
    def _is_readable(self) -> bool:
        return self.complete

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of files and connections."""
        self.zarr_store.close()

    def counted(self) -> tuple[Self, CountingStore]:
        """The store opened once more, and what counts the bytes that are read through it from now on."""
        counter = CountingStore(self.zarr_store)
        again = type(self)(counter, allow_incomplete=True)
        counter.requests = counter.bytes_read = 0
        return again, counter

    @property
    def complete(self) -> bool:
        """Whether its writing has finished; of a raster, whether it has dates and none is being added."""
        return bool(self.attrs["complete"])

    @property
    def codec(self) -> EmbeddingCodec:
        """The codec that the embeddings are coded with."""
        return codec_of(self.group)

    @property
    def backbone(self) -> dict[str, Any] | None:
        """`name`, `sha256` and what else the producer says of the model that made the embeddings; None if nothing."""
        return self.attrs["model"]

    def side_information(self) -> dict[str, int]:
        """Bytes of everything in the store that is not the embeddings' shards, by what it is.

        "codec" is the codec's tables and basis as written in the metadata (twice: in the array's document and in the
        group's consolidated copy), "metadata" the rest of these documents.
        """
        documents = ["zarr.json", *(f"{name}/zarr.json" for name in self.metadata)]
        metadata = sum(size_of_key(self.zarr_store, key) for key in documents)
        coder = self.metadata[EMBEDDINGS]["codecs"][0]["configuration"]["codecs"][0]
        codec = 2 * len(json.dumps(coder, separators=(",", ":")))
        return {"codec": codec, "metadata": metadata - codec, **self._side_bytes()}

    def _side_bytes(self) -> dict[str, int]:
        raise NotImplementedError
