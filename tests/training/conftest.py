"""Small images with structure and a model that trains on them in a second."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("lightning")

from nec.datasets import ArrayDataset
from nec.models import ModelConfig, save_model
from nec.training import trainer

TINY = {
    "image_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2, "norm_pix_loss": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Model folders hold what training ended with, to the bit, instead of half precision."""
    monkeypatch.setattr(trainer, "save_model", partial(save_model, half=False))


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig.from_dict(TINY)


@pytest.fixture
def dataset() -> ArrayDataset:
    """96 ramps of random direction and strength, 70 to train on and 26 to validate on: a few patches tell the rest."""
    rng = np.random.default_rng(0)
    ramp = np.mgrid[0:16, 0:16] / 16 - 0.5
    strength = rng.choice([-1, 1], 96) * rng.uniform(0.5, 1, 96)
    waves = strength[:, None, None, None] * ramp[rng.integers(0, 2, 96)][..., None] * np.ones(3)
    images = ArrayDataset((127 + 250 * waves).astype(np.uint8))
    images.split = np.array(["train"] * 70 + ["val"] * 26)
    images.description = {"kind": "array"}
    return images
