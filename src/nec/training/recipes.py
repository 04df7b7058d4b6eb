"""Recipes: YAML files that say how models are trained, read by `nec pretrain`, `nec adapt` and `nec bench` alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

from nec.errors import InputError
from nec.models import PRESETS, ModelConfig
from nec.settings import convert, mapping, read_yaml, refuse_unknown

#: What may stand at the top of a recipe.
KEYS = ("name", "about", "pretrain", "adapt", "datasets", "methods", "seeds", "decoder", "heads")


@dataclass(frozen=True)
class Section:
    """One of the sections that train. `where` names file and section in errors; `model` is what `pretrain:` trains."""

    where: str
    values: dict[str, Any]
    model: Any


def read_section(path: str | Path, name: Literal["pretrain", "adapt"]) -> Section:
    """The section of a recipe file; a key that stands in the file twice, or is none of a recipe's, is refused.

    Raises:
        InputError: unreadable, not YAML, no mapping, unknown or repeated keys, no such section. The message names file
            and key.
        MissingExtraError: PyYAML is not installed.
    """
    recipe = read_yaml(Path(path))
    refuse_unknown(recipe, KEYS, f"recipe {path}")
    if name not in recipe:
        raise InputError(f"recipe {path} has no section {name!r}, which this command reads")
    where = f"recipe {path}: {name}"
    values = mapping(recipe[name], where)
    return Section(where, values, values.pop("model", None) if name == "pretrain" else None)


def section_model(section: Section, **overrides: Any) -> ModelConfig:
    """The model that `pretrain:` trains: `model:` is a preset's name, or keys of `ModelConfig` (and `preset:`)."""
    where, model = f"{section.where}: model", {} if section.model is None else section.model
    values = {"preset": model} if isinstance(model, str) else mapping(model, where)
    preset = values.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise InputError(f"{where}: no preset {preset!r}; there are {', '.join(PRESETS)}")
    hints = get_type_hints(ModelConfig)
    sizes = {k: convert(value, hints[k], f"{where}: {k}") if k in hints else value for k, value in values.items()}
    try:
        return ModelConfig.from_dict({**(PRESETS[preset] if preset else {}), **sizes, **overrides})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
