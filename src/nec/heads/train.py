"""One training of heads for all tasks: from a store, from labelled places of a raster store, or from images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nec.errors import InputError
from nec.heads.head import Head
from nec.heads.linear import fit_probe, fit_ridge, pooled_features
from nec.heads.metrics import (
    classification_metrics,
    confusion_matrix,
    multilabel_metrics,
    regression_metrics,
    segmentation_metrics,
)
from nec.heads.report import TASKS, HeadReport, Trained, figures_of
from nec.heads.splits import Split, choose_split
from nec.heads.targets import Samples, Targets, labelled_samples, load_targets
from nec.progress import Progress

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.heads.online import Part, TokenSource
    from nec.models.mae import DecoderStage, NecModel
    from nec.store import ImageStore, RasterStore

TaskName = Literal["classification", "segmentation", "regression", "multilabel"]
HeadKind = Literal["attention", "linear"]

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
class HeadResult:
    """The first seed's head, and what all seeds measured."""

    head: Head
    report: HeadReport


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
    began = perf_counter()
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
            head, options["test_fraction"] = head or "linear", test_fraction or 0.3
        values = _truth(opened, task, targets, least_share)
        made = _from_store(opened, task, values, head, (with_decoder, model), options, given)
    quiet, found = not progress, made.head
    inputs, truth = made.read(quiet)
    runs, epochs = [], None if made.settings is None else made.settings.epochs
    for one in range(seed, seed + (1 if made.kind == "linear" else seeds)):
        with Progress(epochs, "training", "epochs", quiet=quiet or epochs is None) as bar:
            arguments = (inputs, truth, task, found.class_names, made.settings, one)
            runs.append(train_once(*arguments, on_epoch=bar.update, **made.options))
    report = HeadReport(
        store=str(getattr(store, "path", getattr(store, "kind", store))),
        task=task,
        head=made.kind,
        with_decoder=with_decoder,
        source=made.source,
        figures=figures_of(task, runs, found.class_names, found.class_colors),
        train_images=len(made.split.train),
        val_images=len(made.split.val),
        test_images=len(made.split.test),
        split=made.split.description,
        seeds=list(range(seed, seed + len(runs))),
        head_parameters=runs[0].parameters,
        recipe={} if made.settings is None else made.settings.of("online" if online else task),
        bytes_per_image=made.bytes_per_image,
        seconds=perf_counter() - began,
        warning=made.warning or made.split.warning,
    )
    module = runs[0].module.head if made.source == "online" else runs[0].module
    trained = replace(found, module=module, figures=report.to_dict())
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
    """All that is ready before the first head is trained.

    `read` gives inputs and truth of the parts, `options` are of `train_once`, `head` is what is made, without weights.
    """

    kind: str
    source: str
    split: Split
    read: Callable[[bool], tuple[Sequence[Any], Sequence[NDArray[Any]]]]
    settings: HeadSettings | None
    bytes_per_image: float
    head: Head
    options: dict[str, Any] = field(default_factory=dict)
    warning: str | None = None


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


def _truth(store: Any, task: str, targets: str | Path | Targets | None, least_share: float) -> tuple[Any, list[str]]:
    """What is true of each image, and the names of the classes or targets."""
    if task == "classification":
        if store.labels is None:
            raise InputError(
                f"{store.path} has no labels: encode a labelled dataset (folder:, eurosat:, ...) to classify it"
            )
        labels = np.asarray(store.labels, dtype=np.int64)
        names = list(store.class_names or map(str, range(int(labels.max(initial=-1)) + 1)))
        if len(names) < 2:
            raise InputError(f"{store.path} has {len(names)} class(es): classification needs at least two")
        return labels, names
    if task == "segmentation":
        if store.masks is None or store.mask_classes is None:
            raise InputError(
                f"{store.path} has no masks: encode a dataset with masks (dubai:, potsdam:, images+masks:)"
            )
        if len(store.mask_classes) < 2:
            raise InputError(
                f"{store.path} has masks of {len(store.mask_classes)} class: segmentation needs at least two"
            )
        return store.masks, list(store.mask_classes)
    found = store.targets if isinstance(store, Samples) else None
    if found is None:
        if targets is None:
            raise InputError(f"{task} needs --targets: FILE.npy, FILE.csv, or fractions")
        multilabel = task == "multilabel"
        found = targets if isinstance(targets, Targets) else load_targets(store, targets, multilabel, least_share)
    return found.values, found.names


def _from_store(
    store: Any,
    task: str,
    truth: tuple[Any, list[str]],
    head: str | None,
    decoder: tuple[bool, Any],
    options: dict[str, Any],
    settings: HeadSettings,
) -> _Made:
    settings.check(task)
    (values, names), (with_decoder, model), warning = truth, decoder, None
    samples, masked, classes = isinstance(store, Samples), task == "segmentation", task == "classification"
    if classes:
        ids, id_names = values, names
    elif masked:
        ids, id_names = np.zeros(len(store), np.int64), ["with a mask"]
    else:
        ids, id_names = np.where(np.isnan(values).all(axis=1), -1, 0), ["images with a target"]
    split = _split(store, ids, id_names, None if classes and not samples else store.groups, options)
    if not (classes or masked):
        known = np.sum(~np.isnan(values[split.train]), axis=0)
        if (known < 2).any():
            lacking = names[int(np.argmin(known))]
            raise InputError(f"target {lacking!r} has fewer than two values in the training part: leave it out")
    if not masked and head is None and not with_decoder and find_spec("torch") is None:
        head = "linear"
        warning = "torch is not installed: using the linear probe (the attention head needs the extra [torch])"
    if masked and head == "linear":
        raise InputError("segmentation has a head of convolutions: leave --head linear out")
    linear, parts = head == "linear", (split.train, split.val, split.test)
    stage = decoder_stage(store, model) if with_decoder else None

    def read(quiet: bool) -> tuple[Sequence[Any], Sequence[NDArray[Any]]]:
        return read_parts(store, parts, pooled_features if linear else half_grids, quiet), [values[p] for p in parts]

    return _Made(
        kind="linear" if linear else "convolutions" if masked else "attention",
        source="raster" if samples else "store",
        split=split,
        read=read,
        settings=None if linear else settings.resolve(task, len(split.train), with_decoder),
        bytes_per_image=float(store.bytes_per_image),
        head=Head(
            task, names, store.mask_colors if masked else None, (store.grid[0], store.grid[1]),
            int(store.embeddings.shape[-1]), store.attrs.get("model") or {}, quality=store.quality,
        ),
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
        split=split,
        read=read,
        settings=resolved,
        bytes_per_image=float(np.mean(np.asarray(dataset.file_sizes)[np.concatenate(parts)])),
        head=Head(
            "classification", list(dataset.class_names), None, (height // patch, width // patch),
            model.config.embed_dim, model.identity,
        ),
        options={"images": TokenSource(model, way, fine_tune), "with_decoder": with_decoder},
    )  # fmt: skip


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
