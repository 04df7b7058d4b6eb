"""A tiny untrained model, its codec, a store of random pictures coded with it, and the pictures as a folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("rasterio")
pytest.importorskip("altair")


@dataclass
class Tiny:
    store: Path
    model: Path
    pictures: Path
    names: list[str]


def _pictures(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Three classes: dark, bright, and striped 16 px pictures."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    images = rng.normal(60, 15, (n, 16, 16, 3))
    images[labels == 1] += 110
    images[labels == 2] += 110 * (np.arange(16) % 4 < 2)[None, None, :, None]
    return images.clip(0, 255).astype(np.uint8), labels


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    from PIL import Image

    from nec.codec import EmbeddingCodec
    from nec.store import ImageSpec, ImageWriter

    root = tmp_path_factory.mktemp("tiny")
    images, labels = _pictures(240, seed=0)
    names = [f"{'abc'[label]}/{i:04d}.png" for i, label in enumerate(labels)]
    for name, image in zip(names, images, strict=True):
        (root / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / "pictures" / name)
    model = make_model()
    with torch.inference_mode():
        embeddings = model.embed(model.normalize(images))
    codec = EmbeddingCodec.fit(embeddings[:120], rank=8)
    from nec.models import save_model

    save_model(model, root / "model")
    codec.save(root / "model" / "codec.json")
    split = np.array(["train", "train", "val", "test"])[np.arange(240) // 3 % 4]
    keywords = {
        "codec": codec, "quality": 1.0, "names": names, "grid": (4, 4), "labels": labels,
        "class_names": ["a", "b", "c"], "split": split,
        "model": {"name": "tiny", "sha256": "0" * 64}, "provenance": {"raw_bytes": 10_000},
    }  # fmt: skip
    spec = ImageSpec(images_per_chunk=16, chunks_per_shard=4, **keywords)
    with ImageWriter.create(root / "tiny.zarr", spec) as writer:
        for start, stop in writer.missing():
            writer.write(start, embeddings[start:stop])
        writer.finish()
    return Tiny(root / "tiny.zarr", root / "model", root / "pictures", names)


def make_model() -> torch.nn.Module:
    from nec.models.config import ModelConfig
    from nec.models.mae import NecModel

    torch.manual_seed(0)
    config = ModelConfig(
        image_size=16, patch_size=4, embed_dim=12, depth=1, num_heads=2,
        decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2, mean=(0.4,) * 3, std=(0.2,) * 3,
    )  # fmt: skip
    model = NecModel(config).eval()
    model.name, model.sha256 = "tiny", "0" * 64
    return model
