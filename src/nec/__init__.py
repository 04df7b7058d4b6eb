"""Neural embedding compression for Earth observation.

The names below need only the base install (numpy, zarr, constriction), except that `load_model` needs
what the model is made with, for ours `[torch]`.
Each is imported when first used, so that `import nec` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nec.errors import CorruptError, IncompleteError, InputError, MissingExtraError, NecError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.encoding import encode, fit
    from nec.exporting import export, view
    from nec.heads import load_head, predict, train_head
    from nec.models import Backbone, load_model
    from nec.store import ImageStore, RasterStore, decode, info, open, open_product, open_store, verify
    from nec.training import adapt, pretrain

__version__ = "0.1.0"

# Name -> the room that it is imported from when it is first used.
_ROOMS = {
    "Backbone": "models",
    "EmbeddingCodec": "codec",
    "ImageStore": "store",
    "RasterStore": "store",
    "adapt": "training",
    "decode": "store",
    "encode": "encoding",
    "export": "exporting",
    "fit": "encoding",
    "info": "store",
    "load_head": "heads",
    "load_model": "models",
    "open": "store",
    "open_product": "store",
    "open_store": "store",
    "predict": "heads",
    "pretrain": "training",
    "train_head": "heads",
    "verify": "store",
    "view": "exporting",
}

__all__ = [
    "Backbone",
    "CorruptError",
    "EmbeddingCodec",
    "ImageStore",
    "IncompleteError",
    "InputError",
    "MissingExtraError",
    "NecError",
    "RasterStore",
    "adapt",
    "decode",
    "encode",
    "export",
    "fit",
    "info",
    "load_head",
    "load_model",
    "open",
    "open_product",
    "open_store",
    "predict",
    "pretrain",
    "train_head",
    "verify",
    "view",
]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(f"nec.{_ROOMS[name]}"), name)
    raise AttributeError(f"module 'nec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
