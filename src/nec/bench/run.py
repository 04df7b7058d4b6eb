"""Run a benchmark: models, bytes, heads, results. What is finished is never computed again."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import nec
from nec.bench.comparison import compare
from nec.bench.heads import HeadQueue, Log, recipe_for, workers
from nec.bench.measure import (
    fitted_method,
    measure_adapted,
    measure_images,
    measure_lossless,
    measure_reference,
    measure_tokens,
)
from nec.bench.models import ModelRef, Models
from nec.bench.recipe import FINE_TUNE, REFERENCES, BenchRecipe, DatasetPlan, MethodPoint, load_recipe
from nec.bench.results import Results, Row, curve, headline, primary_metric
from nec.bench.subset import Cache, Subset, embedded, key_of, model_inputs, save_images, save_npz, save_truth
from nec.errors import InputError, NecError
from nec.files import make_folder
from nec.report import Report
from nec.store.backend import WriterLock


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
    with ExitStack() as held, workers(jobs or os.cpu_count() or 1) as pool:
        held.callback(WriterLock(out).release)
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


# -- a dataset at work ------------------------------------------------------------------------------------------------


@dataclass
class Work:
    """A dataset of a benchmark. `base` is None where it is not trained yet and not to be.

    What a figure depends on is hashed to its key: images and truth (`identity`), the model's fingerprint, the point,
    the head's recipe and seed.
    """

    plan: DatasetPlan
    recipe: BenchRecipe
    cache: Cache
    models: Models
    subset: Subset
    base: ModelRef | None
    truth: Path
    identity: dict[str, Any]
    adapted: dict[MethodPoint, ModelRef] = field(default_factory=dict)

    @classmethod
    def open(
        cls, plan: DatasetPlan, recipe: BenchRecipe, cache: Cache, models: Models, origin: ModelRef, *, train: bool
    ) -> Work:
        """Open a dataset and its base model; `train`: make the model if the recipe wants one and it is not there."""
        subset = Subset(plan)
        if subset.task == "segmentation":  # fine-tuning is for classification only
            plan = replace(plan, points=tuple(point for point in plan.points if point.method != FINE_TUNE))
        base = models.base(plan, origin, train=train)
        return cls(plan, recipe, cache, models, subset, base, save_truth(cache, subset), subset.identity())

    def job(self, point: MethodPoint) -> str:
        """What a point's heads do: `HeadJob.work`."""
        return "fine_tune" if point.method == FINE_TUNE else self.subset.task

    def model(self, point: MethodPoint, *, train: bool = False) -> ModelRef | None:
        """The model whose tokens a point codes; None where it is not trained yet and not to be."""
        if point.adapt is None or self.base is None:
            return self.base
        if point not in self.adapted:
            found = self.models.get(self.plan, point.model_name, point.adapt, self.base, train=train)
            if found is None:
                return None
            self.adapted[point] = found
        return self.adapted[point]

    def keys(self, point: MethodPoint) -> tuple[str, str] | None:
        """Keys of a point's bytes and of the tokens that its heads train on; None while its model does not exist.

        What gives the images back exactly has the base model's float tokens, and shares their heads.
        """
        model = self.model(point)
        if model is None:
            return None
        facts = {"model": model.fingerprint, **self.identity}
        own = key_of({"point": point.identity(), **facts})
        return own, key_of(facts) if point.shares_float_tokens else own

    def heads(self, point: MethodPoint, tokens: str) -> dict[tuple[bool, int], str]:
        """(decoder, seed) of a point's heads -> their keys. A model that is fine-tuned needs no decoder."""
        kind, images = self.job(point), len(self.subset.indices["train"])
        found = {}
        for decoder in [False] if point.method == FINE_TUNE else self.recipe.decoder:
            recipe = recipe_for(kind, images, decoder, self.recipe.head_options(kind, decoder))
            for seed in point.head_seeds or self.recipe.seeds:
                facts = {"head": tokens, "decoder": decoder, "recipe": recipe, "seed": seed}
                found[decoder, seed] = key_of(facts)
        return found

    # -- what is finished ---------------------------------------------------------------------------------------------

    def missing_heads(self, point: MethodPoint) -> int:
        """Heads of a point that are not in the cache; those of shared tokens count with the first such point."""
        keys = self.keys(point)
        if keys is None:
            return len(self.recipe.decoder) * len(point.head_seeds or self.recipe.seeds)
        if point.shares_float_tokens and point is not next(p for p in self.plan.points if p.shares_float_tokens):
            return 0
        return sum(self.cache.get("head", key) is None for key in self.heads(point, keys[1]).values())

    def finished(self) -> Iterator[tuple[Row, str]]:
        """Rows of all points, with the keys of their heads."""
        for point in self.plan.points:
            keys = self.keys(point)
            measured = None if keys is None else self.cache.get("measured", keys[0])
            if keys is None or measured is None:
                continue
            for (decoder, seed), key in self.heads(point, keys[1]).items():
                head = self.cache.get("head", key)
                if head is None:
                    continue
                row = Row(
                    self.plan.name, point.method, point.label, point.setting, decoder, seed,
                    measured["bytes_per_image"], head["metrics"], point.adapt_seed, measured["side_information"],
                    head["confusion"], measured["fidelity"], measured["exact"],
                    {**measured["seconds"], "head": round(head["seconds"], 3)},
                )  # fmt: skip
                yield row, key

    def outcome(self, key: str) -> NDArray[Any] | None:
        """What a head got right: by test image, or of windows with masks summed over each whole tile."""
        found = self.cache.get_array("outcome", key)
        groups = self.subset.dataset.groups
        if found is None or self.subset.task != "segmentation" or groups is None:
            return found
        names, tile = np.unique(groups[self.subset.indices["test"]], return_inverse=True)
        sums = np.zeros((len(names), *found.shape[1:]), np.int64)
        np.add.at(sums, tile, found)
        return sums

    def write_panels(self, out: Path) -> None:
        """Class maps of the first seed's heads, `out/panels/<dataset>/<point>-<decoder|plain>.npz`.

        Each has `images` (m, h, w, 3), `truth` and `predicted` (m, h, w) uint8, and whose they are.
        """
        subset = self.subset
        shown: dict[str, NDArray[Any]] = {}
        for point in self.plan.points if subset.task == "segmentation" else ():
            keys = self.keys(point)
            for (decoder, seed), key in self.heads(point, keys[1]).items() if keys else ():
                source = self.cache.path("panels", key, ".npz")
                if seed != self.recipe.seeds[0] or not source.is_file():
                    continue
                if not shown:
                    chosen = subset.indices["test"][np.asarray(subset.panel_places())]
                    images = subset.dataset.load(chosen, subset.plan.options.image_size)
                    shown = {"images": images, "truth": subset.dataset.masks(chosen)}
                path = out / "panels" / self.plan.name / f"{point.name}-{'decoder' if decoder else 'plain'}.npz"
                facts = {"method": point.method, "label": point.label, "decoder": decoder}
                with np.load(source) as file:
                    save_npz(path, predicted=file["predicted"], **shown, **facts)


# -- what is run ------------------------------------------------------------------------------------------------------


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
        cache.put("measured", key, asdict(found))
        error = f", relative error {found.fidelity['relative_error']:.3f}" if found.fidelity else ""
        log(f"{work.plan.name} {point.method} {point.label}: {found.bytes_per_image:.1f} bytes an image{error}")
    return folder, own


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

    cpu = platform.processor()
    with suppress(OSError):
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
        cpu = found[1] if found else cpu
    return {
        "nec": nec.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _document(recipe: BenchRecipe, model: str | Path) -> dict[str, Any]:
    """The recipe as it was run, JSON-able, every default filled in."""
    document = asdict(recipe)
    for own, plan in zip(recipe.datasets, document["datasets"], strict=True):
        for point, values in zip(own.points, plan["points"], strict=True):
            values["adapt"] = None if point.adapt is None else point.adapt.to_dict()
        plan["spec"] = Path(plan["spec"].partition(":")[2]).name or plan["spec"]
    return {"model": Path(model).name, **json.loads(json.dumps(document))}
