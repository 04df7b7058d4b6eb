"""Pre-training and adaptation: they learn, resume exactly, and train what they should."""

from __future__ import annotations

import csv
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file

import nec
from nec.models import NecModel
from nec.training import AdaptSettings, TrainingSettings, adapt, pretrain, refit_decoder
from nec.training import run as training_run
from nec.training.batches import Images, rank_share, step_indices
from nec.training.module import MaskedTraining, parameter_groups
from nec.training.run import freeze, with_bottleneck

SETTINGS = TrainingSettings(epochs=4, batch_size=16, blr=0.03, crop_scale=(0.5, 1.0))
QUIET = {"progress": False, "accelerator": "cpu", "devices": 1}


def weights(model: NecModel) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_pretraining_learns_and_writes_a_model(optimizer: str, config, dataset, tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=25, blr=0.1, optimizer=optimizer, turns=True)
    model = pretrain(config, dataset, tmp_path / "m", settings, **QUIET)
    with (tmp_path / "m.run" / "csv" / "version_0" / "metrics.csv").open() as file:
        losses = [float(row["val/recon_loss"]) for row in csv.DictReader(file) if row["val/recon_loss"]]
    assert losses[0] > 0.6  # normalised patches: a constant gives 1
    assert losses[-1] < 0.1 * losses[0]
    again = nec.load_model(tmp_path / "m")
    torch.testing.assert_close(weights(again), weights(model), atol=2e-3, rtol=1e-3)  # stored in half precision
    assert list((tmp_path / "m.run" / "tensorboard").iterdir())


class StopAt(Callback):
    """Ctrl-C after a number of steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, module, *_) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(Path(trainer.default_root_dir) / training_run.CHECKPOINT)
            raise KeyboardInterrupt


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_resumed_in_the_middle_of_an_epoch_is_the_uninterrupted_run(
    optimizer: str, config, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(SETTINGS, optimizer=optimizer)
    whole = pretrain(config, dataset, tmp_path / "whole", settings, **QUIET)
    bar = training_run.TQDMProgressBar
    with monkeypatch.context() as patch:  # the progress bar's place in the list of callbacks takes the interruption
        patch.setattr(training_run, "TQDMProgressBar", lambda **_: StopAt(7))
        patch.setattr(training_run.lightning, "Trainer", _without_bar(training_run.lightning.Trainer))
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, dataset, tmp_path / "cut", settings, **(QUIET | {"progress": True}))
    assert training_run.TQDMProgressBar is bar
    assert not (tmp_path / "cut").exists()
    with pytest.raises(nec.InputError, match="--resume"):
        pretrain(config, dataset, tmp_path / "cut", settings, **QUIET)
    with pytest.raises(nec.InputError, match="other settings"):
        pretrain(config, dataset, tmp_path / "cut", replace(settings, seed=5), resume=True, **QUIET)
    resumed = pretrain(config, dataset, tmp_path / "cut", settings, resume=True, **QUIET)
    assert torch.equal(weights(resumed), weights(whole))


def _without_bar(trainer):
    return lambda **options: trainer(**(options | {"enable_progress_bar": False}))


@pytest.mark.slow
def test_adaptation_trades_bytes_for_distortion(config, dataset, tmp_path: Path) -> None:
    base = pretrain(config, dataset, tmp_path / "base", replace(SETTINGS, epochs=25, blr=0.1), **QUIET)
    figures = {}
    for lmbda in (1.0, 3000.0):
        settings = AdaptSettings(epochs=30, batch_size=16, blr=0.2, lmbda=lmbda, latent_scale=3.0)
        model = adapt(base, dataset, tmp_path / f"adapted{lmbda}", settings, **QUIET)
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
    settings = AdaptSettings(epochs=1, batch_size=16, blr=0.03)
    model = adapt(base, dataset, tmp_path / "m", settings, **QUIET)
    moved = {key for key, value in model.state_dict().items() if key in before and not torch.equal(value, before[key])}
    still = set(before) - moved
    assert all(key.startswith(("blocks.0.", "decoder_blocks.1.")) or "pos_embed" in key for key in still), still
    assert {"blocks.1.attn.qkv.weight", "decoder_blocks.0.mlp.fc1.weight", "patch_embed.proj.weight"} <= moved
    assert {"cls_token", "norm.weight", "decoder_embed.weight", "decoder_pred.weight", "mask_token"} <= moved


def test_a_cut_encoder_keeps_its_blocks_and_gets_a_decoder(config, dataset, tmp_path: Path) -> None:
    base = pretrain(config, dataset, tmp_path / "base", replace(SETTINGS, epochs=25, blr=0.1), **QUIET)
    model = refit_decoder(base, 1, dataset, tmp_path / "cut", replace(SETTINGS, epochs=15, blr=0.1), **QUIET)
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
    assert nec.load_model(tmp_path / "cut").config.depth == 1
    with pytest.raises(nec.InputError, match="has 2"):
        refit_decoder(base, 3, dataset, tmp_path / "no", **QUIET)


def test_latent_scale_changes_the_tokens_and_not_the_reconstruction(config) -> None:
    base = NecModel(config).eval()
    scaled = with_bottleneck(base, AdaptSettings(latent_scale=64.0)).eval()
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


CODED = AdaptSettings(
    epochs=2,
    batch_size=16,
    blr=0.03,
    lmbda=50.0,
    prior="hierarchical",
    distortion="mix",
    quantization="mixed",
    symmetries=1,
)


@pytest.mark.slow
def test_adaptation_through_the_codec_gives_one_model_for_all_qualities(config, dataset, tmp_path: Path) -> None:
    """The folder holds the refitted codec; images that no one trained on code with it, in bytes that follow quality."""
    base = NecModel(config)
    model = adapt(base, dataset, tmp_path / "m", CODED, **QUIET)
    again = nec.load_model(tmp_path / "m")
    assert again.config.kind == "hierarchical"
    assert again.codec.version == 2
    assert again.codec.id == model.codec.id
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
    first = adapt(base, dataset, tmp_path / "a", settings, **QUIET)
    moved = {key for key, value in first.state_dict().items() if key in before and not torch.equal(value, before[key])}
    assert {"norm.weight", "patch_embed.proj.weight", "blocks.1.attn.qkv.weight"} <= moved
    assert any(key.startswith("decoder_") for key in moved) == (distortion == "pixels")
    torch.rand(100)
    second = adapt(base, dataset, tmp_path / "b", settings, **QUIET)
    assert torch.equal(weights(first), weights(second))
    other = adapt(base, dataset, tmp_path / "c", replace(settings, seed=1), **QUIET)
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
    adapted = adapt(base, dataset, tmp_path / "m", settings, **QUIET)
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


def test_settings_of_the_hierarchical_prior_are_its_own() -> None:
    assert [AdaptSettings(prior=p).lmbda for p in ("factorized", "hyperprior", "hierarchical")] == [3e4, 3e4, 2.3e6]
    assert replace(AdaptSettings(prior="hierarchical"), trainable_blocks=2).lmbda == 2.3e6
    assert AdaptSettings(prior="hierarchical", lmbda=10.0).lmbda == 10.0
    chosen = {
        ("features", 8, "straight-through"): AdaptSettings(prior="hierarchical"),
        ("mix", 8, "straight-through"): AdaptSettings(prior="hierarchical", distortion="mix"),
        ("pixels", 1, "straight-through"): AdaptSettings(prior="hierarchical", distortion="pixels"),
        ("features", 1, "noise"): AdaptSettings(prior="hierarchical", symmetries=1, quantization="noise"),
        ("pixels", 1, "noise"): AdaptSettings(prior="hyperprior"),
    }
    for expected, settings in chosen.items():
        assert (settings.distortion, settings.symmetries, settings.quantization) == expected
    for wrong in (
        {"prior": "factorized"},
        {"prior": "hyperprior", "distortion": "pixels", "quantization": "straight-through"},
        {"quality_range": (2.0, 1.0)},
        {"distortion": "edges"},
        {"symmetries": 3},
        {"symmetries": 8, "distortion": "pixels"},
    ):
        with pytest.raises(nec.InputError, match=r"distortion|quantization|quality_range|symmetries"):
            replace(CODED, **wrong)


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("adapted", [False, True, "hierarchical"])
def test_accumulated_parts_give_the_step_of_the_whole_batch(
    parts: int, adapted: bool | str, config, dataset, tmp_path: Path
) -> None:
    base = NecModel(config)
    for accumulate in (1, parts):
        options = QUIET | {"accumulate": accumulate}
        if adapted:
            settings = CODED if adapted == "hierarchical" else replace(CODED, prior="factorized", distortion="pixels")
            adapt(base, dataset, tmp_path / f"m{accumulate}", settings, **options)
        else:
            pretrain(config, dataset, tmp_path / f"m{accumulate}", replace(SETTINGS, epochs=2), **options)
    whole, cut = (columns(tmp_path / f"m{n}.run") for n in (1, parts))
    assert list(whole) == list(cut)
    assert len(whole["train/loss"]) == 9  # a row a step, not a part
    for key in whole:
        np.testing.assert_allclose(cut[key], whole[key], rtol=1e-4, atol=1e-4, err_msg=key)


def test_learning_rates_follow_warmup_and_cosine_and_the_quantiles_stay(config, dataset, tmp_path: Path) -> None:
    """What the optimiser used, as logged, against the formulas of MAE (linear scaling, warm-up, half a cosine)."""
    settings = AdaptSettings(epochs=4, batch_size=14, blr=0.1, warmup_epochs=1, quantiles_lr=0.02)
    adapt(NecModel(config), dataset, tmp_path / "m", settings, **QUIET)  # 70 images: 5 steps an epoch
    rates = {key: value for key, value in columns(tmp_path / "m.run").items() if key.startswith("lr-")}
    peak = 0.1 * 14 / 256
    rising = peak * np.arange(1, 6) / 5
    falling = peak * np.cos(np.pi / 2 * np.arange(15) / 15) ** 2  # half-angle form
    *others, quantiles = (rates[key] for key in sorted(rates))
    np.testing.assert_allclose(quantiles[:20], 0.02)
    for rate in others:
        np.testing.assert_allclose(rate[:20], np.concatenate([rising, falling]), rtol=1e-6)


def test_a_run_interrupted_twice_goes_on_from_the_later_checkpoint(
    config, dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    stops = iter([3, 9])

    class Stopping(training_run.MaskedTraining):
        def on_train_start(self) -> None:
            started.append(self.trainer.global_step)
            self.stop = next(stops, None)

        def training_step(self, batch, batch_idx) -> None:
            if batch[0] == self.stop:
                raise KeyboardInterrupt
            super().training_step(batch, batch_idx)

    options = QUIET | {"checkpoint_minutes": 0.0}
    whole = pretrain(config, dataset, tmp_path / "whole", SETTINGS, **options)
    monkeypatch.setattr(training_run, "MaskedTraining", Stopping)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, dataset, tmp_path / "m", SETTINGS, resume=resume, **options)
        assert {path.name for path in (tmp_path / "m.run").iterdir()} == {"csv", "tensorboard", "last.ckpt"}
    resumed = pretrain(config, dataset, tmp_path / "m", SETTINGS, resume=True, **options)
    assert started == [0, 3, 9]
    assert torch.equal(weights(resumed), weights(whole))
    assert not (tmp_path / "m.run" / "last.ckpt").exists()
    (tmp_path / "d.run").mkdir()
    (tmp_path / "d.run" / "last.ckpt").write_bytes(b"PK no checkpoint")
    with pytest.raises(nec.InputError, match="damaged"):
        pretrain(config, dataset, tmp_path / "d", SETTINGS, resume=True, **options)


def test_bad_requests_leave_nothing_behind(config, dataset, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(nec.InputError, match="exists"):
        pretrain(config, dataset, tmp_path / "there", SETTINGS, **QUIET)
    with pytest.raises(nec.InputError, match="nothing to resume"):
        pretrain(config, dataset, tmp_path / "new", SETTINGS, resume=True, **QUIET)
    bands = replace(config, in_channels=4, mean=(0.5,) * 4, std=(0.5,) * 4)
    with pytest.raises(nec.InputError, match="takes 4"):
        pretrain(bands, dataset, tmp_path / "new", SETTINGS, **QUIET)
    for accumulate in (0, 3):
        with pytest.raises(nec.InputError, match="shared evenly"):
            pretrain(config, dataset, tmp_path / "new", SETTINGS, accumulate=accumulate, **QUIET)
    adapted = with_bottleneck(NecModel(config), AdaptSettings())
    with pytest.raises(nec.InputError, match="bottleneck already"):
        adapt(adapted, dataset, tmp_path / "new", **QUIET)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]
    for wrong in ({"epochs": 0}, {"crop_scale": (0.5, 0.2)}, {"decoded_share": 0}):
        with pytest.raises(nec.InputError, match=next(iter(wrong))):
            replace(SETTINGS, **wrong)


HYPER = AdaptSettings(
    epochs=1, batch_size=16, blr=0.03, prior="hyperprior", hyper_channels=8, hyper_heads=2, latent_scale=4.0
)


def test_adaptation_with_a_hyperprior(config, dataset, tmp_path: Path) -> None:
    """All of it trains, the folder loads, and the rate that is reported covers both latents of all tokens but CLS."""
    base = NecModel(config)
    torch.manual_seed(HYPER.seed)
    start = with_bottleneck(base, HYPER).bottleneck.state_dict()
    model = adapt(base, dataset, tmp_path / "m", HYPER, **QUIET)
    assert model.config.kind == "hyperprior"
    again = nec.load_model(tmp_path / "m")
    assert again.config.hyper_channels == 8
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
    first = adapt(base, dataset, tmp_path / "a", HYPER, **QUIET)
    torch.rand(1000)
    second = adapt(base, dataset, tmp_path / "b", HYPER, **QUIET)
    assert torch.equal(weights(first), weights(second))
    other = adapt(base, dataset, tmp_path / "c", replace(HYPER, seed=1), **QUIET)
    assert not torch.equal(weights(first), weights(other))


@pytest.mark.parametrize("prior", ["factorized", "hyperprior"])
@pytest.mark.parametrize(("blocks", "trained"), [(0, []), (1, ["blocks.1"]), (2, ["blocks.0", "blocks.1"]), (None, [])])
def test_exactly_the_published_parameters_train(prior: str, blocks: int | None, trained: list[str], config) -> None:
    """Last K encoder blocks, first decoder block, prior, everything outside the blocks; the positions never."""
    model = with_bottleneck(NecModel(config), replace(HYPER, prior=prior))
    freeze(model, blocks)
    inside = {f"{part}.{i}" for part in ("blocks", "decoder_blocks") for i in range(2)}
    wanted = inside if blocks is None else {*trained, "decoder_blocks.0"}
    for name, parameter in model.named_parameters():
        block = ".".join(name.split(".")[:2])
        expected = "pos_embed" not in name if block not in inside else block in wanted
        assert parameter.requires_grad == expected, name
    grouped = [p for group in parameter_groups(model, HYPER) for p in group["params"]]
    assert len({id(p) for p in grouped}) == len(grouped)
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters() if p.requires_grad}


def test_principal_axes_sort_the_latents_by_energy_before_adaptation(config, dataset, tmp_path: Path) -> None:
    torch.manual_seed(0)
    still = {"epochs": 0.02, "batch_size": 2, "blr": 1e-12, "warmup_epochs": 0, "prior_lr": 1e-12, "latent_scale": 2.0}
    model = NecModel(config).eval()
    options = {"progress": False, "devices": 1, "accelerator": "cpu"}
    turned = adapt(model, dataset, tmp_path / "axes", AdaptSettings(principal_axes=True, **still), **options)
    plain = adapt(model, dataset, tmp_path / "plain", AdaptSettings(**still), **options)
    images, mask = model.normalize(dataset.images), torch.rand(96, 16)
    with torch.no_grad():
        tokens = turned.tokens(images[:70])[:, 1:].flatten(0, 1)
        turned.bottleneck = plain.bottleneck = None  # compare what the decoders make of unquantised tokens
        torch.testing.assert_close(turned(images, mask)["recon_loss"], plain(images, mask)["recon_loss"])
    energy = tokens.var(dim=0)[:-1]
    assert torch.corrcoef(tokens.T[:4]).triu(1).abs().max() < 0.5
    assert energy[0] > 2 * energy[-1]
    assert energy[:5].sum() > energy[5:].sum()
