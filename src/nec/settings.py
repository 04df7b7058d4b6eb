"""YAML to typed settings: one mechanism for every file that a person writes, by msgspec.

`read_yaml` gives the mapping in a file, `settings` a dataclass of such a mapping. Both refuse what they do not know by
name: a key that stands twice, a key that the dataclass lacks, a value of another type. Numbers like 1e-4 are numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from nec.errors import InputError, missing_extra

_T = TypeVar("_T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping at the top of a YAML file.

    Raises:
        InputError: unreadable, not YAML, no mapping, a repeated key. The message names the file.
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
        return mapping(yaml.load(path.read_text(encoding="utf-8"), Loader), f"recipe {path}")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not YAML: {error}") from error


def settings(kind: type[_T], values: Any, where: str, **overrides: Any) -> _T:
    """A dataclass of plain values; `overrides` win, and the class has the defaults.

    Args:
        kind: a dataclass; its annotations say what each value must be. Lists become tuples, whole numbers floats.
        values: a mapping of its fields, as YAML gives it; None is an empty one.
        where: what the values are, for errors: "recipe r.yaml: adapt".

    Raises:
        InputError: no mapping, unknown keys, values of another type, or what the class itself refuses.
    """
    values = mapping({} if values is None else values, where)
    refuse_unknown(values, [field.name for field in fields(kind)], where)  # type: ignore[arg-type]
    return convert({**values, **overrides}, kind, where)


def convert(value: Any, kind: Any, where: str) -> Any:
    """A plain value as the type `kind`; `InputError` that quotes the value where it is of another."""
    import msgspec

    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        if isinstance(error.__cause__, InputError):
            raise InputError(f"{where}: {error.__cause__}") from error
        text, _, place = str(error).partition(" - at `$")
        keys = re.findall(r"\w+", place)
        found = value
        for key in keys:
            found = found[int(key) if key.isdigit() else key] if key in found or key.isdigit() else found
        if keys and text.startswith("Invalid enum value"):
            hint = get_type_hints(kind).get(keys[0]) if isinstance(kind, type) else None
            literals = [option for option in (hint, *get_args(hint)) if get_origin(option) is Literal]
            text = f"not one of {', '.join(str(known) for option in literals for known in get_args(option))}"
        named = "".join(f": {key}" for key in keys if not key.isdigit())
        raise InputError(f"{where}{named} is {found!r}: {text[:1].lower()}{text[1:]}") from error


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A copy of a mapping; `InputError` for anything else."""
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must hold keys and values, not {value!r}")
    return dict(value)


def refuse_unknown(values: Mapping[str, Any], known: Collection[str], where: str) -> None:
    """`InputError` that names the first key which is not known."""
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; known: {', '.join(sorted(known))}")
