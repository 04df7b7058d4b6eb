"""YAML files and plain values to typed settings: frozen dataclasses, checked field by field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from nec.errors import InputError, missing_extra

_Settings = TypeVar("_Settings")


def read_yaml(path: str | Path) -> Any:
    """What a YAML file holds; a key that stands twice in one mapping is refused, and 1e-4 is a number.

    Raises:
        InputError: unreadable, not YAML, a repeated key. The message names the file.
        MissingExtraError: PyYAML is not installed.
    """
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
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {error}") from error


def build(kind: type[_Settings], values: Any, where: str) -> _Settings:
    """The dataclass `kind` from a mapping of its fields; lists become tuples and integers floats, nothing else moves.

    Args:
        where: begins every message, as in "recipe r.yaml: adapt".

    Raises:
        InputError: no mapping, an unknown key, a value of another type, or one that the class refuses.
        MissingExtraError: msgspec is not installed.
    """
    try:
        return kind(**typed(kind, values, where))
    except InputError as error:
        raise error if str(error).startswith(where) else InputError(f"{where}: {error}") from error


def typed(kind: type, values: Any, where: str) -> dict[str, Any]:
    """The values of `build`, as the types of the fields of `kind`, without making one."""
    try:
        import msgspec
    except ImportError as error:
        missing_extra("msgspec", "torch", error)
    hints = get_type_hints(kind)
    found = {}
    for key, value in known_keys(values, [field.name for field in fields(kind)], where).items():
        try:
            found[key] = msgspec.convert(value, hints[key])
        except msgspec.ValidationError as error:
            hint = hints[key]
            wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise InputError(f"{where}: {key} must be {wanted.removesuffix(' | None')}, not {value!r}") from error
    return found


def known_keys(values: Any, known: Iterable[str], where: str) -> dict[str, Any]:
    """`values` as a dict; InputError if it is no mapping or has a key that is not among `known`."""
    if not isinstance(values, Mapping):
        raise InputError(f"{where} must hold keys and values, not {values!r}")
    known = sorted(known)
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known: {', '.join(known)}")
    return dict(values)
