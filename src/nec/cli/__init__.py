"""The command `nec`: one module of this package a command.

A command's module has `HELP` (one line), `add_arguments(parser)` and `run(args)`, which returns the exit status. It is
found by its file, and only the one that is asked for is imported; what is heavy it imports inside `run`.
"""

from __future__ import annotations

import argparse
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from nec.errors import InputError, NecError

BAD_INPUT = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Leave with one line, not with the whole usage."""
        raise InputError(f"{message} (see `{self.prog} --help`)")


def commands() -> list[str]:
    """Names of the commands: the modules of this package."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line `argv` and return its exit status: 0, a command's own, 2 for bad input, 130 for Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except NecError as error:
        return _fail(str(error), BAD_INPUT)
    except BrokenPipeError:  # the reader of our output, `head` say, has gone; keep Python's own flush quiet as well
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a folder without permission, a network that is gone
        return _fail(str(error), BAD_INPUT)
    except KeyboardInterrupt:
        print("nec: interrupted", file=sys.stderr)
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else BAD_INPUT
    if arguments[0] == "--version":
        from nec import __version__

        print(f"nec {__version__}")
        return 0
    name = arguments[0]
    if name not in commands():
        raise InputError(f"no such command: {name!r} (commands: {', '.join(commands())})")
    module = _load(name)
    parser = _Parser(prog=f"nec {name}", description=module.HELP)
    module.add_arguments(parser)
    try:
        parsed = parser.parse_args(arguments[1:])
    except SystemExit as leave:  # --help
        return int(leave.code or 0)
    return module.run(parsed)


def _load(name: str) -> ModuleType:
    return import_module(f"{__name__}.{name}")


def _overview() -> str:
    lines = [
        "usage: nec [--help] [--version] COMMAND ...",
        "",
        "Neural compression of Earth observation embeddings.",
        "",
        "commands:",
        *(f"  {name:<10}  {_load(name).HELP}" for name in commands()),
        "",
        "`nec COMMAND --help` explains a command.",
    ]
    return "\n".join(lines)


def _fail(message: str, status: int) -> int:
    print(f"nec: error: {' '.join(message.split())}", file=sys.stderr)
    return status
