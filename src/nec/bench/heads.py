"""Heads of a benchmark, each trained in a process of its own: a head on small tokens uses one core well and not two.

Everything goes through files, and every head runs on one thread, so figures do not depend on how many run at once.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nec.bench.recipe import FINE_TUNE, MethodPoint
from nec.bench.results import primary_metric
from nec.bench.subset import PARTS, Cache, save_npz
from nec.errors import NecError
from nec.heads.report import TASKS
from nec.heads.train import HeadSettings, train_once
from nec.labels import IGNORE

if TYPE_CHECKING:
    from nec.bench.run import Work

_Job = TypeVar("_Job")
_Result = TypeVar("_Result")
Heads = dict[tuple[bool, int], str]  # (decoder, seed) -> key in the cache


@dataclass(frozen=True)
class HeadJob:
    """What a worker needs to train one head.

    Attributes:
        inputs, truth: folders of `<part>.npy`; inputs are tokens, for fine-tuning images.
        work: "classification" or "segmentation" on tokens, or "fine_tune": the model with a head, on images.
        class_names: in the order of the labels.
        model: folder or name of the model whose decoder stage is trained with the head (None: no stage), or which is
            fine-tuned.
        options: `HeadSettings` that differ from the default.
        seed: of the head.
        panels: places of test images whose predicted class maps are wanted (segmentation).
    """

    inputs: Path
    truth: Path
    work: str
    class_names: tuple[str, ...]
    model: str | None
    options: dict[str, Any]
    seed: int
    panels: tuple[int, ...] = ()


@dataclass(frozen=True)
class HeadResult:
    """What a head reached on the test part.

    Attributes:
        panels: class maps (m, h, w) uint8, or None.
        outcome: of each test image, for the bootstrap: whether it is right (n,) bool, or its pixels' confusion
            (n, k, k) [truth, predicted]; None where it was not kept.
    """

    metrics: dict[str, float]
    confusion: list[list[int]]
    seconds: float
    panels: NDArray[np.uint8] | None = None
    outcome: NDArray[Any] | None = None


def recipe_for(work: str, images: int, decoder: bool, options: dict[str, Any]) -> dict[str, Any]:
    """How heads are trained: the work's defaults for so many images, with the recipe's own values."""
    task = "online" if work == "fine_tune" else work
    return _settings(options).resolve(task, images, decoder).of(task)


def _settings(options: dict[str, Any]) -> HeadSettings:
    # In a recipe the width null is half the tokens' dimensions.
    given: dict[str, Any] = {key: 0 if (key, value) == ("width", None) else value for key, value in options.items()}
    return HeadSettings(**given)


def train_head(job: HeadJob) -> HeadResult:
    """Train the head of a job on its train part, epochs chosen on val, and evaluate it once on test."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _train(job)
    finally:
        torch.set_num_threads(threads)


def _train(job: HeadJob) -> HeadResult:
    from nec.heads.online import Part, TokenSource
    from nec.models import load_model

    arrays, truth = (
        [np.load(folder / f"{part}.npy", mmap_mode="c") for part in PARTS] for folder in (job.inputs, job.truth)
    )
    fine_tune = job.work == "fine_tune"
    task, settings = ("classification" if fine_tune else job.work), _settings(job.options)
    began = time.perf_counter()
    model = None if job.model is None else load_model(job.model)
    if fine_tune:
        assert model is not None
        options: dict[str, Any] = {"images": TokenSource(model, None, True)}
        inputs: list[Any] = [Part(images.__getitem__, labels) for images, labels in zip(arrays, truth, strict=True)]
        settings = settings.resolve("online", len(truth[0]), False)
    else:
        grid = (arrays[0].shape[1], arrays[0].shape[2])
        options, inputs = {"stage": None if model is None else model.decoder_stage().on_grid(grid)}, arrays
        settings = settings.resolve(task, len(truth[0]), model is not None)
    found = train_once(inputs, truth, task, job.class_names, settings, job.seed, **options)
    metrics = {name: float(found.figures[name]) for name in TASKS[task]}
    confusion, seconds = found.figures["confusion"].tolist(), time.perf_counter() - began
    if task == "segmentation":
        cells = image_confusions(found.predicted, truth[2], len(job.class_names))
        return HeadResult(metrics, confusion, seconds, found.predicted[list(job.panels)], cells)
    right = None if fine_tune else found.predicted.argmax(axis=1) == truth[2]
    return HeadResult(metrics, confusion, seconds, outcome=right)


def image_confusions(predicted: NDArray[Any], truth: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Confusion (n, k, k) [truth, predicted] of the labelled pixels of each image of (n, h, w)."""
    images = np.arange(len(truth)).repeat(truth[0].size).reshape(truth.shape)
    known = truth != IGNORE
    cells = (images[known] * classes + truth[known]) * classes + predicted[known]
    return np.bincount(cells, minlength=len(truth) * classes**2).reshape(-1, classes, classes)


# -- processes --------------------------------------------------------------------------------------------------------


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


# -- heads that wait --------------------------------------------------------------------------------------------------


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
        self._waiting: dict[Future[HeadResult], tuple[str, str, str]] = {}  # key, what to call it, its metric

    def fail(self, words: str, error: NecError) -> None:
        """Note that something failed; the rest goes on."""
        self.failed.append(f"{words}: {error}")
        self.log(f"failed: {self.failed[-1]}")

    def missing(self, heads: Heads) -> Heads:
        """Those heads that are neither in the cache nor in training."""
        in_training = {key for key, _, _ in self._waiting.values()}
        return {
            pair: key for pair, key in heads.items() if key not in in_training and self.cache.get("head", key) is None
        }

    def submit(self, work: Work, point: MethodPoint, folder: Path, own: bool, heads: Heads) -> None:
        """Start training heads on the tokens in `folder`; `own`: it goes when the last of them is done."""
        model, task, kind = work.model(point), work.subset.task, work.job(point)
        assert model is not None
        places = work.subset.panel_places() if task == "segmentation" else ()
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
            self._waiting[future] = key, words, primary_metric(task)
            tokens.futures.add(future)
        self._release()

    def wait(self, most: int) -> None:
        """Keep what is done, and wait until fewer than `most` heads are in training."""
        while self._waiting:
            block = len(self._waiting) >= most
            done, _ = wait(self._waiting, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            for future in done:
                key, words, metric = self._waiting.pop(future)
                try:
                    self._keep(key, words, metric, future.result())
                except NecError as error:
                    self.fail(words, error)
            self._release()
            if not block:
                return

    def _keep(self, key: str, words: str, metric: str, result: HeadResult) -> None:
        if result.panels is not None and len(result.panels):
            save_npz(self.cache.path("panels", key, ".npz"), predicted=result.panels)
        if result.outcome is not None:
            self.cache.put_array("outcome", key, result.outcome)
        document = {"metrics": result.metrics, "confusion": result.confusion, "seconds": result.seconds}
        self.cache.put("head", key, document)
        self.log.done += 1
        self.log(f"{words}: {metric} {result.metrics[metric]:.4f} in {result.seconds:.0f} s", counted=True)

    def _release(self) -> None:
        for tokens in [item for item in self._tokens if not item.futures & self._waiting.keys()]:
            self._tokens.remove(tokens)
            if tokens.own:
                shutil.rmtree(tokens.folder, ignore_errors=True)
