"""Recipes: YAML files that say how models are trained, read by `nec pretrain`, `nec adapt` and `nec bench` alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from nec.errors import InputError
from nec.models import PRESETS, ModelConfig
from nec.settings import known_keys, read_yaml, typed
from nec.training.settings import TrainingOptions

#: What may stand at the top of a recipe: the sections that train, and what `nec bench` checks itself.
TRAINING_SECTIONS = ("pretrain", "adapt")
OTHER_KEYS = ("name", "about", "datasets", "methods", "seeds", "decoder", "heads")

_Options = TypeVar("_Options", bound=TrainingOptions)


class Recipe(dict[str, Any]):
    """Top-level keys of a recipe file. `path` names the file in errors."""

    def __init__(self, values: dict[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a YAML file; a key that stands in it twice, or is none of ours, is refused.

    Raises:
        InputError: unreadable, not YAML, no mapping, unknown or repeated keys. The message names file and key.
        MissingExtraError: PyYAML is not installed.
    """
    path = Path(path)
    values = known_keys(read_yaml(path), (*TRAINING_SECTIONS, *OTHER_KEYS), f"recipe {path}")
    for section in TRAINING_SECTIONS:
        if not isinstance(values.get(section, {}), dict):
            raise InputError(f"recipe {path}: {section} must hold keys and values, not {values[section]!r}")
    return Recipe(values, path)


def section_options(recipe: Recipe, section: str, options: _Options) -> _Options:
    """What a section of a recipe says, of the class of `options`; what `options` give wins.

    Raises:
        InputError: the section lacks, has an unknown key, or a value of another type or range.
    """
    where = f"recipe {recipe.path}: {section}"
    if section not in recipe:
        raise InputError(f"recipe {recipe.path} has no section {section!r}, which this command reads")
    values = {key: value for key, value in recipe[section].items() if (section, key) != ("pretrain", "model")}
    merged = replace(type(options).read(values, where), **options.given())
    try:
        merged.settings()
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    return merged


def section_model(recipe: Recipe, **overrides: Any) -> ModelConfig:
    """The model that `pretrain:` trains: `model:` is a preset's name, or keys of `ModelConfig` (and `preset:`)."""
    where = f"recipe {recipe.path}: pretrain: model"
    model = recipe.get("pretrain", {}).get("model", {})
    values = {"preset": model} if isinstance(model, str) else model
    if not isinstance(values, dict):
        raise InputError(f"{where} must hold keys and values, not {values!r}")
    preset = values.get("preset")
    if preset is not None and preset not in PRESETS:
        raise InputError(f"{where}: no preset {preset!r}; there are {', '.join(PRESETS)}")
    sizes = typed(ModelConfig, {key: value for key, value in values.items() if key != "preset"}, where)
    try:
        return ModelConfig.from_dict({**(PRESETS[preset] if preset else {}), **sizes, **overrides})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
