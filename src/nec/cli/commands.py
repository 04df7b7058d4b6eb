"""The commands: which function of the library each one calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cyclopts import App, Group, Parameter

from nec import __version__
from nec.cli.generate import Command

PRODUCE, USE, COMPARE = "Make stores and models", "Use stores", "Compare and try"

COMMANDS: dict[str, Command] = {
    "verify": Command(
        "nec.store:verify", USE, "Check every chunk and checksum of a store; exit status 1 if it is damaged.",
        ("nec verify eurosat", "nec verify https://example.org/forest.zarr --json"), positional=("location",),
    ),
}  # fmt: skip


def __getattr__(name: str) -> Callable[..., int]:
    """The function behind a command, made when it is asked for, so that `nec --help` imports no room."""
    if name in COMMANDS:
        return COMMANDS[name].callback()
    raise AttributeError(name)


def _app() -> App:
    made = App(
        name="nec",
        help="Neural compression of Earth observation embeddings.",
        version=f"nec {__version__}",
        version_flags=("--version", "-V"),
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        help_epilogue="`nec COMMAND --help` explains a command. `nec --install-completion` teaches your shell to complete.",
    )
    made.register_install_completion_command(add_to_startup=False)
    groups = {title: Group(title, sort_key=place) for place, title in enumerate((PRODUCE, USE, COMPARE))}
    for name, command in COMMANDS.items():
        made.command(
            f"{__name__}:{name}",
            name=name,
            help=command.help,
            group=groups[command.group],
            help_epilogue="Examples:\n\n" + "\n\n".join(f"    {line}" for line in command.examples),
        )
    return made


app: Any = _app()
