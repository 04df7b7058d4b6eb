"""Which ANS coder does the work: the compiled one where numba is installed (extra `[fast]`), else constriction.

Both read and write the same bytes, so a process may change from one to the other at any block: it begins with the plain
one, since loading the compiled one takes a second (compiling it, once a machine, some ten). Setting the environment
variable `NEC_PLAIN` to anything turns the compiled one off.
"""

from __future__ import annotations

import os
import time
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from nec.codec.tables import BlockReader, BlockWriter, Reader, Writer

PATIENCE = 2.0
"""Seconds after a process's first coding from which on it is worth loading the compiled coder."""


def compiled() -> ModuleType | None:
    """`nec.codec.fast` where it should do the work now, else None."""
    return kernel() if time.monotonic() - _first_use() >= PATIENCE else None


@cache
def _first_use() -> float:
    return time.monotonic()


@cache
def kernel() -> ModuleType | None:
    """`nec.codec.fast`, or None without numba."""
    if os.environ.get("NEC_PLAIN"):
        return None
    try:
        return import_module("nec.codec.fast")
    except ImportError:  # absent, or built for another NumPy
        return None


def new_writer() -> BlockWriter:
    """An empty stack."""
    fast = compiled()
    return Writer() if fast is None else fast.FastWriter()


def new_reader(words: NDArray[np.uint32]) -> BlockReader:
    """A reader of a stream's words; `CorruptError` where it cannot be one."""
    fast = compiled()
    return Reader(words) if fast is None else fast.FastReader(words)
