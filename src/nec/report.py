"""What a call of the library did, as a frozen dataclass that the commands print."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any


class Report:
    """Base of all reports: a frozen dataclass whose fields are the keys of its JSON.

    `str(report)` is what a person reads: a line or a table. Arrays and models are no part of a report.
    """

    @property
    def failed(self) -> bool:
        """Whether what was asked for did not come about; the command then leaves with status 1."""
        return False

    @property
    def notes(self) -> list[str]:
        """What a reader must know beside the figures; the commands print it on stderr."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, nested reports included."""
        return asdict(self)  # type: ignore[call-overload]

    def to_json(self) -> str:
        """The fields as JSON, indented by two; NaN becomes null."""
        return json.dumps(_plain(self.to_dict()), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """Values that JSON knows: NumPy's numbers become Python's, tuples lists, NaN and infinity null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and value - value != 0:
        return None
    return value
