"""Scene classification from a compressed store: read, split, train a head, report the test part once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.linear import fit_probe, pooled_features
from nec.heads.metrics import class_accuracies, classification_metrics
from nec.heads.reading import check_request, decoder_stage, half_tokens, opened, read_parts
from nec.heads.splits import Split, choose_split
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.store import Store


@dataclass(frozen=True)
class ClassificationResult:
    """What `classify` measured. Accuracies are shares (0..1) of the test images.

    `accuracies`, `top5_accuracies`, `val_accuracies` and `epochs` (those kept; empty for the linear probe) have one
    entry a seed.
    `confusion[i, j]` counts test images of class i taken for class j, summed over the seeds. `source` tells what
    was learnt from: a "store", or images, through a frozen model ("online") or with the model ("fine-tune").
    `head_parameters` are those trained. `model` is the head trained with the first seed: a `LinearProbe` of
    `pooled_features`, an `AttentionClassifier` of tokens (n, y*x, d), or an `OnlineClassifier` of images.
    """

    head: str
    with_decoder: bool
    accuracies: list[float]
    top5_accuracies: list[float]
    val_accuracies: list[float]
    epochs: list[int]
    confusion: NDArray[np.int64]
    class_names: list[str]
    train_images: int
    val_images: int
    test_images: int
    split: str
    seeds: list[int]
    head_parameters: int
    bytes_per_image: float
    seconds: float
    warning: str | None = None
    source: str = "store"
    model: Any = field(default=None, repr=False, compare=False)

    @property
    def accuracy(self) -> float:
        """Top-1 accuracy on the test images, mean over the seeds."""
        return float(np.mean(self.accuracies))

    @property
    def accuracy_std(self) -> float | None:
        """Sample standard deviation of the accuracy over the seeds, None for one seed."""
        return float(np.std(self.accuracies, ddof=1)) if len(self.accuracies) > 1 else None

    @property
    def top5(self) -> float:
        """Share of the test images whose class is among the five likeliest, mean over the seeds; 1 for five classes."""
        return float(np.mean(self.top5_accuracies))

    @property
    def per_class(self) -> dict[str, float]:
        """Share of each class's test images that were recognised. `choose_split` sees to it that each has some."""
        shares = class_accuracies(self.confusion, self.class_names)
        return {name: share for name, share in shares.items() if share is not None}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures, without the head itself."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("model", "confusion")}
        figures = {name: getattr(self, name) for name in ("accuracy", "accuracy_std", "top5", "per_class")}
        return figures | own | {"confusion": self.confusion.tolist()}


@dataclass(frozen=True)
class _Outcome:
    """One trained head: its scores (n, classes) of the test part, and what the result reports of its training."""

    scores: NDArray[np.floating]
    val_accuracy: float
    epoch: int | None
    parameters: int
    model: Any


def classify(
    store: Store | str | Path,
    *,
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
) -> ClassificationResult:
    """Train a head on a store's training images and report accuracy on its test images.

    Args:
        store: an open store, or what `nec.open_store` takes.
        with_decoder: put the model's first decoder stage in front of the head and train both (needs torch and the
            model).
        head: "attention" (attention pooling, needs torch) or "linear" (probe on pooled tokens, base install).
        split, test_fraction, resplit: which images train and test; see `nec.heads.splits.choose_split`. By default the
            store's own.
        seed: seeds the head's training, and the split where it is drawn here.
        seeds: number of heads to train, with seeds from `seed` on. The linear probe has no randomness and is fitted
            once.
        epochs: epochs at most; by default chosen by the amount of data. The one kept is the best on the validation
            part.
        model: folder or name of the model for `with_decoder`; the name that the store records by default.
        quiet: print no progress.

    Raises:
        InputError: no labels, too few images of a class, unknown split or head, a model that is not the store's.
        MissingExtraError: the attention head without torch.
    """
    began = time.perf_counter()
    check_request(head, seeds, epochs, with_decoder)
    store = opened(store)
    labels, class_names = _labels(store)
    parts = choose_split(
        labels, store.split, class_names, names=split, test_fraction=test_fraction, seed=seed, resplit=resplit
    )
    if head == "linear":
        outcomes = [_linear(store, parts, labels, len(class_names), quiet)]
    else:
        stage = decoder_stage(store, model) if with_decoder else None
        outcomes = _attention(store, parts, labels, len(class_names), stage, range(seed, seed + seeds), epochs, quiet)
    measured = [classification_metrics(outcome.scores, labels[parts.test], class_names) for outcome in outcomes]
    return ClassificationResult(
        head=head,
        with_decoder=with_decoder,
        accuracies=[one["accuracy"] for one in measured],
        top5_accuracies=[one["top5"] for one in measured],
        val_accuracies=[outcome.val_accuracy for outcome in outcomes],
        epochs=[outcome.epoch for outcome in outcomes if outcome.epoch is not None],
        confusion=sum(one["confusion"] for one in measured),
        class_names=class_names,
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


def _labels(store: Store) -> tuple[NDArray[np.int64], list[str]]:
    if store.labels is None:
        raise InputError(
            f"{store.path} has no labels: encode a labelled dataset (folder:, eurosat:, ...) to classify it"
        )
    labels = np.asarray(store.labels, dtype=np.int64)
    names = store.class_names or [str(i) for i in range(int(labels.max(initial=-1)) + 1)]
    if len(names) < 2:
        raise InputError(f"{store.path} has {len(names)} class(es): classification needs at least two")
    return labels, list(names)


def _linear(store: Store, parts: Split, labels: NDArray[np.int64], classes: int, quiet: bool) -> _Outcome:
    train, val, test = read_parts(store, (parts.train, parts.val, parts.test), pooled_features, quiet)
    truth = labels[parts.val]
    probe = fit_probe((train, labels[parts.train]), (val, truth), classes)
    return _Outcome(probe.scores(test), float(np.mean(probe.predict(val) == truth)), None, probe.parameters, probe)


def _attention(
    store: Store,
    parts: Split,
    labels: NDArray[np.int64],
    classes: int,
    stage: Any,
    seeds: Sequence[int],
    epochs: int | None,
    quiet: bool,
) -> list[_Outcome]:
    from nec.heads.training import default_recipe, train_classifier

    # Half precision is finer than the codec's steps and halves the memory: 27,000 grids of 8x8x192 take 0.7 GB.
    train, val, test = read_parts(store, (parts.train, parts.val, parts.test), half_tokens, quiet)
    recipe = default_recipe(len(train), with_stage=stage is not None)
    recipe = recipe if epochs is None else replace(recipe, epochs=epochs)
    outcomes = []
    for seed in seeds:
        with Progress(recipe.epochs, "training", "epochs", quiet=quiet) as progress:
            model, fit = train_classifier(
                (train, labels[parts.train]), (val, labels[parts.val]), classes, stage, recipe, seed, progress.update
            )
        count = sum(parameter.numel() for parameter in model.parameters())
        outcomes.append(_Outcome(model.scores(test), fit.val_accuracy, fit.epoch, count, model))
    return outcomes
