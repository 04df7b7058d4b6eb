"""Who does the work of a run: threads of this process, or the workers of a Dask cluster."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nec.errors import InputError, NecError

ENGINES = ("threads", "dask")
Task = Any  # what names a shard: picklable, hashable
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Work(Protocol):
    """How the shards of a store come about; picklable, so that workers elsewhere do the same."""

    def blocks(self, tasks: Sequence[Task], done: Callable[[int], None]) -> Iterator[Any]:
        """What the model makes of each task, in order, computed in the caller's thread; other threads read ahead.

        They begin before the first block is asked for.

        `done` is called with the number of units of each finished batch.
        """
        ...

    def code(self, task: Task, block: Any) -> Any:
        """What is written of a block, without the model."""
        ...

    def size(self, task: Task) -> int:
        """Units of progress in a task."""
        ...


@dataclass(frozen=True)
class Engine:
    """Where a run's shards are made.

    Attributes:
        name: "threads": one thread runs the model, others read ahead of it and code behind it. "dask": every worker of
            a cluster does that with a model of its own, and this process writes what they send.
        scheduler: address of a Dask cluster; None starts `workers` processes here.
        workers: processes that are started here for "dask".
        threads: threads on which each model computes; None leaves PyTorch's own number.

    Raises:
        InputError: an unknown name, or an argument that another engine takes.
    """

    name: str = "threads"
    scheduler: str | None = None
    workers: int = 2
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise InputError(f"engine {self.name!r} is unknown: give {' or '.join(ENGINES)}")
        if self.scheduler is not None and self.name != "dask":
            raise InputError(f"a scheduler ({self.scheduler}) belongs to the engine dask: give --engine dask")
        if self.workers < 1 or (self.threads is not None and self.threads < 1):
            raise InputError(f"workers and threads must be at least 1, not {self.workers} and {self.threads}")

    def run(
        self,
        work: Work,
        tasks: Sequence[Task],
        put: Callable[[Task, Any], None],
        done: Callable[[int], None] = lambda units: None,
    ) -> None:
        """Do every task and hand what was coded of it to `put`, one at a time, in any order.

        Neither more than two blocks a model nor more than a few coded shards a worker are held at once. What `work` or
        `put` raise ends the run.
        """
        if not tasks:
            return
        if self.name == "dask":
            from nec.encode.cluster import run_on_cluster

            run_on_cluster(self, work, tasks, put, done)
        else:
            set_model_threads(self.threads)
            _run_here(work, tasks, put, done)


def _run_here(work: Work, tasks: Sequence[Task], put: Callable[[Task, Any], None], done: Callable[[int], None]) -> None:
    # One thread codes and writes a shard while the model computes the next; never more than one waits.
    with ThreadPoolExecutor(1, thread_name_prefix="nec-write") as pool:
        pending: Future[None] | None = None
        for task, block in zip(tasks, work.blocks(tasks, done), strict=True):
            if pending is not None:
                pending.result()
            pending = pool.submit(_finish, work, task, block, put)
        if pending is not None:
            pending.result()


def _finish(work: Work, task: Task, block: Any, put: Callable[[Task, Any], None]) -> None:
    put(task, work.code(task, block))


def read_ahead(read: Callable[[_Item], _Result], items: Iterable[_Item], workers: int) -> Iterator[_Result]:
    """`read` of each item, in order; `workers` threads run at most `workers` + 1 items ahead of the caller.

    They begin at once, not when the first result is asked for.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="nec-read")
    rest = iter(items)
    pending = deque(pool.submit(read, item) for item in islice(rest, workers + 1))
    return _in_turn(pool, pending, (pool.submit(read, item) for item in rest))


def _in_turn(
    pool: ThreadPoolExecutor, pending: deque[Future[_Result]], following: Iterator[Future[_Result]]
) -> Iterator[_Result]:
    try:
        for future in following:
            pending.append(future)
            yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Stored:
    """How many shards a run has stored so far."""

    shards: int = 0


@contextmanager
def resumable(path: str | Path, discard: Callable[[], bool] | None) -> Iterator[Stored]:
    """What a failed run leaves at `path`: nothing if it stored nothing, else a store to go on with.

    The error then says so. `discard` removes the store and says whether it could; None if this run did not begin it.
    """
    state = Stored()
    try:
        yield state
    except (NecError, OSError) as error:
        if discard is not None and not state.shards and discard():
            raise
        kind = type(error) if isinstance(error, NecError) else NecError
        raise kind(
            f"{error}. {path} is incomplete: mend this and go on with --resume, or begin again with --overwrite"
        ) from error


def set_model_threads(threads: int | None) -> None:
    """Let PyTorch compute on so many threads; None changes nothing."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
