"""Which coder works: the compiled kernel where the package was built with a compiler, else NumPy and constriction.

Both read and write the same bytes. A process chooses once, when this module is imported; setting the environment
variable `NEC_PLAIN` to anything chooses the plain one.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any, Literal


def _kernel() -> Any:
    if os.environ.get("NEC_PLAIN"):
        return None
    try:
        return import_module("nec.codec._kernel")
    except ImportError:  # built without a compiler, or for another machine
        return None


KERNEL: Any = _kernel()
"""The module `nec.codec._kernel`, or None."""


def active() -> Literal["compiled", "plain"]:
    """The coder of this process, as `nec info --system` says."""
    return "plain" if KERNEL is None else "compiled"
