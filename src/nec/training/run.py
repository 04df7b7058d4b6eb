"""`pretrain` and `adapt`: datasets and models in, a model folder out, with checkpoints and logs beside it."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import platform
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

import nec
from nec.codec import EmbeddingCodec
from nec.datasets import Dataset
from nec.errors import InputError
from nec.models import ModelConfig, NecModel, save_model
from nec.models.axes import to_principal_axes
from nec.models.bottleneck import FactorizedBottleneck, HyperpriorBottleneck
from nec.models.codec_bottleneck import CodecBottleneck
from nec.training.batches import Images, rank_share
from nec.training.module import MaskedTraining
from nec.training.pictures import Reconstructions
from nec.training.settings import AdaptSettings, TrainingSettings

CHECKPOINT = "last.ckpt"
_AXES_IMAGES = 1024
_CODEC_IMAGES, _CALIBRATION_IMAGES, _REFIT_IMAGES = 512, 128, 2048
_VALIDATIONS = (5, 20)  # fewest and most in a run, else one an epoch: each goes through all validation images


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
    made = {"method": "masked autoencoder, continued", "from": model.identity}
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
    made = {"method": f"first {blocks} encoder blocks, decoder trained anew", "from": model.identity}
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
    """NEC adaptation (Gomes & Brunschwiler 2024): train part of a pre-trained MAE together with a prior."""
    lightning.seed_everything(settings.seed, verbose=False)
    start = _in_principal_axes(model, dataset, settings.seed) if settings.principal_axes else model
    adapted = with_bottleneck(start, settings)
    freeze(adapted, settings.trainable_blocks)
    made = {"method": f"NEC adaptation, prior {settings.prior}", "from": model.identity}
    if settings.prior == "hierarchical":
        if Path(out).exists() and not options.get("overwrite"):
            raise InputError(f"{out} exists: choose another name, or give --overwrite")
        options |= {"teacher": _through_codec(adapted, dataset, settings), "finish": _refit_codec}
    return _run(adapted, dataset, Path(out), settings, made, **options)


def _in_principal_axes(model: NecModel, dataset: Dataset, seed: int) -> NecModel:
    """The model in the principal axes of its tokens of some training images."""
    tokens = _sample_tokens(model, _parts(dataset, model.config, None)[0], seed, _AXES_IMAGES)
    return to_principal_axes(model, tokens.flatten(0, 2))


@torch.no_grad()
def _sample_tokens(model: NecModel, images: Images, seed: int, count: int) -> Tensor:
    """Tokens (n, y, x, d) of so many of the images."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(images))[:count])
    batches = np.array_split(chosen, -(-len(chosen) // 128))
    return torch.cat([model.embed(model.normalize(images.take(batch))) for batch in batches])


def _through_codec(model: NecModel, dataset: Dataset, settings: AdaptSettings) -> NecModel | None:
    """Fit a codec to the model's tokens as its bottleneck; returns the frozen model if the distortion needs it.

    Freezes, too, what the distortion leaves without gradients: distributed training refuses such parameters.
    """
    teacher = copy.deepcopy(model).requires_grad_(False).eval() if settings.distortion != "pixels" else None
    tokens = _sample_tokens(model, _parts(dataset, model.config, None)[0], settings.seed, _CODEC_IMAGES)
    model.use_codec(EmbeddingCodec.fit(tokens.numpy(), spatial="haar", positions=None, seed=settings.seed))
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, CodecBottleneck)
    bottleneck.quantization = settings.quantization
    bottleneck.calibrate(tokens[:_CALIBRATION_IMAGES])
    if settings.distortion == "features":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and not name.startswith(("decoder_", "mask_token")))
    return teacher


def _refit_codec(model: NecModel, images: Images, settings: TrainingSettings) -> None:
    """Fit the codec of the product to the tokens that training ended with; it becomes the bottleneck as well."""
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, CodecBottleneck)
    tokens = _sample_tokens(model, images, settings.seed, _REFIT_IMAGES)
    model.use_codec(bottleneck.refit(tokens.cpu().numpy(), settings.seed))


def with_bottleneck(model: NecModel, settings: AdaptSettings) -> NecModel:
    """A copy of an MAE with a fresh bottleneck (of prior hierarchical without), tokens scaled by `latent_scale`."""
    if not model.config.decoder_depth:
        raise InputError("adaptation needs the MAE's decoder: this model is an encoder alone")
    if model.bottleneck is not None:
        raise InputError(f"{model.name} has a bottleneck already: adapt the model that it was made from")
    sizes = replace(model.config, hyper_channels=settings.hyper_channels, hyper_heads=settings.hyper_heads)
    adapted = NecModel(replace(sizes, kind=settings.prior, lmbda=settings.lmbda))
    adapted.load_state_dict(model.state_dict(), strict=False)
    bottleneck = adapted.bottleneck
    if isinstance(bottleneck, FactorizedBottleneck | HyperpriorBottleneck):
        bottleneck.straight_through = settings.quantization == "mixed"
        prior = bottleneck if isinstance(bottleneck, FactorizedBottleneck) else bottleneck.entropy_bottleneck
        prior.start_at(settings.prior_scale)
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
    accumulate: int = 1,
    checkpoint_minutes: float = 5.0,
    limit: int | None = None,
    progress: bool = True,
    teacher: NecModel | None = None,
    finish: Callable[[NecModel, Images, TrainingSettings], None] | None = None,
) -> NecModel:
    """Train and write the model folder `out`; checkpoints and logs go to the folder `out` + ".run" beside it.

    Args:
        resume: go on from the last checkpoint of an interrupted run with the same settings.
        overwrite: replace an existing model folder, and forget an interrupted run.
        devices: how many, all processes of torchrun if it started this one.
        accumulate: parts in which each device works on its share of a batch, for little memory; the result is the same.
        checkpoint_minutes: time between checkpoints.
        limit: train on the first so many images only.
        teacher: whose tokens a distortion of features compares with.
        finish: called with the trained model, its images and the settings before the model is written.
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
    placement = _placement(devices)
    train, val = _parts(dataset, model.config, limit)
    module = MaskedTraining(model, settings, train, val, accumulate, teacher)
    recipe = {**made, "settings": asdict(settings), "data": dataset.description, "steps": module.steps, **_versions()}
    identity = {key: recipe[key] for key in ("method", "settings", "steps")}
    if resume:
        _check_identity(checkpoint, identity)
    trainer = lightning.Trainer(
        max_steps=module.steps,
        accelerator=accelerator,
        **placement,
        precision=settings.precision,  # type: ignore[arg-type]
        default_root_dir=work,
        logger=[CSVLogger(work, name="csv"), TensorBoardLogger(work, name="tensorboard")],  # a resumed run adds its own
        callbacks=[
            _Checkpoints(checkpoint, checkpoint_minutes, identity, keep=resume),
            LearningRateMonitor("step"),
            Reconstructions(),
            *([TQDMProgressBar(refresh_rate=10)] if progress else []),
        ],
        enable_progress_bar=progress,
        enable_checkpointing=False,  # `_Checkpoints` does
        enable_model_summary=False,
        num_sanity_val_steps=0,
        val_check_interval=max(1, module.steps // min(max(_VALIDATIONS[0], round(settings.epochs)), _VALIDATIONS[1])),
        check_val_every_n_epoch=None,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    rank_share(settings.batch_size, 0, trainer.world_size * accumulate)  # refuses what cannot be shared evenly
    _fit(trainer, module, checkpoint if resume else None)
    model.eval()
    metrics = trainer.callback_metrics
    recipe["figures"] = {key: round(float(value), 5) for key, value in metrics.items() if not key.startswith("lr-")}
    try:
        if finish is not None:
            finish(model, train, settings)
        if trainer.is_global_zero:
            save_model(model, out, recipe=recipe, overwrite=overwrite)
            checkpoint.unlink(missing_ok=True)
    finally:
        trainer.strategy.barrier()  # no process goes on before the model is there
    return model


def _fit(trainer: lightning.Trainer, module: MaskedTraining, checkpoint: Path | None) -> None:
    """Train; Ctrl-C comes out as KeyboardInterrupt, which Lightning makes a plain exit with the signal left ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=checkpoint, weights_only=False if checkpoint else None)
    except SystemExit as leave:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from leave
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


def _placement(devices: int | str) -> dict[str, Any]:
    """Devices and nodes for Lightning: what torchrun started, if it started this process, else what was asked for."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {"devices": devices}
    here, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if devices not in ("auto", here):
        raise InputError(f"{devices} devices, but torchrun started {here} processes here: leave --devices out")
    return {"devices": here, "num_nodes": world // here}


class _Checkpoints(Callback):
    """Saves a checkpoint, whole or not at all, after the first step that ends so many minutes after the last one.

    Lightning's own callback saves by time with automatic optimisation only. `identity`, the run's settings, goes into
    the checkpoint. Unless `keep`, a checkpoint of an earlier run is removed when training starts.
    """

    def __init__(self, path: Path, minutes: float, identity: dict[str, Any], keep: bool) -> None:
        self.path, self.seconds, self.identity, self.keep = path, 60 * minutes, identity, keep
        self.saved = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        return self.identity

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        if trainer.is_global_zero and not self.keep:
            self.path.unlink(missing_ok=True)

    def on_train_batch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        due = time.monotonic() - self.saved >= self.seconds
        if trainer.strategy.broadcast(due):  # the first process decides for all
            trainer.save_checkpoint(self.path)
            self.saved = time.monotonic()


def _check_identity(checkpoint: Path, identity: dict[str, Any]) -> None:
    """Refuse to go on with a run that had other settings, before any process is started."""
    try:
        document = torch.load(checkpoint, map_location="cpu", weights_only=False, mmap=True)
        kept = document["callbacks"][_Checkpoints.__qualname__]
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, pickle.UnpicklingError) as error:
        raise InputError(f"{checkpoint} is damaged ({type(error).__name__}): start again with --overwrite") from error
    if kept != identity:
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


def _versions() -> dict[str, Any]:
    versions = {"nec": nec.__version__, "torch": torch.__version__, "lightning": lightning.__version__}
    return {"versions": versions | {"numpy": np.__version__, "python": platform.python_version()}}
