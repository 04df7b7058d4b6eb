"""Stores of images written straight to a bucket: the bytes of a folder, faults, killed writers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec
from nec.store import ImageSpec, ImageWriter, info, verify
from nec.store.backend import LOCK


def files(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def fill(writer: ImageWriter, embeddings: np.ndarray) -> None:
    for start, stop in writer.missing():
        writer.write(start, embeddings[start:stop])
    writer.finish()


@pytest.mark.parametrize("fault", ["", "3 PUT embeddings/c", "2 PUT nec-journal", "2 GET ."])
def test_the_bytes_are_those_of_a_folder(
    bucket: Any, store_path: Path, embeddings: np.ndarray, keywords: dict[str, Any], decoded: np.ndarray, fault: str
) -> None:
    with ImageWriter.create(bucket.url, ImageSpec(**keywords)) as writer:
        bucket.faults.write_text(fault)
        fill(writer, embeddings)
    assert bucket.files() == files(store_path)
    assert verify(bucket.url).ok
    assert {**info(bucket.url), "path": ""} == {**info(store_path), "path": ""}
    np.testing.assert_array_equal(nec.open(bucket.url).embeddings[[3, 50, 17]], decoded[[3, 50, 17]])


def test_a_killed_run_goes_on_from_its_journal(
    bucket: Any, store_path: Path, embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    spec = ImageSpec(**keywords)
    with ImageWriter.create(bucket.url, spec) as writer:
        for start, stop in writer.missing()[1:3]:
            writer.write(start, embeddings[start:stop])
    with pytest.raises(nec.IncompleteError, match="--resume"):
        nec.open(bucket.url)
    bucket.put("embeddings/c.1.0.0.0", b"cut")  # not what was noted
    with pytest.raises(nec.InputError, match="quality"):
        ImageWriter.resume(bucket.url, ImageSpec(**{**keywords, "quality": 3.0}))
    with ImageWriter.resume(bucket.url, spec) as writer:
        assert [start for start, _ in writer.missing()] == [0, 12, 36, 48]
        with pytest.raises(nec.InputError, match="another writer"):
            ImageWriter.resume(bucket.url, spec)
        fill(writer, embeddings)
    assert bucket.files() == files(store_path)


def test_a_complete_store_is_replaced_only_when_asked(
    bucket: Any, embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    spec = ImageSpec(**keywords)
    with ImageWriter.create(bucket.url, spec) as writer:
        fill(writer, embeddings)
    with pytest.raises(nec.InputError, match="is complete: choose another name, or give --overwrite"):
        ImageWriter.create(bucket.url, spec)
    ImageWriter.create(bucket.url, spec, overwrite=True).close()
    assert "embeddings/c.0.0.0.0" not in bucket.files()
    assert LOCK not in bucket.files()


def test_shards_that_lack_chunks_are_not_written(
    tmp_path: Path, make: Callable[..., Path], embeddings: np.ndarray, keywords: dict[str, Any]
) -> None:
    with ImageWriter.create(tmp_path / "a.zarr", ImageSpec(**keywords)) as writer:
        last = writer.encoder.encode((4,), embeddings[48:])
        with pytest.raises(nec.CorruptError, match="holds 2 chunks"):
            writer.write_encoded(0, last)
