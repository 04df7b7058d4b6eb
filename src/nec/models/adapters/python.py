"""`python:MODULE:FUNCTION`: a function of your own that returns a Backbone."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from nec.errors import InputError
from nec.models.backbone import Backbone


def load(name: str, *, device: str = "auto", precision: str = "fp32", **options: Any) -> Backbone:
    """What a function returns.

    Args:
        name: MODULE:FUNCTION; the module is found as `import` finds it, or in the working directory.
        device: handed on to functions that take it.
        precision: the same.
        options: handed on to the function.

    Raises:
        InputError: no such module or function, or what it returns is no `Backbone`.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise InputError(f"python:{name}: give python:MODULE:FUNCTION")
    module = _import(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise InputError(f"python:{name}: {module_name} has no function {function_name!r}")
    import inspect

    taken = inspect.signature(function).parameters
    every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    running = {key: value for key, value in (("device", device), ("precision", precision)) if every or key in taken}
    unknown = [key for key in options if not every and key not in taken]
    if unknown:
        raise InputError(f"python:{name} does not take the option {unknown[0]!r}")
    made = function(**running, **options)
    if not isinstance(made, Backbone):
        raise InputError(f"python:{name} returned {type(made).__name__}, not a nec.Backbone (Backbone.from_callable)")
    return made


def _import(name: str) -> Any:
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and name.startswith(error.name):
            raise InputError(f"python: there is no module {name!r}, here or installed") from error
        raise InputError(f"python: {name} needs the module {error.name!r}, which is not installed") from error
    except Exception as error:  # of the user's code
        raise InputError(f"python: {name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
