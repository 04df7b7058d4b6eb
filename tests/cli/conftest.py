"""A store to run commands on, and the command line in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nec
from nec.store import ImageSpec, ImageWriter

SRC = Path(nec.__file__).parent.parent


@pytest.fixture
def src() -> Path:
    """Folder that the package is imported from."""
    return SRC


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A store of 20 images, 2x3 tokens of 5 values, with labels and a split; 5 chunks in 3 shards."""
    embeddings = np.random.default_rng(1).normal(size=(20, 2, 3, 5)).astype(np.float32)
    path = tmp_path / "toy.zarr"
    spec = ImageSpec(
        codec=nec.EmbeddingCodec.fit(embeddings),
        quality=2.0,
        names=[f"image-{i}" for i in range(20)],
        grid=(2, 3),
        labels=np.arange(20) % 4,
        class_names=["a", "b", "c", "d"],
        split=["train", "test"] * 10,
        model={"name": "toy", "sha256": "00"},
        images_per_chunk=4,
        chunks_per_shard=2,
    )
    with ImageWriter.create(path, spec) as writer:
        for start, stop in writer.missing():
            writer.write(start, embeddings[start:stop])
        writer.finish()
    return path


@pytest.fixture
def run() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `python -m nec ...` as a user would."""

    def call(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(SRC)}
        command = [sys.executable, "-m", "nec", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, **options)  # type: ignore[call-overload]

    return call
