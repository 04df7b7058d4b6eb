"""The head against values of the paper's published code, and against torch's own multi-head attention."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from nec.errors import InputError  # noqa: E402
from nec.heads.network import AttentionHead, AttentionPool, Standardize  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "fixtures" / "reference_nec"


def test_golden_logits() -> None:
    config = json.loads((GOLDEN / "config.json").read_text())
    expected = np.load(GOLDEN / "expected.npz")
    state = torch.load(GOLDEN / "classifier.pt", weights_only=True)["model"]
    head = AttentionHead(config["embed_dim"], config["num_classes"], config["num_heads"])
    head.load_state_dict({name: value for name, value in state.items() if not name.startswith("backbone.")})
    tokens = torch.from_numpy(expected["factorized_quantized_embedding"][:, 1:])
    with torch.no_grad():
        np.testing.assert_allclose(head(tokens).numpy(), expected["classifier_logits"], atol=1e-5)


def test_pooling_equals_multi_head_attention() -> None:
    """The folded form, values and gradients, against torch's attention with the same weights."""
    torch.manual_seed(0)
    pool = AttentionPool(24, heads=4).double()
    reference = torch.nn.MultiheadAttention(24, 4, batch_first=True).double()
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([pool.q.weight, pool.kv.weight]))
        reference.in_proj_bias.copy_(torch.cat([pool.q.bias, pool.kv.bias]))
        reference.out_proj.load_state_dict(pool.proj.state_dict())
    tokens = torch.randn(5, 9, 24, dtype=torch.float64, requires_grad=True)
    attended = reference(pool.latent.expand(5, -1, -1), tokens, tokens)[0][:, 0]
    expected = attended + pool.mlp(pool.norm(attended))
    wanted = torch.autograd.grad(expected.square().sum(), tokens)[0]
    found = pool(tokens)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), tokens)[0], wanted)


def test_token_order_does_not_matter_without_a_stage() -> None:
    torch.manual_seed(0)
    tokens = torch.randn(3, 16, 12)
    head = AttentionHead(12, outputs=4, heads=4)
    torch.testing.assert_close(head(tokens), head(tokens[:, torch.randperm(16)]))


def test_standardised_inputs() -> None:
    tokens = torch.randn(50, 8, 6) * torch.tensor([1.0, 10, 0.1, 5, 3, 0]) + 4 * torch.randn(8, 6)
    stage = AttentionHead.build(tokens.half(), outputs=2).stage
    assert isinstance(stage, Standardize)
    out = stage(tokens.half().float())
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(8, 6), atol=2e-2, rtol=0)  # at every place
    torch.testing.assert_close(out.flatten(0, 1).std(dim=0)[:5], torch.ones(5), atol=1e-2, rtol=0)
    assert stage(tokens[:, :3]).shape == (50, 3, 6)  # another grid


def test_heads_must_divide() -> None:
    with pytest.raises(InputError, match="divide"):
        AttentionPool(10, heads=4)
