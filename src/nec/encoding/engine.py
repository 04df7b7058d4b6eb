"""Who does the work of a run: threads of this process, or the workers of a Dask cluster. Tasks in, bytes out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

from nec.errors import InputError, NecError

EngineName = Literal["threads", "dask"]
ENGINES = ("threads", "dask")
CLUSTER_READERS = 2  # threads that read, in each worker of a cluster
Task = Any  # what names a shard, or a part of one: picklable, hashable
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Work(Protocol):
    """How the bytes of tasks come about; picklable, so that workers elsewhere do the same."""

    def block(self, task: Task, done: Callable[[int], None]) -> Callable[[], Any]:
        """Begin to read for a task -> a function that runs the model and gives what it makes of it.

        `done` is called with the number of units of each finished batch.
        """
        ...

    def code(self, task: Task, block: Any) -> Any:
        """What is written of a block, without the model."""
        ...

    def size(self, task: Task) -> int:
        """Units of progress in a task."""
        ...


class Executor(Protocol):
    """Where tasks are done: like those of `concurrent.futures`, with a bound on what may be under way."""

    @property
    def places(self) -> int:
        """How many tasks may be handed out at once: coded shards must not pile up."""
        ...

    def submit(self, task: Task) -> Any:
        """Begin a task -> its future."""
        ...

    def finished(self, futures: Sequence[Any]) -> Sequence[Any]:
        """Those that are finished; waits a while for the first."""
        ...

    def result(self, future: Any, task: Task) -> Any:
        """What was coded of a task; raises what it met, as an error of ours."""
        ...

    def cancel(self, futures: Sequence[Any]) -> None:
        """Begin none of these any more."""
        ...


@dataclass(frozen=True)
class Engine:
    """Where a run's shards are made.

    Attributes:
        name: "threads": one thread runs the model, others read ahead of it and code behind it. "dask": every worker of
            a cluster does that with a model of its own, and this process writes what they send.
        scheduler: address of a Dask cluster; None starts `workers` processes here.
        workers: threads that read; with "dask" processes, which are started here.
        threads: threads on which each model computes; None leaves PyTorch's own number.

    Raises:
        InputError: an unknown name, or an argument that another engine takes.
    """

    name: EngineName = "threads"
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

    @property
    def readers(self) -> int:
        """Threads that read beside each model."""
        return self.workers if self.name == "threads" else CLUSTER_READERS

    def run(
        self,
        work: Work,
        tasks: Sequence[Task],
        put: Callable[[Task, Any], None],
        done: Callable[[int], None] = lambda units: None,
    ) -> None:
        """Do every task and hand what was coded of it to `put`, in this thread, one at a time, in any order.

        Neither more than two blocks a model nor more than a few coded shards a worker are held at once. What `work` or
        `put` raise ends the run.
        """
        if not tasks:
            return
        waiting = deque(tasks)
        flying: dict[Any, Task] = {}
        with self._executor(work, done) as executor:
            try:
                while waiting or flying:
                    while waiting and len(flying) < executor.places:
                        task = waiting.popleft()
                        flying[executor.submit(task)] = task
                    for future in executor.finished(list(flying)):
                        task = flying.pop(future)
                        put(task, executor.result(future, task))
            finally:
                executor.cancel(list(flying))

    def _executor(self, work: Work, done: Callable[[int], None]) -> AbstractContextManager[Executor]:
        if self.name == "dask":
            from nec.encoding.cluster import cluster_executor

            return cluster_executor(self, work, done)
        return _thread_executor(work, done, self.threads)


class Maker:
    """Does tasks of a work, in as many threads as call it: one at a time runs the model, others read and code."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._model = threading.Lock()

    def __call__(self, task: Task, done: Callable[[int], None] = lambda units: None) -> Any:
        """What `Work.code` gives for a task."""
        finish = self.work.block(task, done)  # which begins to read, while another task has the model
        with self._model:
            block = finish()
        return self.work.code(task, block)


class _Threads:
    """The executor of this process: two threads with a task each, and a third task that waits."""

    places = 3

    def __init__(self, work: Work, done: Callable[[int], None]) -> None:
        self._make, self._done = Maker(work), done
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="nec-make")
        self._stopped = threading.Event()

    def submit(self, task: Task) -> Future[Any]:
        return self._pool.submit(self._make, task, self._batch_done)

    def _batch_done(self, units: int) -> None:
        if self._stopped.is_set():
            raise NecError("the run was stopped")  # which nobody waits for any more
        self._done(units)

    def finished(self, futures: Sequence[Future[Any]]) -> Sequence[Future[Any]]:
        # In their order, so that what a fault leaves behind does not depend on which thread was faster.
        wait(futures[:1])
        return futures[:1]

    def result(self, future: Future[Any], task: Task) -> Any:
        return future.result()

    def cancel(self, futures: Sequence[Future[Any]]) -> None:
        self._stopped.set()
        self._pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _thread_executor(work: Work, done: Callable[[int], None], threads: int | None) -> Iterator[Executor]:
    with model_threads(threads):
        yield _Threads(work, done)


@contextmanager
def model_threads(threads: int | None) -> Iterator[None]:
    """Within, PyTorch computes on so many threads; None changes nothing."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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
