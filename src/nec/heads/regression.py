"""Regression and multi-label heads on a compressed store: read, split, train, report the test part once.

Both learn several targets at once, of which an image may have some only: what is not known enters neither the loss nor
a figure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.linear import pooled_features
from nec.heads.metrics import multilabel_metrics, regression_metrics
from nec.heads.reading import check_request, decoder_stage, half_tokens, opened, read_parts
from nec.heads.ridge import fit_ridge
from nec.heads.splits import Split, choose_split
from nec.heads.targets import Targets, load_targets
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.store import Store

Measure = Callable[[NDArray[Any], NDArray[Any], Sequence[str]], dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What kind of targets a head learns. `figures` are the keys of `measure`'s means over the targets."""

    name: str
    measure: Measure
    figures: tuple[str, ...]


TASKS = {
    task.name: task
    for task in (
        Task("regression", regression_metrics, ("mae", "rmse", "r2")),
        Task("multilabel", multilabel_metrics, ("mean_average_precision", "micro_f1", "macro_f1")),
    )
}


@dataclass(frozen=True)
class TargetResult:
    """What `fit_targets` measured on the test part.

    `measured` has the figures of each seed as `nec.heads.metrics` gives them; `epochs` (those kept; empty for the
    linear probe) likewise. `model` is the head of the first seed: a `RidgeProbe` of `pooled_features`, or a `TokenHead`
    of tokens.
    """

    task: str
    head: str
    with_decoder: bool
    target_names: list[str]
    measured: list[dict[str, Any]]
    epochs: list[int]
    train_images: int
    val_images: int
    test_images: int
    split: str
    seeds: list[int]
    head_parameters: int
    bytes_per_image: float
    seconds: float
    warning: str | None = None
    model: Any = field(default=None, repr=False, compare=False)

    @property
    def figures(self) -> dict[str, float | None]:
        """Means over targets and seeds: mae, rmse, r2, or mean_average_precision, micro_f1, macro_f1."""
        return {key: _mean([one[key] for one in self.measured]) for key in TASKS[self.task].figures}

    @property
    def figures_std(self) -> dict[str, float] | None:
        """Sample standard deviations of `figures` over the seeds, None for one seed."""
        if len(self.measured) < 2:
            return None
        columns = {key: [one[key] for one in self.measured] for key in TASKS[self.task].figures}
        return {key: float(np.std(column, ddof=1)) for key, column in columns.items() if None not in column}

    @property
    def per_target(self) -> dict[str, dict[str, float | None]]:
        """Each target's figures, means over the seeds."""
        first = self.measured[0]["per_target"]
        return {
            name: {key: _mean([one["per_target"][name][key] for one in self.measured]) for key in first[name]}
            for name in self.target_names
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures, without the head itself."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "measured")}
        return self.figures | {"std": self.figures_std, "per_target": self.per_target} | own


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def fit_targets(
    store: Store | str | Path,
    targets: str | Path | Targets,
    *,
    task: str = "regression",
    least_share: float = 0.01,
    with_decoder: bool = False,
    head: str = "attention",
    split: Sequence[str] | None = None,
    test_fraction: float | None = None,
    resplit: bool = False,
    seed: int = 0,
    seeds: int = 1,
    epochs: int | None = None,
    model: str | Path | None = None,
    quiet: bool = True,
) -> TargetResult:
    """Train a head for numbers or for several yes/no labels an image, and report its figures on the test images.

    Args:
        store: an open store, or what `nec.open_store` takes.
        targets: "fractions" (of the store's masks), a .npy or .csv file, or `Targets`; see `load_targets`.
        task: "regression" or "multilabel".
        least_share: with "fractions" and "multilabel", the share from which on a class counts as present.
        head: "attention" (attention pooling, needs torch) or "linear" (ridge regression on pooled tokens, base install;
            for labels it is least squares on 0 and 1).

    The others are as in `nec.heads.classify`. Images without any known target are left out.

    Raises:
        InputError: targets that do not fit the store, a target without values to learn from, unknown split or head.
        MissingExtraError: the attention head without torch.
    """
    began = time.perf_counter()
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: {' or '.join(TASKS)}")
    check_request(head, seeds, epochs, with_decoder)
    store = opened(store)
    if not isinstance(targets, Targets):
        targets = load_targets(store, targets, task == "multilabel", least_share)
    usable = np.where(np.isnan(targets.values).all(axis=1), -1, 0)  # one class: images with a value
    parts = choose_split(
        usable,
        store.split,
        ["images with a target"],
        names=split,
        test_fraction=test_fraction,
        seed=seed,
        resplit=resplit,
        groups=store.groups,
    )
    values = tuple(targets.values[part] for part in (parts.train, parts.val, parts.test))
    if (np.sum(~np.isnan(values[0]), axis=0) < 2).any():
        lacking = targets.names[int(np.argmin(np.sum(~np.isnan(values[0]), axis=0)))]
        raise InputError(f"target {lacking!r} has fewer than two values in the training part: leave it out")
    if head == "linear":
        outcomes = [_linear(store, parts, values, quiet)]
    else:
        stage = decoder_stage(store, model) if with_decoder else None
        outcomes = _attention(store, parts, values, task, stage, range(seed, seed + seeds), epochs, quiet)
    return TargetResult(
        task=task,
        head=head,
        with_decoder=with_decoder,
        target_names=targets.names,
        measured=[TASKS[task].measure(outcome.scores, values[2], targets.names) for outcome in outcomes],
        epochs=[outcome.epoch for outcome in outcomes if outcome.epoch is not None],
        train_images=len(parts.train),
        val_images=len(parts.val),
        test_images=len(parts.test),
        split=parts.description,
        seeds=list(range(seed, seed + len(outcomes))),
        head_parameters=outcomes[0].parameters,
        bytes_per_image=float(store.bytes_per_image),
        seconds=time.perf_counter() - began,
        warning=parts.warning,
        model=outcomes[0].model,
    )


@dataclass(frozen=True)
class _Outcome:
    """One trained head: its predictions (n, targets) of the test part, and what the result reports of its training."""

    scores: NDArray[np.floating]
    epoch: int | None
    parameters: int
    model: Any


_Values = tuple[NDArray[np.float32], ...]  # of the three parts, (n, targets)


def _linear(store: Store, parts: Split, values: _Values, quiet: bool) -> _Outcome:
    train, val, test = read_parts(store, (parts.train, parts.val, parts.test), pooled_features, quiet)
    probe = fit_ridge((train, values[0]), (val, values[1]))
    return _Outcome(probe.scores(test), None, probe.parameters, probe)


def _attention(
    store: Store,
    parts: Split,
    values: _Values,
    task: str,
    stage: Any,
    seeds: Sequence[int],
    epochs: int | None,
    quiet: bool,
) -> list[_Outcome]:
    from nec.heads.target_training import train_target_head
    from nec.heads.training import default_recipe

    train, val, test = read_parts(store, (parts.train, parts.val, parts.test), half_tokens, quiet)
    recipe = default_recipe(len(train), with_stage=stage is not None)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    outcomes = []
    for seed in seeds:
        with Progress(recipe.epochs, "training", "epochs", quiet=quiet) as progress:
            head, epoch = train_target_head(
                (train, values[0]), (val, values[1]), task, stage, recipe, seed, progress.update
            )
        outcomes.append(_Outcome(head.scores(test), epoch, head.parameters, head))
    return outcomes
