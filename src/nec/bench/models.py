"""The models of a benchmark: continued pre-training and NEC adaptation, reused wherever a folder fits the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nec.bench.heads import Log
from nec.bench.recipe import DatasetPlan
from nec.bench.subset import open_plan
from nec.datasets import Dataset
from nec.errors import InputError
from nec.models import NecModel, load_model
from nec.training import AdaptOptions, AdaptSettings, Run, TrainingOptions, TrainingSettings, adapt, pretrain
from nec.training.checkpoint import checkpoint_of


@dataclass(frozen=True)
class ModelRef:
    """Where a model lies, and what decides its embeddings (its `fingerprint`)."""

    path: str
    fingerprint: str

    @classmethod
    def of(cls, path: str | Path) -> ModelRef:
        """The model of a folder or a shipped name."""
        return cls(str(path), load_model(path).fingerprint)

    def load(self) -> NecModel:
        return load_model(self.path)


@dataclass(frozen=True)
class Models:
    """Finds and makes the models of all datasets in the folder `out/models`; `plans` by name."""

    out: Path
    plans: Mapping[str, DatasetPlan]
    log: Log

    def base(self, plan: DatasetPlan, origin: ModelRef, *, train: bool) -> ModelRef | None:
        """The model that a dataset's others start from; None where it is not there and not to be made."""
        return origin if plan.base is None else self.get(plan, "base", plan.base, origin, train=train)

    def get(
        self, plan: DatasetPlan, name: str, settings: TrainingSettings, origin: ModelRef, *, train: bool
    ) -> ModelRef | None:
        """The model that these settings make of `origin`; None where it is not there and not to be made."""
        source, start = plan.options.models or plan.name, origin.load()
        folder = self.out / "models" / source
        found = find_trained(folder, settings, start)
        if found is None and train:
            if source not in self.plans:
                raise InputError(f"{plan.name} uses the models of {source}, and {name} is not there: give {source} too")
            maker = self.plans[source]
            self.log(f"{source}: training {name} for {settings.epochs:g} epochs")
            tile = maker.options.train_tile
            if tile is None and maker.options.tile is not None:
                tile = start.config.image_size
            progress = not self.log.quiet
            found = trained(folder, name, settings, start, lambda: open_plan(maker, tile), progress=progress)
        return None if found is None else ModelRef.of(found)


def find_trained(folder: Path, settings: TrainingSettings, origin: NecModel) -> Path | None:
    """The model in `folder` that was made from `origin` with these settings, under whatever name; None if none was.

    Settings that an older model does not record count as the defaults.
    """
    options = AdaptOptions if isinstance(settings, AdaptSettings) else TrainingOptions
    for config in sorted(folder.glob("*/config.json")):
        try:
            recipe = json.loads(config.read_text(encoding="utf-8"))["recipe"]
            same = recipe["from"]["sha256"] == origin.sha256
            if same and options.read(recipe["settings"], "settings").settings() == settings:
                return config.parent
        except (OSError, ValueError, KeyError, TypeError):
            continue
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
    out, number = folder / name, 2
    while out.exists():
        out, number = folder / f"{name}-{number}", number + 1
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
