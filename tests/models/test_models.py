"""Models beyond the golden values: other sizes and bands, positions, folders, checkpoints that do not fit."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

import nec  # noqa: E402
from nec.models import ModelConfig, NecModel, save_model  # noqa: E402
from nec.models.bottleneck import FactorizedBottleneck  # noqa: E402
from nec.models.vit import Block, resize_positions, sincos_positions  # noqa: E402

TINY = {
    "image_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2,
}  # fmt: skip


def tiny(**changes) -> NecModel:
    torch.manual_seed(0)
    return NecModel(ModelConfig.from_dict(TINY | changes)).eval()


def test_block_agrees_with_torchs_own_transformer_layer() -> None:
    """`nn.TransformerEncoderLayer` is another implementation of the same block."""
    torch.manual_seed(1)
    ours = Block(24, 3).eval()
    other = nn.TransformerEncoderLayer(
        24, 3, 96, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    names = {
        "norm1": "norm1", "norm2": "norm2", "attn.qkv": "self_attn.in_proj_", "attn.proj": "self_attn.out_proj",
        "mlp.fc1": "linear1", "mlp.fc2": "linear2",
    }  # fmt: skip
    state = {}
    for mine, theirs in names.items():
        for part in ("weight", "bias"):
            key = theirs + part if theirs.endswith("_") else f"{theirs}.{part}"
            state[key] = ours.state_dict()[f"{mine}.{part}"]
    other.load_state_dict(state)
    x = torch.randn(2, 7, 24)
    torch.testing.assert_close(ours(x), other(x), rtol=1e-5, atol=1e-5)


def test_positions_follow_the_formula() -> None:
    table = sincos_positions(16, (3, 5))[0].numpy()
    assert table.shape == (16, 16)
    assert not table[0].any()
    for row, column in [(0, 0), (2, 3), (1, 4)]:
        wanted = []
        for place in (column, row):
            angles = [place / 10000 ** (i / 4) for i in range(4)]
            wanted += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(table[1 + row * 5 + column], wanted, atol=1e-6)


def test_positions_interpolate_to_other_grids() -> None:
    native = sincos_positions(16, (4, 4))
    assert resize_positions(native, (4, 4), (4, 4)) is native
    larger = resize_positions(native, (4, 4), (8, 8))
    assert larger.shape == (1, 65, 16)
    torch.testing.assert_close(larger[:, 0], native[:, 0])
    # Twice the grid: averages of 2x2 neighbours lie near the native positions inside the grid.
    image = larger[:, 1:].reshape(8, 8, 16).unflatten(0, (4, 2)).unflatten(2, (4, 2)).mean(dim=(1, 3))
    assert (image - native[:, 1:].reshape(4, 4, 16))[1:3, 1:3].abs().max() < 0.06


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 48), (8, 24)])
@pytest.mark.parametrize("bands", [1, 3, 12])
def test_any_size_and_any_number_of_bands(height: int, width: int, bands: int) -> None:
    model = tiny(in_channels=bands)
    images = model.normalize(np.random.default_rng(0).integers(0, 256, (2, height, width, bands), dtype=np.uint8))
    with torch.inference_mode():
        assert model.token_grid(images).shape == (2, height // 8, width // 8, 24)
        if height * width >= 4 * 64:
            assert model(images)["prediction"].shape == (2, height * width // 64, 64 * bands)
    torch.testing.assert_close(model.unpatchify(model.patchify(images), (height // 8, width // 8)), images)


def test_patch_order_is_row_column_band() -> None:
    model = tiny()
    images = torch.arange(3 * 32 * 32, dtype=torch.float32).reshape(1, 3, 32, 32)
    patch = model.patchify(images)[0, 5].reshape(8, 8, 3)  # token (1, 1)
    for row, column, band in [(0, 0, 0), (3, 7, 1), (7, 2, 2)]:
        assert patch[row, column, band] == images[0, band, 8 + row, 8 + column]


def test_normalised_pixels_have_unit_variance() -> None:
    images = torch.randn(2, 3, 32, 32) * 5 + 2
    target = tiny(norm_pix_loss=True).target(images)
    torch.testing.assert_close(target.mean(dim=-1), torch.zeros(2, 16), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(dim=-1), torch.ones(2, 16), atol=1e-4, rtol=0)


def test_decoder_stage_is_the_first_stage_of_the_decoder() -> None:
    model = tiny()
    tokens = torch.randn(2, 16, 24)
    stage = model.decoder_stage()
    with torch.inference_mode():
        x = model.decoder_embed(tokens) + model.decoder_pos_embed[:, 1:]
        torch.testing.assert_close(stage(tokens), model.decoder_blocks[0](x))
    next(stage.parameters()).data.zero_()  # a copy: the model keeps its own
    assert model.decoder_embed.weight.abs().sum() > 0


def test_density_of_the_prior_is_a_density() -> None:
    """Likelihoods of all integers around the median sum to one, and follow the data after training."""
    torch.manual_seed(0)
    bottleneck = FactorizedBottleneck(2)
    data = torch.randn(4096, 2) * torch.tensor([0.5, 4.0]) + torch.tensor([0.0, 3.0])
    optimizer = torch.optim.Adam(bottleneck.parameters(), 0.02)
    for _ in range(300):
        _, likelihoods = bottleneck(data)
        (-likelihoods["latent"].log2().mean() + bottleneck.aux_loss() / 1000).backward()
        optimizer.step()
        optimizer.zero_grad()
    grid = torch.arange(-200, 201, dtype=torch.float32)[:, None].expand(-1, 2)
    torch.testing.assert_close(bottleneck.likelihoods(grid).sum(0), torch.ones(2), atol=1e-3, rtol=0)
    for channel, (scale, mean) in enumerate([(0.5, 0.0), (4.0, 3.0)]):
        normal = torch.distributions.Normal(mean, scale)
        wanted = normal.cdf(grid[:, 0] + 0.5) - normal.cdf(grid[:, 0] - 0.5)
        entropy = -(wanted * wanted.clamp(min=1e-12).log2()).sum()
        learned = -(wanted * bottleneck.likelihoods(grid)[:, channel].log2()).sum()
        assert learned < entropy + 0.1


def test_folder_round_trip(tmp_path: Path) -> None:
    model = tiny(kind="factorized", in_channels=4)
    codec = nec.EmbeddingCodec.fit(np.random.default_rng(0).normal(size=(8, 4, 4, 24)).astype(np.float32))
    model.codec = codec
    save_model(model, tmp_path / "m", recipe={"seed": 3}, half=False)
    again = nec.load_model(tmp_path / "m")
    assert again.name == "m"
    assert len(again.sha256) == 64
    assert again.config == model.config
    assert again.codec is not None
    assert again.codec.id == codec.id
    images = torch.randn(2, 4, 32, 32)
    torch.testing.assert_close(again.quantized(images), model.quantized(images))
    with pytest.raises(nec.InputError, match="overwrite"):
        save_model(model, tmp_path / "m")
    save_model(model, tmp_path / "m", overwrite=True)  # now in half precision
    assert nec.load_model(tmp_path / "m").token_grid(images).sub(model.token_grid(images)).abs().max() < 0.05
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_timm_encoder_loads_without_decoder(tmp_path: Path) -> None:
    state = {k: v for k, v in tiny().state_dict().items() if "decoder" not in k and k != "mask_token"}
    torch.save(state | {"head.weight": torch.zeros(10, 24), "head.bias": torch.zeros(10)}, tmp_path / "vit.pth")
    model = nec.load_model(tmp_path / "vit.pth", config=TINY)
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model.token_grid(images), tiny().token_grid(images))
    with pytest.raises(nec.InputError, match="encoder alone"):
        model.decoder_stage()
    with pytest.raises(nec.InputError, match="encoder alone"):
        model(images)


class Mischief:
    def __reduce__(self):
        return (print, ("unsafe code ran",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint", "cannot be read safely|can be read safely"),
        ({"model": {"a": 1}}, "no state dict"),
        ({"model": Mischief()}, "can be read safely"),
        ({"model": {"cls_token": torch.zeros(1, 1, 24)}}, "does not fit its configuration"),
    ],
)
def test_bad_checkpoints_are_one_clear_error(tmp_path: Path, content, message: str, capsys) -> None:
    file = tmp_path / "bad.pt"
    file.write_bytes(content) if isinstance(content, bytes) else torch.save(content, file)
    with pytest.raises(nec.InputError, match=message):
        nec.load_model(file, config=TINY)
    assert "unsafe code ran" not in capsys.readouterr().out


def test_options_beside_the_weights_are_allowed_and_nothing_else(tmp_path: Path) -> None:
    torch.save({"model": tiny().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "a.pt")
    assert nec.load_model(tmp_path / "a.pt", config=TINY).config.kind == "mae"
    torch.save({"model": tiny().state_dict(), "args": Mischief()}, tmp_path / "b.pt")
    with pytest.raises(nec.InputError):
        nec.load_model(tmp_path / "b.pt", config=TINY)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    torch.save({"model": tiny().state_dict()}, tmp_path / "a.pt")
    with pytest.raises(nec.InputError, match=r"cls_token is \(1, 1, 24\), not \(1, 1, 48\)"):
        nec.load_model(tmp_path / "a.pt", config=TINY | {"embed_dim": 48})
    with pytest.raises(nec.InputError, match="missing"):
        nec.load_model(tmp_path / "a.pt", config=TINY | {"depth": 5})
    with pytest.raises(nec.InputError, match="unknown key 'width'"):
        nec.load_model(tmp_path / "a.pt", config=TINY | {"width": 5})


def test_damaged_folders_are_clear_errors(tmp_path: Path) -> None:
    save_model(tiny(), tmp_path / "m")
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(nec.InputError, match="safetensors"):
        nec.load_model(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(json.dumps({"hello": 1}))
    with pytest.raises(nec.InputError, match="not a model configuration"):
        nec.load_model(tmp_path / "m")
    with pytest.raises(nec.InputError, match="none of that name ships"):
        nec.load_model("no-such-model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "multiple of patch_size"),
        ({"kind": "other"}, "kind"),
        ({"mean": [0.5]}, "mean has 1 values for 3 bands"),
        ({"depth": 1, "embed_dim": 0}, "embed_dim"),
    ],
)
def test_bad_configurations(changes: dict, message: str) -> None:
    with pytest.raises(nec.InputError, match=message):
        ModelConfig.from_dict(TINY | changes)


def test_images_that_do_not_fit_are_refused() -> None:
    model = tiny()
    with pytest.raises(nec.InputError, match="multiple of the patch size 8"):
        model.token_grid(torch.zeros(1, 3, 30, 32))
    with pytest.raises(nec.InputError, match="3, h, w"):
        model.token_grid(torch.zeros(1, 4, 32, 32))
    with pytest.raises(nec.InputError, match="h, w, 3"):
        model.normalize(np.zeros((1, 32, 32, 1), np.uint8))
    with pytest.raises(nec.InputError, match="no bottleneck"):
        model.quantized(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": 10**9}, "it has 2 blocks, not 1000000000"),
        ({"embed_dim": 24 * 10**7}, "does not fit its configuration"),
        ({"image_size": 8 * 10**8}, "pos_embed is"),
        ({"decoder_embed_dim": 12 * 10**7}, "decoder_embed.weight is"),
        ({"mlp_ratio": 1e9}, "blocks.0.mlp.fc1.weight is"),
        ({"kind": "hyperprior", "hyper_channels": 10**9, "hyper_heads": 1}, "bottleneck.h_a.0.weight is missing"),
        ({"depth": "4"}, "depth must be a number of blocks, got '4'"),
        ({"mlp_ratio": float("nan")}, "mlp_ratio must be a number"),
        ({"mean": "abc"}, "mean must be a list of numbers"),
        ({"std": [0, 0, 0]}, "std must be positive"),
        ({"bands": 5}, "bands must be a list of names"),
        ({"reflectance": [1]}, "reflectance has 1 values"),
        ({"kind": []}, "kind must be one of"),
        ({"num_heads": 7}, "embed_dim 24 is not a multiple of num_heads 7"),
    ],
)
def test_sizes_are_checked_against_the_weights_before_anything_is_built(
    tmp_path: Path, changes: dict, message: str
) -> None:
    save_model(tiny(), tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    document = json.loads(config.read_text())
    document["model"].update(changes)
    config.write_text(json.dumps(document))
    with pytest.raises(nec.InputError, match=message):
        nec.load_model(tmp_path / "m")
