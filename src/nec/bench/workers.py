"""Processes that train heads, the heads that wait there, and lines that tell how far they are."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")


@dataclass
class Pool:
    """Processes that work on jobs; with one job at a time the process itself does."""

    jobs: int
    executor: ProcessPoolExecutor | None

    def submit(self, work: Callable[[_Job], _Result], job: _Job) -> Future[_Result]:
        """Start `work(job)`; both must be picklable."""
        if self.executor is not None:
            return self.executor.submit(work, job)
        future: Future[_Result] = Future()
        try:
            future.set_result(work(job))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def workers(jobs: int) -> Iterator[Pool]:
    """A pool of `jobs` processes, which are ended at once where the block ends with an error or Ctrl-C."""
    if jobs <= 1:
        yield Pool(1, None)
        return
    before = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker)
    try:
        yield Pool(jobs, executor)
    except BaseException:
        executor.shutdown(wait=False, cancel_futures=True)
        for child in set(multiprocessing.active_children()) - before:
            child.terminate()
        raise
    executor.shutdown()


def _start_worker() -> None:
    """Ctrl-C reaches every process of the terminal; the parent answers it and ends the workers.

    A parent that is killed answers nothing: a worker would wait for its next job forever, so each watches its parent.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Log:
    """Progress as plain lines on stderr, with the time that is left by the pace of this run's heads."""

    def __init__(self, quiet: bool) -> None:
        self.quiet, self.total, self.done = quiet, 0, 0
        self.began = time.monotonic()

    def __call__(self, text: str, counted: bool = False) -> None:
        """Print a line; `counted`: with what is left."""
        if self.quiet:
            return
        elapsed = time.monotonic() - self.began
        left = ""
        if counted and self.done and self.total > self.done:
            left = f", about {_clock(elapsed / self.done * (self.total - self.done))} left"
        heads = f" {self.done}/{self.total} heads" if self.total else ""
        print(f"[{_clock(elapsed)}{heads}{left}] {text}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
