"""`nec pretrain` and `nec adapt`: a model and a dataset in, a model folder out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nec.datasets import Dataset, open_dataset
from nec.errors import InputError
from nec.models import PRESETS, ModelConfig, NecModel, load_model
from nec.training.batches import training_images
from nec.training.checkpoint import check_start
from nec.training.recipes import Section, read_section, section_model
from nec.training.settings import AdaptOptions, AdaptSettings, HierarchicalSettings, TrainingOptions, TrainingSettings
from nec.training.start import cut_encoder, need_plain, refit_codec, seeded, start_of_adaptation
from nec.training.trainer import Run, TrainReport, train

_Options = TypeVar("_Options", bound=TrainingOptions)
_TWICE = "a recipe and whole settings exclude each other: give options beside a recipe"


def pretrain(
    dataset: str | Path | Dataset,
    out: str | Path,
    *,
    config: Sequence[str] | ModelConfig = (),
    recipe: str | Path | None = None,
    model: str | Path | NecModel | None = None,
    cut: tuple[str | Path | NecModel, int] | None = None,
    tile: int | None = None,
    downscale: int = 1,
    settings: TrainingOptions | TrainingSettings = TrainingOptions(),  # noqa: B008  frozen
    run: Run = Run(),  # noqa: B008  frozen
    progress: bool = True,
) -> TrainReport | None:
    """Train a masked autoencoder (He et al. 2022) on the training part of a dataset.

    Args:
        dataset: KIND:PATH, a folder or the published zip, or an open dataset of images of bytes.
        out: model folder to write; logs and checkpoints go to OUT.run.
        config: the model's sizes: JSON files, presets (vit-t, vit-s, vit-b, vit-l, vit-h) and KEY=VALUE, of which later
            ones win. Default: those of the recipe, or of ViT-B/16.
        recipe: YAML file with a section `pretrain:`; what else is given wins.
        model: masked autoencoder to train on, instead of one from scratch.
        cut: model and a number K, instead of one from scratch: keep its first K encoder blocks, frozen, under a plain
            LayerNorm, and train a decoder, which starts from the old one.
        tile: cut images with masks into windows of so many pixels.
        downscale: average images with masks over so many pixels each way first.
        settings: what decides the training: options, of which those left out have defaults, or whole settings.
        run: where it runs.
        progress: show a bar.

    Returns:
        what was made; None in all processes but the first, where several devices share the work.

    Raises:
        InputError: bad settings, images that do not fit the model, a model or an interrupted run that is in the way.
    """
    section = read_section(recipe, "pretrain") if recipe is not None else None
    if isinstance(settings, TrainingOptions):
        settings = _merged(section, settings).settings()
    elif section is not None:
        raise InputError(_TWICE)
    with seeded(settings.seed):
        if model is None and cut is None:
            start, made = NecModel(_config(config, section)), {"method": "masked autoencoder"}
        elif config or (section and section.model is not None):
            raise InputError("sizes come from the model that is trained on or cut, not from config or recipe")
        else:
            start, made = _continued(model, cut)
    opened = _opened(dataset, settings, tile, downscale)
    check_start(Path(out), run.resume, run.overwrite)
    images = training_images(opened, start.config, run.limit)
    return train(start, images, Path(out), settings, {**made, "data": opened.description}, run, progress)


def adapt(
    model: str | Path | NecModel,
    dataset: str | Path | Dataset,
    out: str | Path,
    *,
    recipe: str | Path | None = None,
    tile: int | None = None,
    downscale: int = 1,
    settings: AdaptOptions | AdaptSettings = AdaptOptions(),  # noqa: B008  frozen
    run: Run = Run(),  # noqa: B008  frozen
    progress: bool = True,
) -> TrainReport | None:
    """Make a model's tokens cheap to code: NEC adaptation (Gomes & Brunschwiler 2024, arXiv 2403.17886).

    Part of a pre-trained masked autoencoder is trained together with a prior of its quantised tokens.

    Args:
        model: pre-trained model: a folder, a shipped name, or a loaded one; it is not changed.
        dataset: KIND:PATH, a folder or the published zip, or an open dataset of images of bytes.
        out: model folder to write; logs and checkpoints go to OUT.run.
        recipe: YAML file with a section `adapt:`; what else is given wins.
        tile: cut images with masks into windows of so many pixels.
        downscale: average images with masks over so many pixels each way first.
        settings: what decides the training: options, of which those left out have defaults, or whole settings.
        run: where it runs.
        progress: show a bar.

    Returns:
        what was made; None in all processes but the first, where several devices share the work.

    Raises:
        InputError: bad settings, a model without its decoder or with a bottleneck, images that do not fit the model, a
            model or an interrupted run that is in the way.
    """
    section = read_section(recipe, "adapt") if recipe is not None else None
    if isinstance(settings, AdaptOptions):
        settings = _merged(section, settings).settings()
    elif section is not None:
        raise InputError(_TWICE)
    base = _loaded(model)
    opened = _opened(dataset, settings, tile, downscale)
    check_start(Path(out), run.resume, run.overwrite)
    images = training_images(opened, base.config, run.limit)
    start, teacher = start_of_adaptation(base, images[0], settings)
    made = {"method": f"NEC adaptation, prior {settings.prior}", "from": base.identity, "data": opened.description}
    refit = partial(refit_codec, images=images[0], seed=settings.seed)
    finish = refit if isinstance(settings, HierarchicalSettings) else None
    return train(start, images, Path(out), settings, made, run, progress, teacher=teacher, finish=finish)


def _merged(section: Section | None, options: _Options) -> _Options:
    """What is given, over what the recipe says."""
    return options if section is None else type(options).read(section.values, section.where, **options.given())


def _opened(dataset: str | Path | Dataset, settings: TrainingSettings, tile: int | None, downscale: int) -> Dataset:
    if isinstance(dataset, str | Path):
        return open_dataset([str(dataset)], seed=settings.seed, tile=tile, downscale=downscale)
    return dataset


def _config(config: Sequence[str] | ModelConfig, section: Section | None) -> ModelConfig:
    """Sizes of the model that is trained from scratch."""
    if not isinstance(config, ModelConfig):
        sizes = _sizes(config)
        config = section_model(section, **sizes) if section is not None else ModelConfig.from_dict(sizes)
    if config.kind != "mae":
        raise InputError(f"pre-training makes a model without a bottleneck, not kind {config.kind!r}")
    return config


def _continued(
    model: str | Path | NecModel | None, cut: tuple[str | Path | NecModel, int] | None
) -> tuple[NecModel, dict[str, Any]]:
    """A copy of a model that is trained on, or the first blocks of one; and how it was made."""
    if model is not None and cut is not None:
        raise InputError("model and cut exclude each other")
    source = model if cut is None else cut[0]
    assert source is not None
    base = _loaded(source)
    need_plain(base, "trained on" if cut is None else "cut")
    if cut is None:
        start, method = NecModel(base.config), "masked autoencoder, continued"
        start.load_state_dict(base.state_dict())
    else:
        start, method = cut_encoder(base, cut[1]), f"first {cut[1]} encoder blocks, decoder trained anew"
    return start, {"method": method, "from": base.identity}


def _loaded(model: str | Path | NecModel) -> NecModel:
    return model if isinstance(model, NecModel) else load_model(str(model))


def _sizes(items: Sequence[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        try:
            if item in PRESETS:
                found: Any = PRESETS[item]
            elif equals:
                found = {key: json.loads(text)}
            else:
                found = json.loads(Path(item).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(
                f"config {item}: neither a readable JSON file, a preset, nor KEY=NUMBER ({error})"
            ) from error
        if not isinstance(found, dict):
            raise InputError(f"config {item} holds no JSON object")
        values |= found
    return values
