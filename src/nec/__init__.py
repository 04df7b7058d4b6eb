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
    from nec.export import export
    from nec.models import Backbone, load_model
    from nec.store import ImageStore, RasterStore, decode, info, open, open_product, open_store, verify

__version__ = "0.1.0"

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
    "decode",
    "export",
    "info",
    "load_model",
    "open",
    "open_product",
    "open_store",
    "verify",
]

_HOMES = {
    "Backbone": "nec.models",
    "EmbeddingCodec": "nec.codec",
    "ImageStore": "nec.store",
    "RasterStore": "nec.store",
    "decode": "nec.store",
    "export": "nec.export",
    "info": "nec.store",
    "load_model": "nec.models",
    "open": "nec.store",
    "verify": "nec.store",
    "open_product": "nec.store",
    "open_store": "nec.store",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
