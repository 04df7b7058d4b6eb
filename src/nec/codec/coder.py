"""Which ANS coder does the work: the compiled one where numba is installed (extra `[fast]`), else constriction.

Both read and write the same bytes. Setting the environment variable `NEC_PLAIN` to anything turns the compiled one off.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from nec.codec.tables import BlockReader, BlockWriter, Reader, Writer


@cache
def compiled() -> ModuleType | None:
    """`nec.codec.fast`, or None without numba; imported at the first use, since numba takes a while."""
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
