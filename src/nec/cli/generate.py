"""From a function of the library to a command: its signature gives the flags, its docstring the help."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter, Token

from nec.report import Report


def _split(type_: Any, tokens: Sequence[Token]) -> list[str]:
    return [word for token in tokens for word in token.value.split(",")]


#: Several words in one: `--split train,val`.
Words = Annotated[list[str], Parameter(converter=_split, n_tokens=1)]

# What a command decides itself: there is no flag for it.
_OWN = ("progress",)


@dataclass(frozen=True)
class Command:
    """How one function of the library is called from a shell.

    Attributes:
        target: "module:function".
        group: heading under which `nec --help` lists it.
        help: what it does, one line.
        examples: command lines, shown by `--help`.
        positional: parameters that are given without a flag, in order.
        flags: parameter -> flag, where the name differs.
        types: parameter -> type of what a shell can give, where the function takes more.
        fixed: arguments that this command always gives.
    """

    target: str
    group: str
    help: str
    examples: tuple[str, ...]
    positional: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    types: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Callable[..., Any]:
        """The function of the library."""
        module, name = self.target.split(":")
        return getattr(import_module(module), name)

    def callback(self) -> Callable[..., int]:
        """A function with the command's flags as its signature; it prints the report and returns the exit status."""
        function = self.load()
        parameters = inspect.signature(function).parameters
        hints = _hints(function, self.types)

        def run(*values: Any, json: bool = False, **options: Any) -> int:
            given = {**dict(zip(self.positional, values, strict=False)), **options, **self.fixed}
            if "progress" in parameters:
                given["progress"] = not json
            return show(function(**given), json)

        taken = [p for name, p in parameters.items() if name not in self.fixed and name not in _OWN]
        taken.sort(key=lambda p: self.positional.index(p.name) if p.name in self.positional else len(self.positional))
        flags = [*(self._parameter(p, hints[p.name]) for p in taken), _JSON]
        run.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
        run.__annotations__ = {flag.name: flag.annotation for flag in flags}
        run.__doc__ = function.__doc__
        return run

    def _parameter(self, parameter: inspect.Parameter, hint: Any) -> inspect.Parameter:
        positional = parameter.name in self.positional
        kind = inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY
        flattened = any(is_dataclass(choice) for choice in (hint, *get_args(hint)))
        name = "*" if flattened else self.flags.get(parameter.name)
        settings = None if positional or name is None else Parameter(name=name)
        return parameter.replace(kind=kind, annotation=hint if settings is None else Annotated[hint, settings])


_JSON = inspect.Parameter(
    "json",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=Annotated[bool, Parameter(help="Print JSON, and no progress.")],
)


def _hints(function: Callable[..., Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Types of the parameters; those in `types` stand for annotations that a shell cannot give."""
    kept = {name: hint for name, hint in function.__annotations__.items() if name not in types and name != "return"}
    holder = type("holder", (), {"__annotations__": kept, "__module__": function.__module__})
    return {**get_type_hints(holder, include_extras=True), **types}


def show(report: Any, json: bool) -> int:
    """Print what a function returned -> the exit status: 1 for a report of something that failed."""
    if isinstance(report, Report):
        print(report.to_json() if json else report)
        return 1 if report.failed else 0
    if report is not None:
        print(report, file=sys.stdout)
    return 0
