"""Run a benchmark: models, bytes, heads, results. What is finished is never computed again."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import nec
from nec.bench.cache import Cache
from nec.bench.comparison import compare
from nec.bench.measure import (
    Measured,
    fitted_method,
    measure_adapted,
    measure_images,
    measure_lossless,
    measure_reference,
    measure_tokens,
)
from nec.bench.models import ModelRef, Models
from nec.bench.queue import HeadQueue
from nec.bench.recipe import REFERENCES, BenchRecipe, MethodPoint, load_recipe
from nec.bench.results import Results, curve, headline, primary_metric
from nec.bench.subset import embedded, model_inputs, save_images
from nec.bench.work import FINE_TUNE, Work
from nec.bench.workers import Log, workers
from nec.errors import InputError, NecError
from nec.files import make_folder
from nec.report import Report
from nec.store.backend import WriterLock

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class BenchReport(Report):
    """What a benchmark came to.

    Attributes:
        headline: of each dataset `bytes_saved`, `accuracy_lost`, `below_others`; see `docs/bench.md`.
        bd_rate: every method against each of ours at equal accuracy.
        rows: how many heads were measured.
        files: what was written, `report.html` last.
        curves: of each dataset the lines that a person reads; not in the JSON.
    """

    headline: dict[str, Any]
    bd_rate: list[dict[str, Any]]
    rows: int
    files: list[str]
    curves: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {name: value for name, value in super().to_dict().items() if name != "curves"}

    def __str__(self) -> str:
        return "\n".join([*self.curves, "", *self.files]).lstrip("\n")


def bench(
    datasets: Sequence[str] = (),
    *,
    out: str | Path,
    model: str | Path | None = None,
    recipe: str | Path | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    report_only: bool = False,
    progress: bool = True,
) -> BenchReport:
    """Measure bytes and accuracy of every method over rates and seeds, and write figures and a report.

    What is finished in `out` is never computed again, so a run that was stopped goes on.

    Args:
        datasets: KIND:PATH, or NAME=KIND:PATH; the recipe's section of that name applies.
        out: folder of models, cache, results and report.
        model: the foundation model, a folder or a shipped name.
        recipe: YAML file of what to run (docs/bench.md); a small default without it.
        only: run DATASET/METHOD only (or a whole DATASET). Results hold all that is finished.
        jobs: heads that train at once; by default one a core.
        report_only: write the report of the results in `out` anew.
        progress: print how far the run is.

    Returns:
        The headline figures, and the files that were written.

    Raises:
        InputError: a dataset, model or recipe that cannot be used, `only` that names nothing in the recipe, another run
            at work in `out`.
        NecError: points or heads failed; all others were finished first.
    """
    from nec.bench.report import write_report

    out = Path(out)
    if report_only:
        results = Results.read(out)
    elif not datasets or model is None:
        raise InputError("give at least one DATASET (KIND:PATH) and --model MODEL, or --report-only")
    else:
        results = run_bench(load_recipe(recipe, datasets), model, out, only=only, jobs=jobs, quiet=not progress)
    files = [str(path) for path in write_report(results, out)]
    return BenchReport(headline(results), results.bd_rate, len(results.rows), files, tuple(_lines(results)))


def run_bench(
    recipe: BenchRecipe,
    model: str | Path,
    out: str | Path,
    *,
    only: Sequence[str] = (),
    jobs: int | None = None,
    quiet: bool = False,
) -> Results:
    """Run what is not in the cache of the folder `out` yet, and write `results.json` and `results.csv` there.

    Arguments and errors are those of `bench`.
    """
    if jobs is not None and jobs < 1:
        raise InputError(f"--jobs must be at least 1, not {jobs}")
    chosen = _chosen(recipe, only)
    out, log = Path(out), Log(quiet)
    make_folder(out)
    # A second run would clear away the tokens that the first one's heads train on.
    with _locked(out), workers(jobs or os.cpu_count() or 1) as pool:
        cache, origin = Cache(out / "cache"), ModelRef.of(model)
        for kind in ("features", "adapted", "images"):  # what a run that was killed left
            cache.drop(kind)
        models = Models(out, {plan.name: plan for plan in recipe.datasets}, log)
        begun = {name for name, _ in chosen}
        works = {
            plan.name: Work.open(plan, recipe, cache, models, origin, train=plan.name in begun)
            for plan in recipe.datasets
        }
        todo = [(works[name], point) for name, point in chosen if point in works[name].plan.points]
        log.total = sum(work.missing_heads(point) for work, point in todo)
        queue = HeadQueue(pool, cache, log)
        for work, point in todo:
            _run(work, point, queue, log)
            _gather(recipe, model, works).write(out)
        queue.wait(1)
        log("comparing methods at equal accuracy")
        results = _gather(recipe, model, works)
        outcomes = [work.outcome(key) for work in works.values() for _, key in work.finished()]
        results = replace(results, bd_rate=compare(results, outcomes))
        results.write(out)
        for work in works.values():
            work.write_panels(out)
    if queue.failed:
        raise NecError(f"{len(queue.failed)} of the benchmark failed, the rest is in {out}: {'; '.join(queue.failed)}")
    return results


# -- what is run ------------------------------------------------------------------------------------------------------


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer; `InputError` where another process does."""
    lock = WriterLock(folder)
    try:
        yield
    finally:
        lock.release()


def _chosen(recipe: BenchRecipe, only: Sequence[str]) -> list[tuple[str, MethodPoint]]:
    """(dataset, point) of all that is to run, in the recipe's order."""
    everything = [(plan.name, point) for plan in recipe.datasets for point in plan.points]
    for text in only:
        if not any(_names(text, *item) for item in everything):
            known = sorted({f"{name}/{point.method}" for name, point in everything})
            raise InputError(f"--only {text} is not in the recipe; it has {', '.join(known)}")
    return [item for item in everything if not only or any(_names(text, *item) for text in only)]


def _names(text: str, dataset: str, point: MethodPoint) -> bool:
    name, slash, method = text.partition("/")
    return name == dataset and (not slash or method in (point.method, point.name))


def _run(work: Work, point: MethodPoint, queue: HeadQueue, log: Log) -> None:
    """Measure a point if that was not done, and start training the heads that are missing."""
    try:
        work.model(point, train=True)
        keys = work.keys(point)
        assert keys is not None
        missing = queue.missing(work.heads(point, keys[1]))
        if missing or work.cache.get("measured", keys[0]) is None:
            queue.wait(queue.pool.jobs)  # bounds the tokens that lie on disk at once
            folder, own = _tokens(work, point, keys[0], log)
            queue.submit(work, point, folder, own, missing)
    except NecError as error:
        queue.fail(f"{work.plan.name} {point.method} {point.label}", error)


def _tokens(work: Work, point: MethodPoint, key: str, log: Log) -> tuple[Path, bool]:
    """Where a point's decoded tokens (for fine-tuning, images) are, and whether they are its own alone.

    Makes them, and measures the point on the way.
    """
    assert work.base is not None
    cache, subset, model = work.cache, work.subset, work.base.load()
    if point.symmetries is not None:
        model = model.symmetric(point.symmetries)
    tokens_key, tokens = embedded(cache, "tokens", model, subset)
    folder, own = cache.path("features", key, ""), True
    if point.shares_float_tokens:
        folder, own = cache.path("tokens", tokens_key, ""), False
        if cache.get("measured", key) is not None:
            return folder, own
    if point.method in REFERENCES:
        found = measure_reference(subset, point.method, tokens)
        if point.method == FINE_TUNE:
            folder = save_images(cache, subset, model_inputs(model, subset).size)
    elif point.adapt is not None:
        adapted = work.model(point)
        assert adapted is not None
        found = measure_adapted(subset, point, adapted.load(), cache, folder)
    else:
        method = fitted_method(point.spec, cache, tokens_key, tokens)
        if point.shares_float_tokens:
            found = measure_lossless(subset, model, method)
        elif method.domain == "images":
            found = measure_images(subset, model, method, folder, tokens)
        else:
            found = measure_tokens(subset, method, method.nbytes, tokens, folder)
    if cache.get("measured", key) is None:
        cache.put("measured", key, found.document())
        log(f"{work.plan.name} {point.method} {point.label}: {_worth(found)}")
    return folder, own


def _worth(found: Measured) -> str:
    error = f", relative error {found.fidelity['relative_error']:.3f}" if found.fidelity else ""
    return f"{found.bytes_per_image:.1f} bytes an image{error}"


# -- what came of it --------------------------------------------------------------------------------------------------


def _gather(recipe: BenchRecipe, model: str | Path, works: dict[str, Work]) -> Results:
    """All that is finished."""
    described = {name: work.subset.describe() for name, work in works.items()}
    rows = [row for work in works.values() for row, _ in work.finished()]
    return Results(_document(recipe, model), environment(), described, rows)


def _lines(results: Results) -> Iterator[str]:
    """Every curve, a line a point."""
    for dataset in results.datasets:
        metric = primary_metric(results.task(dataset))
        yield f"\n{dataset}: {metric} of the test images, by stored bytes an image"
        for method in results.methods(dataset):
            for decoder in (False, True):
                for point in curve(results, dataset, method, decoder):
                    name = f"{method} {point.label}{' +decoder' if decoder else ''}"
                    spread = f" ± {point.std:.4f}" if point.count > 1 else ""
                    yield f"  {name:<40} {point.bytes_per_image:>10.1f}  {point.mean:.4f}{spread}"


def environment() -> dict[str, Any]:
    """Versions, processor, threads and date of a run."""
    import torch

    return {
        "nec": nec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    found = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return found[1] if found else platform.processor()


def _document(recipe: BenchRecipe, model: str | Path) -> dict[str, Any]:
    """The recipe as it was run, JSON-able, every default filled in."""
    document = asdict(recipe)
    for own, plan in zip(recipe.datasets, document["datasets"], strict=True):
        for point, values in zip(own.points, plan["points"], strict=True):
            values["adapt"] = None if point.adapt is None else point.adapt.to_dict()
        plan["spec"] = Path(plan["spec"].partition(":")[2]).name or plan["spec"]
    return {"model": Path(model).name, **_plain(document)}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
