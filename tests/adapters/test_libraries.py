"""Backbones of other libraries, with random weights, against the library called by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nec

torch = pytest.importorskip("torch")


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)


def normalised(images: np.ndarray, mean: Any, std: Any) -> Any:
    values = (images.astype(np.float32) / 255 - np.float32(mean)) / np.float32(std)
    return torch.from_numpy(values.transpose(0, 3, 1, 2).copy()).float()


def test_timm_transformer(images: np.ndarray) -> None:
    timm = pytest.importorskip("timm")
    made = nec.load_model("timm:vit_tiny_patch16_224", "cpu", pretrained=False, seed=1)
    torch.manual_seed(1)
    module = timm.create_model("vit_tiny_patch16_224", num_classes=0).eval()
    cfg = module.pretrained_cfg
    with torch.no_grad():
        tokens = module.forward_features(normalised(images, cfg["mean"], cfg["std"]))
    assert (made.patch, made.dimensions, made.input_size) == ((16, 16), 192, (224, 224))
    found = made.embed(made.normalize(images))
    np.testing.assert_allclose(found.reshape(2, 196, 192), tokens[:, 1:].numpy(), atol=1e-4)
    assert made.identity["library"] == {"timm": timm.__version__}
    assert len(made.identity["sha256"]) == 64
    other = nec.load_model("timm:vit_tiny_patch16_224", "cpu", pretrained=False, seed=2)
    assert other.identity["sha256"] != made.identity["sha256"]
    early = nec.load_model("timm:vit_tiny_patch16_224", "cpu", pretrained=False, seed=1, layer="3", norm="false")
    assert np.abs(early.embed(early.normalize(images)) - found).max() > 0.1


def test_timm_registers_and_feature_maps(images: np.ndarray) -> None:
    timm = pytest.importorskip("timm")
    registers = nec.load_model("timm:vit_small_patch14_reg4_dinov2", "cpu", pretrained=False, image_size=224)
    assert (registers.patch, registers.dimensions) == ((14, 14), 384)
    made = nec.load_model("timm:resnet18", "cpu", pretrained=False, seed=1)
    torch.manual_seed(1)
    module = timm.create_model("resnet18", num_classes=0).eval()
    cfg = module.pretrained_cfg
    with torch.no_grad():
        maps = module.forward_features(normalised(images, cfg["mean"], cfg["std"]))
    assert (made.patch, made.dimensions) == ((32, 32), 512)
    np.testing.assert_allclose(made.embed(made.normalize(images)), maps.permute(0, 2, 3, 1).numpy(), atol=1e-3)


def test_a_store_of_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    chips = np.random.default_rng(0).integers(0, 256, (24, 96, 96, 3), dtype=np.uint8)
    made = nec.load_model("timm:resnet18", "cpu", pretrained=False, seed=1)
    from nec.encoding import encode

    report = encode(chips, tmp_path / "s.zarr", made)
    assert (report.store["grid"], report.fitted_on) == ([7, 7], 24)
    assert nec.open_store(tmp_path / "s.zarr").attrs["model"]["sha256"] == made.identity["sha256"]


def test_unknown_names_are_one_line() -> None:
    pytest.importorskip("timm")
    with pytest.raises(nec.InputError, match="timm:no_such_model cannot be loaded"):
        nec.load_model("timm:no_such_model")
    with pytest.raises(nec.InputError, match="do not know the option"):
        nec.load_model("timm:resnet18", "cpu", pretrained=False, nonsense=1)


def test_torchgeo(images: np.ndarray) -> None:
    pytest.importorskip("torchgeo")
    try:
        from torchgeo.models import get_model, resnet18  # noqa: F401
    except ImportError as error:
        pytest.skip(f"torchgeo does not import: {error}")
    made = nec.load_model("torchgeo:resnet18", "cpu", in_chans=3)
    assert (made.patch, made.dimensions) == ((32, 32), 512)
    assert made.embed(made.normalize(images)).shape == (2, 7, 7, 512)


def test_torchgeo_statistics_of_weights() -> None:
    pytest.importorskip("torchgeo")
    try:
        from torchgeo.models import ResNet18_Weights
    except ImportError as error:
        pytest.skip(f"torchgeo does not import: {error}")
    from nec.models.adapters.torchgeo import _statistics

    mean, std = _statistics(ResNet18_Weights.SENTINEL2_ALL_MOCO.transforms)  # type: ignore[misc]
    assert std[0] == 10000
    assert mean[0] == 0


def test_terratorch() -> None:
    pytest.importorskip("terratorch")
    try:
        made = nec.load_model(
            "terratorch:prithvi_eo_tiny", "cpu", pretrained=False, mean=[0.1] * 6, std=[0.05] * 6,
            bands="BLUE,GREEN,RED,NIR_NARROW,SWIR_1,SWIR_2",
        )  # fmt: skip
    except (ImportError, nec.MissingExtraError) as error:
        pytest.skip(f"terratorch does not import: {error}")
    assert (made.patch, made.input_size) == ((16, 16), (224, 224))


def test_hf(images: np.ndarray, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    module = transformers.ViTModel(transformers.ViTConfig(image_size=32, patch_size=8, **sizes)).eval()
    module.save_pretrained(tmp_path / "vit")
    made = nec.load_model(f"hf:{tmp_path / 'vit'}", "cpu", mean="0.5,0.5,0.5", std="0.25,0.25,0.25")
    small = images[:, :32, :32]
    with torch.no_grad():
        tokens = module(pixel_values=normalised(small, [0.5] * 3, [0.25] * 3)).last_hidden_state
    assert (made.patch, made.dimensions) == ((8, 8), 24)
    np.testing.assert_allclose(made.embed(made.normalize(small)).reshape(2, 16, 24), tokens[:, 1:].numpy(), atol=1e-4)
    with pytest.raises(nec.InputError, match="cannot be loaded"):
        nec.load_model(f"hf:{tmp_path / 'nowhere'}")
