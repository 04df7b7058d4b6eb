"""What a benchmark has finished, on disk: small documents and arrays under the hash of what decides them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from nec.files import atomic_path, make_folder, write_json

VERSION = 1  # raised when what the benchmark computes from the same recipe changes


def key_of(identity: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of JSON-able facts and the cache's version."""
    text = json.dumps({"cache": VERSION, **identity}, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Cache:
    """JSON documents `<kind>-<key>.json`, arrays `<kind>-<key>.npz` and folders of arrays in one folder.

    A document or array that is damaged counts as absent.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        make_folder(folder)

    def path(self, kind: str, key: str, suffix: str = ".json") -> Path:
        """Where a document or an array folder (suffix "") of that key lies."""
        return self.folder / f"{kind}-{key}{suffix}"

    def get(self, kind: str, key: str) -> dict[str, Any] | None:
        """The document, or None where there is none."""
        try:
            document = json.loads(self.path(kind, key).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return document if isinstance(document, dict) else None

    def put(self, kind: str, key: str, document: dict[str, Any]) -> None:
        """Write a document; it is there whole or not at all."""
        write_json(self.path(kind, key), document)

    def get_array(self, kind: str, key: str) -> NDArray[Any] | None:
        """The array of that kind and key, or None where there is none."""
        try:
            with np.load(self.path(kind, key, ".npz")) as held:
                array, shape = held["array"], tuple(held["shape"])
                return np.unpackbits(array, count=int(np.prod(shape))).reshape(shape) > 0 if shape else array
        except (OSError, ValueError, KeyError, BadZipFile):
            return None

    def put_array(self, kind: str, key: str, array: NDArray[Any]) -> None:
        """Write an array of whole numbers or truths, packed; it is there whole or not at all."""
        bits = array.dtype == np.bool_
        packed = np.packbits(array) if bits else array.astype(np.min_scalar_type(int(array.max(initial=0))))
        with atomic_path(self.path(kind, key, ".npz"), overwrite=True) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, array=packed, shape=array.shape if bits else ())

    def drop(self, kind: str) -> None:
        """Remove every array folder of a kind, and what an interrupted run left of them."""
        for folder in self.folder.glob(f"{kind}-*"):
            if folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
