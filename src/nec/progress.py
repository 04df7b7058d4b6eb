"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self, TextIO

_WIDTH = 24
_TERMINAL_SECONDS = 0.1
_PLAIN_SECONDS = 10.0


class Progress:
    """Report progress on stderr.

    >>> with Progress(3, "encoding", "images", quiet=True) as progress:
    ...     progress.update(3)

    Args:
        total: how many units there are, or None where that is not known.
        label: what is being done.
        unit: what is counted.
        quiet: print nothing (`--json`, `--quiet`).
        stream: where to print; stderr unless given.
    """

    def __init__(
        self, total: int | None, label: str, unit: str = "images", *, quiet: bool = False, stream: TextIO | None = None
    ) -> None:
        self.total, self.label, self.unit, self.quiet = total, label, unit, quiet
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._terminal = self._stream.isatty()
        self._began = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._began = self._shown = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.quiet or (kind is not None and not self._terminal):
            return
        self._print(end="\n")

    def update(self, n: int = 1) -> None:
        """Count `n` more units."""
        self.done += n
        now = time.monotonic()
        if not self.quiet and now - self._shown >= (_TERMINAL_SECONDS if self._terminal else _PLAIN_SECONDS):
            self._shown = now
            self._print(end="" if self._terminal else "\n")

    def _print(self, end: str) -> None:
        line = self._line(time.monotonic() - self._began)
        self._stream.write(f"\r{line}\x1b[K{end}" if self._terminal else f"{line}{end}")
        self._stream.flush()

    def _line(self, seconds: float) -> str:
        rate = self.done / seconds if seconds > 0 else 0.0
        counted = f"{self.done}/{self.total} {self.unit}" if self.total else f"{self.done} {self.unit}"
        words = [f"{self.label}:", counted, f"{rate:.3g} {self.unit}/s", _clock(seconds)]
        if self.total:
            part = min(self.done / self.total, 1.0)
            if self._terminal:
                words.insert(1, f"[{'#' * round(part * _WIDTH):<{_WIDTH}}]")
            words.insert(1, f"{part:4.0%}")
            if 0 < self.done < self.total and rate:
                words.append(f"{_clock((self.total - self.done) / rate)} left")
        return "  ".join(words)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
