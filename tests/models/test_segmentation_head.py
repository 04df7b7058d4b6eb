"""The segmentation head: its arithmetic against a plain second writing, its shapes, what training does to it."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional as F  # noqa: E402

import nec  # noqa: E402
from nec.models.heads import SegmentationHead, drop_path  # noqa: E402


def head(**changes) -> SegmentationHead:
    torch.manual_seed(0)
    return SegmentationHead(12, 3, **({"width": 8, "blocks": 2} | changes))


@pytest.mark.parametrize(("upscale", "side"), [(1, 1), (2, 2), (4, 4), (8, 8)])
def test_logits_have_the_grid_and_its_upscaling(upscale: int, side: int) -> None:
    logits, auxiliary = head(upscale=upscale)(torch.randn(2, 5, 3, 12))
    assert logits.shape == (2, 3, 5 * side, 3 * side)
    assert auxiliary.shape == (2, 3, 5, 3)


@pytest.mark.parametrize("published", [False, True])
def test_features_in_plain_functions(published: bool) -> None:
    module = head(published=published).eval()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    w = module.state_dict()

    def conv(x, name):
        return F.conv2d(F.pad(x, (1, 1, 1, 1)), w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(x, name):
        mean, var, gain, bias = (
            w[f"{name}.{k}"][:, None, None] for k in ["running_mean", "running_var", "weight", "bias"]
        )
        return (x - mean) / (var + 1e-5).sqrt() * gain + bias

    tokens = torch.randn(2, 4, 6, 12)
    x = first = conv(tokens.permute(0, 3, 1, 2), "first_conv")
    for i in range(2):
        p = f"conv_blocks.{i}."
        inner = norm(F.gelu(conv(x, p + "conv1")), p + "norm")
        x = x + F.gelu(conv(inner, p + ("conv1" if published else "conv2")))
    x = x + first
    for i in range(2):
        y = conv(x, f"upscaling_blocks.{i}.conv").unflatten(1, (8, 2, 2))  # (n, width, row, column, y, x)
        y = y.permute(0, 1, 4, 2, 5, 3).flatten(4, 5).flatten(2, 3)
        x = norm(y, f"upscaling_blocks.{i}.bn").clamp(min=0)
    torch.testing.assert_close(module.features(tokens), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("published", [False, True])
def test_second_convolution_is_dead_in_the_published_head_alone(published: bool) -> None:
    module = head(published=published)
    logits, auxiliary = module(torch.randn(2, 4, 4, 12))
    (logits.square().sum() + auxiliary.square().sum()).backward()
    unused = {name for name, p in module.named_parameters() if p.grad is None}
    wanted = {f"conv_blocks.{i}.conv2.{part}" for i in range(2) for part in ("weight", "bias")} if published else set()
    assert unused == wanted


def test_it_learns_which_quadrant_of_a_token_is_which() -> None:
    """Labels finer than the grid: what the tokens hold in their channels has to come out in the right pixels."""
    module = head(width=16, upscale=2)
    tokens = torch.randn(64, 4, 4, 12)
    truth = (tokens[..., :4] > 0).long().reshape(64, 4, 4, 2, 2).permute(0, 1, 3, 2, 4).reshape(64, 8, 8)
    optimizer = torch.optim.Adam(module.parameters(), 5e-3)
    for _ in range(60):
        logits, auxiliary = module(tokens)
        loss = F.cross_entropy(logits, truth) + 0.4 * F.cross_entropy(auxiliary, truth[:, ::2, ::2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (module.eval()(tokens)[0].argmax(1) == truth).float().mean() > 0.9


def test_drop_path_keeps_the_expectation_and_whole_samples() -> None:
    torch.manual_seed(0)
    dropped = drop_path(torch.ones(4000, 3, 2), 0.25)
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert sorted(set(dropped.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert (dropped.std(dim=(1, 2)) == 0).all()
    module, tokens = head(drop_path=0.5), torch.randn(16, 4, 4, 12)
    assert not torch.equal(module.features(tokens), module.features(tokens))
    module.eval()
    assert torch.equal(module.features(tokens), module.features(tokens))


def test_bad_requests() -> None:
    with pytest.raises(nec.InputError, match="power of two, not 3"):
        head(upscale=3)
    with pytest.raises(nec.InputError, match="drop_path"):
        head(drop_path=1.0)
    with pytest.raises(nec.InputError, match="token grids"):
        head()(torch.randn(2, 16, 12))
