"""Run a benchmark: models, bytes, heads, results. What is finished is never computed again."""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import nec
from nec.bench.adaptation import find_trained, trained
from nec.bench.cache import Cache, key_of
from nec.bench.comparison import compare
from nec.bench.heads import HeadJob, HeadResult, recipe_for, train_head
from nec.bench.measure import (
    Measured,
    fitted_method,
    measure_adapted,
    measure_images,
    measure_lossless,
    measure_reference,
    measure_tokens,
)
from nec.bench.panels import panel_places, save_npz, write_panel
from nec.bench.recipe import REFERENCES, BenchRecipe, DatasetPlan, MethodPoint
from nec.bench.results import Results, Row, primary_metric
from nec.bench.subset import Subset, embedded, model_inputs, open_plan, save_images, save_truth
from nec.bench.workers import Log, Pool, workers
from nec.errors import InputError, NecError
from nec.files import make_folder
from nec.store.lock import WriterLock

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.models import NecModel
    from nec.training import TrainingSettings


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

    Args:
        model: the foundation model, a folder or a shipped name.
        only: "DATASET/METHOD" or "DATASET": what to run; the results hold all that is finished.
        jobs: heads that train at once; by default one a core.
        quiet: print no progress.

    Raises:
        InputError: a dataset or model that cannot be used, `only` that names nothing in the recipe, another run at work
            in `out`.
        NecError: points or heads failed; all others were finished first.
    """
    chosen = _chosen(recipe, only)
    out = Path(out)
    make_folder(out)
    # A second run would clear away the tokens that the first one's heads train on.
    with _locked(out), workers(jobs or os.cpu_count() or 1) as pool:
        bench = _Bench(recipe, str(model), out, Cache(out / "cache"), pool, Log(quiet))
        for plan in recipe.datasets:
            bench.open(plan, train=any(name == plan.name for name, _ in chosen))
        chosen = [(name, point) for name, point in chosen if point in bench.datasets[name].plan.points]
        bench.log.total = sum(bench.missing_heads(name, point) for name, point in chosen)
        for name, point in chosen:
            bench.run(name, point)
            bench.results().write(out)
        bench.finish()
        results = bench.compared()
        results.write(out)
        bench.write_panels()
    if bench.failed:
        raise NecError(f"{len(bench.failed)} of the benchmark failed, the rest is in {out}: {'; '.join(bench.failed)}")
    return results


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
    if not only:
        return everything
    for text in only:
        if not any(_names(text, *item) for item in everything):
            known = sorted({f"{name}/{point.method}" for name, point in everything})
            raise InputError(f"--only {text} is not in the recipe; it has {', '.join(known)}")
    return [item for item in everything if any(_names(text, *item) for text in only)]


def _names(text: str, dataset: str, point: MethodPoint) -> bool:
    name, slash, method = text.partition("/")
    return name == dataset and (not slash or method in (point.method, point.name))


@dataclass(frozen=True)
class _Model:
    """Where a model lies, and what decides its embeddings (`NecModel.fingerprint`)."""

    path: str
    fingerprint: str

    def load(self) -> NecModel:
        from nec.models import load_model

        return load_model(self.path)


@dataclass
class _Open:
    """A dataset at work; `base` is None where it is not trained yet and not to be."""

    plan: DatasetPlan
    subset: Subset
    base: _Model | None
    truth: Path
    identity: dict[str, Any]
    adapted: dict[MethodPoint, _Model] = field(default_factory=dict)


@dataclass
class _Pending:
    """Heads in training on the tokens of a folder, which goes with the last of them if it is the point's `own`."""

    folder: Path
    own: bool
    futures: set[Future[HeadResult]] = field(default_factory=set)


@dataclass(frozen=True)
class _Head:
    """A head in training: its key in the cache, and what to call it."""

    key: str
    words: str
    metric: str


class _Bench:
    def __init__(self, recipe: BenchRecipe, model: str, out: Path, cache: Cache, pool: Pool, log: Log) -> None:
        self.recipe, self.model, self.out, self.cache, self.pool, self.log = recipe, model, out, cache, pool, log
        self.plans = {plan.name: plan for plan in recipe.datasets}
        self.datasets: dict[str, _Open] = {}
        self.pending: list[_Pending] = []
        self.waiting: dict[Future[HeadResult], _Head] = {}
        self.failed: list[str] = []
        for kind in ("features", "adapted", "images"):  # what a run that was killed left
            cache.drop(kind)

    # -- datasets and models ------------------------------------------------------------------------------------------

    def open(self, plan: DatasetPlan, train: bool) -> None:
        """Open a dataset and its base model; `train`: make the model if the recipe wants one and it is not there."""
        from nec.models import load_model

        subset, origin = Subset(plan), load_model(self.model)
        base: _Model | None = _Model(self.model, origin.fingerprint)
        if plan.base is not None:
            base = self._trained(plan, "base", plan.base, origin, train)
        if subset.task == "segmentation":  # fine-tuning is for classification only
            plan = replace(plan, points=tuple(point for point in plan.points if point.method != "fine-tune"))
        self.datasets[plan.name] = _Open(plan, subset, base, save_truth(self.cache, subset), subset.identity())

    def _trained(
        self, plan: DatasetPlan, name: str, settings: TrainingSettings, origin: NecModel, train: bool
    ) -> _Model | None:
        from nec.models import load_model

        source = plan.options.models or plan.name
        folder = self.out / "models" / source
        found = find_trained(folder, settings, origin)
        if found is None and train:
            if source not in self.plans:
                raise InputError(f"{plan.name} uses the models of {source}, and {name} is not there: give {source} too")
            maker = self.plans[source]
            self.log(f"{source}: training {name} for {settings.epochs:g} epochs")
            tile = maker.options.train_tile
            if tile is None and maker.options.tile is not None:
                tile = origin.config.image_size

            def images() -> Dataset:
                return open_plan(maker, tile)

            found = trained(folder, name, settings, origin, images, progress=not self.log.quiet)
        return None if found is None else _Model(str(found), load_model(found).fingerprint)

    def _model(self, work: _Open, point: MethodPoint, train: bool = False) -> _Model | None:
        """The model whose tokens a point codes; None where it is not trained yet and not to be."""
        if point.adapt is None or work.base is None:
            return work.base
        if point not in work.adapted:
            found = self._trained(work.plan, point.model_name, point.adapt, work.base.load(), train)
            if found is None:
                return None
            work.adapted[point] = found
        return work.adapted[point]

    # -- keys ---------------------------------------------------------------------------------------------------------

    def _keys(self, work: _Open, point: MethodPoint) -> tuple[str, str] | None:
        """Keys of a point's bytes and of its tokens; None while its model does not exist.

        What gives the images back exactly has the base model's float tokens, and shares their heads.
        """
        model = self._model(work, point)
        if model is None:
            return None
        facts = {"model": model.fingerprint, **work.identity}
        own = key_of({"point": point.identity(), **facts})
        return own, key_of(facts) if shares_float_tokens(point) else own

    def _head_key(self, work: _Open, point: MethodPoint, tokens: str, decoder: bool, seed: int) -> str:
        kind = _work(work, point)
        options = self.recipe.head_options(kind, decoder)
        recipe = recipe_for(kind, len(work.subset.indices["train"]), decoder, options)
        return key_of({"head": tokens, "decoder": decoder, "recipe": recipe, "seed": seed})

    def _heads(self, work: _Open, point: MethodPoint, tokens: str) -> dict[tuple[bool, int], str]:
        """(decoder, seed) of a point's heads -> their keys. A model that is fine-tuned needs no decoder."""
        decoders = [False] if point.method == "fine-tune" else self.recipe.decoder
        pairs = [(decoder, seed) for decoder in decoders for seed in self._seeds(point)]
        return {pair: self._head_key(work, point, tokens, *pair) for pair in pairs}

    def _seeds(self, point: MethodPoint) -> tuple[int, ...]:
        return point.head_seeds or self.recipe.seeds

    def missing_heads(self, dataset: str, point: MethodPoint) -> int:
        """Heads of a point that are not in the cache; those of shared tokens count with the first such point."""
        work = self.datasets[dataset]
        keys = self._keys(work, point)
        if keys is None:
            return len(self.recipe.decoder) * len(self._seeds(point))
        if shares_float_tokens(point) and point is not next(filter(shares_float_tokens, work.plan.points)):
            return 0
        return sum(self.cache.get("head", key) is None for key in self._heads(work, point, keys[1]).values())

    # -- one point ----------------------------------------------------------------------------------------------------

    def run(self, dataset: str, point: MethodPoint) -> None:
        """Measure a point if that was not done, and start training the heads that are missing."""
        try:
            self._run(self.datasets[dataset], point)
        except NecError as error:
            self._fail(f"{dataset} {point.method} {point.label}", error)

    def _fail(self, words: str, error: NecError) -> None:
        self.failed.append(f"{words}: {error}")
        self.log(f"failed: {self.failed[-1]}")

    def _run(self, work: _Open, point: MethodPoint) -> None:
        self._model(work, point, train=True)
        keys = self._keys(work, point)
        assert keys is not None
        in_training = {head.key for head in self.waiting.values()}
        heads = self._heads(work, point, keys[1])
        missing = {
            pair: key for pair, key in heads.items() if key not in in_training and self.cache.get("head", key) is None
        }
        if missing or self.cache.get("measured", keys[0]) is None:
            self._await(self.pool.jobs)  # bounds the tokens that lie on disk at once
            self._submit(work, point, self._tokens(work, point, keys[0]), missing)

    def _tokens(self, work: _Open, point: MethodPoint, key: str) -> _Pending:
        """Where a point's decoded tokens are; makes them, and measures the point on the way."""
        assert work.base is not None
        model = work.base.load()
        if point.symmetries is not None:
            model = model.symmetric(point.symmetries)
        tokens_key, tokens = embedded(self.cache, "tokens", model, work.subset)
        known = self.cache.get("measured", key) is not None
        if shares_float_tokens(point):
            if not known:
                if point.method in REFERENCES:
                    found = measure_reference(work.subset, point.method, tokens)
                else:
                    method = fitted_method(point.spec, self.cache, tokens_key, tokens)
                    found = measure_lossless(work.subset, model, method)
                self._keep_measured(work, point, key, found)
            return _Pending(self.cache.path("tokens", tokens_key, ""), own=False)
        if point.method == "fine-tune":
            self._keep_measured(work, point, key, measure_reference(work.subset, point.method, tokens))
            return _Pending(save_images(self.cache, work.subset, model_inputs(model, work.subset).size), own=True)
        folder = self.cache.path("features", key, "")
        if point.adapt is not None:
            adapted = self._model(work, point)
            assert adapted is not None
            found = measure_adapted(work.subset, point, adapted.load(), self.cache, folder)
        else:
            method = fitted_method(point.spec, self.cache, tokens_key, tokens)
            if method.domain == "images":
                found = measure_images(work.subset, model, method, folder, tokens)
            else:
                found = measure_tokens(work.subset, method, method.nbytes, tokens, folder)
        if not known:
            self._keep_measured(work, point, key, found)
        return _Pending(folder, own=True)

    def _keep_measured(self, work: _Open, point: MethodPoint, key: str, found: Measured) -> None:
        self.cache.put("measured", key, found.document())
        error = f", relative error {found.fidelity['relative_error']:.3f}" if found.fidelity else ""
        self.log(f"{work.plan.name} {point.method} {point.label}: {found.bytes_per_image:.1f} bytes an image{error}")

    # -- heads --------------------------------------------------------------------------------------------------------

    def _submit(self, work: _Open, point: MethodPoint, pending: _Pending, missing: dict[tuple[bool, int], str]) -> None:
        model, task = self._model(work, point), work.subset.task
        assert model is not None
        places = panel_places(work.subset) if task == "segmentation" else ()
        for (decoder, seed), key in missing.items():
            job = HeadJob(
                pending.folder,
                work.truth,
                _work(work, point),
                tuple(work.subset.classes),
                model.path if decoder or point.method == "fine-tune" else None,
                self.recipe.head_options(_work(work, point), decoder),
                seed,
                places if seed == self.recipe.seeds[0] else (),
            )
            future = self.pool.submit(train_head, job)
            words = f"{work.plan.name} {point.method} {point.label}{' +decoder' if decoder else ''} seed {seed}"
            self.waiting[future] = _Head(key, words, primary_metric(task))
            pending.futures.add(future)
        self.pending.append(pending)
        self._release()

    def _await(self, most: int) -> None:
        """Keep what is done, and wait until fewer than `most` heads are in training."""
        while self.waiting:
            block = len(self.waiting) >= most
            done, _ = wait(self.waiting, timeout=None if block else 0, return_when=FIRST_COMPLETED)
            for future in done:
                head = self.waiting.pop(future)
                try:
                    self._keep_head(head, future.result())
                except NecError as error:
                    self._fail(head.words, error)
            self._release()
            if not block:
                return

    def _keep_head(self, head: _Head, result: HeadResult) -> None:
        if result.panels is not None and len(result.panels):
            save_npz(self.cache.path("panels", head.key, ".npz"), predicted=result.panels)
        if result.outcome is not None:
            self.cache.put_array("outcome", head.key, result.outcome)
        self.cache.put("head", head.key, result.document())
        self.log.done += 1
        reached = f"{head.metric} {result.metrics[head.metric]:.4f} in {result.seconds:.0f} s"
        self.log(f"{head.words}: {reached}", counted=True)

    def _release(self) -> None:
        for pending in [item for item in self.pending if not item.futures & self.waiting.keys()]:
            self.pending.remove(pending)
            if pending.own:
                shutil.rmtree(pending.folder, ignore_errors=True)

    def finish(self) -> None:
        """Wait for every head."""
        self._await(1)

    # -- results ------------------------------------------------------------------------------------------------------

    def results(self) -> Results:
        """All that is finished."""
        described = {name: work.subset.describe() for name, work in self.datasets.items()}
        rows = [row for row, _ in self._finished()]
        return Results(_document(self.recipe, self.model), environment(), described, rows)

    def compared(self) -> Results:
        """All that is finished, methods held against each other at equal accuracy."""
        results = self.results()
        self.log("comparing methods at equal accuracy")
        outcomes = [self._outcome(self.datasets[row.dataset], key) for row, key in self._finished()]
        return replace(results, bd_rate=compare(results, outcomes))

    def _outcome(self, work: _Open, key: str) -> NDArray[Any] | None:
        """What a head got right: by test image, or of windows with masks summed over each whole tile."""
        found = self.cache.get_array("outcome", key)
        groups = work.subset.dataset.groups
        if found is None or work.subset.task != "segmentation" or groups is None:
            return found
        names, tile = np.unique(groups[work.subset.indices["test"]], return_inverse=True)
        sums = np.zeros((len(names), *found.shape[1:]), np.int64)
        np.add.at(sums, tile, found)
        return sums

    def _finished(self) -> Iterator[tuple[Row, str]]:
        """Rows with the keys of their heads."""
        for work in self.datasets.values():
            for point in work.plan.points:
                yield from self._rows(work, point)

    def _rows(self, work: _Open, point: MethodPoint) -> Iterator[tuple[Row, str]]:
        keys = self._keys(work, point)
        measured = None if keys is None else self.cache.get("measured", keys[0])
        if keys is None or measured is None:
            return
        for (decoder, seed), key in self._heads(work, point, keys[1]).items():
            head = self.cache.get("head", key)
            if head is not None:
                row = Row(
                    dataset=work.plan.name,
                    method=point.method,
                    label=point.label,
                    setting=point.setting,
                    decoder=decoder,
                    seed=seed,
                    adapt_seed=point.adapt_seed,
                    bytes_per_image=measured["bytes_per_image"],
                    side_information=measured["side_information"],
                    metrics=head["metrics"],
                    confusion=head["confusion"],
                    fidelity=measured["fidelity"],
                    exact=measured["exact"],
                    seconds={**measured["seconds"], "head": round(head["seconds"], 3)},
                )
                yield row, key

    def write_panels(self) -> None:
        """Predicted class maps of the first seed's heads, `panels/<dataset>/<point>-<decoder|plain>.npz`."""
        for work in self.datasets.values():
            for point in work.plan.points if work.subset.task == "segmentation" else ():
                keys = self._keys(work, point)
                heads = {} if keys is None else self._heads(work, point, keys[1])
                for (decoder, seed), key in heads.items():
                    source = self.cache.path("panels", key, ".npz")
                    if seed == self.recipe.seeds[0] and source.is_file():
                        name = f"{point.name}-{'decoder' if decoder else 'plain'}.npz"
                        facts = {"method": point.method, "label": point.label, "decoder": decoder}
                        write_panel(self.out / "panels" / work.plan.name / name, work.subset, source, **facts)


def _work(work: _Open, point: MethodPoint) -> str:
    """What a point's heads do: `HeadJob.work`."""
    return "fine_tune" if point.method == "fine-tune" else work.subset.task


def shares_float_tokens(point: MethodPoint) -> bool:
    """Whether a point's consumer has the images bit by bit, or the float tokens: all such points share their heads."""
    if point.method in ("float", "original") and not point.spec:
        return True
    if not point.spec:
        return False
    from nec.bench.methods import methods

    return methods(point.spec)[0].lossless


# -- where it ran -----------------------------------------------------------------------------------------------------


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


def _document(recipe: BenchRecipe, model: str) -> dict[str, Any]:
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
