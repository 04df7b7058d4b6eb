"""What a writer notes while it works, so that a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

JOURNAL = ".nec-journal"


def parse_entry(text: str, length: int) -> list[int] | None:
    """The `length` integers in `text`; None where it holds anything else."""
    try:
        entry = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(entry, list) and len(entry) == length and all(type(value) is int for value in entry)
    return entry if whole else None


class Journal:
    """One JSON list a line. A line that was cut short by a kill or a full disk counts as never written."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL

    def note(self, shard: tuple[int, ...], numbers: tuple[int, ...] = ()) -> None:
        """Add a line; of several of the same shard the last counts."""
        line = json.dumps([*shard, *numbers]) + "\n"
        with open(self.path, "ab+") as file:
            if file.seek(0, 2):
                file.seek(-1, 2)
                if file.read(1) != b"\n":  # a torn line: ours must not join it
                    line = "\n" + line
            file.write(line.encode())

    def entries(self, length: int) -> Iterator[list[int]]:
        """The lines that hold a list of `length` integers, in order."""
        text = self.path.read_text(encoding="utf-8", errors="replace") if self.path.exists() else ""
        for line in text.splitlines():
            entry = parse_entry(line, length)
            if entry is not None:
                yield entry

    def remove(self) -> None:
        """Forget everything; nothing happens where there is no journal."""
        self.path.unlink(missing_ok=True)
