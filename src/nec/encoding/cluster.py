"""The engine `dask`: one model a worker, parts of shards as tasks, one process writes. Needs the extra `[dask]`."""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from nec.encoding.engine import Engine, Executor, Maker, Task, Work, model_threads
from nec.errors import NecError, missing_extra

try:
    import dask
    import distributed
    from distributed.diagnostics.plugin import WorkerPlugin
except ImportError as error:
    missing_extra("dask.distributed", "dask", error)

# While one thread of a worker runs the model, the other codes what it made before.
THREADS_PER_WORKER = 2
IN_FLIGHT = 2  # tasks that are handed out for each thread of a worker
RETRIES = 2  # of a task that failed by anything but an error of ours: memory, a connection
STARTS = 2  # of a cluster here, whose workers may be killed while they start
POLL_SECONDS = 5.0
CONNECT_SECONDS = 20.0
#: A cluster without any worker for so long is given up.
PATIENCE_SECONDS = 60.0
_TRIM = "MALLOC_TRIM_THRESHOLD_"
_SPAWN = "distributed.nanny.pre-spawn-environ"


class _Model(WorkerPlugin):
    """Brings the work, and the model in it, to every worker once, also to those that join or are restarted later."""

    def __init__(self, name: str, work: Work, threads: int | None) -> None:
        self.name, self.work, self.threads = name, work, threads

    def setup(self, worker: Any) -> None:
        self.stack = ExitStack()
        self.stack.enter_context(model_threads(self.threads))
        self.make = Maker(self.work)

    def teardown(self, worker: Any) -> None:
        self.stack.close()


def _make(name: str, task: Task) -> Any:
    """One task on a worker: what `Work.code` gives, or the error of ours that it met, which no retry would mend."""
    plugin: Any = distributed.get_worker().plugins[name]
    try:
        return plugin.make(task)
    except NecError as error:
        return error


class _Cluster:
    """The executor of a cluster. A lost worker's tasks go to others."""

    def __init__(self, client: Any, name: str, work: Work, done: Callable[[int], None]) -> None:
        self.client, self.name, self.work, self.done = client, name, work, done
        self._seen, self.places = time.monotonic(), 0
        self._look()

    def submit(self, task: Task) -> Any:
        return self.client.submit(_make, self.name, task, key=f"{self.name}-{task}", retries=RETRIES)

    def finished(self, futures: Sequence[Any]) -> Sequence[Any]:
        """Those that are finished, at least one unless `POLL_SECONDS` pass."""
        try:
            finished = distributed.wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            finished = set()
        if self.client.status != "running":
            raise NecError("the Dask scheduler was lost: start it again")
        self._look()
        return list(finished)

    def _look(self) -> None:
        """Count the workers' threads, which come and go; `NecError` where there have been none for a minute."""
        threads = sum(self.client.nthreads().values())
        now = time.monotonic()
        if threads:
            self._seen, self.places = now, IN_FLIGHT * threads
        elif now - self._seen > PATIENCE_SECONDS:
            raise NecError(f"the cluster {self.client.scheduler.address} has no workers any more: start some")

    def result(self, future: Any, task: Task) -> Any:
        try:
            result = future.result()
        except distributed.KilledWorker as error:
            raise NecError(
                f"workers died repeatedly at shard {task}, of too little memory as a rule: {error}"
            ) from error
        except distributed.client.FutureCancelledError as error:
            raise NecError(f"the Dask scheduler was lost or dropped shard {task}: {error}") from error
        except Exception as error:  # a worker's, after all retries
            raise NecError(f"shard {task} failed on a worker: {error!r}") from error
        if isinstance(result, NecError):
            raise result
        self.done(self.work.size(task))
        return result

    def cancel(self, futures: Sequence[Any]) -> None:
        with suppress(OSError, RuntimeError):  # of a client that has lost its scheduler
            self.client.cancel(list(futures), force=True)


@contextmanager
def cluster_executor(engine: Engine, work: Work, done: Callable[[int], None]) -> Iterator[Executor]:
    """The executor of the cluster at `engine.scheduler`, or of one that lives as long as the block.

    Raises:
        NecError: the scheduler cannot be reached, all workers are gone, or one died of the same shard repeatedly.
    """
    with _client(engine) as client, client.as_current(), _installed(client, work, engine.threads) as name:
        yield _Cluster(client, name, work, done)


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A `distributed.LocalCluster` of so many processes, with the memory allocator that a model needs.

    Dask's own setting has workers give freed memory back at once. A model asks for as much again in the next layer,
    and the system clears it each time, which costs a quarter of the processor time of ViT-S.
    """
    environment = dict(dask.config.get(_SPAWN))
    environment.pop(_TRIM, None)
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({_SPAWN: environment}))
        stack.enter_context(_without_environment(_TRIM))
        yield stack.enter_context(_started(workers))


@contextmanager
def _without_environment(name: str) -> Iterator[None]:
    """Within, a variable is not set: another cluster of this process may have left it, and workers inherit it."""
    before = os.environ.pop(name, None)
    try:
        yield
    finally:
        if before is not None:
            os.environ[name] = before


def _started(workers: int) -> Any:
    """A cluster whose workers have started; another one where they were killed before they had."""
    for _ in range(STARTS):
        try:
            return distributed.LocalCluster(
                n_workers=workers,
                threads_per_worker=THREADS_PER_WORKER,
                dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )
        except (RuntimeError, OSError, TimeoutError) as error:  # "Nanny failed to start", "Stream is closed"
            reason = error
    raise NecError(f"the workers of a Dask cluster died while they started: {reason}") from reason


@contextmanager
def _client(engine: Engine) -> Iterator[Any]:
    """A client of the cluster at `engine.scheduler`, or of one that lives as long as the block."""
    with ExitStack() as stack:
        target: Any = engine.scheduler or stack.enter_context(local_cluster(engine.workers))
        try:
            client = stack.enter_context(distributed.Client(target, timeout=CONNECT_SECONDS, set_as_default=False))
            client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
        except (OSError, ValueError, TimeoutError) as error:  # no such host, refused, timed out
            raise NecError(f"no Dask cluster with workers at {engine.scheduler or 'this machine'}: {error}") from error
        yield client


@contextmanager
def _installed(client: Any, work: Work, threads: int | None) -> Iterator[str]:
    """Give the work to all workers -> the name under which they know it."""
    name = f"nec-{uuid.uuid4().hex[:12]}"
    for attempt in range(1, STARTS + 1):
        try:
            client.register_plugin(_Model(name, work, threads), name=name)
            break
        except NecError:
            raise
        except Exception as error:  # a worker that was killed while it took the model; its nanny starts another
            if attempt == STARTS or client.status != "running":
                raise NecError(f"the workers of the Dask cluster did not take the model: {error}") from error
            client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
    try:
        yield name
    finally:
        if client.status == "running":
            with suppress(OSError, RuntimeError, TimeoutError):  # of workers that are gone
                client.unregister_worker_plugin(name)
