"""`pretrain` and `adapt`: datasets and models in, a model folder out, with checkpoints and logs beside it."""

from __future__ import annotations

import logging
import platform
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import nec
from nec.data import Dataset
from nec.errors import InputError
from nec.models import ModelConfig, NecModel, save_model
from nec.models.bottleneck import FactorizedBottleneck
from nec.training.batches import Images
from nec.training.module import MaskedTraining
from nec.training.settings import AdaptSettings, TrainingSettings

CHECKPOINT = "last.ckpt"
_VALIDATIONS = 20  # a run


def pretrain(
    config: ModelConfig,
    dataset: Dataset,
    out: str | Path,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008  frozen
    **options: Any,
) -> NecModel:
    """Train a masked autoencoder from scratch on the training part of a dataset; see `_run` for the options."""
    if config.kind != "mae":
        raise InputError(f"pre-training makes a model without a bottleneck, not kind {config.kind!r}")
    lightning.seed_everything(settings.seed, verbose=False)
    return _run(NecModel(config), dataset, Path(out), settings, {"method": "masked autoencoder"}, **options)


def continue_pretraining(
    model: NecModel,
    dataset: Dataset,
    out: str | Path,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008  frozen
    **options: Any,
) -> NecModel:
    """Train a copy of a masked autoencoder on, on the training part of a dataset that it was not made for."""
    if model.bottleneck is not None or not model.config.decoder_depth:
        raise InputError("only a masked autoencoder without a bottleneck can be trained on: give the pre-trained model")
    lightning.seed_everything(settings.seed, verbose=False)
    copy = NecModel(model.config)
    copy.load_state_dict(model.state_dict())
    made = {"method": "masked autoencoder, continued", "from": _origin(model)}
    return _run(copy, dataset, Path(out), settings, made, **options)


def refit_decoder(
    model: NecModel,
    blocks: int,
    dataset: Dataset,
    out: str | Path,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008  frozen
    **options: Any,
) -> NecModel:
    """Cut a masked autoencoder after its first `blocks` encoder blocks and train a decoder for what is left.

    The last blocks of a small autoencoder prepare pixels; the tokens before them can serve other tasks better and code
    in fewer bytes. The encoder stays as it is, under a plain LayerNorm; the decoder starts from the old one.
    """
    lightning.seed_everything(settings.seed, verbose=False)
    made = {"method": f"first {blocks} encoder blocks, decoder trained anew", "from": _origin(model)}
    return _run(cut_encoder(model, blocks), dataset, Path(out), settings, made, **options)


def cut_encoder(model: NecModel, blocks: int) -> NecModel:
    """The first `blocks` encoder blocks, frozen, a LayerNorm of gain 1, frozen, and the decoder."""
    if model.bottleneck is not None or not model.config.decoder_depth:
        raise InputError("only a masked autoencoder without a bottleneck can be cut: give the pre-trained model")
    if not 1 <= blocks <= model.config.depth:
        raise InputError(f"cannot keep {blocks} blocks: the encoder has {model.config.depth}")
    cut = NecModel(replace(model.config, depth=blocks))
    own = cut.state_dict()
    kept = {key: value for key, value in model.state_dict().items() if key in own and not key.startswith("norm.")}
    cut.load_state_dict(kept, strict=False)
    for name, parameter in cut.named_parameters():
        if not name.startswith(("decoder_", "mask_token")):
            parameter.requires_grad_(False)
    return cut


def adapt(
    model: NecModel,
    dataset: Dataset,
    out: str | Path,
    settings: AdaptSettings = AdaptSettings(),  # noqa: B008  frozen
    **options: Any,
) -> NecModel:
    """NEC adaptation (Gomes & Brunschwiler 2024): train part of a pre-trained MAE together with a factorised prior."""
    lightning.seed_everything(settings.seed, verbose=False)
    adapted = with_bottleneck(model, settings)
    freeze(adapted, settings.trainable_blocks)
    made = {"method": "NEC adaptation, factorised prior", "from": _origin(model)}
    return _run(adapted, dataset, Path(out), settings, made, **options)


def with_bottleneck(model: NecModel, settings: AdaptSettings) -> NecModel:
    """A copy of an MAE with a fresh factorised bottleneck, its tokens scaled by `latent_scale`."""
    if not model.config.decoder_depth:
        raise InputError("adaptation needs the MAE's decoder: this model is an encoder alone")
    if model.bottleneck is not None:
        raise InputError(f"{model.name} has a bottleneck already: adapt the model that it was made from")
    adapted = NecModel(replace(model.config, kind="factorized", lmbda=settings.lmbda))
    adapted.load_state_dict(model.state_dict(), strict=False)
    adapted.bottleneck = FactorizedBottleneck(model.config.embed_dim, settings.prior_scale)
    adapted.bottleneck.straight_through = settings.quantization == "mixed"
    with torch.no_grad():
        adapted.norm.weight.mul_(settings.latent_scale)
        adapted.norm.bias.mul_(settings.latent_scale)
        adapted.decoder_embed.weight.div_(settings.latent_scale)
    return adapted


def freeze(model: NecModel, trainable_blocks: int | None) -> None:
    """Leave trainable the last encoder blocks, the first decoder block and what lies outside the blocks."""
    if trainable_blocks is None:
        return
    if trainable_blocks > len(model.blocks):
        raise InputError(f"trainable_blocks is {trainable_blocks}; the encoder has {len(model.blocks)} blocks")
    frozen = [*model.blocks[: len(model.blocks) - trainable_blocks], *model.decoder_blocks[1:]]
    for block in frozen:
        block.requires_grad_(False)


def _run(
    model: NecModel,
    dataset: Dataset,
    out: Path,
    settings: TrainingSettings,
    made: dict[str, Any],
    *,
    resume: bool = False,
    overwrite: bool = False,
    devices: int | str = "auto",
    accelerator: str = "auto",
    checkpoint_minutes: float = 5.0,
    limit: int | None = None,
    progress: bool = True,
) -> NecModel:
    """Train and write the model folder `out`; checkpoints and logs go to the folder `out` + ".run" beside it.

    Args:
        resume: go on from the last checkpoint of an interrupted run with the same settings.
        overwrite: replace an existing model folder, and forget an interrupted run.
        checkpoint_minutes: time between checkpoints.
        limit: train on the first so many images only.
    """
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # its hints on hardware and other products
    work = out.with_name(out.name + ".run")
    checkpoint = work / CHECKPOINT
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists: choose another name, or give --overwrite")
    if resume and not checkpoint.is_file():
        raise InputError(f"nothing to resume: {checkpoint} does not exist")
    if not resume and checkpoint.is_file() and not overwrite:
        raise InputError(f"{work} holds an interrupted run: go on with --resume, or give --overwrite")
    train, val = _parts(dataset, model.config, limit)
    module = MaskedTraining(model, settings, train, val)
    recipe = {**made, "settings": asdict(settings), "data": dataset.description, "steps": module.steps, **_versions()}
    identity = _Identity({key: recipe[key] for key in ("method", "settings", "steps")})
    trainer = lightning.Trainer(
        max_steps=module.steps,
        accelerator=accelerator,
        devices=devices,
        precision=settings.precision,  # type: ignore[arg-type]
        default_root_dir=work,
        logger=[CSVLogger(work, name="csv"), TensorBoardLogger(work, name="tensorboard")],  # a resumed run adds its own
        callbacks=[
            ModelCheckpoint(work, save_last=True, save_top_k=0, train_time_interval=_minutes(checkpoint_minutes)),
            identity,
            *([TQDMProgressBar(refresh_rate=10)] if progress else []),
        ],
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=max(1, module.steps // _VALIDATIONS),
        check_val_every_n_epoch=None,
        log_every_n_steps=10,
        use_distributed_sampler=False,
    )
    trainer.fit(module, ckpt_path=str(checkpoint) if resume else None, weights_only=False if resume else None)
    if trainer.interrupted:
        raise KeyboardInterrupt
    model.eval()
    recipe["figures"] = {key: round(float(value), 5) for key, value in trainer.callback_metrics.items()}
    if trainer.is_global_zero:
        save_model(model, out, recipe=recipe, overwrite=overwrite)
        checkpoint.unlink(missing_ok=True)
    return model


class _Identity(Callback):
    """Keeps the run's settings in its checkpoints, and refuses to resume with others."""

    def __init__(self, identity: dict[str, Any]) -> None:
        self.identity = identity

    def state_dict(self) -> dict[str, Any]:
        return self.identity

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict != self.identity:
            raise InputError("the interrupted run had other settings or data: give the same, or --overwrite")


def _parts(dataset: Dataset, config: ModelConfig, limit: int | None) -> tuple[Images, Images | None]:
    """Images to train on (the training part, or all without a split) and to validate on."""
    train = np.arange(len(dataset)) if dataset.split is None else dataset.indices("train")
    val = None if dataset.split is None else np.flatnonzero(dataset.split == "val")
    if limit is not None:
        train = train[:limit]
    size, bands = config.image_size, config.in_channels
    return Images(dataset, train, size, bands), (
        Images(dataset, val, size, bands) if val is not None and val.size else None
    )


def _origin(model: NecModel) -> dict[str, str]:
    return {"name": model.name, "sha256": model.sha256}


def _versions() -> dict[str, Any]:
    versions = {"nec": nec.__version__, "torch": torch.__version__, "lightning": lightning.__version__}
    return {"versions": versions | {"numpy": np.__version__, "python": platform.python_version()}}


def _minutes(minutes: float) -> Any:
    from datetime import timedelta

    return timedelta(minutes=minutes)
