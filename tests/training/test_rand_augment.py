"""RandAugment's operations against Pillow's, each image with a strength of its own in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
Image = pytest.importorskip("PIL.Image")

from PIL import ImageEnhance, ImageOps  # noqa: E402

from nec.training import rand_augment as ra  # noqa: E402

FILL = (10, 200, 30)


def _photo(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Smooth structure, noise and a band of few values: what equalize and contrast depend on."""
    rows, columns = np.mgrid[:height, :width]
    waves = np.stack([np.sin(rows / a) + np.cos(columns / b) for a, b in rng.uniform(3, 9, (3, 2))], axis=-1)
    image = 90 + rng.uniform(5, 40) * waves + rng.normal(scale=rng.uniform(1, 20), size=(height, width, 3))
    image[..., rng.integers(3)] //= 40
    return np.clip(image, rng.integers(0, 60), rng.integers(150, 256)).astype(np.uint8)


def _solarize_add(image: Any, strength: float) -> Any:
    return image.point([min(255, i + int(strength)) if i < 128 else i for i in range(256)] * 3)


def _affine(image: Any, matrix: tuple[float, ...]) -> Any:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=FILL)


PILLOW: dict[str, tuple[Callable[[Any, float], Any], tuple[float, ...]]] = {
    "AutoContrast": (lambda image, s: ImageOps.autocontrast(image), (0, 0, 0, 0)),
    "Equalize": (lambda image, s: ImageOps.equalize(image), (0, 0, 0, 0)),
    "Invert": (lambda image, s: ImageOps.invert(image), (0, 0, 0, 0)),
    "Rotate": (
        lambda image, s: image.rotate(s, resample=Image.Resampling.BILINEAR, fillcolor=FILL),
        (-30, -3.3, 12.7, 28),
    ),
    "Posterize": (lambda image, s: ImageOps.posterize(image, int(s)), (1, 2, 3, 4)),
    "Solarize": (lambda image, s: ImageOps.solarize(image, int(s)), (0, 26, 128, 256)),
    "SolarizeAdd": (_solarize_add, (0, 30, 99, 110)),
    "Color": (lambda image, s: ImageEnhance.Color(image).enhance(s), (0.1, 0.37, 1, 1.9)),
    "Contrast": (lambda image, s: ImageEnhance.Contrast(image).enhance(s), (0.1, 0.37, 1, 1.9)),
    "Brightness": (lambda image, s: ImageEnhance.Brightness(image).enhance(s), (0.1, 0.37, 1, 1.9)),
    "Sharpness": (lambda image, s: ImageEnhance.Sharpness(image).enhance(s), (0.1, 0.37, 1, 1.9)),
    "ShearX": (lambda image, s: _affine(image, (1, s, 0, 0, 1, 0)), (-0.3, -0.11, 0.07, 0.29)),
    "ShearY": (lambda image, s: _affine(image, (1, 0, 0, s, 1, 0)), (-0.3, -0.11, 0.07, 0.29)),
    "TranslateX": (lambda image, s: _affine(image, (1, 0, s * image.size[0], 0, 1, 0)), (-0.42, -0.1, 0.03, 0.41)),
    "TranslateY": (lambda image, s: _affine(image, (1, 0, 0, 0, 1, s * image.size[1])), (-0.42, -0.1, 0.03, 0.41)),
}
GEOMETRIC = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("size", [(40, 40), (30, 52)])
def test_operation_equals_pillows(name: str, size: tuple[int, int]) -> None:
    reference, strengths = PILLOW[name]
    rng = np.random.default_rng(7)
    photos = np.stack([_photo(rng, *size) for _ in strengths])
    wanted = np.stack(
        [np.asarray(reference(Image.fromarray(p), s)) for p, s in zip(photos, strengths, strict=True)]
    ).astype(int)
    given = torch.from_numpy(photos).permute(0, 3, 1, 2).contiguous()
    operate = ra.OPERATIONS[name][0]
    found = operate(given, torch.tensor(strengths, dtype=torch.float32), torch.tensor(FILL, dtype=torch.uint8))
    assert found.dtype == torch.uint8
    off = np.abs(found.permute(0, 2, 3, 1).numpy().astype(int) - wanted)
    if name in GEOMETRIC:  # single pixels on the rim may fall to the other side in float32
        assert np.mean(off > 1) < 2e-3
    else:
        assert off.max() == 0


def test_operations_are_timms() -> None:
    assert list(ra.OPERATIONS) == list(PILLOW)


@pytest.mark.parametrize(
    ("name", "level", "wanted"),
    [
        ("Rotate", 0.9, (-27, 27)),
        ("Posterize", 0.9, (1, 1)),
        ("Posterize", 0.0, (4, 4)),
        ("Solarize", 0.9, (26, 26)),
        ("SolarizeAdd", 0.9, (99, 99)),
        ("Color", 0.9, (0.19, 1.81)),
        ("Sharpness", 1.0, (0.1, 1.9)),
        ("ShearX", 0.9, (-0.27, 0.27)),
        ("TranslateY", 0.9, (-0.405, 0.405)),
    ],
)
def test_strengths_are_timms(name: str, level: float, wanted: tuple[float, float]) -> None:
    measure = ra.OPERATIONS[name][1]
    assert measure(torch.full((2,), level), torch.tensor([-1.0, 1.0])).tolist() == pytest.approx(wanted)


def test_a_batch_is_its_images_one_by_one() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(np.stack([_photo(rng, 16, 16) for _ in range(24)])).permute(0, 3, 1, 2).contiguous()
    draw = torch.rand(24, 2, 4, generator=torch.Generator().manual_seed(1))
    whole = ra.rand_augment(images, draw)
    apart = torch.cat([ra.rand_augment(images[i : i + 1], draw[i : i + 1]) for i in range(24)])
    torch.testing.assert_close(whole, apart, rtol=0, atol=1)
    changed = (whole != images).flatten(1).any(dim=1)
    assert 0 < changed.sum() < 24  # with probability 1/4 both operations do nothing


def test_draw_decides_operation_and_strength() -> None:
    """A draw by hand: Invert acts, TranslateX of the mean strength does not."""
    images = torch.arange(3 * 64, dtype=torch.uint8).view(1, 3, 8, 8)
    draw = torch.tensor([[[2.5 / 15, 0.4, 0.5, 0.1], [13.5 / 15, 0.6, 0.5, 0.1]]])
    torch.testing.assert_close(ra.rand_augment(images, draw), 255 - images)
    draw[0, :, 1] = torch.tensor([0.6, 0.4])
    shifted = ra.rand_augment(images, draw, magnitude=10, deviation=0, fill=torch.tensor(FILL, dtype=torch.uint8))
    assert shifted[0, 1, :, :3].unique().tolist() == [200]  # 0.45 * 8 = 3.6 pixels to the right


def test_other_band_counts() -> None:
    images = torch.randint(0, 256, (30, 4, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    draw = torch.rand(30, 2, 4, generator=torch.Generator().manual_seed(3))
    assert ra.rand_augment(images, draw).shape == images.shape
