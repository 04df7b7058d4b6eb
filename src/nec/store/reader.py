"""What readers of both kinds of store share: the checked document, the codec, the sizes."""

from __future__ import annotations

import json
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from nec.errors import IncompleteError
from nec.store.document import EMBEDDINGS, codec_of, open_group, read_document
from nec.store.location import Location, ZarrStore, open_location, size_of_key

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.store.shards import Tiling


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
