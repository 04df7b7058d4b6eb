"""The optimiser against torch's own, the schedule against its formula, augmentation against what it promises."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nec.training.augment import random_resized_crop_flip
from nec.training.optim import MuonAdamW, decays, orthogonalise, parameter_groups, warmup_cosine


def test_what_is_not_muons_is_torchs_adamw_to_the_bit() -> None:
    torch.manual_seed(0)
    start, matrix = torch.randn(5, 3), torch.nn.Parameter(torch.randn(4, 4))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    a = MuonAdamW([{"params": [matrix], "muon": True}, {"params": [ours]}], lr=0.02, weight_decay=0.1)
    b = torch.optim.AdamW([theirs], lr=0.02, betas=(0.9, 0.95), weight_decay=0.1)
    for step in range(20):
        for p, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            (((p - 0.3 * step) ** 2).sum() + matrix.square().sum()).backward()
            optimizer.step()
    assert torch.equal(ours, theirs)


def test_parameters_that_are_treated_alike_make_a_group() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 2), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    module[2].bias.requires_grad_(False)
    groups = parameter_groups(
        module, lambda name, p: None if name == "1.bias" else {"lr": 0.1, "weight_decay": 0.3 * decays(p)}
    )
    assert [(group["lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.3), (0.1, 0.0)]
    wanted = [[module[0].weight, module[2].weight], [module[0].bias, module[1].weight]]
    assert [[id(p) for p in group["params"]] for group in groups] == [[id(p) for p in group] for group in wanted]


@pytest.mark.parametrize("shape", [(8, 8), (24, 6), (6, 24), (3, 10, 4)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, ...]) -> None:
    """The tuned iteration promises 0.7 to 1.2, and the directions of the exact polar factor."""
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    assert values.min() > 1e-2
    result = orthogonalise(matrix)
    singular = torch.linalg.svdvals(result)
    assert singular.max() < 1.3
    assert (singular > 0.5).float().mean() > 0.9
    cosine = (result * (u @ v)).flatten(-2).sum(-1) / result.flatten(-2).norm(dim=-1) / (u @ v).flatten(-2).norm(dim=-1)
    assert cosine.min() > 0.95


def test_muon_moves_by_the_size_it_promises() -> None:
    p = torch.nn.Parameter(torch.zeros(32, 8))
    optimizer = MuonAdamW([{"params": [p], "muon": True}], lr=0.1, weight_decay=0.0)
    p.grad = torch.randn(32, 8) * 1000  # the gradient's size does not matter
    optimizer.step()
    rms = p.detach().square().mean().sqrt().item()
    assert rms == pytest.approx(0.1 * 0.2, rel=0.3)  # like an AdamW step at this rate


def test_schedule() -> None:
    factors = np.array([warmup_cosine(100, 10)(step) for step in range(101)])
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    np.testing.assert_allclose(factors[10:], 0.5 * (1 + np.cos(np.pi * np.arange(91) / 90)), atol=1e-12)


def test_full_crop_without_flip_is_the_image_and_flips_are_flips() -> None:
    images = torch.randn(3, 2, 16, 16)
    draw = torch.full((3, 7), 0.9)
    draw[:, 1] = 0.5  # square
    draw[1, 4] = 0.1  # horizontal flip
    draw[2, 5], draw[2, 6] = 0.1, 0.1  # transposition and vertical flip
    out = random_resized_crop_flip(images, draw, (1.0, 1.0), turns=True)
    torch.testing.assert_close(out[0], images[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(out[1], images[1].flip(-1), atol=1e-4, rtol=0)
    turned = {tuple(np.round(np.rot90(f.numpy(), k, (1, 2)).ravel()[:4], 3)) for f in (images[2],) for k in (1, 3)}
    assert tuple(np.round(out[2].numpy().ravel()[:4], 3)) in turned


def test_crops_stay_inside_the_image() -> None:
    """A linear ramp cropped and resized stays a linear ramp within the original's range."""
    ramp = torch.linspace(0, 1, 32).expand(64, 1, 32, 32)
    out = random_resized_crop_flip(ramp, torch.rand(64, 7), (0.2, 0.6))
    assert out.min() > -0.02
    assert out.max() < 1.02
    steps = out[:, 0, :, 2:-2].diff(dim=-1)
    assert (steps.std(dim=(1, 2)) < 0.005).all()
    assert (steps.abs().mean(dim=(1, 2)) < 1 / 31).all()  # magnified
