"""`nec.encode` and `nec.fit`: from a source to a store, to a codec, or to a model folder with its codec."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from nec.codec import EmbeddingCodec
from nec.datasets import Dataset
from nec.encoding.codecs import sample_array
from nec.encoding.engine import EngineName
from nec.encoding.images import encode_images, sample_embeddings
from nec.encoding.options import MODES, Encoding, Mode, Reading, Running, SceneOptions, Source
from nec.encoding.reports import EncodeReport
from nec.errors import InputError
from nec.files import atomic_path
from nec.models.adapters import ADAPTERS
from nec.models.backbone import Backbone
from nec.models.loading import load_model
from nec.report import Report

BATCH_IMAGES, BATCH_TILES = 256, 32


def encode(
    source: Source,
    out: str | Path,
    backbone: Backbone | str | Path | None = None,
    codec: EmbeddingCodec | str | Path | None = None,
    quality: float = 1.0,
    target_bytes: float | None = None,
    mode: Mode = "create",
    engine: EngineName = "threads",
    *,
    reading: Reading | None = None,
    scenes: SceneOptions | None = None,
    running: Running | None = None,
    progress: bool = False,
) -> EncodeReport:
    """Encode images into an image store, or scenes into a raster store.

    An interrupted run is completed by `mode="resume"` with the same arguments; the bytes are those of one that was not
    interrupted, on any engine.

    Args:
        source: a dataset (`KIND:PATH`, a path, a `Dataset`), scenes (paths, `Scene`), or images (n, h, w, bands).
        out: folder of the store, usually NAME.zarr; of a raster store also the URL of a bucket.
        backbone: a `Backbone`, or a name that `nec.load_model` takes.
        codec: a fitted codec, or its file. None: the backbone's own, else one that is fitted on a sample of the source.
        quality: what to code with; larger = finer.
        target_bytes: choose the quality such that an image, or an input of the backbone, takes so many bytes.
        mode: "create" a store, "resume" one that was interrupted, "overwrite" one, "append" the scenes as further dates
            of a raster store; "resume-append" does what of an interrupted "append" is missing.
        engine: this process, "threads", or the workers of a Dask cluster, "dask".
        reading: how files are read and become the backbone's input.
        scenes: how scenes become dates.
        running: how the run is done.
        progress: report on stderr.

    Returns:
        What was made: `ImagesReport` or `ScenesReport`.

    Raises:
        InputError: source, backbone or codec do not fit each other; `out` is in the way. If nothing was stored yet,
            `out` is removed again.
        NecError: the source, the bucket or the cluster cannot be reached, or the disk is full; "resume" goes on.

    Example:
        >>> import nec, numpy as np
        >>> images = np.random.default_rng(0).integers(0, 256, (64, 64, 64, 3), dtype=np.uint8)
        >>> report = nec.encode(images, "a.zarr", "eurosat-symmetric", target_bytes=200)  # doctest: +SKIP
    """
    reading, scenes, running = reading or Reading(), scenes or SceneOptions(), running or Running()
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is unknown: give {', '.join(MODES)}")
    opened = reading.open(source, running.seed)
    of_images = isinstance(opened, Dataset)
    for name in ("time", "skip_failed", "halo"):
        if of_images and getattr(scenes, name):
            option = name.replace("_", "-")
            raise InputError(f"--{option} belongs to scenes (scene:PATH), and the input is a dataset of images")
    job = running.job(engine, BATCH_IMAGES if of_images else BATCH_TILES, progress)
    found = open_backbone(backbone, running)
    encoding = Encoding(out, found, codec, quality, target_bytes, mode, reading, job)
    if isinstance(opened, Dataset):
        return encode_images(opened, encoding)
    from nec.encoding.scenes import encode_scenes

    return encode_scenes(opened, encoding, scenes)


def open_images(source: Source, reading: Reading, running: Running) -> Dataset:
    """The dataset that a source is; `InputError` where it is none."""
    opened = reading.open(source, running.seed)
    if not isinstance(opened, Dataset):
        raise InputError(f"{source} is a scene, and images are needed: give a dataset (KIND:PATH)")
    return opened


def open_backbone(backbone: Backbone | str | Path | None, running: Running) -> Backbone:
    """The backbone that is given, or is loaded by its name; `InputError` for none."""
    if backbone is None:
        raise InputError("images need a backbone: give a model folder, a shipped name, or for example timm:NAME")
    if isinstance(backbone, Backbone):
        return backbone
    found = load_model(backbone, running.device, precision=running.precision)
    if not isinstance(found, Backbone):
        raise InputError(f"{backbone} is a {type(found).__name__}, which gives no embeddings: take its .model")
    return found


@dataclass(frozen=True)
class FitReport(Report):
    """What `nec.fit` made.

    Attributes:
        path: of the codec, or of the model folder with it.
        images: how many grids of embeddings it was fitted on.
        dimensions: channels of these.
        codec: `prior`, `spatial`, `id`, `rank` and `bytes`.
    """

    path: str
    images: int
    dimensions: int
    codec: dict[str, Any]

    def __str__(self) -> str:
        codec = self.codec
        pyramid = " of a Haar pyramid" if codec["spatial"] else ""
        return (
            f"{self.path}: {codec['prior']} codec{pyramid} for {self.dimensions} dimensions "
            f"(rank {codec['rank']}), {codec['bytes']:,} bytes, fitted on {self.images} images"
        )


def fit(
    source: Source,
    out: str | Path,
    backbone: Backbone | str | Path | None = None,
    symmetries: Literal[1, 2, 4, 8] | None = None,
    limit: int | None = None,
    *,
    prior: Literal["hierarchical", "factorized"] = "hierarchical",
    spatial: Literal["haar", "none"] = "haar",
    rank: int | None = None,
    overwrite: bool = False,
    reading: Reading | None = None,
    running: Running | None = None,
    progress: bool = False,
) -> FitReport:
    """Fit a codec to a backbone's embeddings, or to embeddings; no training needed.

    Args:
        source: a dataset, as `nec.encode` takes it; without a backbone embeddings (n, y, x, d): an array, or an .npy,
            .npz or .zarr.
        out: NAME.json: the codec; else a folder: the model with the codec.
        backbone: a `Backbone`, or a name that `nec.load_model` takes; None: the source is embeddings.
        symmetries: the model that is written gives means over so many (1, 2, 4, 8) turns and flips of an image as its
            embedding: so many times a producer's work, better for tasks that know no upright side, and fewer bytes.
        limit: images to fit on (default 4000, less for large grids).
        prior: "hierarchical" or "factorized".
        spatial: with the hierarchical prior, code a Haar pyramid over the grid, or the tokens themselves: "none".
        rank: keep so many components of the basis (default: all).
        overwrite: replace a codec that exists.
        reading: how images become the backbone's input; `split` are the parts to fit on, "train" by default where the
            dataset has a split.
        running: how the run is done.
        progress: report on stderr.

    Raises:
        InputError: source and backbone do not fit each other; `out` is in the way; NaN or infinite embeddings.
    """
    out, reading, running = Path(out), reading or Reading(), running or Running()
    alone = out.suffix == ".json"
    if symmetries is not None and (alone or backbone is None):
        raise InputError("--symmetries is of a model and its images: write a model folder, not a codec alone")
    if backbone is None:
        if not alone:
            raise InputError(f"--out {out}: embeddings come without a model, so the codec goes to a file NAME.json")
        embeddings = sample_array(source, limit=limit, seed=running.seed)
    else:
        folder = None if alone else _model_folder(backbone, out, symmetries, overwrite)
        dataset = open_images(source, reading, running)
        found = open_backbone(backbone, running)
        found = found if symmetries is None else found.symmetric(symmetries)
        reading = replace(reading, split=reading.split or ["train"])
        embeddings = sample_embeddings(found, dataset, reading, running.job("threads", BATCH_IMAGES, progress), limit)
    # The factorised prior codes the tokens themselves.
    pyramid: Literal["haar"] | None = "haar" if spatial == "haar" and prior == "hierarchical" else None
    codec = EmbeddingCodec.fit(embeddings, prior=prior, rank=rank, seed=running.seed, positions=None, spatial=pyramid)
    if alone:
        with atomic_path(out, overwrite=overwrite) as temporary:
            codec.save(temporary)
    else:
        from nec.models.checkpoints import save_fitted

        assert folder is not None
        save_fitted(folder, out, codec, symmetries=symmetries, overwrite=overwrite)
    facts = {"prior": codec.prior, "spatial": codec.spatial, "id": codec.id, "rank": codec.rank, "bytes": codec.nbytes}
    return FitReport(str(out), len(embeddings), codec.dimensions, facts)


def _model_folder(backbone: Backbone | str | Path, out: Path, symmetries: int | None, overwrite: bool) -> Path:
    """The folder of a model of ours that gets a codec; `InputError` where it cannot, before anything is computed."""
    from nec.store.opening import resolve

    if isinstance(backbone, Backbone):
        raise InputError(f"--out {out}: a model that is open already has no folder to copy: write a codec, NAME.json")
    kind = str(backbone).partition(":")[0]
    if kind in ADAPTERS and not Path(backbone).exists():
        raise InputError(f"--out {out}: {backbone} has no model folder to copy: write a codec, --out NAME.json")
    folder = resolve(backbone, "models")
    if not folder.is_dir():
        raise InputError(f"{folder} is no model folder to copy: write the codec alone, --out NAME.json")
    if out.exists() and out.samefile(folder):
        if symmetries is not None:
            raise InputError(f"--symmetries makes another model: write it beside {folder}, not into it")
        if (out / "codec.json").exists() and not overwrite:
            raise InputError(f"{out / 'codec.json'} exists: choose another name, or give --overwrite")
    elif out.exists():
        raise InputError(f"{out} exists: choose another name, or remove it first")
    return folder
