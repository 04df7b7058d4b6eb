"""Neural embedding compression for Earth observation.

The names below need only the base install (numpy, zarr, constriction), except `load_model` and `encode_array`, which
need `[torch]`.
Each is imported when first used, so that `import nec` stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nec.errors import CorruptError, IncompleteError, InputError, MissingExtraError, NecError

if TYPE_CHECKING:
    from nec.codec import EmbeddingCodec
    from nec.encode import encode_array
    from nec.models import load_model
    from nec.store import open_product, open_store

__version__ = "0.1.0"

__all__ = [
    "CorruptError",
    "EmbeddingCodec",
    "IncompleteError",
    "InputError",
    "MissingExtraError",
    "NecError",
    "encode_array",
    "load_model",
    "open_product",
    "open_store",
]

_HOMES = {
    "EmbeddingCodec": "nec.codec",
    "encode_array": "nec.encode",
    "load_model": "nec.models",
    "open_product": "nec.store",
    "open_store": "nec.store",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'nec' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
