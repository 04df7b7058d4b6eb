"""When a scene was taken, from text that says it. Always UTC."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator

import numpy as np

_TIMES = (
    (r"(\d{4})(\d{2})(\d{2})T(\d{2})(\d{2})(\d{2})", "%Y%m%d%H%M%S"),  # Sentinel
    (r"(\d{4})(\d{3})T(\d{2})(\d{2})(\d{2})", "%Y%j%H%M%S"),  # HLS
    (r"(\d{4})-(\d{2})-(\d{2})T(\d{2})[-:]?(\d{2})[-:]?(\d{2})", "%Y%m%d%H%M%S"),
    (r"(\d{4})-(\d{2})-(\d{2})", "%Y%m%d"),
    (r"(\d{4})_(\d{2})_(\d{2})", "%Y%m%d"),
    (r"(\d{4})(\d{2})(\d{2})", "%Y%m%d"),  # Landsat, NAIP: the first of several is that of the picture
)


def parse_time(text: str | datetime.datetime) -> np.datetime64:
    """ISO text or a datetime, in UTC unless it has a zone -> UTC, to the millisecond. `ValueError` for other text."""
    moment = datetime.datetime.fromisoformat(text.strip()) if isinstance(text, str) else text
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.UTC).replace(tzinfo=None)
    return np.datetime64(moment, "ms")


def time_in_name(name: str) -> np.datetime64 | None:
    """The date, and the time where it is there, that a file's name holds: 20090818, 2009-08-18, ..."""
    return next(_found(name), None)


def _found(name: str) -> Iterator[np.datetime64]:
    for pattern, form in _TIMES:
        for match in re.finditer(rf"(?<!\d){pattern}(?!\d)", name):
            try:
                moment = datetime.datetime.strptime("".join(match.groups()), form)
            except ValueError:  # eight digits that are no date
                continue
            if 1900 <= moment.year < 2100:
                yield np.datetime64(moment, "ms")


def time_in_tag(text: str) -> np.datetime64 | None:
    """TIFF's own tag ("2020:06:01 10:00:31"); what is no date counts as none."""
    try:
        return parse_time(re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", text.strip("\0 ")))
    except ValueError:
        return None
