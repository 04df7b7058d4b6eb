"""Pixels of scenes as the input of models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from rasters import noise, write

import nec
from nec.errors import InputError
from nec.scenes import open_scene
from nec.scenes.tiles import Normalization, match


@dataclass(frozen=True)
class Config:
    """As much of a model's configuration as there is to match."""

    in_channels: int = 3
    mean: tuple[float, ...] = (0.1, 0.2, 0.3)
    std: tuple[float, ...] = (0.5, 0.25, 0.125)
    bands: tuple[str, ...] | None = None
    reflectance: tuple[float, float] | None = None


def test_bytes_as_the_model_scales_them(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = nec.load_model("eurosat-tiny")
    bands = np.random.default_rng(0).integers(1, 256, (3, 64, 64), dtype=np.uint8)
    scene, normalize = match(open_scene(write(tmp_path / "a.tif", bands)), model.config)
    ours = normalize(scene.read(0, 0, 64, 64)[0][None])
    np.testing.assert_allclose(ours, model.normalize(bands.transpose(1, 2, 0)[None]).numpy(), atol=1e-5)
    assert model.embed(torch.from_numpy(ours)).shape == (1, 8, 8, 192)


def test_reflectance_as_eurosat_shows_it(tmp_path: Path) -> None:
    """Reflectance 0 to 0.275 is 0 to 255 there; a scene read so equals the image made so, but for its rounding."""
    pytest.importorskip("torch")
    model = nec.load_model("eurosat-tiny")
    assert (model.config.bands, model.config.reflectance) == (("red", "green", "blue"), (0.0, 0.275))
    bands = np.random.default_rng(0).integers(1, 3500, (12, 40, 40)).astype(np.uint16)
    scene, normalize = match(open_scene(write(tmp_path / "a.tif", bands), sensor="sentinel-2-l2a"), model.config)
    image = np.clip(bands[[3, 2, 1]] / 2750 * 255, 0, 255).transpose(1, 2, 0)
    expected = model.normalize(image[None] / 255).numpy()[0]
    np.testing.assert_allclose(normalize(scene.read(0, 0, 40, 40)[0]), expected, atol=1e-5)


def test_the_formula_and_invalid_pixels() -> None:
    pixels = np.array([[[1.0, 2.0], [np.nan, np.nan], [9.0, -9.0]]], np.float32)
    plain = Normalization((0.5, 1.0), (2.0, 4.0), 0.5, 0.25)(pixels)
    np.testing.assert_allclose(plain, [[[0.125, 0.0, 2.125]], [[0.0625, 0.0, -1.3125]]])
    clipped = Normalization((0.5, 1.0), (2.0, 4.0), 0.5, 0.25, clip=True)(pixels)
    np.testing.assert_allclose(clipped, [[[0.125, 0.0, 0.25]], [[0.0, 0.0, -0.25]]])
    assert plain.dtype == clipped.dtype == np.float32
    assert plain.flags["C_CONTIGUOUS"]
    with pytest.raises(InputError, match="pixels of 2 band"):
        Normalization((0.5,), (1.0,))(pixels)


def test_bands_are_matched_by_name(tmp_path: Path) -> None:
    scene = open_scene(write(tmp_path / "a.tif", noise(4, "uint8"), names=("B02", "B03", "B04", "B08")))
    matched, _ = match(scene, Config(bands=("red", "green", "blue")))
    assert [band.name for band in matched.bands] == ["B04", "B03", "B02"]
    matched, _ = match(scene, Config(bands=("red", "green", "blue")), bands=[4, 1, 2])
    assert [band.name for band in matched.bands] == ["B08", "B02", "B03"]
    with pytest.raises(InputError, match="no band 'swir16'"):
        match(scene, Config(bands=("red", "green", "swir16")))
    with pytest.raises(InputError, match=r"has 4 band\(s\) \(B02, B03, B04, B08\), and the model takes 3"):
        match(scene, Config())
    unnamed = open_scene(write(tmp_path / "b.tif", noise(3, "uint8")))
    assert match(unnamed, Config(bands=("red", "green", "blue")))[0].bands == unnamed.bands


def test_numbers_need_a_scale(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", noise(3, "uint16"))
    with pytest.raises(InputError, match="uint16 pixels without a scale: give scale"):
        match(open_scene(path), Config())
    _, normalize = match(open_scene(path, scale=1e-3), Config(reflectance=(0.05, 0.25)))
    assert (normalize.scale, normalize.offset, normalize.clip) == (pytest.approx(5), pytest.approx(-0.25), True)
    _, plain = match(open_scene(path, scale=1e-3), Config())
    assert (plain.scale, plain.offset, plain.clip) == (1, 0, False)


@pytest.mark.parametrize("values", [{"bands": ["red"]}, {"reflectance": [1, 0]}])
def test_bad_model_configurations(values: dict) -> None:
    pytest.importorskip("torch")
    from nec.models import ModelConfig

    with pytest.raises(InputError, match=f"model config: {next(iter(values))}"):
        ModelConfig.from_dict(values)
