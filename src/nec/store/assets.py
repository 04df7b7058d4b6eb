"""Stores and models that ship inside the package, found by name."""

from __future__ import annotations

import os
from pathlib import Path

import nec
from nec.errors import InputError

_SUFFIX = {"stores": ".zarr", "models": ""}


def shipped(kind: str) -> dict[str, Path]:
    """Name to folder of what ships: `kind` is "stores" or "models"."""
    folder = Path(nec.__file__).parent / "assets" / kind
    if not folder.is_dir():
        return {}
    suffix = _SUFFIX[kind]
    found = sorted(path for path in folder.iterdir() if path.is_dir() and path.name.endswith(suffix))
    return {path.name.removesuffix(suffix): path for path in found if not path.name.startswith(("_", "."))}


def resolve(location: str | Path, kind: str = "stores") -> Path:
    """Folder that `location` means: a path that exists, else the name of a shipped store or model.

    A shipped name wins over a folder of the same name that holds no store (a dataset's folder, say).

    Raises:
        InputError: neither; the message lists the shipped names.
    """
    path = Path(location)
    marker = {"stores": "zarr.json", "models": "config.json"}[kind]
    if (path / marker).is_file():
        return path
    names = shipped(kind)
    if isinstance(location, str) and location in names:
        return names[location]
    if path.exists():
        return path
    if os.sep in str(location):
        raise InputError(f"no such {kind[:-1]}: {location}")
    raise InputError(
        f"no {kind[:-1]} at {location!r}, and none of that name ships (shipped: {', '.join(names) or 'none'})"
    )
