"""The command `nec`: parses the shell's words, calls one function of the library, prints its report.

`commands.py` lists the commands; `generate.py` makes their flags and help from the library's signatures and docstrings.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from nec.errors import InputError, NecError

BAD_INPUT = 2
INTERRUPTED = 130


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
        print("nec: interrupted; `--resume` goes on with what was begun", file=sys.stderr)
        return INTERRUPTED


def _dispatch(arguments: list[str]) -> int:
    from cyclopts import CycloptsError

    from nec.cli.commands import app

    if not arguments:
        app.help_print([])
        return BAD_INPUT
    # Remarks of the readers on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    try:
        status = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        chain = " ".join(["nec", *(error.command_chain or ())])
        raise InputError(f"{error} (see `{chain} --help`)") from error
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    print(f"nec: error: {' '.join(message.split())}", file=sys.stderr)
    return status
