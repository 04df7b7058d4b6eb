"""From a function of the library to a command: its signature gives the flags, its docstring the help."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from importlib import import_module
from typing import Annotated, Any, get_args, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse

from nec.errors import InputError
from nec.report import Report

Given = dict[str, Any]
_EMPTY: tuple[Any, ...] = (None, False, "", (), [])


@dataclass(frozen=True)
class Flag:
    """A flag that the function has no parameter for, or one whose type a shell must be told."""

    type: Any
    help: str = ""
    default: Any = None


@dataclass(frozen=True)
class Command:
    """How one function of the library is called from a shell.

    Parameters that are dataclasses become a flag for each of their fields. `progress` is no flag: it is on, but for
    `--json` and `--quiet`.

    Attributes:
        target: "module:function".
        group: heading under which `nec --help` lists it.
        help: what it does, one line.
        examples: command lines, shown by `--help`.
        positional: parameters that are given without a flag, in order.
        types: parameter or field -> type of what a shell can give, where that is not the annotation.
        defaults: parameter -> default, where the shell may leave out what the function needs.
        names: parameter or field -> flag, where that is not its name.
        commas: parameters and fields that take several words in one, as in `--split train,val`.
        hide: parameters and fields without a flag.
        fixed: arguments that this command always gives.
        extra: flags beside the function's parameters, which `shape` turns into arguments.
        shape: changes the arguments before the call.
        call: does the call where one is not enough.
    """

    target: str
    group: str
    help: str
    examples: tuple[str, ...]
    positional: tuple[str, ...] = ()
    types: Mapping[str, Any] = field(default_factory=dict)
    defaults: Given = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    commas: tuple[str, ...] = ()
    hide: tuple[str, ...] = ()
    fixed: Given = field(default_factory=dict)
    extra: Mapping[str, Flag] = field(default_factory=dict)
    shape: Callable[[Given], Given] = dict
    call: Callable[[Callable[..., Any], Given], Any] = lambda function, given: function(**given)

    def load(self) -> Callable[..., Any]:
        """The function of the library."""
        module, name = self.target.split(":")
        return getattr(import_module(module), name)

    def callback(self) -> Callable[..., int]:
        """A function with the command's flags as its signature; it prints the report and returns the exit status."""
        function = self.load()
        parameters, grouped = self._parameters(function)

        def run(*values: Any, json: bool = False, quiet: bool = False, **options: Any) -> int:
            given = dict(zip(self.positional, values, strict=False)) | options
            for name in self.commas:
                if given.get(name) is not None:
                    given[name] = given[name].split(",")
            for name, (kind, members) in grouped.items():
                chosen = {member: given.pop(member) for member in members if member in given}
                if chosen:
                    given[name] = kind(**chosen)
            given = self.shape(given) | self.fixed
            if "progress" in inspect.signature(function).parameters:
                given["progress"] = not (json or quiet)
            return show(self.call(self.load(), given), json)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return run

    def _parameters(self, function: Callable[..., Any]) -> tuple[list[inspect.Parameter], dict[str, Any]]:
        """The command's parameters, and of those that are dataclasses: name -> (class, fields that are flags)."""
        plain, grouped = [], {}
        about = _about(function)
        hints = _hints(function, {**self.types, **dict.fromkeys((*self.fixed, *self.hide), Any)})
        for name, parameter in inspect.signature(function).parameters.items():
            if name in (*self.fixed, *self.hide, "progress"):
                continue
            kind = next((one for one in (hints[name], *get_args(hints[name])) if is_dataclass(one)), None)
            if kind is None or name in self.types:
                default = self.defaults.get(name, parameter.default)
                plain.append(self._parameter(name, hints[name], default, about.get(name, "")))
                continue
            told, members = _about(kind), get_type_hints(kind)
            shown = [member for member in fields(kind) if member.name not in self.hide]
            grouped[name] = (kind, [member.name for member in shown])
            for member in shown:
                type_ = self.types.get(member.name, members[member.name])
                default = None if member.default is MISSING else member.default
                plain.append(self._parameter(member.name, type_, default, told.get(member.name, "")))
        plain += [self._parameter(name, flag.type, flag.default, flag.help) for name, flag in self.extra.items()]
        if function.__annotations__.get("return") not in ("Path", "None"):  # else there is no report
            plain.append(self._parameter("json", bool, False, "print JSON, and no progress"))
        if "progress" in inspect.signature(function).parameters:
            plain.append(self._parameter("quiet", bool, False, "show no progress"))
        order = {name: place for place, name in enumerate(self.positional)}
        return sorted(plain, key=lambda parameter: order.get(parameter.name, len(order))), grouped

    def _parameter(self, name: str, hint: Any, default: Any, about: str) -> inspect.Parameter:
        positional = name in self.positional
        if name in self.commas:
            hint = str | None
        flag = None if positional else self.names.get(name, "--" + name.replace("_", "-"))
        shown = default is not inspect.Parameter.empty and default not in _EMPTY
        sentence = about[:1].upper() + about[1:]
        off = () if flag is None or default is not True else "--no-" + flag.removeprefix("--")
        return inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY,
            default=default,
            annotation=Annotated[hint, Parameter(name=flag, negative=off, help=sentence, show_default=shown)],
        )


def _about(described: Any) -> dict[str, str]:
    """What a docstring, and those of the classes above, say of each parameter or attribute."""
    about: dict[str, str] = {}
    for one in reversed(described.__mro__) if isinstance(described, type) else [described]:
        for told in parse(inspect.getdoc(one) or "").params:
            about |= dict.fromkeys(told.arg_name.split(", "), " ".join((told.description or "").split()))
    return about


def _hints(function: Callable[..., Any], types: Mapping[str, Any]) -> dict[str, Any]:
    """Types of the parameters; those in `types` stand for annotations that a shell cannot give."""
    kept = {name: hint for name, hint in function.__annotations__.items() if name not in (*types, "return")}
    holder = type("holder", (), {"__annotations__": kept, "__module__": function.__module__})
    return {**get_type_hints(holder), **types}


def show(report: Any, json: bool) -> int:
    """Print what a function returned -> the exit status: 1 for a report of something that failed."""
    report = getattr(report, "report", report)
    if report is None:  # with several devices each one's process comes here, and one has the report
        return 0
    if not isinstance(report, Report):
        print(report)
        return 0
    for line in report.notes:
        print(f"nec: {line}", file=sys.stderr)
    print(report.to_json() if json else report)
    return 1 if report.failed else 0


def key_values(words: list[str] | None, flag: str) -> Given:
    """["layer=8"] -> {"layer": "8"}; `InputError` for another form."""
    pairs = {}
    for word in words or []:
        key, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"{flag} {word}: give KEY=VALUE, for example layer=8")
        pairs[key] = value
    return pairs
