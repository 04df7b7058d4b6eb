"""One training on Lightning: a model in, a model folder out, with a checkpoint and logs in a folder beside it."""

from __future__ import annotations

import logging
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

import nec
from nec.errors import InputError
from nec.models import NecModel, save_model
from nec.report import Report
from nec.training.batches import Images, rank_share
from nec.training.checkpoint import Checkpoints, SafeCheckpoints, check_identity, checkpoint_of
from nec.training.module import MaskedTraining
from nec.training.pictures import Reconstructions
from nec.training.settings import TrainingSettings

_VALIDATIONS = (5, 20)  # fewest and most in a run, else one an epoch: each goes through all validation images


@dataclass(frozen=True)
class Run:
    """Where and how a training runs; only `limit` changes what comes out.

    Attributes:
        resume: go on from the last checkpoint of an interrupted run with the same settings.
        overwrite: replace an existing model folder, and forget an interrupted run.
        limit: train on the first so many images only.
        devices: how many; "auto": all of them, or all processes of torchrun if it started this one.
        accelerator: cpu, gpu, ... (Lightning's; default auto).
        accumulate: parts in which each device works on its share of a batch, for little memory; the result is the same.
        checkpoint_minutes: time between checkpoints.
    """

    resume: bool = False
    overwrite: bool = False
    limit: int | None = None
    devices: int | str = "auto"
    accelerator: str = "auto"
    accumulate: int = 1
    checkpoint_minutes: float = 5.0


@dataclass(frozen=True)
class TrainReport(Report):
    """What a training made.

    Attributes:
        path: the model folder.
        kind: of the model: "mae" or the prior.
        steps: of the optimiser.
        figures: losses and rates at the end, by name.
    """

    path: str
    kind: str
    steps: int
    figures: dict[str, float]

    def __str__(self) -> str:
        shown = ", ".join(f"{key} {value:g}" for key, value in self.figures.items())
        return f"{self.path}: {self.kind} model after {self.steps} steps; {shown}"


def train(
    model: NecModel,
    images: tuple[Images, Images | None],
    out: Path,
    settings: TrainingSettings,
    made: dict[str, Any],
    run: Run,
    progress: bool,
    *,
    teacher: NecModel | None = None,
    finish: Callable[[NecModel], None] | None = None,
) -> TrainReport | None:
    """Train `model` in place and write the model folder `out`; the checkpoint and logs go to `out` + ".run" beside it.

    Args:
        images: to train on, and to validate on.
        made: what the model's recipe says first: method, origin, data.
        teacher: whose tokens a distortion of features compares with.
        finish: called with the trained model before it is written.

    Returns:
        the report; None in all processes but the first.
    """
    checkpoint = checkpoint_of(out)
    placement = _placement(run.devices)
    module = MaskedTraining(model, settings, *images, run.accumulate, teacher)
    recipe = {**made, "settings": settings.to_dict(), "steps": module.steps, "versions": _versions()}
    identity = {key: recipe[key] for key in ("method", "settings", "steps")}
    if run.resume:
        check_identity(checkpoint, identity)
    validations = min(max(_VALIDATIONS[0], round(settings.epochs)), _VALIDATIONS[1])
    with _quiet_lightning():
        trainer = lightning.Trainer(
            max_steps=module.steps,
            accelerator=run.accelerator,
            **placement,
            precision=settings.precision,  # type: ignore[arg-type]
            default_root_dir=checkpoint.parent,
            # A resumed run adds its own folders of logs.
            logger=[CSVLogger(checkpoint.parent, name="csv"), TensorBoardLogger(checkpoint.parent, name="tensorboard")],
            callbacks=[
                Checkpoints(checkpoint, run.checkpoint_minutes, identity, keep=run.resume),
                LearningRateMonitor("step"),
                Reconstructions(),
                *([TQDMProgressBar(refresh_rate=10)] if progress else []),
            ],
            plugins=[SafeCheckpoints()],
            enable_progress_bar=progress,
            enable_checkpointing=False,  # `Checkpoints` does
            enable_model_summary=False,
            num_sanity_val_steps=0,
            val_check_interval=max(1, module.steps // validations),
            check_val_every_n_epoch=None,
            log_every_n_steps=1,
            use_distributed_sampler=False,
        )
        # Refuses what cannot be shared evenly.
        rank_share(settings.batch_size, 0, trainer.world_size * run.accumulate)
        _fit(trainer, module, checkpoint if run.resume else None)
    model.eval()
    metrics = trainer.callback_metrics
    figures = {key: round(float(value), 5) for key, value in metrics.items() if not key.startswith("lr-")}
    try:
        if finish is not None:
            finish(model)
        if trainer.is_global_zero:
            save_model(model, out, recipe={**recipe, "figures": figures}, overwrite=run.overwrite)
            checkpoint.unlink(missing_ok=True)
    finally:
        trainer.strategy.barrier()  # no process goes on before the model is there
    return TrainReport(str(out), model.config.kind, module.steps, figures) if trainer.is_global_zero else None


def _fit(trainer: lightning.Trainer, module: MaskedTraining, checkpoint: Path | None) -> None:
    """Train; Ctrl-C comes out as KeyboardInterrupt, which Lightning makes a plain exit with the signal left ignored."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit(module, ckpt_path=checkpoint)
    except SystemExit as leave:
        if not trainer.interrupted:
            raise
        raise KeyboardInterrupt from leave
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's hints on hardware and other products, whose level is afterwards as it was."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _placement(devices: int | str) -> dict[str, Any]:
    """Devices and nodes for Lightning: what torchrun started, if it started this process, else what was asked for."""
    devices = int(devices) if isinstance(devices, str) and devices.isdigit() else devices
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return {"devices": devices}
    here, world = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["WORLD_SIZE"])
    if devices not in ("auto", here):
        raise InputError(f"{devices} devices, but torchrun started {here} processes here: leave --devices out")
    return {"devices": here, "num_nodes": world // here}


def _versions() -> dict[str, str]:
    versions = {"nec": nec.__version__, "torch": torch.__version__, "lightning": lightning.__version__}
    return versions | {"numpy": np.__version__, "python": platform.python_version()}
