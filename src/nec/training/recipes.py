"""Recipes: YAML files that say how models are trained, read by `nec pretrain`, `nec adapt` and `nec bench` alike."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from nec.errors import InputError, missing_extra
from nec.models import PRESETS, ModelConfig

#: What may stand at the top of a recipe: the sections that train, and what `nec bench` checks itself.
TRAINING_SECTIONS = ("pretrain", "adapt")
OTHER_KEYS = ("name", "about", "datasets", "methods", "seeds", "decoder", "heads")

_Settings = TypeVar("_Settings")


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
    try:
        document = _load_yaml(path.read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from error
    known = (*TRAINING_SECTIONS, *OTHER_KEYS)
    values = _mapping(document, f"recipe {path}")
    _refuse_unknown(values, known, f"recipe {path}")
    for section in TRAINING_SECTIONS:
        if section in values:
            values[section] = _mapping(values[section], f"recipe {path}: {section}")
    return Recipe(values, path)


def section_settings(recipe: Recipe, section: str, kind: type[_Settings], **overrides: Any) -> _Settings:
    """Settings of dataclass `kind` from a section of a recipe; `overrides` win, and the class has the defaults.

    Raises:
        InputError: the section lacks, has a key that `kind` lacks, or a value of another type or range.
    """
    where = f"recipe {recipe.path}: {section}"
    if section not in recipe:
        raise InputError(f"recipe {recipe.path} has no section {section!r}, which this command reads")
    hints = get_type_hints(kind)
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    values = {key: value for key, value in recipe[section].items() if (section, key) != ("pretrain", "model")}
    _refuse_unknown(values, known, where)
    values = {key: _typed(value, hints[key], f"{where}: {key}") for key, value in values.items()}
    try:
        return kind(**(values | overrides))
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def section_model(recipe: Recipe, **overrides: Any) -> ModelConfig:
    """The model that `pretrain:` trains: `model:` is a preset's name, or keys of `ModelConfig` (and `preset:`)."""
    where = f"recipe {recipe.path}: pretrain: model"
    model = recipe.get("pretrain", {}).get("model", {})
    values = {"preset": model} if isinstance(model, str) else _mapping(model, where)
    preset = values.pop("preset", None)
    if preset is not None and preset not in PRESETS:
        raise InputError(f"{where}: no preset {preset!r}; there are {', '.join(PRESETS)}")
    hints = get_type_hints(ModelConfig)
    values = {
        key: _typed(value, hints[key], f"{where}: {key}") if key in hints else value for key, value in values.items()
    }
    try:
        return ModelConfig.from_dict({**(PRESETS[preset] if preset else {}), **values, **overrides})
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _load_yaml(text: str, path: Path) -> Any:
    try:
        import yaml
    except ImportError as error:
        missing_extra("PyYAML", "torch", error)

    class Loader(yaml.SafeLoader):
        """Refuses repeated keys, and reads 1e-4 as the number that YAML 1.2 has it to be."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [self.construct_object(key, deep=True) for key, _ in node.value]
            for key in keys:
                if keys.count(key) > 1:
                    raise InputError(f"recipe {path}: {key!r} stands twice in one mapping")
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {error}") from error


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} must hold keys and values, not {value!r}")
    return dict(value)


def _refuse_unknown(values: dict[str, Any], known: list[str] | tuple[str, ...], where: str) -> None:
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")


def _typed(value: Any, hint: Any, where: str) -> Any:
    """`value` as the type `hint` of a settings' field: lists become tuples and integers floats, nothing else moves."""
    for option in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if option is type(None) and value is None:
            return None
        if get_origin(option) is Literal and value in get_args(option):
            return value
        if get_origin(option) is tuple and isinstance(value, list):
            parts = get_args(option)
            parts = parts[:1] * len(value) if parts[-1] is ... else parts
            if len(parts) == len(value):
                return tuple(_typed(item, part, where) for item, part in zip(value, parts, strict=True))
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
    wanted = getattr(hint, "__name__", None) if isinstance(hint, type) else str(hint).replace("typing.", "")
    raise InputError(f"{where} must be {wanted}, not {value!r}")
