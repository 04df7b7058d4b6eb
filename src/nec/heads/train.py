"""One training of heads for all tasks: from a store, from labelled places of a raster store, or from images."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.head import Head
from nec.heads.linear import fit_probe, fit_ridge, pooled_features
from nec.heads.metrics import (
    class_accuracies,
    classification_metrics,
    confusion_matrix,
    mean_of_known,
    multilabel_metrics,
    regression_metrics,
    segmentation_metrics,
)
from nec.heads.splits import Split, choose_split
from nec.heads.targets import Samples, Targets, labelled_samples, load_targets
from nec.progress import Progress
from nec.report import Report

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.heads.online import Part, TokenSource
    from nec.models.mae import DecoderStage, NecModel
    from nec.store import ImageStore, RasterStore

TaskName = Literal["classification", "segmentation", "regression", "multilabel"]
HeadKind = Literal["attention", "linear"]

#: Figures of each task: means over the seeds, from what `nec.heads.metrics` gives.
TASKS: dict[str, tuple[str, ...]] = {
    "classification": ("accuracy", "top5"),
    "segmentation": ("overall_accuracy", "mean_iou", "mean_f1"),
    "regression": ("mae", "rmse", "r2"),
    "multilabel": ("mean_average_precision", "micro_f1", "macro_f1"),
}

_POOLED: dict[str, Any] = {
    "epochs": 30, "batch": 128, "lr": 2e-3, "stage_lr": 5e-4, "weight_decay": 0.05, "warmup": 0.1,
    "label_smoothing": 0.1, "token_dropout": 0.25, "average": 0.99,
}  # fmt: skip
#: What a training can be told, and its defaults; "online" is a classification from images.
HEAD_DEFAULTS: dict[str, dict[str, Any]] = {
    "classification": _POOLED,
    "regression": _POOLED,
    "multilabel": _POOLED,
    "segmentation": {
        "width": 32, "blocks": 2, "upscale": 2, "drop_path": 0.0, "epochs": 10, "batch": 8, "lr": 2e-3,
        "stage_lr": 5e-4, "weight_decay": 0.05, "warmup": 0.1, "auxiliary": 0.4, "turns": True, "average": 0.99,
    },
    "online": {
        "epochs": 20, "batch": 64, "lr": 2e-3, "model_lr": 5e-4, "layer_decay": 0.75, "weight_decay": 0.05,
        "warmup": 0.1, "average": 0.99, "augmentation": "light", "image_size": None, "eval_resize": None,
        "time_limit": None,
    },
}  # fmt: skip


@dataclass(frozen=True)
class HeadSettings:
    """How a head is built and trained; None: the default of its task, see `HEAD_DEFAULTS`.

    The defaults measured best on EuroSAT tokens and suit some thousand images on a processor. The paper's segmentation
    head is width 0, 6 blocks and an upscaling of 4; its fine-tuning on UC Merced has 400 epochs, augmentation "paper",
    `image_size` 256 and `eval_resize` 292.

    Attributes:
        epochs: passes over the training part; the cosine schedule ends there. By default chosen by the amount of data.
            The epoch that is best on the validation part is kept.
        batch: images a step.
        lr: peak learning rate of the head.
        stage_lr: that of the decoder stage.
        model_lr: online, that of what is pre-trained: the model's last layer, and the decoder stage.
        layer_decay: online, factor on the rate from each of the model's layers to the one before.
        weight_decay: of weight matrices and convolutions.
        warmup: share of the steps during which the rates rise.
        average: decay of the moving average of the weights, 0 for none.
        label_smoothing: share of the target spread over all classes.
        token_dropout: share of an image's tokens that are left out of a step.
        width: channels of a segmentation head; 0: half the dimensions of the tokens.
        blocks: its residual blocks.
        upscale: its logits a token side, a power of two.
        drop_path: probability that a sample skips one of its residual blocks in training.
        auxiliary: weight of its auxiliary head's loss.
        turns: whether its training flips and transposes grids and masks together.
        augmentation: online, of training images. paper: RandAugment, mixup, CutMix, erasing, crops; light: crops,
            flips and turns.
        image_size: online, side in pixels that images are brought to.
        eval_resize: online, side that validation and test images are enlarged to, before their centre is cut out.
        time_limit: online, seconds; fewer epochs are made where a timed step says that they would take longer. What
            comes out then depends on the machine.
    """

    epochs: int | None = None
    batch: int | None = None
    lr: float | None = None
    stage_lr: float | None = None
    model_lr: float | None = None
    layer_decay: float | None = None
    weight_decay: float | None = None
    warmup: float | None = None
    average: float | None = None
    label_smoothing: float | None = None
    token_dropout: float | None = None
    width: int | None = None
    blocks: int | None = None
    upscale: int | None = None
    drop_path: float | None = None
    auxiliary: float | None = None
    turns: bool | None = None
    augmentation: Literal["paper", "light", "none"] | None = None
    image_size: int | None = None
    eval_resize: int | None = None
    time_limit: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"the number of {name} must be at least 1")
        if min(self.width or 0, self.blocks or 0) < 0:
            raise InputError("width and blocks of a segmentation head must not be negative")
        if self.time_limit is not None and self.time_limit <= 0:
            raise InputError("the time limit must be positive")
        if self.augmentation not in (None, "paper", "light", "none"):
            raise InputError(f"unknown augmentation {self.augmentation!r}: paper, light, none")

    def check(self, task: str) -> HeadSettings:
        """These settings; `InputError` for one that is given and that the task (or "online") does not know."""
        for one in fields(self):
            if getattr(self, one.name) is not None and one.name not in HEAD_DEFAULTS[task]:
                hint = (
                    "add --online: it belongs to the training from images; "
                    if one.name in HEAD_DEFAULTS["online"]
                    else ""
                )
                known = ", ".join(sorted(HEAD_DEFAULTS[task]))
                raise InputError(f"{one.name} says nothing about {task}; {hint}known: {known}")
        return self

    def resolve(self, task: str, images: int, with_stage: bool) -> HeadSettings:
        """All that the task knows, for so many training images: what is given, else its defaults.

        Small sets get more epochs: of pooled tokens some hundreds of steps, of masks about 3,000 images seen in all.
        """
        values = dict(HEAD_DEFAULTS[task])
        if task == "segmentation":
            values["epochs"] = min(60, max(4, round(3000 / images)))
        elif task != "online":
            least = 12 if with_stage else values["epochs"]
            values["epochs"] = max(least, min(200, math.ceil(600 / math.ceil(images / values["batch"]))))
        given = {name: value for name, value in vars(self.check(task)).items() if value is not None}
        values |= given
        return replace(self, **(values | ({"width": None} if values.get("width") == 0 else {})))

    def of(self, task: str) -> dict[str, Any]:
        """What the task knows of them."""
        return {name: getattr(self, name) for name in HEAD_DEFAULTS[task]}


@dataclass(frozen=True)
class HeadReport(Report):
    """What training heads found on the test part.

    Attributes:
        store: what was learnt from, as it was named.
        task: "classification", "segmentation", "regression" or "multilabel".
        head: "attention", "linear" or "convolutions".
        with_decoder: whether the decoder stage was trained with the head.
        source: "store", "raster", "online" (images through a frozen model) or "fine-tune".
        figures: the task's figures, keys of their own in the JSON: means over the seeds, their deviations, and figures
            of each class or target. `confusion[i][j]` counts what is of class i and was taken for j, over all seeds.
        train_images, val_images, test_images: how many; of a raster store, tokens.
        split: how the parts were chosen, in words.
        seeds: one a head.
        head_parameters: those trained.
        recipe: the settings, all of them.
        bytes_per_image: stored bytes; of images those of their files.
        seconds: for all of it.
        warning: what a reader of the figures must know, or None.
    """

    store: str
    task: str
    head: str
    with_decoder: bool
    source: str
    figures: dict[str, Any]
    train_images: int
    val_images: int
    test_images: int
    split: str
    seeds: list[int]
    head_parameters: int
    recipe: dict[str, Any]
    bytes_per_image: float
    seconds: float
    warning: str | None = None

    @property
    def notes(self) -> list[str]:
        """The warning."""
        return [f"warning: {self.warning}"] if self.warning else []

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values, the figures among them."""
        values = super().to_dict()
        return {"store": values.pop("store"), **values.pop("figures"), **values}

    def __str__(self) -> str:
        return _table(self)


@dataclass(frozen=True)
class HeadResult:
    """The first seed's head, and what all seeds measured."""

    head: Head
    report: HeadReport


@dataclass(frozen=True)
class Trained:
    """One head.

    Attributes:
        module: a `LinearProbe` of pooled features, an `AttentionHead`, a `Segmenter`, or an `OnlineClassifier`.
        epoch: the one kept, from 1; None for a linear probe.
        val_score: accuracy or mean IoU on the validation part; of targets minus the loss, None for a linear probe.
        parameters: those trained.
        figures: of the test part, as `nec.heads.metrics` gives them, with the `confusion` of classes.
        predicted: of the test part: scores (n, k), or class maps (n, rows, columns).
    """

    module: Any
    epoch: int | None
    val_score: float | None
    parameters: int
    figures: dict[str, Any]
    predicted: NDArray[Any]


def train_head(
    store: ImageStore | RasterStore | Dataset | str | Path,
    task: TaskName = "classification",
    *,
    targets: str | Path | Targets | None = None,
    least_share: float = 0.01,
    labels: str | Path | None = None,
    label_column: str | None = None,
    time: str | None = None,
    block: int = 16,
    head: HeadKind | None = None,
    with_decoder: bool = False,
    model: str | Path | NecModel | None = None,
    online: bool = False,
    fine_tune: bool = False,
    quantize: Literal["bottleneck", "codec"] | None = None,
    quality: float | None = None,
    split: Sequence[str] | None = None,
    test_fraction: float | None = None,
    resplit: bool = False,
    seed: int = 0,
    seeds: int = 1,
    settings: HeadSettings | None = None,
    save: str | Path | None = None,
    progress: bool = False,
) -> HeadResult:
    """Train a head on the training part and report it on the test part; the validation part chooses epoch or penalty.

    Args:
        store: an image store with labels or masks, a raster store (with `labels`), or with `online` a dataset; open, or
            a path, URL, shipped name or KIND:PATH.
        task: classification (one class an image), segmentation (masks), regression (numbers) or multilabel (yes or no).
        targets: of regression and multilabel: a .npy or .csv file, or the word fractions (of the store's masks).
        least_share: of fractions and multilabel, the share from which on a class counts as present.
        labels: points or polygons on a raster store, a file of GeoJSON or what geopandas reads.
        label_column: the property of them that is learnt.
        time: date of a raster store that has several.
        block: side in tokens of the blocks of space that a raster's split draws whole.
        head: attention (attention pooling, needs torch) or linear (logistic or ridge regression on pooled tokens).
            Default: attention where torch is installed and the store is one of images.
        with_decoder: put the model's first decoder stage in front of the head and train both.
        model: model of `with_decoder`, by default the one that the store names; with `online` the one that images go
            through. Folder, name, or a loaded model, which is not changed.
        online: learn from the images of a dataset, through the model.
        fine_tune: online, train the model's encoder (a copy of it) with the head.
        quantize: online, what the tokens go through before the head: the model's bottleneck, or its codec.
        quality: of quantize codec (default 1).
        split: two (train, test) or three (train, val, test) names of parts; default: the store's own three.
        test_fraction: draw a new split with this share for testing.
        resplit: allow that where a split is recorded.
        seed: of the head, and of a split that is drawn.
        seeds: number of heads, with seeds from `seed` on; figures are their means. Linear probes have no randomness.
        settings: how it is built and trained.
        save: folder to write the first seed's head to, for `load_head`; it must not exist.
        progress: show it on stderr.

    Returns:
        the head and the report. `print(result.report)` is what a person reads.

    Raises:
        InputError: labels, targets or a split that are not there or do not fit, a model that is not the store's,
            training that diverges.
        MissingExtraError: torch is not there, and needed.

    Example:
        >>> import nec
        >>> result = nec.train_head("eurosat", head="linear")  # doctest: +SKIP
        >>> result.report.figures["accuracy"]  # doctest: +SKIP
    """
    began = _now()
    given = settings or HeadSettings()
    if task not in TASKS:
        raise InputError(f"unknown task {task!r}: {', '.join(TASKS)}")
    if head not in (None, "attention", "linear"):
        raise InputError(f"unknown head {head!r}: attention or linear")
    if seeds < 1:
        raise InputError("the number of seeds must be at least 1")
    if with_decoder and head == "linear":
        raise InputError("--with-decoder trains the decoder stage with the attention head: use --head attention")
    if save is not None and Path(save).exists():
        raise InputError(f"--save {save} exists: choose another name, or remove it")
    if not online and (fine_tune or quantize or quality is not None):
        name = "fine-tune" if fine_tune else "quantize" if quantize else "quality"
        raise InputError(f"--{name} belongs to the training from images: add --online")
    name = str(getattr(store, "path", getattr(store, "kind", store)))
    options = {"names": split, "test_fraction": test_fraction, "resplit": resplit, "seed": seed}
    if online:
        if task != "classification" or head == "linear":
            raise InputError(
                f"--online trains attention heads for classification: leave {'--head linear' if head else task} out"
            )
        if fine_tune and save is not None:
            raise InputError("a head goes with its fine-tuned model, which is not saved: leave --save out")
        made = _from_images(store, model, fine_tune, quantize, quality, with_decoder, options, given)
    else:
        opened = _opened(store, task, labels, label_column, time, block)
        if isinstance(opened, Samples):
            head = head or "linear"
            options["test_fraction"] = options["test_fraction"] or 0.3
        made = _from_store(opened, task, head, targets, least_share, model if with_decoder else None, with_decoder,
                           options, given)  # fmt: skip
    runs = made.runs(range(seed, seed + (1 if made.kind == "linear" else seeds)), not progress)
    report = HeadReport(
        store=name,
        task=task,
        head=made.kind,
        with_decoder=with_decoder,
        source=made.source,
        figures=_figures(task, runs, made.names, made.colors),
        train_images=len(made.split.train),
        val_images=len(made.split.val),
        test_images=len(made.split.test),
        split=made.split.description,
        seeds=list(range(seed, seed + len(runs))),
        head_parameters=runs[0].parameters,
        recipe=made.recipe,
        bytes_per_image=made.bytes_per_image,
        seconds=_now() - began,
        warning=made.warning or made.split.warning,
    )
    module = runs[0].module.head if made.source == "online" else runs[0].module
    trained = replace(made.head, module=module, figures=report.to_dict())
    if save is not None:
        trained.save(save)
    return HeadResult(trained, report)


def train_once(
    inputs: Sequence[Any],
    truth: Sequence[NDArray[Any]],
    task: str,
    names: Sequence[str],
    settings: HeadSettings | None,
    seed: int = 0,
    *,
    stage: DecoderStage | None = None,
    images: TokenSource | None = None,
    with_decoder: bool = False,
    on_epoch: Callable[[], None] | None = None,
) -> Trained:
    """Train and measure one head on arrays of the parts train, val and test.

    Args:
        inputs: token grids (n, y, x, d); without `settings` pooled features (n, f); with `images` a `Part` each.
        truth: as in `nec.heads.network.fit_arrays`.
        task: one of `TASKS`.
        names: of the classes or targets.
        settings: resolved; None: a linear probe.
        seed: of the training.
        stage: decoder stage to be trained with the head.
        images: the model that images go through; `with_decoder` then adds its decoder stage.
        on_epoch: called after each epoch.
    """
    module: Any
    epoch: int | None = None
    score: float | None = None
    if settings is None and task == "classification":
        module = fit_probe((inputs[0], truth[0]), (inputs[1], truth[1]), len(names))
        score, parameters = float(np.mean(module.predict(inputs[1]) == truth[1])), module.parameters
    elif settings is None:
        module = fit_ridge((inputs[0], truth[0]), (inputs[1], truth[1]))
        parameters = module.parameters
    elif images is not None:
        from nec.heads.online import fit_images

        module, epoch, score = fit_images(
            images, inputs[0], inputs[1], len(names), with_decoder, settings, seed, on_epoch
        )
        parameters = sum(one.numel() for one in module.parameters() if one.requires_grad)
    else:
        from nec.heads.network import fit_arrays

        module, epoch, score = fit_arrays(
            (inputs[0], truth[0]), (inputs[1], truth[1]), task, len(names), stage, settings, seed, on_epoch
        )
        parameters = sum(one.numel() for one in module.parameters())
    if task == "segmentation":
        predicted = module.predict(inputs[2])
        confusion = confusion_matrix(predicted, truth[2], len(names))
        figures = segmentation_metrics(confusion, names) | {"confusion": confusion}
    else:
        predicted = module.scores(inputs[2])
        if task == "multilabel" and settings is not None:
            predicted = (1 / (1 + np.exp(-predicted.astype(np.float64)))).astype(np.float32)
        measure = {"classification": classification_metrics, "regression": regression_metrics}.get(task)
        figures = (measure or multilabel_metrics)(predicted, truth[2], names)
    return Trained(module, epoch, score, parameters, figures, predicted)


# -- what is learnt from ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """All that is ready before the first head is trained. `read` gives inputs and truth of the parts."""

    kind: str
    source: str
    names: list[str]
    split: Split
    read: Callable[[bool], tuple[Sequence[Any], Sequence[NDArray[Any]]]]
    settings: HeadSettings | None
    task: str
    bytes_per_image: float
    head: Head
    colors: list[tuple[int, int, int]] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None

    @property
    def recipe(self) -> dict[str, Any]:
        return {} if self.settings is None else self.settings.of("online" if "images" in self.options else self.task)

    def runs(self, seeds: Sequence[int], quiet: bool) -> list[Trained]:
        """A head for each seed."""
        inputs, truth = self.read(quiet)
        runs, epochs = [], None if self.settings is None else self.settings.epochs
        for seed in seeds:
            with Progress(epochs, "training", "epochs", quiet=quiet or epochs is None) as progress:
                arguments = (inputs, truth, self.task, self.names, self.settings, seed)
                runs.append(train_once(*arguments, on_epoch=progress.update, **self.options))
        return runs


def _opened(
    store: Any, task: str, labels: str | Path | None, label_column: str | None, time: str | None, block: int
) -> ImageStore | Samples:
    """An image store, or the labelled tokens of a raster store."""
    if isinstance(store, str | Path):
        from nec.store import open as open_store

        store = open_store(store)
    if hasattr(store, "read_valid"):
        if labels is None or label_column is None:
            raise InputError(f"{store.path} is a raster: give --labels FILE and --label-column NAME to learn from")
        return labelled_samples(store, labels, label_column, task, time, block)
    if not hasattr(store, "embeddings"):
        raise InputError("this is a dataset of images, and no store: give --online and the --model they go through")
    if labels is not None or label_column is not None:
        raise InputError(f"--labels belong to a raster store, and {store.path} is one of images: leave them out")
    return store


def _from_store(
    store: Any,
    task: str,
    head: str | None,
    targets: str | Path | Targets | None,
    least_share: float,
    model: Any,
    with_decoder: bool,
    options: dict[str, Any],
    settings: HeadSettings,
) -> _Made:
    settings.check(task)
    colors = warning = None
    groups, values = store.groups, None  # type: Any, Any
    if task == "classification":
        values, names = _labels(store)
        ids, id_names = values, names
        groups = groups if isinstance(store, Samples) else None
    elif task == "segmentation":
        values, names, colors = *_masks(store), store.mask_colors
        ids, id_names = np.zeros(len(store), np.int64), ["with a mask"]
    else:
        found = _targets(store, targets, task, least_share)
        values, names = found.values, found.names
        ids, id_names = np.where(np.isnan(values).all(axis=1), -1, 0), ["images with a target"]
    split = _split(store, ids, id_names, groups, options)
    if task in ("regression", "multilabel"):
        known = np.sum(~np.isnan(values[split.train]), axis=0)
        if (known < 2).any():
            lacking = names[int(np.argmin(known))]
            raise InputError(f"target {lacking!r} has fewer than two values in the training part: leave it out")
    if task != "segmentation" and head is None and not with_decoder and find_spec("torch") is None:
        head = "linear"
        warning = "torch is not installed: using the linear probe (the attention head needs the extra [torch])"
    linear = head == "linear" and task != "segmentation"
    if head == "linear" and not linear:
        raise InputError("segmentation has a head of convolutions: leave --head linear out")
    stage = decoder_stage(store, model) if with_decoder else None
    parts = (split.train, split.val, split.test)

    def read(quiet: bool) -> tuple[Sequence[Any], Sequence[NDArray[Any]]]:
        return read_parts(store, parts, pooled_features if linear else half_grids, quiet), [values[p] for p in parts]

    return _Made(
        kind="linear" if linear else "convolutions" if task == "segmentation" else "attention",
        source="raster" if isinstance(store, Samples) else "store",
        names=names,
        split=split,
        read=read,
        settings=None if linear else settings.resolve(task, len(split.train), with_decoder),
        task=task,
        bytes_per_image=float(store.bytes_per_image),
        head=Head(
            task, names, colors, (store.grid[0], store.grid[1]), int(store.embeddings.shape[-1]),
            store.attrs.get("model") or {}, quality=store.quality,
        ),
        colors=colors,
        options={} if stage is None else {"stage": stage},
        warning=warning,
    )  # fmt: skip


def _split(
    store: Any, ids: NDArray[np.int64], names: Sequence[str], groups: NDArray[np.str_] | None, options: dict[str, Any]
) -> Split:
    """The parts. Of a raster's blocks of space those are drawn, among some draws, that have each class in each part."""
    draws = _DRAWS if isinstance(store, Samples) else 1
    for draw in range(draws):
        try:
            return choose_split(ids, store.split, names, groups=groups, **{**options, "seed": options["seed"] + draw})
        except InputError:
            if draw == draws - 1 or options["names"]:
                raise
    raise AssertionError("a draw returns or raises")


def _from_images(
    dataset: Any,
    model: Any,
    fine_tune: bool,
    quantize: str | None,
    quality: float | None,
    with_decoder: bool,
    options: dict[str, Any],
    settings: HeadSettings,
) -> _Made:
    if model is None:
        raise InputError("--online needs --model: the images go through it")
    if quality is not None and quantize != "codec":
        raise InputError("--quality belongs to --quantize codec")
    from nec.heads.online import TokenSource, bottleneck_quantizer, codec_quantizer, read_images

    if isinstance(dataset, str | Path):
        from nec.datasets import open_dataset

        dataset = open_dataset([dataset], seed=options["seed"])
    if isinstance(model, str | Path):
        from nec.models import load_model

        model = load_model(str(model))
    if dataset.labels is None or not dataset.class_names or len(dataset.class_names) < 2:
        raise InputError(f"the {dataset.kind} dataset has no labels of at least two classes to learn")
    way = None
    if quantize == "bottleneck":
        way = bottleneck_quantizer(model)
    elif quantize == "codec":
        way = codec_quantizer(model.codec, 1.0 if quality is None else quality)
    split = choose_split(dataset.labels, dataset.split, dataset.class_names, **options)
    parts = [split.train, split.val, split.test]
    resolved = settings.resolve("online", len(split.train), with_decoder)
    size, patch = resolved.image_size or dataset.image_size, model.config.patch_size
    height, width = dataset.load(split.train[:1], size).shape[1:3]

    def read(quiet: bool) -> tuple[Sequence[Part], Sequence[NDArray[Any]]]:
        images = read_images(dataset, parts, model, resolved.image_size)
        return images, [part.labels for part in images]

    return _Made(
        kind="attention",
        source="fine-tune" if fine_tune else "online",
        names=list(dataset.class_names),
        split=split,
        read=read,
        settings=resolved,
        task="classification",
        bytes_per_image=float(np.mean(np.asarray(dataset.file_sizes)[np.concatenate(parts)])),
        head=Head(
            "classification",
            list(dataset.class_names),
            None,
            (height // patch, width // patch),
            model.config.embed_dim,
            model.identity,
        ),
        options={"images": TokenSource(model, way, fine_tune), "with_decoder": with_decoder},
    )


def _labels(store: Any) -> tuple[NDArray[np.int64], list[str]]:
    if store.labels is None:
        raise InputError(
            f"{store.path} has no labels: encode a labelled dataset (folder:, eurosat:, ...) to classify it"
        )
    labels = np.asarray(store.labels, dtype=np.int64)
    names = store.class_names or [str(i) for i in range(int(labels.max(initial=-1)) + 1)]
    if len(names) < 2:
        raise InputError(f"{store.path} has {len(names)} class(es): classification needs at least two")
    return labels, list(names)


def _masks(store: Any) -> tuple[Any, list[str]]:
    if store.masks is None or store.mask_classes is None:
        raise InputError(f"{store.path} has no masks: encode a dataset with masks (dubai:, potsdam:, images+masks:)")
    if len(store.mask_classes) < 2:
        raise InputError(f"{store.path} has masks of {len(store.mask_classes)} class: segmentation needs at least two")
    return store.masks, list(store.mask_classes)


def _targets(store: Any, targets: str | Path | Targets | None, task: str, least_share: float) -> Targets:
    if isinstance(store, Samples) and store.targets is not None:
        return store.targets
    if targets is None:
        raise InputError(f"{task} needs --targets: FILE.npy, FILE.csv, or fractions")
    return targets if isinstance(targets, Targets) else load_targets(store, targets, task == "multilabel", least_share)


_DRAWS = 50  # splits of a raster that are tried
READ_IMAGES = 1024  # a whole shard of a store written with default settings


def read_parts(
    store: Any,
    parts: Sequence[NDArray[np.int64]],
    convert: Callable[[NDArray[np.float32]], NDArray[Any]],
    quiet: bool = True,
) -> list[NDArray[Any]]:
    """Decode the images of each part once, block by block, and keep `convert` of them: one array a part."""
    kept: list[list[NDArray[Any]]] = [[] for _ in parts]
    with Progress(len(store), "decoding", "images", quiet=quiet) as progress:
        for start in range(0, len(store), READ_IMAGES):
            stop = min(start + READ_IMAGES, len(store))
            inside = [part[slice(*np.searchsorted(part, (start, stop)))] - start for part in parts]
            if any(len(rows) for rows in inside):
                block = convert(store.embeddings[start:stop])
                for rows, arrays in zip(inside, kept, strict=True):
                    arrays.append(block[rows])
            progress.update(stop - start)
    return [np.concatenate(arrays) for arrays in kept]


def half_grids(block: NDArray[np.float32]) -> NDArray[np.float16]:
    """Embeddings (n, y, x, d) in half precision, finer than the codec's steps. `InputError` beyond its range."""
    with np.errstate(over="ignore"):
        grids = block.astype(np.float16)
    if not np.isfinite(grids).all():
        raise InputError("the embeddings hold values beyond half precision (65504) or not finite: rescale them")
    return grids


def decoder_stage(store: Any, location: Any = None) -> DecoderStage:
    """First decoder stage of the model that made the store, for the store's grid.

    `location`: the model, or its folder or name; the name that the store records if None. Raises `InputError` where it
    is another model, or none is named.
    """
    from nec.models import load_model

    recorded = store.attrs.get("model") or {}
    if location is None and not recorded.get("name"):
        raise InputError("the store does not name its model: give --model for --with-decoder")
    location = location or recorded["name"]
    model = load_model(str(location)) if isinstance(location, str | Path) else location
    if recorded.get("sha256") and model.sha256 and model.sha256 != recorded["sha256"]:
        raise InputError(
            f"model {model.name!r} is not the one that made the store: its sha256 begins"
            f" {model.sha256[:12]}, the store names {recorded['sha256'][:12]}"
        )
    return model.decoder_stage().on_grid(store.grid)


def _now() -> float:
    return time.perf_counter()


# -- what is reported -------------------------------------------------------------------------------------------------


def _figures(
    task: str, runs: Sequence[Trained], names: list[str], colors: list[tuple[int, int, int]] | None
) -> dict[str, Any]:
    """Means over the seeds with their sample deviations, and what each seed, class and target reached."""
    columns = {key: [run.figures[key] for run in runs] for key in TASKS[task]}
    means = {key: mean_of_known(column) for key, column in columns.items()}
    spread = {
        key: float(np.std(column, ddof=1)) if len(runs) > 1 and None not in column else None
        for key, column in columns.items()
    }
    epochs = [run.epoch for run in runs if run.epoch is not None]
    if task in ("regression", "multilabel"):
        first = runs[0].figures["per_target"]
        per_target = {
            name: {key: mean_of_known([run.figures["per_target"][name][key] for run in runs]) for key in first[name]}
            for name in names
        }
        std = {key: value for key, value in spread.items() if value is not None} if len(runs) > 1 else None
        return means | {"std": std, "per_target": per_target, "target_names": names, "epochs": epochs}
    confusion = sum(run.figures["confusion"] for run in runs)
    if task == "classification":
        return {
            **means,
            "accuracy_std": spread["accuracy"],
            "per_class": class_accuracies(confusion, names),
            "accuracies": columns["accuracy"],
            "top5_accuracies": columns["top5"],
            "val_accuracies": [run.val_score for run in runs],
            "epochs": epochs,
            "class_names": names,
            "confusion": confusion.tolist(),
        }
    return {
        **means,
        **{f"{key}_std": value for key, value in spread.items()},
        "per_class": segmentation_metrics(confusion, names)["per_class"],
        "runs": [
            {key: run.figures[key] for key in TASKS[task]} | {"val_mean_iou": run.val_score, "epoch": run.epoch}
            for run in runs
        ],
        "class_names": names,
        "class_colors": colors,
        "confusion": confusion.tolist(),
    }


_WORDS = {"mae": "MAE", "rmse": "RMSE", "r2": "R²", "f1": "F1", "iou": "IoU", "top5": "among the five likeliest"}
_BYTES = {
    "store": "stored bytes an image (side information apart)",
    "raster": "stored bytes a token",
    "online": "bytes an image file; the images went through a frozen model",
    "fine-tune": "bytes an image file; the images trained the model",
}


def _table(report: HeadReport) -> str:
    figures, percent = report.figures, report.task in ("classification", "segmentation")
    head = {"attention": "attention pooling", "linear": "linear probe"}.get(report.head, report.head)
    head += " after the decoder stage" if report.with_decoder else ""
    head += " and the model, fine-tuned" if report.source == "fine-tune" else ""
    what = "tokens" if report.source == "raster" else "images"
    lines = [
        f"{report.store}: {report.bytes_per_image:.1f} {_BYTES[report.source]}",
        f"split: {report.split}",
        f"{what}: {report.train_images} train, {report.val_images} val, {report.test_images} test",
        f"head: {head}, {report.head_parameters:,} parameters, {report.seconds:.0f} s",
        "",
    ]
    spreads = figures.get("std") or {key: figures.get(f"{key}_std") for key in TASKS[report.task]}
    for key in TASKS[report.task]:
        spread = spreads.get(key)
        more = "" if spread is None else f" ± {_number(spread, percent)} over {len(report.seeds)} seeds"
        lines.append(f"{_words(key)} {_number(figures[key], percent)}{more}")
    rows: Mapping[str, Any] = figures.get("per_class", figures.get("per_target", {}))
    rows = {name: row if isinstance(row, dict) else {"accuracy": row} for name, row in rows.items()}
    keys = list(next(iter(rows.values())))
    counts = [sum(row) // len(report.seeds) for row in figures.get("confusion", [])]
    width = max(map(len, (*rows, "target")))
    lines += ["", f"  {'class' if percent else 'target':<{width}}" + "".join(f"{_words(key):>20}" for key in keys)]
    for i, (name, row) in enumerate(rows.items()):
        of = f"  of {counts[i]:,}" if counts else ""
        lines.append(f"  {name:<{width}}" + "".join(f"{_number(row[key], percent):>20}" for key in keys) + of)
    return "\n".join(lines)


def _words(key: str) -> str:
    return _WORDS.get(key, key.replace("_", " ").replace("f1", "F1").replace("iou", "IoU"))


def _number(value: float | None, percent: bool) -> str:
    return "-" if value is None else f"{value:.2%}" if percent else f"{value:.4g}"
