"""The models of a benchmark: continued pre-training and NEC adaptation, reused wherever a folder fits the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nec.datasets import Dataset
from nec.errors import InputError
from nec.training import AdaptOptions, AdaptSettings, Run, TrainingOptions, TrainingSettings, adapt, pretrain
from nec.training.checkpoint import checkpoint_of

if TYPE_CHECKING:
    from nec.models import NecModel


def find_trained(folder: Path, settings: TrainingSettings, origin: NecModel) -> Path | None:
    """The model in `folder` that was made from `origin` with these settings, under whatever name; None if none was.

    Settings that an older model does not record count as the defaults.
    """
    for config in sorted(folder.glob("*/config.json")):
        try:
            recipe = json.loads(config.read_text(encoding="utf-8"))["recipe"]
            same = recipe["from"]["sha256"] == origin.sha256 and _matches(recipe["settings"], settings)
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if same:
            return config.parent
    return None


def trained(
    folder: Path,
    name: str,
    settings: TrainingSettings,
    origin: NecModel,
    dataset: Callable[[], Dataset],
    *,
    progress: bool = True,
) -> Path:
    """The model of `find_trained`, or a new one at `folder/name` (another name if that is taken), made now.

    An interrupted run of the same settings goes on where it stopped.
    """
    found = find_trained(folder, settings, origin)
    if found is not None:
        return found
    out = _free(folder, name)
    resume = checkpoint_of(out).is_file()
    images = dataset()

    def make(run: Run) -> None:
        if isinstance(settings, AdaptSettings):
            adapt(origin, images, out, settings=settings, run=run, progress=progress)
        else:
            pretrain(images, out, model=origin, settings=settings, run=run, progress=progress)

    try:
        make(Run(resume=resume, overwrite=not resume))
    except InputError:
        if not resume:
            raise
        make(Run(overwrite=True))  # the run was of other settings
    return out


def _matches(recorded: dict[str, Any], settings: TrainingSettings) -> bool:
    options = AdaptOptions if isinstance(settings, AdaptSettings) else TrainingOptions
    return options.read(recorded, "settings").settings() == settings


def _free(folder: Path, name: str) -> Path:
    out, number = folder / name, 2
    while out.exists():
        out, number = folder / f"{name}-{number}", number + 1
    return out
