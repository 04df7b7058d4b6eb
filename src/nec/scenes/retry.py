"""Try again what a busy server or a broken connection refused to GDAL, and nothing else."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from nec.errors import NecError

ATTEMPTS = 5
FIRST_SECONDS = 0.5  # before the second attempt, then twice as long each time

_Result = TypeVar("_Result")
_TRANSIENT = re.compile(
    r"(http|code|status)\D{0,12}(429|502|503|504)\b|time[d -]*out|temporarily|too many requests|slow ?down|try again"
    r"|bad gateway|service ?unavailable|connection (was )?(reset|refused|aborted|closed)|could ?n.t connect"
    r"|could not connect|resolve host|recv failure|send failure",
    re.IGNORECASE,
)


def transient(error: BaseException) -> bool:
    """Whether an error is of a kind that goes away: a timeout, a connection, HTTP 429, 502, 503 or 504.

    GDAL has no types for these, so its words decide. What caused an error counts too.
    """
    return any(
        isinstance(link, TimeoutError | ConnectionError) or _TRANSIENT.search(str(link)) is not None
        for link in _chain(error)
    )


def retry(action: Callable[[], _Result], *, attempts: int = ATTEMPTS, first: float | None = None) -> _Result:
    """Result of `action`, which is called again, up to `attempts` times, after an error that may pass.

    The pauses between are `first` (0.5) seconds, then twice that, and so on.
    """
    pause = FIRST_SECONDS if first is None else first
    for _ in range(attempts - 1):
        try:
            return action()
        except (OSError, NecError) as error:
            if not transient(error):
                raise
        time.sleep(pause)
        pause *= 2
    return action()


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
