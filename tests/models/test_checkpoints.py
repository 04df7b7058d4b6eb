"""Checkpoints in other people's layouts: which names they have, which shapes, and what stands beside the weights."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import nec  # noqa: E402
from nec.models import PRESETS, ModelConfig, NecClassifier, NecModel, NecSegmenter  # noqa: E402
from nec.models.heads import SegmentationHead  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "fixtures" / "reference_nec"
CONFIG = GOLDEN / "config.json"
TINY = {
    "img_size": 32, "patch_size": 8, "in_chans": 3, "embed_dim": 24, "depth": 2, "num_heads": 2,
    "decoder_embed_dim": 16, "decoder_depth": 2, "decoder_num_heads": 2,
}  # fmt: skip
Shapes = dict[str, tuple[int, ...]]


def block_shapes(name: str, width: int) -> Shapes:
    layers = {
        "norm1": (width,), "attn.qkv": (3 * width, width), "attn.proj": (width, width), "norm2": (width,),
        "mlp.fc1": (4 * width, width), "mlp.fc2": (width, 4 * width),
    }  # fmt: skip
    return {
        f"{name}.{layer}.{part}": shape if part == "weight" else shape[:1]
        for layer, shape in layers.items()
        for part in ("weight", "bias")
    }


def encoder_shapes(width: int, depth: int, patch: int, image: int) -> Shapes:
    """State dict of `mae_pretrain_vit_*.pth` (facebookresearch/mae), which Remote-Sensing-RVSA's ViT-B shares."""
    shapes: Shapes = {"cls_token": (1, 1, width), "pos_embed": (1, (image // patch) ** 2 + 1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    for i in range(depth):
        shapes |= block_shapes(f"blocks.{i}", width)
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


def decoder_shapes(width: int, own: int, depth: int, patch: int, image: int) -> Shapes:
    """What `mae_pretrain_vit_*_full.pth` and a pre-training checkpoint have beside the encoder."""
    shapes: Shapes = {"mask_token": (1, 1, own), "decoder_pos_embed": (1, (image // patch) ** 2 + 1, own)}
    shapes |= {"decoder_embed.weight": (own, width), "decoder_embed.bias": (own,)}
    for i in range(depth):
        shapes |= block_shapes(f"decoder_blocks.{i}", own)
    shapes |= {"decoder_norm.weight": (own,), "decoder_norm.bias": (own,)}
    return shapes | {"decoder_pred.weight": (3 * patch**2, own), "decoder_pred.bias": (3 * patch**2,)}


ENCODER = encoder_shapes(24, 2, 8, 32)
DECODER = decoder_shapes(24, 16, 2, 8, 32)


def drawn(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) * 0.1 for key, shape in shapes.items()}


# Encoder and whole MAE: counts of timm's models without their heads, and of the published MAE checkpoints.
@pytest.mark.parametrize(
    ("name", "width", "depth", "patch", "encoder", "whole"),
    [
        ("vit-b", 768, 12, 16, 85_798_656, 111_907_840),
        ("vit-l", 1024, 24, 16, 303_301_632, 329_541_888),
        ("vit-h", 1280, 32, 14, 630_764_800, 657_074_508),
    ],
)
def test_presets_have_the_published_shapes(
    name: str, width: int, depth: int, patch: int, encoder: int, whole: int
) -> None:
    wanted = encoder_shapes(width, depth, patch, 224)
    assert sum(int(np.prod(shape)) for shape in wanted.values()) == encoder
    wanted |= decoder_shapes(width, 512, 8, patch, 224)
    assert sum(int(np.prod(shape)) for shape in wanted.values()) == whole
    with torch.device("meta"):
        model = NecModel(ModelConfig.from_dict(PRESETS[name]))
    assert {key: tuple(value.shape) for key, value in model.state_dict().items()} == wanted
    assert model.blocks[0].attn.heads == {"vit-b": 12, "vit-l": 16, "vit-h": 16}[name]
    assert model.decoder_blocks[0].attn.heads == 16


RVSA = {
    "optimizer": {"state": {0: {"step": 3}}, "param_groups": [{"lr": 1e-3}]},
    "epoch": 1599,
    "scaler": {"scale": 1.0},
}
LAYOUTS = {
    "MAE pre-trained, encoder": lambda: {"model": drawn(ENCODER)},
    "MAE pre-trained, full": lambda: {"model": drawn(ENCODER | DECODER)},
    "RVSA ViT-B, vit-b-checkpoint-1599": lambda: {
        "model": drawn(ENCODER | DECODER), **RVSA, "args": argparse.Namespace(model="mae_vit_base_patch16", blr=1.5e-4),
    },
    "timm": lambda: drawn(ENCODER | {"head.weight": (10, 24), "head.bias": (10,)}),
    "DistributedDataParallel": lambda: {"state_dict": {f"module.{k}": v for k, v in drawn(ENCODER | DECODER).items()}},
    "encoder with the decoder's leftovers": lambda: {
        "model": drawn(ENCODER | {key: DECODER[key] for key in ("mask_token", "decoder_pos_embed")})
    },
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_published_layouts_load(layout: str, tmp_path: Path) -> None:
    document = LAYOUTS[layout]()
    torch.save(document, tmp_path / "vit-b-checkpoint-1599.pth")
    model = nec.load_model(tmp_path / "vit-b-checkpoint-1599.pth", config=TINY)
    state = document.get("model", document.get("state_dict", document))
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = model.state_dict()
    assert set(own) == (set(ENCODER | DECODER) if "decoder_embed.weight" in state else set(ENCODER))
    for key, value in own.items():
        assert torch.equal(value, state[key]), key
    assert model.config.kind == "mae"
    assert model.name == "vit-b-checkpoint-1599"
    assert not model.training
    assert model.token_grid(torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_loss_on_normalised_pixels_is_maes(tmp_path: Path) -> None:
    """MAE's formula, patch by patch: the error to (patch - mean) / sqrt(var + 1e-6), its mean over removed patches."""
    torch.save({"model": drawn(ENCODER | DECODER)}, tmp_path / "m.pth")
    images, noise = torch.randn(2, 3, 32, 32) * 3 + 1, torch.rand(2, 16)
    losses = {}
    for normalised in (False, True):
        model = nec.load_model(tmp_path / "m.pth", config=TINY | {"norm_pix_loss": normalised})
        with torch.inference_mode():
            out = model(images, noise)
        errors = []
        for n in range(2):
            removed = noise[n].argsort().argsort() >= 4
            assert torch.equal(removed.float(), out["mask"][n])
            for token in torch.nonzero(removed).flatten().tolist():
                y, x = divmod(token, 4)
                patch = images[n, :, 8 * y : 8 * y + 8, 8 * x : 8 * x + 8].permute(1, 2, 0).flatten().double().numpy()
                if normalised:
                    patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 1e-6)
                errors.append(((out["prediction"][n, token].double().numpy() - patch) ** 2).mean())
        losses[normalised] = out["recon_loss"].item()
        assert losses[normalised] == pytest.approx(np.mean(errors), rel=1e-5)
    assert losses[True] != pytest.approx(losses[False], rel=0.1)


def older(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The prior's parameters under the names of older CompressAI."""
    names = {"matrices.": "_matrix", "biases.": "_bias", "factors.": "_factor"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace("bottleneck." + new, "bottleneck." + old)
        renamed[key] = value
    return renamed


@pytest.mark.parametrize("name", ["hyperprior", "classifier", "classifier_hyperprior", "segmenter_backbone"])
def test_older_names_load_everywhere(name: str, tmp_path: Path) -> None:
    state = torch.load(GOLDEN / f"{name}.pt", weights_only=True)["model"]
    assert set(older(state)) != set(state)
    torch.save({"model": older(state), "epoch": 19, "args": argparse.Namespace(lmbda=1e10)}, tmp_path / "m.pt")
    a, b = (nec.load_model(path, config=CONFIG).state_dict() for path in (GOLDEN / f"{name}.pt", tmp_path / "m.pt"))
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_what_a_loaded_classifier_offers() -> None:
    classifier = nec.load_model(GOLDEN / "classifier_hyperprior.pt", config=CONFIG)
    assert isinstance(classifier, NecClassifier)
    assert classifier.model.config.kind == "hyperprior"
    assert classifier.model.name == "classifier_hyperprior"
    assert len(classifier.model.sha256) == 64
    tokens = classifier.model.quantized(torch.zeros(1, 3, 32, 32))[:, 1:]
    wanted = classifier.head(classifier.pool(classifier.stage(tokens)))
    torch.testing.assert_close(classifier(torch.zeros(1, 3, 32, 32)), wanted)


@pytest.mark.parametrize("name", ["classifier", "segmenter_backbone"])
@pytest.mark.parametrize("damage", ["missing", "unknown"])
def test_heads_that_do_not_fit_are_named(name: str, damage: str, tmp_path: Path) -> None:
    state = torch.load(GOLDEN / f"{name}.pt", weights_only=True)["model"]
    if damage == "missing":
        del state["head.weight" if name == "classifier" else "conv_blocks.1.norm.running_var"]
    else:
        state["decode_head.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(nec.InputError, match=damage):
        nec.load_model(tmp_path / "m.pt", config=CONFIG)


@pytest.mark.parametrize("with_stage", [False, True])
@pytest.mark.parametrize("kind", ["mae", "factorized", "hyperprior"])
def test_classifiers_and_segmenters_of_any_model(kind: str, with_stage: bool) -> None:
    model = NecModel(ModelConfig.from_dict(TINY | {"kind": kind, "hyper_channels": 8, "hyper_heads": 2})).eval()
    stage = model.decoder_stage() if with_stage else None
    images = torch.randn(2, 3, 32, 32)
    assert NecClassifier(model, 5, stage).eval()(images).shape == (2, 5)
    segmenter = NecSegmenter(model, SegmentationHead(16 if with_stage else 24, 3, width=8, blocks=1), stage).eval()
    logits, auxiliary = segmenter(images)
    assert (logits.shape, auxiliary.shape) == ((2, 3, 16, 16), (2, 3, 4, 4))
    tokens = (model.tokens(images) if kind == "mae" else model.quantized(images))[:, 1:]
    tokens = stage(tokens) if stage is not None else tokens
    torch.testing.assert_close(logits, segmenter.head(tokens.unflatten(1, (4, 4)))[0])


def test_a_width_needs_its_number_of_heads(tmp_path: Path) -> None:
    """Weights do not tell it, and another number gives other embeddings without a word."""
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1}
    model = nec.models.NecModel(nec.models.ModelConfig.from_dict({**sizes, "num_heads": 2, "decoder_depth": 0}))
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    assert nec.load_model(tmp_path / "vit.pth", config={**sizes, "num_heads": 2}).config.num_heads == 2
    with pytest.raises(nec.InputError, match="num_heads"):
        nec.load_model(tmp_path / "vit.pth", config=sizes)
