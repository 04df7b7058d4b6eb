"""Errors that every room raises. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

from typing import Any, NoReturn


class NecError(Exception):
    """A fault the user can mend. The command line prints it as one line and exits with status 2."""


class InputError(NecError, ValueError):
    """What the user gave is wrong: a path, a shape, a dtype, a flag."""


class CorruptError(NecError, ValueError):
    """Stored bytes are damaged, truncated or not ours; nothing decoded from them is returned."""


class IncompleteError(NecError):
    """A store whose writing has not finished; `nec encode --resume` completes it."""


class MissingExtraError(NecError, ImportError):
    """A package that an optional extra installs is not there."""


def missing_extra(package: str, extra: str, error: ImportError | None = None) -> NoReturn:
    """Raise `MissingExtraError` that names the extra which installs `package`."""
    raise MissingExtraError(
        f"{package} is needed for this: pip install 'neural-embedding-compression[{extra}]'"
    ) from error


def shown(value: Any) -> str:
    """A value of unknown size in a message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, a nest of lists
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
