"""Mixing and erasing: targets weigh what is in the pixels, rectangles have the statistics that were asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from nec.training.mixing import cut_box, cutmix, mixup, random_erase, smooth_targets  # noqa: E402

shares = st.floats(0, 1)


def _flat_images(n: int, height: int, width: int) -> torch.Tensor:
    """Image i has the value i everywhere: pixels tell where they come from."""
    return torch.arange(n, dtype=torch.float64)[:, None, None, None].expand(n, 2, height, width).clone()


@given(st.integers(2, 6), st.integers(1, 20), st.integers(1, 20), shares, shares, shares)
@settings(max_examples=100, deadline=None)
def test_cutmix_targets_are_the_pixels_shares(n: int, h: int, w: int, share: float, y: float, x: float) -> None:
    box = cut_box(h, w, share, y, x)
    mixed, targets = cutmix(_flat_images(n, h, w), torch.eye(n, dtype=torch.float64), box)
    for i in range(n):
        for j in range(n):
            assert float(targets[i, j]) == pytest.approx(float((mixed[i] == j).double().mean()), abs=1e-6)


@given(st.integers(1, 6), shares)
@settings(max_examples=50, deadline=None)
def test_mixup_mixes_pixels_and_targets_alike(n: int, share: float) -> None:
    images = torch.rand(n, 3, 4, 4, dtype=torch.float64)
    mixed, targets = mixup(images, torch.eye(n, dtype=torch.float64), share)
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", targets, images))
    for i in range(n):
        own = 1 if n - 1 - i == i else share  # the one in the middle is its own partner
        assert float(targets[i, i]) == pytest.approx(own, abs=1e-6)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(n, dtype=torch.float64))


def test_boxes_have_the_area_that_was_drawn() -> None:
    """Where nothing juts out, and cut off where something does."""
    assert cut_box(64, 64, 0.75, 0.5, 0.5) == (16, 48, 16, 48)
    assert cut_box(64, 32, 0.75, 0.5, 0.5) == (16, 48, 8, 24)
    assert cut_box(64, 64, 0.75, 0.0, 0.999) == (0, 16, 47, 64)
    assert cut_box(64, 64, 1.0, 0.3, 0.3)[0] == cut_box(64, 64, 1.0, 0.3, 0.3)[1]
    assert cut_box(64, 64, 0.0, 0.5, 0.5) == (0, 64, 0, 64)


def test_smoothing_equals_cross_entropys() -> None:
    logits, labels = torch.randn(5, 7, dtype=torch.float64), torch.randint(0, 7, (5,))
    soft = torch.nn.functional.cross_entropy(logits, smooth_targets(labels, 7, 0.1).double())
    hard = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(soft, hard, rtol=1e-6, atol=0)


def test_erased_rectangles() -> None:
    """4,000 images: how many, their area, their aspect, that they are rectangles, and that they fall everywhere."""
    n, side = 4000, 40
    generator = torch.Generator().manual_seed(0)
    images = torch.zeros(n, 1, side, side)
    draw = torch.rand(n, 5, generator=generator)
    erased = random_erase(images, draw, torch.ones_like(images))[:, 0].numpy().astype(bool)
    some = erased.any(axis=(1, 2))
    assert some.mean() == pytest.approx(0.25, abs=0.025)
    rows, columns = erased[some].any(axis=2), erased[some].any(axis=1)
    heights, widths = rows.sum(axis=1), columns.sum(axis=1)
    np.testing.assert_array_equal(erased[some].sum(axis=(1, 2)), heights * widths)
    assert (erased[some] == rows[:, :, None] & columns[:, None, :]).all()
    assert all(np.ptp(np.flatnonzero(row)) + 1 == row.sum() for row in rows)
    area = heights * widths / side**2
    assert area.mean() == pytest.approx((0.02 + 1 / 3) / 2, rel=0.05)  # uniform between its ends
    assert area.min() == pytest.approx(0.02, abs=0.01)
    assert area.max() <= 1 / 3 + 0.02
    aspect = np.log(heights / widths)
    assert aspect.mean() == pytest.approx(0, abs=0.08)
    assert np.abs(aspect).max() <= np.log(1 / 0.3) + 0.3
    assert aspect.std() == pytest.approx(np.log(1 / 0.3) / np.sqrt(3), rel=0.06)  # uniform on the log scale
    covered = erased.mean(axis=0)
    assert (covered > 0).mean() > 0.99
    np.testing.assert_allclose(covered, covered[::-1, ::-1], atol=0.02)


def test_erasing_puts_the_noise_and_keeps_the_rest() -> None:
    images, noise = torch.randn(8, 3, 12, 12), torch.randn(8, 3, 12, 12)
    found = random_erase(images, torch.rand(8, 5), noise, probability=1.0)
    assert ((found == images) | (found == noise)).all()
    assert (found != images).flatten(1).any(dim=1).all()
    torch.testing.assert_close(random_erase(images, torch.rand(8, 5), noise, probability=0.0), images)
