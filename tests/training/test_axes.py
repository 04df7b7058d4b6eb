"""Rotating a model's channels to principal axes changes its tokens' basis and nothing else."""

from __future__ import annotations

import torch

from nec.models import ModelConfig, NecModel
from nec.training.start import rotation, to_principal_axes


def random_model() -> NecModel:
    torch.manual_seed(0)
    model = NecModel(
        ModelConfig(
            image_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, decoder_embed_dim=16, decoder_depth=1,
            decoder_num_heads=2,
        )
    ).eval()  # fmt: skip
    with torch.no_grad():  # gains and offsets that matter
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def test_a_rotation_keeps_lengths_and_the_mean_over_channels() -> None:
    turn = rotation(torch.randn(500, 12, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(turn @ turn.T, torch.eye(12, dtype=torch.float64))
    torch.testing.assert_close(turn.sum(dim=1), torch.ones(12, dtype=torch.float64))


def test_reconstructions_stay_and_tokens_become_uncorrelated() -> None:
    model, generator = random_model(), torch.Generator().manual_seed(1)
    images, mask = torch.randn(64, 3, 32, 32, generator=generator), torch.rand(64, 16, generator=generator)
    with torch.no_grad():
        before = model(images, mask)
        turned = to_principal_axes(model, model.tokens(images)[:, 1:].flatten(0, 1))
        after = turned(images, mask)
        tokens = turned.tokens(images)[:, 1:].flatten(0, 1)
    torch.testing.assert_close(after["prediction"], before["prediction"], atol=2e-5, rtol=1e-4)
    covariance = torch.cov(tokens.T)
    variances = covariance.diagonal()
    # Independent of how the rotation was made: sorted energy, concentrated as the eigenvalues of the old tokens are.
    old = torch.cov((model.tokens(images)[:, 1:].flatten(0, 1) - model.norm.bias).div(model.norm.weight).T)
    eigenvalues = torch.linalg.eigvalsh(old).flip(0)
    torch.testing.assert_close(variances[:4], eigenvalues[:4], rtol=0.15, atol=0)
    # The last channel is what keeps the sum over channels zero: it correlates with all others.
    assert (covariance - variances.diag())[:-1, :-1].abs().max() < 0.1 * variances.max()
