"""The commands: which function of the library each one calls, and the few flags that differ from its parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cyclopts import App, Group, Parameter

from nec import __version__
from nec.cli.generate import Command, Flag, Given, key_values
from nec.errors import InputError

PRODUCE, USE, TRAIN, COMPARE = "Make stores", "Use stores", "Train models", "Compare and try"


def _model(given: Given) -> Given:
    """The backbone that `--model` names, with its `--model-option`s."""
    options = key_values(given.pop("model_option", None), "--model-option")
    if options and given.get("backbone") is not None:
        from nec.models import load_model

        running = given.get("running")
        device, precision = ("auto", "fp32") if running is None else (running.device, running.precision)
        given["backbone"] = load_model(given["backbone"], device, precision=precision, **options)
    return given


def _encode(given: Given) -> Given:
    modes = {
        (False, False, False): "create", (True, False, False): "resume", (False, True, False): "append",
        (True, True, False): "resume-append", (False, False, True): "overwrite",
    }  # fmt: skip
    mode = modes.get(tuple(given.pop(name, False) for name in ("resume", "append", "overwrite")))
    if mode is None:
        raise InputError("--resume and --append go on with a store and --overwrite replaces it: give one of them")
    if given.get("quality") is not None and given.get("target_bytes") is not None:
        raise InputError("--quality and --target-bytes both say how large the store gets: give one of them")
    return _model(given) | {"mode": mode}


def _fit(given: Given) -> Given:
    source = given["source"]
    if len(source) > 1:
        return _model({**given, "backbone": source[0], "source": source[1:]})
    if not source[0].endswith((".npy", ".npz", ".zarr")):
        raise InputError(f"{source[0]}: give a model and a dataset, or one .npy, .npz or .zarr of embeddings")
    return {**given, "source": source[0]}


def _methods(given: Given) -> Given:
    from nec.bench.methods import methods

    if given.get("methods_spec"):
        methods(given["methods_spec"])  # a misspelt name is told before a model is loaded
    return _model(given)


def _head(given: Given) -> Given:
    if given.get("split") is not None:
        given["split"] = given["split"].split("/")
    return given


def _head_online(given: Given) -> Given:
    minutes = given.pop("time_limit", None)
    if minutes is not None:
        from dataclasses import replace

        from nec.heads import HeadSettings

        given["settings"] = replace(given.get("settings") or HeadSettings(), time_limit=60 * minutes)
    return _head(given)


def _pretrain(given: Given) -> Given:
    cut = given.get("cut")
    if cut is not None and not cut[1].isdigit():
        raise InputError(f"--cut takes a model and a number of blocks, not {' '.join(cut)}")
    return given if cut is None else {**given, "cut": (cut[0], int(cut[1]))}


def _info(function: Callable[..., Any], given: Given) -> Any:
    if given.pop("system", False):
        from nec.system import system

        return system()
    if not given.get("location"):
        raise InputError("name what to look at (a store, a codec file, a model folder), or give --system")
    return function(**given)


def _export(function: Callable[..., Any], given: Given) -> str:
    formats = ("stac", "geoparquet", "quicklook")
    wanted = [(name, given.pop(name)) for name in formats if given.get(name)]
    if given.get("out"):
        wanted.append((given.pop("format", None), given.pop("out")))
    if not wanted:
        raise InputError("nothing to export: give --out PATH, --stac DIR, --geoparquet FILE or --quicklook FILE")
    paths = [Path(function(out=out, format=name, **_meant(name, given))) for name, out in wanted]
    written = (sorted(path.iterdir()) if path.is_dir() else [path] for path in paths)
    return "\n".join(str(file) for files in written for file in files)


def _meant(name: str | None, given: Given) -> Given:
    """Of the options those that mean something to a format that one of the short flags names."""
    foreign = {"stac": ("chip", "time"), "geoparquet": ("href", "model_url", "source_url"),
               "quicklook": ("href", "model_url", "source_url", "chip")}  # fmt: skip
    return {key: value for key, value in given.items() if key not in foreign.get(name or "", ())}


MODEL_OPTION = {
    "model_option": Flag(list[str] | None, "KEY=VALUE of a model from another library, for example layer=8; repeatable")
}
READING: Given = {"commas": ("split", "bands")}
SOURCES = {"source": list[str], "backbone": str | None, "codec": str | None}
_HEAD: Given = {
    "positional": ("store",),
    "types": {"store": str, "model": str | None, "targets": str | None, "split": str | None},
    "names": {"batch": "--batch-size", "augmentation": "--augment"},
}
_SETTINGS = (
    "stage_lr", "model_lr", "layer_decay", "weight_decay", "warmup", "average", "label_smoothing", "token_dropout",
    "drop_path", "auxiliary", "turns", "lr", "time_limit",
)  # fmt: skip
_ONLINE = ("online", "fine_tune", "quantize", "quality", "augmentation", "image_size", "eval_resize")
_RASTER = ("labels", "label_column", "time", "block")
_TARGETS = ("targets", "least_share")
_CONVS = ("width", "blocks", "upscale")

COMMANDS: dict[str, Command] = {
    "encode": Command(
        "nec.encoding:encode", PRODUCE, "Encode images, scenes or embeddings into a compressed store.",
        ("nec encode folder:chips --model eurosat-tiny --out a.zarr --target-bytes 200",
         "nec encode may.tif --model eurosat-tiny --bands 1,2,3 --out land.zarr",
         "nec encode folder:chips --model timm:vit_small_patch16_224 --out b.zarr"),
        positional=("source",), types={**SOURCES, "quality": float | None, "out": str},
        names={"backbone": "--model"}, hide=("mode",), **READING,
        extra={
            "resume": Flag(bool, "complete an interrupted store", False),
            "append": Flag(bool, "add the scenes as further dates of a raster store that exists", False),
            "overwrite": Flag(bool, "replace a store that exists", False),
            **MODEL_OPTION,
        },
        shape=_encode,
    ),
    "fit": Command(
        "nec.encoding:fit", PRODUCE, "Fit a codec to a model's embeddings, or to embeddings in a file.",
        ("nec fit eurosat-tiny folder:chips --symmetries 8 --out my-model", "nec fit embeddings.npy --out codec.json"),
        positional=("source",), types={**SOURCES, "out": str}, hide=("backbone",), **READING,
        extra=MODEL_OPTION, shape=_fit,
    ),
    "info": Command(
        "nec.store:info", USE, "Say what a store, a codec file or a model folder holds.",
        ("nec info eurosat", "nec info land.zarr --json", "nec info --system"),
        positional=("location",), types={"location": str | None}, defaults={"location": None},
        extra={"system": Flag(bool, "say what is installed, which coder is used, which devices there are", False)},
        call=_info,
    ),
    "verify": Command(
        "nec.store:verify", USE, "Check every chunk and checksum of a store; exit status 1 if it is damaged.",
        ("nec verify eurosat", "nec verify https://example.org/land.zarr --json"),
        positional=("location",), types={"location": str},
    ),
    "decode": Command(
        "nec.store:decode", USE, "Decode the embeddings of a store to .npy, .npz or plain .zarr.",
        ("nec decode eurosat --out eurosat.npy",), positional=("location",), types={"location": str, "out": str},
    ),
    "export": Command(
        "nec.exporting:export", USE, "Write a store in a format that other software reads.",
        ("nec export land.zarr --format quicklook --out may.png", "nec export land.zarr --stac catalogue"),
        positional=("store",), types={"store": str, "out": str | None}, defaults={"out": None},
        extra={
            "stac": Flag(str | None, "folder for a STAC catalogue, short for --format stac --out"),
            "geoparquet": Flag(str | None, "file of chip vectors, short for --format geoparquet --out"),
            "quicklook": Flag(str | None, "picture, short for --format quicklook --out"),
        },
        call=_export,
    ),
    "search": Command(
        "nec.store:search", USE, "Find the images, or the tokens of a raster, that are nearest to one.",
        ("nec search eurosat --like 0 --k 5", "nec search land.zarr --like 500320,5299840 --json"),
        positional=("store",), types={"store": str, "like": str | None},
    ),
    "sample": Command(
        "nec.store:sample", USE, "Write the embeddings of a raster at points.",
        ("nec sample land.zarr points.csv --out values.parquet",),
        positional=("raster", "points"), types={"raster": str, "points": str, "out": str},
    ),
    "similar": Command(
        "nec.store:similar", USE, "Map how similar each token of a raster is to what lies at a place.",
        ("nec similar land.zarr --like 500320,5299840 --out like.tif",),
        positional=("raster",), types={"raster": str, "out": str},
    ),
    "change": Command(
        "nec.store:change", USE, "Map how far each token of a raster lies from itself at another date.",
        ("nec change land.zarr 2025-05 2026-05 --out change.tif",),
        positional=("raster", "t0", "t1"), types={"raster": str, "t0": str, "t1": str, "out": str},
    ),
    "zonal": Command(
        "nec.store:zonal", USE, "Write mean and deviation of a raster's embeddings over polygons.",
        ("nec zonal land.zarr fields.geojson --out fields.parquet",),
        positional=("raster", "polygons"), types={"raster": str, "polygons": str, "out": str},
    ),
    "view": Command(
        "nec.exporting:view", USE, "Show a store in the browser.",
        ("nec view eurosat", "nec view land.zarr --port 8000"),
        positional=("store",), types={"store": str},
    ),
    "classify": Command(
        "nec.heads:train_head", USE, "Train a classification head on a store; report accuracy on held-out images.",
        ("nec classify eurosat", "nec classify eurosat --head linear --json",
         "nec classify land.zarr --labels places.geojson --label-column class"),
        **_HEAD, hide=(*_SETTINGS, *_TARGETS, *_CONVS), fixed={"task": "classification"},
        extra={"time_limit": Flag(float | None, "online: minutes; fewer epochs where more would take longer")},
        shape=_head_online,
    ),
    "segment": Command(
        "nec.heads:train_head", USE, "Train a segmentation head on a store with masks; report mean IoU.",
        ("nec segment dubai.zarr --save head",),
        **_HEAD, hide=(*_SETTINGS, *_TARGETS, *_ONLINE, *_RASTER, "head"), fixed={"task": "segmentation"}, shape=_head,
    ),
    "regress": Command(
        "nec.heads:train_head", USE, "Train a regression head on a store; report MAE, RMSE and R².",
        ("nec regress chips.zarr --targets yields.csv",),
        **_HEAD, hide=(*_SETTINGS, *_ONLINE, *_CONVS, "least_share"), fixed={"task": "regression"}, shape=_head,
    ),
    "multilabel": Command(
        "nec.heads:train_head", USE, "Train a multi-label head on a store; report mean average precision and F1.",
        ("nec multilabel dubai.zarr --targets fractions",),
        **_HEAD, hide=(*_SETTINGS, *_ONLINE, *_CONVS, *_RASTER), fixed={"task": "multilabel"}, shape=_head,
    ),
    "predict": Command(
        "nec.heads:predict", USE, "Apply a saved head to a store or to images.",
        ("nec predict head land.zarr --out classes.tif", "nec predict head chip.png --model eurosat-tiny --out maps"),
        positional=("head", "inputs"), types={"head": str, "inputs": list[str], "out": str, "model": str | None},
        **READING, hide=("image_size", "mask", "resolution", "crs"),
    ),
    "pretrain": Command(
        "nec.training:pretrain", TRAIN, "Train a foundation model from scratch, as a masked autoencoder.",
        ("nec pretrain folder:images --config vit-t --out my-mae",),
        positional=("dataset",),
        types={"dataset": str, "out": str, "config": list[str] | None, "model": str | None,
               "cut": tuple[str, str] | None, "devices": str},
        shape=_pretrain,
    ),
    "adapt": Command(
        "nec.training:adapt", TRAIN, "Adapt a model so that its quantised embeddings have low entropy.",
        ("nec adapt eurosat-tiny folder:images --lmbda 1e5 --out adapted",
         "nec adapt eurosat-tiny folder:images --prior hierarchical --out adapted"),
        positional=("model", "dataset"),
        types={"model": str, "dataset": str, "out": str, "devices": str},
    ),
    "measure": Command(
        "nec.bench.sizes:measure", COMPARE, "Count the stored bytes of every method on the same images.",
        ("nec measure eurosat:EuroSAT_RGB.zip --model eurosat-tiny --limit 500",),
        positional=("source",), types=SOURCES, names={"backbone": "--model", "methods_spec": "--methods"}, **READING,
        extra=MODEL_OPTION, shape=_methods,
    ),
    "bench": Command(
        "nec.bench:bench", COMPARE, "Measure bytes and accuracy of every method over rates and seeds; write a report.",
        ("nec bench eurosat:EuroSAT_RGB.zip --model eurosat-tiny --out runs/first",),
        positional=("datasets",), types={"datasets": list[str] | None, "only": list[str] | None, "out": str},
    ),
    "demo": Command(
        "nec.demo:demo", COMPARE, "Run what ships from end to end and write a report.",
        ("nec demo", "nec demo --images my-folder --out demo-out"), types={"out": str},
    ),
}  # fmt: skip


def __getattr__(name: str) -> Callable[..., int]:
    """The function behind a command, made when it is asked for, so that `nec --help` imports no room."""
    if name in COMMANDS:
        return COMMANDS[name].callback()
    raise AttributeError(name)


def _app() -> App:
    made = App(
        name="nec",
        help="Neural compression of Earth observation embeddings.",
        version=f"nec {__version__}",
        version_flags=("--version", "-V"),
        default_parameter=Parameter(negative=()),
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        help_epilogue="`nec COMMAND --help` explains a command. `nec --install-completion` sets up your shell.",
    )
    made.register_install_completion_command(add_to_startup=False)
    groups = {title: Group(title, sort_key=place) for place, title in enumerate((PRODUCE, USE, TRAIN, COMPARE))}
    for name, command in COMMANDS.items():
        made.command(
            f"{__name__}:{name}",
            name=name,
            help=command.help,
            group=groups[command.group],
            help_epilogue="Examples:\n\n" + "\n\n".join(f"    {line}" for line in command.examples),
        )
    return made


app: Any = _app()
