"""A tiny dataset in EuroSAT's layout, a tiny model, and a recipe that runs on them in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("yaml")
pytest.importorskip("imagecodecs")
Image = pytest.importorskip("PIL.Image")

from nec.models import ModelConfig, NecModel, save_model  # noqa: E402

CLASSES = ("Forest", "River", "SeaLake")
SIZES = {
    "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2, "norm_pix_loss": True,
}  # fmt: skip
RECIPE = """
name: tiny
adapt: {epochs: 2, batch_size: 16, blr: 1.0e-2, warmup_epochs: 0.1, latent_scale: 4}
methods:
  - original
  - "rdc:uint8-zstd"
  - "jpeg2000:8"
  - "uqe:4"
  - nec-factorized: {lmbda: [300]}
seeds: [0, 1]
datasets:
  eurosat:
    limits: {train: 60, val: 12, test: 24}
heads:
  classification: {epochs: 2, batch: 16}
"""


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    """eurosat:PATH of 3 classes of 50 JPEGs of 16 px: ramps whose direction and colour tell the class."""
    root = tmp_path_factory.mktemp("data") / "EuroSAT_RGB"
    rng = np.random.default_rng(0)
    ramp = np.mgrid[0:16, 0:16] / 16 - 0.5
    for number, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(50):
            wave = ramp[number % 2] * rng.uniform(100, 200) + 30 * (number == 2) * rng.normal(size=(16, 16))
            pixels = np.clip(127 + wave[..., None] * np.roll([1, 0.6, 0.3], number), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{i}.jpg", quality=90)
    return f"eurosat:{root}"


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a masked autoencoder with random weights."""
    import torch

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_model(NecModel(ModelConfig.from_dict(SIZES)).eval(), folder)
    return str(folder)


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.yaml"
    path.write_text(RECIPE)
    return path
