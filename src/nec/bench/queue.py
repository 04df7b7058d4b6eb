"""Heads that wait for a process to train them, and the tokens that lie on disk for them."""

from __future__ import annotations

import shutil
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from pathlib import Path

from nec.bench.cache import Cache
from nec.bench.heads import HeadJob, HeadResult, train_head
from nec.bench.panels import panel_places, save_npz
from nec.bench.recipe import MethodPoint
from nec.bench.results import primary_metric
from nec.bench.work import FINE_TUNE, Work
from nec.bench.workers import Log, Pool
from nec.errors import NecError

Heads = dict[tuple[bool, int], str]  # (decoder, seed) -> key in the cache


@dataclass(frozen=True)
class _Head:
    """A head in training: its key in the cache, and what to call it."""

    key: str
    words: str
    metric: str


@dataclass
class _Tokens:
    """Heads in training on the tokens of a folder, which goes with the last of them if it is the point's `own`."""

    folder: Path
    own: bool
    futures: set[Future[HeadResult]] = field(default_factory=set)


class HeadQueue:
    """Trains heads in the processes of a pool, and keeps in the cache what they reached. `failed`: what did not."""

    def __init__(self, pool: Pool, cache: Cache, log: Log) -> None:
        self.pool, self.cache, self.log = pool, cache, log
        self.failed: list[str] = []
        self._tokens: list[_Tokens] = []
        self._waiting: dict[Future[HeadResult], _Head] = {}

    def fail(self, words: str, error: NecError) -> None:
        """Note that something failed; the rest goes on."""
        self.failed.append(f"{words}: {error}")
        self.log(f"failed: {self.failed[-1]}")

    def missing(self, heads: Heads) -> Heads:
        """Those heads that are neither in the cache nor in training."""
        in_training = {head.key for head in self._waiting.values()}
        return {
            pair: key for pair, key in heads.items() if key not in in_training and self.cache.get("head", key) is None
        }

    def submit(self, work: Work, point: MethodPoint, folder: Path, own: bool, heads: Heads) -> None:
        """Start training heads on the tokens in `folder`; `own`: it goes when the last of them is done."""
        model, task, kind = work.model(point), work.subset.task, work.job(point)
        assert model is not None
        places = panel_places(work.subset) if task == "segmentation" else ()
        tokens = _Tokens(folder, own)
        self._tokens.append(tokens)
        for (decoder, seed), key in heads.items():
            job = HeadJob(
                folder,
                work.truth,
                kind,
                tuple(work.subset.classes),
                model.path if decoder or point.method == FINE_TUNE else None,
                work.recipe.head_options(kind, decoder),
                seed,
                places if seed == work.recipe.seeds[0] else (),
            )
            future = self.pool.submit(train_head, job)
            words = f"{work.plan.name} {point.method} {point.label}{' +decoder' if decoder else ''} seed {seed}"
            self._waiting[future] = _Head(key, words, primary_metric(task))
            tokens.futures.add(future)
        self._release()

    def wait(self, most: int) -> None:
        """Keep what is done, and wait until fewer than `most` heads are in training."""
        while self._waiting:
            block = len(self._waiting) >= most
            done, _ = wait(self._waiting, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            for future in done:
                head = self._waiting.pop(future)
                try:
                    self._keep(head, future.result())
                except NecError as error:
                    self.fail(head.words, error)
            self._release()
            if not block:
                return

    def _keep(self, head: _Head, result: HeadResult) -> None:
        if result.panels is not None and len(result.panels):
            save_npz(self.cache.path("panels", head.key, ".npz"), predicted=result.panels)
        if result.outcome is not None:
            self.cache.put_array("outcome", head.key, result.outcome)
        self.cache.put("head", head.key, result.document())
        self.log.done += 1
        reached = f"{head.metric} {result.metrics[head.metric]:.4f} in {result.seconds:.0f} s"
        self.log(f"{head.words}: {reached}", counted=True)

    def _release(self) -> None:
        for tokens in [item for item in self._tokens if not item.futures & self._waiting.keys()]:
            self._tokens.remove(tokens)
            if tokens.own:
                shutil.rmtree(tokens.folder, ignore_errors=True)
