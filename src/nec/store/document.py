"""The group's zarr.json: written with its seal, and read with every check."""

from __future__ import annotations

import copy
from typing import Any

import zarr
from zarr.storage import StorePath

from nec.errors import CorruptError, InputError, NecError
from nec.files import DAMAGE, ZarrStore, parse_json, read_key
from nec.store.layout import FORMAT_VERSION, seal, sealed_attributes

KINDS = {"store": "open_store", "product": "open_product"}


def read_document(store: ZarrStore, path: str, kind: str | None) -> dict[str, Any]:
    """The checked group document under `store`, which messages call `path`.

    `kind` is "store" (images) or "product" (a raster); None takes either.

    Raises:
        InputError: there is none, it is not ours, of the other kind, or of a newer format version.
        CorruptError: it is damaged.
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
    _check_seal(document, nec, where)
    if kind is not None and kind_of(document) != kind:
        found = kind_of(document)
        raise InputError(f"{path} is a {found}, not a {kind}: open it with nec.{KINDS.get(found, '?')}")
    return document


def kind_of(document: dict[str, Any]) -> str:
    """What a group document describes: "store" or "product"."""
    return str(document["attributes"]["nec"].get("kind", "store"))


def _check_seal(document: dict[str, Any], nec: dict[str, Any], where: str) -> None:
    try:
        arrays = document["consolidated_metadata"]["metadata"]
        intact = nec["seal"] == seal(nec, arrays, sealed_attributes(document["attributes"]))
    except (KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        raise CorruptError(f"{where} is damaged or was changed (its checksum differs): copy it again from its origin")


def open_group(store: ZarrStore, path: str, document: dict[str, Any]) -> zarr.Group:
    """The Zarr group that `document`, which has been read, describes; nothing more is fetched.

    Raises:
        InputError: zarr or nec are too old for it.
    """
    import nec.codec  # noqa: F401  registers the Zarr codec, also where the package runs without being installed

    try:
        return zarr.Group(zarr.AsyncGroup.from_dict(StorePath(store), copy.deepcopy(document)))
    except NecError:
        raise
    except DAMAGE as error:  # the seal holds, so a codec or extension that is not installed, or too old
        raise InputError(f"{path}: this zarr or nec cannot open it ({error}): upgrade both") from error


def member(group: zarr.Group, name: str) -> zarr.Array:
    """An array of a group that must have it."""
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def metadata_faults(store: ZarrStore, arrays: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The arrays' own documents must be those of the group, which the seal covers."""
    faults = []
    for name, expected in arrays.items():
        where = f"{name}/zarr.json"
        data = read_key(store, where)
        try:
            intact = data is not None and parse_json(data, where) == expected
        except CorruptError:
            intact = False
        if not intact:
            faults.append({"where": where, "reason": "missing" if data is None else "damaged: differs from zarr.json"})
    return faults
