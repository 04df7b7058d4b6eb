"""Pre-training and adaptation: they learn, resume exactly, and train what they should."""

from __future__ import annotations

import csv
import logging
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import nec
from nec.models import NecModel
from nec.training import (
    AdaptOptions,
    FactorizedSettings,
    HierarchicalSettings,
    HyperpriorSettings,
    Run,
    TrainingSettings,
    trainer,
)
from nec.training import adapt as adapt_to_folder
from nec.training import pretrain as pretrain_to_folder
from nec.training.batches import Images, rank_share, step_indices
from nec.training.module import MaskedTraining, treatment
from nec.training.optim import parameter_groups
from nec.training.start import freeze, with_bottleneck

SETTINGS = TrainingSettings(epochs=4, batch_size=16, blr=0.03, crop_scale=(0.5, 1.0))


def pretrain(config, dataset, out, settings=SETTINGS, **run) -> NecModel:
    """`nec.training.pretrain` on one processor, and the model that it wrote."""
    at = Run(accelerator="cpu", devices=1, **run)
    assert pretrain_to_folder(dataset, out, config=config, settings=settings, run=at, progress=False).path == str(out)
    return nec.load_model(out)


def adapt(model, dataset, out, settings, **run) -> NecModel:
    at = Run(accelerator="cpu", devices=1, **run)
    assert adapt_to_folder(model, dataset, out, settings=settings, run=at, progress=False).path == str(out)
    return nec.load_model(out)


def weights(model: NecModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretraining_learns_and_writes_a_model(optimizer: str, config, dataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=25, blr=0.1, optimizer=optimizer, turns=True)
    pretrain(config, dataset, tmp_path / "m", settings)
    with (tmp_path / "m.run" / "csv" / "version_0" / "metrics.csv").open() as file:
        losses = [float(row["val/recon_loss"]) for row in csv.DictReader(file) if row["val/recon_loss"]]
    assert losses[0] > 0.6  # normalised patches: a constant gives 1
    assert losses[-1] < 0.1 * losses[0]
    assert list((tmp_path / "m.run" / "tensorboard").iterdir())


@pytest.mark.slow
def test_adaptation_trades_bytes_for_distortion(config, dataset, tmp_path: Path) -> None:
    base = pretrain(config, dataset, tmp_path / "base", replace(SETTINGS, epochs=25, blr=0.1))
    figures = {}
    for lmbda in (1.0, 3000.0):
        settings = FactorizedSettings(epochs=30, batch_size=16, blr=0.2, lmbda=lmbda, latent_scale=3.0)
        model = adapt(base, dataset, tmp_path / f"adapted{lmbda}", settings)
        images = model.normalize(dataset.images[70:])
        noise = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            out = model(images, noise)
        figures[lmbda] = out["bits"].item(), out["recon_loss"].item()
    assert figures[1.0][0] < 0.7 * figures[3000.0][0]
    assert figures[1.0][1] > 2 * figures[3000.0][1]
    recipe = (tmp_path / "adapted1.0" / "config.json").read_text()
    assert '"lmbda": 1.0' in recipe
    assert '"trainable_blocks": 1' in recipe


def test_adapter_trains_the_papers_part_and_leaves_the_rest(config, dataset, tmp_path: Path) -> None:
    base = NecModel(config)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    settings = FactorizedSettings(epochs=1, batch_size=16, blr=0.03)
    model = adapt(base, dataset, tmp_path / "m", settings)
    moved = {key for key, value in model.state_dict().items() if key in before and not torch.equal(value, before[key])}
    still = set(before) - moved
    assert all(key.startswith(("blocks.0.", "decoder_blocks.1.")) or "pos_embed" in key for key in still), still
    assert {"blocks.1.attn.qkv.weight", "decoder_blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"} <= moved
    assert {"cls_token", "norm.weight", "decoder_embed.weight", "decoder_pred.weight", "mask_token"} <= moved


def test_a_cut_encoder_keeps_its_blocks_and_gets_a_decoder(config, dataset, tmp_path: Path) -> None:
    base = pretrain(config, dataset, tmp_path / "base", replace(SETTINGS, epochs=25, blr=0.1))
    options = {"run": Run(accelerator="cpu", devices=1), "progress": False}
    settings = replace(SETTINGS, epochs=15, blr=0.1)
    pretrain_to_folder(dataset, tmp_path / "cut", cut=(base, 1), settings=settings, **options)
    model = nec.load_model(tmp_path / "cut")
    images = base.normalize(dataset.images[70:])
    seen = []
    handle = base.blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    with torch.inference_mode():
        base.tokens(images)
        handle.remove()
        wanted = torch.nn.functional.layer_norm(seen[0], (16,), eps=1e-6)
        torch.testing.assert_close(model.tokens(images), wanted)
        noise = torch.rand(len(images), 16, generator=torch.Generator().manual_seed(0))
        assert model(images, noise)["recon_loss"] < 0.3
    assert model.config.depth == 1
    with pytest.raises(nec.InputError, match="has 2"):
        pretrain_to_folder(dataset, tmp_path / "no", cut=(base, 3), **options)


def test_a_model_is_trained_on_from_where_it_was(config, dataset, tmp_path: Path) -> None:
    torch.manual_seed(3)
    base = NecModel(config)
    still = replace(SETTINGS, epochs=0.02, batch_size=2, blr=1e-12)
    options = {"settings": still, "run": Run(accelerator="cpu", devices=1), "progress": False}
    report = pretrain_to_folder(dataset, tmp_path / "m", model=base, **options)
    assert (report.kind, report.steps) == ("mae", 1)
    torch.testing.assert_close(weights(nec.load_model(tmp_path / "m")), weights(base), atol=1e-6, rtol=0)
    for wrong in ({"cut": (base, 1)}, {"config": ["vit-t"]}):
        with pytest.raises(nec.InputError, match=r"config|exclude"):
            pretrain_to_folder(dataset, tmp_path / "no", model=base, **wrong, **options)
    adapted = with_bottleneck(base, FactorizedSettings())
    with pytest.raises(nec.InputError, match="trained on"):
        pretrain_to_folder(dataset, tmp_path / "no", model=adapted, **options)


def test_a_training_leaves_random_states_and_logging_alone(config, dataset, tmp_path: Path) -> None:
    logger = logging.getLogger("lightning.pytorch")
    before = torch.get_rng_state(), random.getstate(), logger.level
    options = {"run": Run(accelerator="cpu", devices=1), "progress": False}
    pretrain_to_folder(dataset, tmp_path / "m", config=config, settings=replace(SETTINGS, epochs=0.5), **options)
    settings = HierarchicalSettings(epochs=0.5, batch_size=16, principal_axes=True)
    with torch.random.fork_rng(devices=[]):
        base = nec.load_model(tmp_path / "m")
    adapt_to_folder(base, dataset, tmp_path / "adapted", settings=settings, **options)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), logger.level) == before[1:]


def test_latent_scale_changes_the_tokens_and_not_the_reconstruction(config) -> None:
    base = NecModel(config).eval()
    scaled = with_bottleneck(base, FactorizedSettings(latent_scale=64.0)).eval()
    images, noise = torch.randn(4, 3, 16, 16), torch.rand(4, 16)
    torch.testing.assert_close(scaled.token_grid(images), 64 * base.token_grid(images))
    with torch.inference_mode():  # steps of 1 in tokens of about 64: nearly no distortion
        change = scaled(images, noise)["prediction"] - base(images, noise)["prediction"]
    assert change.abs().max() < 0.1


@pytest.mark.parametrize("blocks", [None, 0, 2])
def test_how_many_blocks_train(blocks: int | None, config) -> None:
    model = NecModel(config)
    freeze(model, blocks)
    trained = [all(p.requires_grad for p in block.parameters()) for block in model.blocks]
    assert trained == [blocks is None or i >= 2 - blocks for i in range(2)]
    with pytest.raises(nec.InputError, match="2 blocks"):
        freeze(model, 3)


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_blocks_of_any_module_are_found_by_name(blocks: int) -> None:
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.TransformerEncoder(layer, 3), torch.nn.LayerNorm(8))
    freeze(model, blocks, "1.layers")
    trained = {".".join(name.split(".")[:3]) for name, p in model.named_parameters() if p.requires_grad}
    outside = {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert trained == outside | {f"1.layers.{i}" for i in range(3 - blocks, 3)}
    for wrong in ("layers", "1.blocks"):
        with pytest.raises(nec.InputError, match=wrong):
            freeze(model, blocks, wrong)


def test_an_encoder_without_a_decoder_adapts_by_features(config, dataset, tmp_path: Path) -> None:
    """Its last block, its norm and what lies before the blocks move; the other block stays."""
    base = NecModel(replace(config, decoder_depth=0))
    before = {key: value.clone() for key, value in base.state_dict().items()}
    settings = HierarchicalSettings(epochs=1, batch_size=16, blr=0.03, latent_scale=2.0)
    model = adapt(base, dataset, tmp_path / "m", settings)
    assert (model.config.kind, model.config.decoder_depth) == ("hierarchical", 0)
    moved = {key for key, value in before.items() if not torch.equal(value, model.state_dict()[key])}
    assert {"blocks.1.attn.qkv.weight", "norm.weight", "patch_embed.proj.weight", "cls_token"} <= moved
    assert not [key for key in moved if key.startswith("blocks.0.") or "pos_embed" in key]
    for wrong in (FactorizedSettings(), replace(settings, distortion="mix")):
        with pytest.raises(nec.InputError, match="distortion features"):
            adapt(base, dataset, tmp_path / "no", wrong)


def test_epochs_visit_every_image_once_and_batches_run_on() -> None:
    seen = np.concatenate([step_indices(step, 4, 10, seed=3) for step in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert not np.array_equal(seen[:10], seen[10:])


def test_devices_share_a_batch_evenly() -> None:
    assert [rank_share(12, rank, 3) for rank in range(3)] == [slice(0, 4), slice(4, 8), slice(8, 12)]
    with pytest.raises(nec.InputError, match="shared evenly"):
        rank_share(10, 0, 3)


def columns(run: Path) -> dict[str, np.ndarray]:
    """Columns of a run's metrics.csv, without the empty cells."""
    with next(run.glob("csv/*/metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    return {key: np.array([float(row[key]) for row in rows if row[key]]) for key in rows[0]}


CODED = HierarchicalSettings(
    epochs=2, batch_size=16, blr=0.03, lmbda=50.0, distortion="mix", quantization="mixed", symmetries=1
)
FACTORIZED = FactorizedSettings(epochs=2, batch_size=16, blr=0.03, lmbda=50.0, quantization="mixed")


@pytest.mark.slow
def test_adaptation_through_the_codec_gives_one_model_for_all_qualities(config, dataset, tmp_path: Path) -> None:
    """The folder holds the refitted codec; images that no one trained on code with it, in bytes that follow quality."""
    base = NecModel(config)
    again = adapt(base, dataset, tmp_path / "m", CODED)
    assert again.config.kind == "hierarchical"
    assert again.codec.version == 2
    assert not [key for key in load_file(tmp_path / "m" / "model.safetensors") if key.startswith("bottleneck.")]
    images = again.normalize(dataset.images[70:])
    with torch.inference_mode():
        tokens = again.token_grid(images)
        sizes = [len(again.codec.encode(tokens.numpy(), 2 ** (level / 8))) for level in range(-24, 17, 4)]
        values = again.quantized(images)[:, 1:].unflatten(1, (4, 4))
        out = again(images, torch.rand(26, 16, generator=torch.Generator().manual_seed(0)))
    assert all(low < high < 2 * low + 40 for low, high in pairwise(sizes))
    decoded = again.codec.decode(again.codec.encode(tokens.numpy(), 1.0))
    assert np.square(values.numpy() - decoded).sum() < 1e-3 * np.square(decoded - decoded.mean((0, 1, 2))).sum()
    assert out["bits"].item() / 8 == pytest.approx(len(again.codec.encode(tokens.numpy(), 1.0)), rel=0.1, abs=40)
    assert out["recon_loss"].item() == pytest.approx(out["recon_losses"].mean().item())
    (tmp_path / "m" / "codec.json").unlink()
    with pytest.raises(nec.InputError, match="lacks codec"):
        nec.load_model(tmp_path / "m")


@pytest.mark.slow
@pytest.mark.parametrize("distortion", ["pixels", "features"])
def test_what_trains_through_the_codec(distortion: str, config, dataset, tmp_path: Path) -> None:
    """Features need no decoder, which stays as it was; levels and noise, too, come from the seed alone."""
    base = NecModel(config)
    settings = replace(CODED, distortion=distortion, quantization="noise", epochs=1)
    before = {key: value.clone() for key, value in base.state_dict().items()}
    first = adapt(base, dataset, tmp_path / "a", settings)
    moved = {key for key, value in first.state_dict().items() if key in before and not torch.equal(value, before[key])}
    assert {"norm.weight", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight"} <= moved
    assert any(key.startswith("decoder_") for key in moved) == (distortion == "pixels")
    torch.rand(100)
    second = adapt(base, dataset, tmp_path / "b", settings)
    assert torch.equal(weights(first), weights(second))
    other = adapt(base, dataset, tmp_path / "c", replace(settings, seed=1))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.slow
def test_features_can_aim_at_means_over_symmetries(config, dataset, tmp_path: Path) -> None:
    """What one pass of the adapted model gives turns with the image as the teacher's mean does, and lies nearer to it.

    Means by position are the teacher's own: they do not turn.
    """
    base = NecModel(config).eval()
    settings = replace(
        CODED, distortion="features", quantization="straight-through", symmetries=8, turns=True, epochs=40,
        blr=0.05, trainable_blocks=None, quality_range=(2.0, 2.0),
    )  # fmt: skip
    adapted = adapt(base, dataset, tmp_path / "m", settings)
    images = base.normalize(dataset.images[70:])
    with torch.no_grad():
        plain, found = base.token_grid(images), adapted.token_grid(images)
        places = base.token_grid(base.normalize(dataset.images[:70])).mean(0)
        total = torch.zeros_like(plain)
        for flipped in (False, True):
            for turns in range(4):
                view = torch.rot90(images.flip(3) if flipped else images, turns, (2, 3))
                tokens = torch.rot90(base.token_grid(view) - places, -turns, (1, 2))
                total += tokens.flip(2) if flipped else tokens
    aim = total / 8 + places
    assert (found - aim).square().mean() < 0.5 * (plain - aim).square().mean()


def test_each_prior_has_its_own_settings() -> None:
    priors = ("factorized", "hyperprior", "hierarchical")
    assert [AdaptOptions(prior=p).settings().lmbda for p in priors] == [3e4, 3e4, 2.3e6]
    assert AdaptOptions(prior="hierarchical", lmbda=10.0).settings().lmbda == 10.0
    assert AdaptOptions(prior="hyperprior", hyper_heads=2).settings() == HyperpriorSettings(hyper_heads=2)
    assert AdaptOptions(trainable_blocks="all").settings() == FactorizedSettings(trainable_blocks=None)
    chosen = {
        ("features", 8, "straight-through"): AdaptOptions(prior="hierarchical"),
        ("mix", 8, "straight-through"): AdaptOptions(prior="hierarchical", distortion="mix"),
        ("pixels", 1, "straight-through"): AdaptOptions(prior="hierarchical", distortion="pixels"),
        ("features", 1, "noise"): AdaptOptions(prior="hierarchical", symmetries=1, quantization="noise"),
        ("pixels", 1, "noise"): AdaptOptions(prior="hyperprior"),
    }
    for expected, options in chosen.items():
        recorded = options.settings().to_dict()
        assert (recorded["distortion"], recorded["symmetries"], recorded["quantization"]) == expected
        assert AdaptOptions.read(recorded, "settings").settings() == options.settings()
    for wrong in (
        {"prior": "factorized", "distortion": "mix"},
        {"prior": "factorized", "symmetries": 8},
        {"prior": "hyperprior", "distortion": "pixels", "quantization": "straight-through"},
        {"prior": "hierarchical", "quality_range": (2.0, 1.0)},
        {"prior": "hierarchical", "distortion": "edges"},
        {"prior": "hierarchical", "symmetries": 3},
        {"prior": "hierarchical", "symmetries": 8, "distortion": "pixels"},
        {"prior": "other"},
    ):
        with pytest.raises(nec.InputError, match=r"distortion|quantization|quality_range|symmetries|prior 'other'"):
            AdaptOptions(**wrong).settings()


def test_settings_are_recorded_as_they_always_were() -> None:
    """Keys and values that models of 0.1 hold; whoever looks for a model by its settings finds it."""
    assert FactorizedSettings(epochs=1, lmbda=50.0).to_dict() == {
        "epochs": 1, "batch_size": 256, "blr": 1.5e-4, "warmup_epochs": 1.0, "weight_decay": 0.01, "optimizer": "adamw",
        "crop_scale": [0.2, 1.0], "turns": False, "decoded_share": 1.0, "precision": "32-true", "seed": 0,
        "lmbda": 50.0, "trainable_blocks": 1, "latent_scale": 1.0, "quantiles_lr": 0.001, "principal_axes": False,
        "prior_lr": None, "prior_scale": 10.0, "quantization": "noise", "prior": "factorized", "distortion": "pixels",
        "symmetries": 1, "quality_range": [0.03, 2.0], "hyper_channels": 96, "hyper_heads": 4,
    }  # fmt: skip
    every = set(FactorizedSettings().to_dict())
    assert all(set(kind().to_dict()) == every for kind in (HyperpriorSettings, HierarchicalSettings))


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("adapted", [False, True, "hierarchical"])
def test_accumulated_parts_give_the_step_of_the_whole_batch(
    parts: int, adapted: bool | str, config, dataset, tmp_path: Path
) -> None:
    base = NecModel(config)
    for accumulate in (1, parts):
        out = tmp_path / f"m{accumulate}"
        if adapted:
            settings = CODED if adapted == "hierarchical" else FACTORIZED
            adapt(base, dataset, out, settings, accumulate=accumulate)
        else:
            pretrain(config, dataset, out, replace(SETTINGS, epochs=2), accumulate=accumulate)
    whole, cut = (columns(tmp_path / f"m{n}.run") for n in (1, parts))
    assert list(whole) == list(cut)
    assert len(whole["train/loss"]) == 9  # a row a step, not a part
    for key in whole:
        np.testing.assert_allclose(cut[key], whole[key], rtol=1e-4, atol=1e-4, err_msg=key)


def test_learning_rates_follow_warmup_and_cosine_and_the_quantiles_stay(config, dataset, tmp_path: Path) -> None:
    """What the optimiser used, as logged, against the formulas of MAE (linear scaling, warm-up, half a cosine)."""
    settings = FactorizedSettings(epochs=4, batch_size=14, blr=0.1, warmup_epochs=1, quantiles_lr=0.02)
    adapt(NecModel(config), dataset, tmp_path / "m", settings)  # 70 images: 5 steps an epoch
    rates = {key: value for key, value in columns(tmp_path / "m.run").items() if key.startswith("lr-")}
    peak = 0.1 * 14 / 256
    rising = peak * np.arange(1, 6) / 5
    falling = peak * np.cos(np.pi / 2 * np.arange(15) / 15) ** 2  # half-angle form
    constant = [key for key, rate in rates.items() if np.ptp(rate) == 0]
    assert len(constant) == 1
    np.testing.assert_allclose(rates.pop(constant[0])[:20], 0.02)
    for rate in rates.values():
        np.testing.assert_allclose(rate[:20], np.concatenate([rising, falling]), rtol=1e-6)


@pytest.mark.parametrize("kind", ["adamw", "muon", "factorized", "hierarchical"])
def test_a_run_interrupted_twice_goes_on_from_the_later_checkpoint(
    kind: str, config, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The resumed run is the uninterrupted one, to the bit, from wherever in an epoch it was cut."""
    started: list[int] = []
    stops = iter([3, 9])

    class Stopping(MaskedTraining):
        def on_train_start(self) -> None:
            started.append(self.trainer.global_step)
            self.stop = next(stops, None)

        def training_step(self, batch, batch_idx) -> None:
            if batch[0] == self.stop:
                raise KeyboardInterrupt
            super().training_step(batch, batch_idx)

    base = NecModel(config)
    adaptations = {"factorized": replace(FACTORIZED, epochs=4), "hierarchical": replace(CODED, epochs=4)}

    def make(name: str, seed: int = 0, **run) -> NecModel:
        if kind in adaptations:
            return adapt(base, dataset, tmp_path / name, replace(adaptations[kind], seed=seed), **run)
        return pretrain(config, dataset, tmp_path / name, replace(SETTINGS, optimizer=kind, seed=seed), **run)

    whole = make("whole")
    monkeypatch.setattr(trainer, "MaskedTraining", Stopping)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            make("m", resume=resume, checkpoint_minutes=0.0)
        assert {path.name for path in (tmp_path / "m.run").iterdir()} == {"csv", "tensorboard", "last.safetensors"}
        assert not (tmp_path / "m").exists()
    with pytest.raises(nec.InputError, match="--resume"):
        make("m")
    with pytest.raises(nec.InputError, match="other settings"):
        make("m", seed=5, resume=True)
    resumed = make("m", resume=True)
    assert started == [0, 3, 9]
    assert torch.equal(weights(resumed), weights(whole))
    assert not (tmp_path / "m.run" / "last.safetensors").exists()


def test_bad_requests_leave_nothing_behind(config, dataset, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(nec.InputError, match="exists"):
        pretrain(config, dataset, tmp_path / "there", SETTINGS)
    with pytest.raises(nec.InputError, match="nothing to resume"):
        pretrain(config, dataset, tmp_path / "new", SETTINGS, resume=True)
    bands = replace(config, in_channels=4, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(nec.InputError, match="takes 4"):
        pretrain(bands, dataset, tmp_path / "new", SETTINGS)
    for accumulate in (0, 3):
        with pytest.raises(nec.InputError, match="shared evenly"):
            pretrain(config, dataset, tmp_path / "new", SETTINGS, accumulate=accumulate)
    adapted = with_bottleneck(NecModel(config), FactorizedSettings())
    with pytest.raises(nec.InputError, match="bottleneck already"):
        adapt(adapted, dataset, tmp_path / "new", FactorizedSettings())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
    for wrong in ({"epochs": 0}, {"crop_scale": (0.5, 0.2)}, {"decoded_share": 0}):
        with pytest.raises(nec.InputError, match=next(iter(wrong))):
            replace(SETTINGS, **wrong)


HYPER = HyperpriorSettings(epochs=1, batch_size=16, blr=0.03, hyper_channels=8, hyper_heads=2, latent_scale=4.0)


def test_adaptation_with_a_hyperprior(config, dataset, tmp_path: Path) -> None:
    """All of it trains, the folder loads, and the rate that is reported covers both latents of all tokens but CLS."""
    base = NecModel(config)
    torch.manual_seed(HYPER.seed)
    start = with_bottleneck(base, HYPER).bottleneck.state_dict()
    model = adapt(base, dataset, tmp_path / "m", HYPER)
    assert model.config.kind == "hyperprior"
    assert model.config.hyper_channels == 8
    assert not [key for key, value in model.bottleneck.named_parameters() if torch.equal(value, start[key])]
    images = model.normalize(dataset.images[70:86])
    with torch.inference_mode():
        out = model(images, torch.rand(16, 16, generator=torch.Generator().manual_seed(0)))
    _, figures = MaskedTraining(model, HYPER, Images(dataset, np.arange(8), 16, 3))._loss(out)
    both = [out["likelihoods"], out["hyper_likelihoods"]]
    wanted = sum(-part[:, 1:].double().log2().sum() for part in both) / 16 * 4 / 8  # a quarter is visible, CLS is not
    assert figures["bytes_per_image"].item() == pytest.approx(wanted.item(), rel=1e-5)
    assert out["bits"].item() == pytest.approx(sum(-part.double().log2().sum().item() for part in both), rel=1e-5)


def test_a_hyperprior_run_is_a_function_of_its_seed(config, dataset, tmp_path: Path) -> None:
    """Noise of both latents comes from the step's own generator, whatever else draws numbers meanwhile."""
    base = NecModel(config)
    first = adapt(base, dataset, tmp_path / "a", HYPER)
    torch.rand(1000)
    second = adapt(base, dataset, tmp_path / "b", HYPER)
    assert torch.equal(weights(first), weights(second))
    other = adapt(base, dataset, tmp_path / "c", replace(HYPER, seed=1))
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("prior", ["factorized", "hyperprior"])
@pytest.mark.parametrize(("blocks", "trained"), [(0, []), (1, ["blocks.1"]), (2, ["blocks.0", "blocks.1"]), (None, [])])
def test_exactly_the_published_parameters_train(prior: str, blocks: int | None, trained: list[str], config) -> None:
    """Last K encoder blocks, first decoder block, prior, everything outside the blocks; the positions never."""
    settings = HYPER if prior == "hyperprior" else FACTORIZED
    model = with_bottleneck(NecModel(config), settings)
    freeze(model, blocks)
    inside = {f"{part}.{i}" for part in ("blocks", "decoder_blocks") for i in range(2)}
    wanted = inside if blocks is None else {*trained, "decoder_blocks.0"}
    for name, parameter in model.named_parameters():
        block = ".".join(name.split(".")[:2])
        expected = "pos_embed" not in name if block not in inside else block in wanted
        assert parameter.requires_grad == expected, name
    grouped = [p for group in parameter_groups(model, lambda *p: treatment(*p, settings)) for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_principal_axes_sort_the_latents_by_energy_before_adaptation(config, dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    still = {"epochs": 0.02, "batch_size": 2, "blr": 1e-12, "warmup_epochs": 0, "prior_lr": 1e-12, "latent_scale": 2.0}
    model = NecModel(config).eval()
    turned = adapt(model, dataset, tmp_path / "axes", FactorizedSettings(principal_axes=True, **still))
    plain = adapt(model, dataset, tmp_path / "plain", FactorizedSettings(**still))
    images, mask = model.normalize(dataset.images), torch.rand(96, 16)
    with torch.no_grad():
        tokens = turned.tokens(images[:70])[:, 1:].flatten(0, 1)
        turned.bottleneck = plain.bottleneck = None  # compare what the decoders make of unquantised tokens
        torch.testing.assert_close(turned(images, mask)["recon_loss"], plain(images, mask)["recon_loss"])
    energy = tokens.var(dim=0)[:-1]
    assert torch.corrcoef(tokens.T[:4]).triu(1).abs().max() < 0.5
    assert energy[0] > 2 * energy[-1]
    assert energy[:5].sum() > energy[5:].sum()
