"""The engine `dask`: one model a worker, parts of shards as tasks, one process writes. Needs the extra `[dask]`."""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from nec.encode.engine import Engine, Task, Work, set_model_threads
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
POLL_SECONDS = 5.0
CONNECT_SECONDS = 20.0
#: A cluster without any worker for so long is given up.
PATIENCE_SECONDS = 60.0


class _Model(WorkerPlugin):
    """Brings the work, and the model in it, to every worker once, also to those that join or are restarted later."""

    def __init__(self, name: str, work: Work, threads: int | None) -> None:
        self.name, self.work, self.threads = name, work, threads

    def setup(self, worker: Any) -> None:
        set_model_threads(self.threads)
        self.turn = threading.Lock()  # one task at a time goes through the model; the lock cannot be pickled


def _make(name: str, task: Task) -> Any:
    """One task on a worker: what `Work.code` gives, or the error of ours that it met, which no retry would mend."""
    plugin: Any = distributed.get_worker().plugins[name]
    try:
        blocks = plugin.work.blocks([task], _ignore)  # which begins to read, while another task has its turn
        with plugin.turn:
            (block,) = blocks
        return plugin.work.code(task, block)
    except NecError as error:
        return error


def _ignore(units: int) -> None:
    pass


def run_on_cluster(
    engine: Engine,
    work: Work,
    tasks: Sequence[Task],
    put: Callable[[Task, Any], None],
    done: Callable[[int], None],
) -> None:
    """`Engine.run` on Dask. A lost worker's tasks go to others.

    Raises:
        NecError: the scheduler cannot be reached, all workers are gone, or one died of the same shard repeatedly.
    """
    with _client(engine) as client, client.as_current(), _installed(client, work, engine.threads) as name:
        waiting = list(reversed(tasks))
        flying: dict[Any, Task] = {}
        room = _Room(client, engine)
        try:
            while waiting or flying:
                while waiting and len(flying) < room.places:
                    task = waiting.pop()
                    flying[client.submit(_make, name, task, key=f"{name}-{task}", retries=RETRIES)] = task
                for future in _finished(client, list(flying), room):
                    task = flying.pop(future)
                    put(task, _result(future, task))
                    done(work.size(task))
        finally:
            client.cancel(list(flying), force=True)


class _Room:
    """How many tasks a cluster takes at once, looked up as workers come and go: coded shards must not pile up."""

    def __init__(self, client: Any, engine: Engine) -> None:
        self.client = client
        self.seen = time.monotonic()
        self.places = 0
        self.look()

    def look(self) -> None:
        """Count the workers' threads; `NecError` where there have been none for a minute."""
        threads = sum(self.client.nthreads().values())
        now = time.monotonic()
        if threads:
            self.seen, self.places = now, IN_FLIGHT * threads
        elif now - self.seen > PATIENCE_SECONDS:
            raise NecError(f"the cluster {self.client.scheduler.address} has no workers any more: start some")


def _finished(client: Any, futures: list[Any], room: _Room) -> list[Any]:
    """Those that are finished, at least one unless `POLL_SECONDS` pass."""
    try:
        finished = distributed.wait(futures, timeout=POLL_SECONDS, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        finished = set()
    if client.status != "running":
        raise NecError("the Dask scheduler was lost: start it again")
    room.look()
    return list(finished)


def _result(future: Any, task: Task) -> Any:
    try:
        result = future.result()
    except distributed.KilledWorker as error:
        raise NecError(f"workers died repeatedly at shard {task}, of too little memory as a rule: {error}") from error
    except distributed.client.FutureCancelledError as error:
        raise NecError(f"the Dask scheduler was lost or dropped shard {task}: {error}") from error
    except Exception as error:  # a worker's, after all retries
        raise NecError(f"shard {task} failed on a worker: {error!r}") from error
    if isinstance(result, NecError):
        raise result
    return result


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A `distributed.LocalCluster` of so many processes, with the memory allocator that a model needs.

    Dask's own setting has workers give freed memory back at once. A model asks for as much again in the next layer,
    and the system clears it each time, which costs a quarter of the processor time of ViT-S.
    """
    spawn = "distributed.nanny.pre-spawn-environ"
    setting = "MALLOC_TRIM_THRESHOLD_"
    environment = dict(dask.config.get(spawn))
    if os.environ.get(setting) == str(environment.pop(setting, None)):
        del os.environ[setting]  # another cluster of this process left it, and workers would inherit it
    with (
        dask.config.set({spawn: environment}),
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=THREADS_PER_WORKER,
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        ) as cluster,
    ):
        yield cluster


@contextmanager
def _client(engine: Engine) -> Iterator[Any]:
    """A client of the cluster at `engine.scheduler`, or of one that lives as long as the block."""
    with ExitStack() as stack:
        target: Any = engine.scheduler or stack.enter_context(local_cluster(engine.workers))
        try:
            client = stack.enter_context(distributed.Client(target, timeout=CONNECT_SECONDS, set_as_default=False))
            client.wait_for_workers(1, timeout=PATIENCE_SECONDS)
        except (OSError, ValueError) as error:  # no such host, refused, timed out
            raise NecError(f"no Dask cluster with workers at {engine.scheduler}: {error}") from error
        yield client


@contextmanager
def _installed(client: Any, work: Work, threads: int | None) -> Iterator[str]:
    """Give the work to all workers -> the name under which they know it."""
    name = f"nec-{uuid.uuid4().hex[:12]}"
    client.register_plugin(_Model(name, work, threads), name=name)
    try:
        yield name
    finally:
        if client.status == "running":
            client.unregister_worker_plugin(name)
