"""Progress: plain lines in a file, a bar on a terminal, nothing when quiet."""

from __future__ import annotations

import io

import pytest

from nec.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("nec.progress.time.monotonic", lambda: now[0])
    return now


def test_plain_lines_are_few_and_complete(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(100, "encoding", "images", stream=stream) as progress:
        for _ in range(100):
            clock[0] += 0.25
            progress.update()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3  # at 10 s, at 20 s and at the end
    assert lines[0] == "encoding:   40%  40/100 images  4 images/s  0:10  0:15 left"
    assert lines[-1] == "encoding:  100%  100/100 images  4 images/s  0:25"


def test_a_bar_on_a_terminal_stays_on_its_line(clock: list[float]) -> None:
    stream = Terminal()
    with Progress(4, "reading", "files", stream=stream) as progress:
        for _ in range(4):
            clock[0] += 1
            progress.update()
    text = stream.getvalue()
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "[############            ]" in text


def test_unknown_total_and_quiet(clock: list[float]) -> None:
    stream = io.StringIO()
    with Progress(None, "reading", "files", stream=stream) as progress:
        clock[0] += 3700
        progress.update(7)
    assert stream.getvalue().splitlines()[-1] == "reading:  7 files  0.00189 files/s  1:01:40"
    silent = io.StringIO()
    with Progress(3, "reading", stream=silent, quiet=True) as progress:
        clock[0] += 100
        progress.update(3)
    assert silent.getvalue() == ""


def test_after_an_error_a_file_gets_no_last_line(clock: list[float]) -> None:
    stream = io.StringIO()
    with pytest.raises(RuntimeError), Progress(3, "reading", stream=stream):
        raise RuntimeError
    assert stream.getvalue() == ""
