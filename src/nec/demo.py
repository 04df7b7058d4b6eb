"""`nec demo`: what ships, used through the public interface as a consumer and a producer would, and a page on it."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import nec
from nec.errors import InputError, missing_extra
from nec.report import Report

if TYPE_CHECKING:
    from nec.datasets import Dataset
    from nec.heads import Head

ZIP_NAME = "EuroSAT_RGB.zip"
CHUNK, EVERY = 128, 4  # images of a chunk, and which chunks the coarser rates are measured on
SHARES = (1, 0.7, 0.5, 0.25)  # qualities of the transcodes, as shares of the store's own
SIDE, METRES = 512, 10.0  # of the drawn scene, in pixels, and of a pixel
REAL, OWN = 500, 64  # images that are encoded again, and of the user's at most
HEADS = {"linear": "linear probe", "attention": "attention pooling"}
Strips = dict[str, list[list[NDArray[np.uint8]]]]  # named rows of pictures, those of one image together
Paint = Callable[[NDArray[np.float32]], NDArray[np.uint8]]


@dataclass(frozen=True)
class DemoReport(Report):
    """Figures of a demonstration: of the store, its heads, coarser rates, the drawn scene and the user's images."""

    report: str
    store: dict[str, Any]
    heads: dict[str, Any]
    rate_accuracy: list[dict[str, float]]
    scene: dict[str, Any]
    real_images: dict[str, Any] | None
    user_images: dict[str, Any] | None
    seconds: float

    @property
    def failed(self) -> bool:
        return not self.scene["verified"]

    def __str__(self) -> str:
        s, accuracy = self.store, {kind: found["accuracy"] for kind, found in self.heads.items()}
        checked = "verified" if self.scene["verified"] else "DAMAGED"
        return (
            f"{s['name']}: {s['images']:,} images in {s['stored_bytes']:,} bytes ({s['bytes_per_image']:.0f} each)\n"
            f"accuracy on held-out images: {accuracy['attention']:.2%} (linear probe {accuracy['linear']:.2%})\n"
            f"drawn scene: {self.scene['pixel_bytes']:,} -> {self.scene['stored_bytes']:,} bytes, {checked}\n"
            f"report: {self.report} ({self.seconds:.0f} s)"
        )


def demo(
    out: str | Path = "demo-out",
    *,
    data: str | None = None,
    images: str | None = None,
    store: str = "eurosat",
    model: str = "eurosat-symmetric",
    epochs: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> DemoReport:
    """Run the shipped store and model end to end and write a report.

    Args:
        out: folder of the report.
        data: EuroSAT_RGB.zip or its folder; by default in $NEC_DATA or ../shared/data, if it is there.
        images: folder of your own images to encode as well.
        store: labelled store to use.
        model: model of that store.
        epochs: epochs of the attention head at most.
        seed: of heads and scene.
        progress: say what is being done.

    Raises:
        InputError: the store has no labels or split, or a path is wrong.
        MissingExtraError: a package that the demonstration needs is missing.
    """
    from nec.bench import charts  # noqa: F401 - a missing package is told before any work
    from nec.datasets import open_dataset
    from nec.heads import HeadSettings

    began, out = time.perf_counter(), Path(out)
    if out.is_file():
        raise InputError(f"--out {out} is a file: name a folder")
    held = nec.open_store(store)
    if held.labels is None or held.split is None:
        raise InputError(f"{store} has no labels or no split: the demo needs both")
    dataset = _find_data(data)
    own = None if images is None else open_dataset(f"folder:{images}" if Path(images).is_dir() else images)
    out.mkdir(parents=True, exist_ok=True)

    def say(line: str) -> None:
        if progress:
            print(f"nec demo: {line}", file=sys.stderr)

    heads = {}
    for kind in HEADS:
        say(f"training a head: {HEADS[kind]}")
        settings = HeadSettings(epochs=epochs if kind == "attention" else None)
        heads[kind] = nec.train_head(held, head=kind, seed=seed, settings=settings)  # type: ignore[arg-type]
    say("coding the store at coarser rates")
    points, sample = coarser_rates(held)
    paint, explained = colours_of(sample)
    say("drawing a scene, and encoding it as a producer would")
    scene, drawn = _scene(out, model, seed)
    head = heads["attention"].head
    real, originals = (None, {}) if dataset is None else _real(held, dataset, model, head, out, seed)
    user, strips = (None, {}) if own is None else _user(own, model, head, out, paint)
    figures = {kind: result.report.to_dict() for kind, result in heads.items()}
    page, took = str(out / "report.html"), time.perf_counter() - began
    report = DemoReport(page, _sizes(held, store), figures, points, scene, real, user, took)
    examples = _examples(held, paint, originals)
    _write(report, f"{explained:.0%}", examples, drawn, strips, out, f"{model}, seed {seed}")
    return report


# -- a consumer -------------------------------------------------------------------------------------------------------


def _sizes(store: nec.ImageStore, name: str) -> dict[str, Any]:
    """Bytes of the embeddings in the store, of what lies beside them, and of the same in other forms."""
    values = len(store) * store.grid[0] * store.grid[1] * store.dimensions
    facts = {"name": name, "images": len(store), "grid": list(store.grid), "dimensions": store.dimensions}
    facts |= {"stored_bytes": store.stored_bytes, "bytes_per_image": store.bytes_per_image, "quality": store.quality}
    facts |= {"side_bytes": sum(store.side_information().values()), "float16_bytes": 2 * values}
    return facts | {"image_files_bytes": (store.attrs.get("provenance") or {}).get("raw_bytes")}


def coarser_rates(store: nec.ImageStore) -> tuple[list[dict[str, float]], NDArray[np.float32]]:
    """Every fourth chunk coded again at coarser qualities with the store's own codec, and a linear probe at each.

    The bytes are those of whole coded chunks. A coarser point is a transcode: quantised embeddings quantised again,
    which costs a little accuracy against coding the originals. Also a sample of decoded token grids (n, y, x, d).
    """
    from nec.heads import fit_probe, pooled_features

    starts = range(0, len(store), EVERY * CHUNK)
    index = np.concatenate([np.arange(start, min(start + CHUNK, len(store))) for start in starts])
    blocks = [store.embeddings[start : start + CHUNK] for start in starts]
    split, labels = np.asarray(store.split)[index], np.asarray(store.labels)[index]
    parts = [np.flatnonzero((split == name) & (labels >= 0)) for name in ("train", "val", "test")]
    points = []
    for quality in [share * store.quality for share in SHARES]:
        blobs = [store.codec.encode(block, quality) for block in blocks]
        pooled = np.concatenate([pooled_features(store.codec.decode(blob)) for blob in blobs])
        train, val, test = ((pooled[rows], labels[rows]) for rows in parts)
        right = fit_probe(train, val, len(store.class_names or ())).predict(test[0]) == test[1]
        size = sum(map(len, blobs)) / len(index)
        points.append({"quality": quality, "bytes_per_image": size, "accuracy": float(right.mean())})
    return points, np.concatenate([block[:4] for block in blocks])


def colours_of(grids: NDArray[np.float32]) -> tuple[Paint, float]:
    """How to show tokens in colours, and the share of the variance of token grids (n, y, x, d) that the colours have.

    Three principal components are red, green and blue. What all images have in common at each place is taken away
    first: tokens of a masked autoencoder carry their place, and every picture would show the same gradient.
    """
    mean = grids.mean(axis=0, dtype=np.float64)
    centred = (grids - mean).reshape(-1, grids.shape[-1])
    variance, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    axes = axes[:, :-4:-1] * np.sign(axes[:, :-4:-1].sum(axis=0))  # the sign of a component is arbitrary
    low, high = np.percentile(centred @ axes, [1, 99], axis=0)

    def paint(tokens: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(..., y, x, d) -> (..., y, x, 3) uint8; of other grids than the sample's only the common mean is taken."""
        common = mean if tokens.shape[-3:] == mean.shape else mean.mean(axis=(0, 1))
        return np.rint(255 * (((tokens - common) @ axes - low) / (high - low)).clip(0, 1)).astype(np.uint8)

    return paint, float(variance[-3:].sum() / variance.sum())


def _shown(store: nec.ImageStore) -> dict[str, list[int]]:
    """Four test images of each class."""
    split, labels = np.asarray(store.split), np.asarray(store.labels)
    return {
        name: np.flatnonzero((split == "test") & (labels == label))[:4].tolist()
        for label, name in enumerate(store.class_names or ())
    }


def _examples(store: nec.ImageStore, paint: Paint, originals: dict[int, NDArray[np.uint8]]) -> Strips:
    """Of each image that is shown the original, where there is one, and its tokens."""
    found: Strips = {}
    for name, rows in _shown(store).items():
        grids = paint(store.embeddings[rows]) if rows else np.zeros((0, 1, 1, 3), np.uint8)
        found[name] = [[*([originals[row]] if row in originals else []), g] for row, g in zip(rows, grids, strict=True)]
    return found


# -- a producer -------------------------------------------------------------------------------------------------------


def draw_scene(side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """A drawn landscape (side, side, 3): fields, a wood on the left, a river through the middle. No data of anybody."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    cells = rng.uniform(0, side, (int(side * side / 1600), 2)).astype(np.float32)
    bend = 30 * np.sin(y / 90) + 12 * np.sin(y / 31)
    crops = np.array([[178, 138, 122], [150, 122, 112], [112, 98, 98], [70, 96, 82], [58, 92, 74], [92, 112, 84]])
    nearest = [((y[row] - cells[:, :1]) ** 2 + (x[row] - cells[:, 1:]) ** 2).argmin(0) for row in range(side)]
    picture = crops[rng.integers(0, len(crops), len(cells))][np.stack(nearest)].astype(np.float32)
    picture[x < side / 4 + 2 * bend] = (37, 60, 70)
    picture[abs(x - side * 0.6 - 2 * bend) < 14 + 4 * np.sin(y / 60)] = (46, 76, 94)
    return (picture + rng.normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def _scene(out: Path, model: str, seed: int) -> tuple[dict[str, Any], list[tuple[NDArray[np.uint8], str]]]:
    """The drawn scene as a GeoTIFF, encoded to a raster store -> figures, and pictures with what they show."""
    try:
        import rasterio
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    from nec.encoding import SceneOptions

    picture, path, stored = draw_scene(seed=seed), out / "scene.tif", out / "scene.zarr"
    where = rasterio.Affine(METRES, 0, 600_000, 0, -METRES, 5_340_000)  # a round place in southern Germany
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", **profile, transform=where, compress="deflate") as file:
        file.write(np.moveaxis(picture, -1, 0))
    made = nec.encode([str(path)], stored, model, mode="overwrite", scenes=SceneOptions(time=["2026-06-01"]))
    checked, raster = nec.verify(stored), nec.open_product(stored)
    tokens = np.nan_to_num(raster.read(0))
    rows, columns, dimensions = tokens.shape
    colours = colours_of(tokens.reshape(-1, 1, 1, dimensions))[0](tokens)
    pictures = [(picture, "the drawn scene"), (colours, "its decoded tokens, in colours")]
    unit = tokens - tokens.mean(axis=(0, 1))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True) + 1e-9
    for name, place in {"the wood": (0.5, 0.1), "the river": (0.12, 0.71), "a field": (0.3, 0.9)}.items():
        alike = (unit @ unit[int(rows * place[0]), int(columns * place[1])]).clip(0, 1)[..., None]
        pictures.append((np.rint(255 - alike * (255 - np.array([0, 78, 130]))).astype(np.uint8), f"places like {name}"))
    size = {"size": SIDE, "seed": seed, "pixel_bytes": picture.nbytes, "stored_bytes": raster.stored_bytes}
    found = {"tokens": rows * columns, "verified": checked.ok, "chunks": checked.chunks, "seconds": made.seconds}
    return {"file": path.name, **size, **found}, pictures


def _find_data(given: str | None) -> Dataset | None:
    """EuroSAT at `given` (zip, folder, KIND:PATH, or a folder that holds the zip), or in the usual places if there."""
    from nec.datasets import open_dataset

    if given is None:
        path = Path(os.environ.get("NEC_DATA", Path("..") / "shared" / "data")) / ZIP_NAME
        return open_dataset(f"eurosat:{path}") if path.is_file() else None
    inside = Path(given) / ZIP_NAME
    return open_dataset(f"eurosat:{inside}" if inside.is_file() else given)


def _real(
    store: nec.ImageStore, dataset: Dataset, model: str, head: Head, out: Path, seed: int
) -> tuple[dict[str, Any] | None, dict[int, NDArray[np.uint8]]]:
    """Some of the store's test images encoded again from their files and compared; and the originals to be shown.

    Other machines may round an embedding beside the edge of a quantiser step differently, so a few symbols may differ.
    """
    position = {name: i for i, name in enumerate(dataset.names)}
    test = [int(i) for i in np.flatnonzero(np.asarray(store.split) == "test") if store.names[i] in position]
    if not test:
        return None, {}
    chosen = np.sort(np.random.default_rng(seed).choice(test, min(REAL, len(test)), replace=False))
    images = dataset.load([position[store.names[i]] for i in chosen])
    nec.encode(images, out / "real.zarr", model, store.codec, store.quality, mode="overwrite")
    ours, theirs = nec.open_store(out / "real.zarr").embeddings[:], store.embeddings[chosen]
    equal = store.codec.symbols(ours, store.quality) == store.codec.symbols(theirs, store.quality)
    right = head.predict(ours) == np.asarray(store.labels)[chosen]
    figures = {"images": len(chosen), "equal_symbols": float(equal.mean()), "accuracy": float(right.mean())}
    shown = {row for rows in _shown(store).values() for row in rows} & set(test)
    return figures, {row: dataset.load([position[store.names[row]]])[0] for row in shown}


def _user(dataset: Dataset, model: str, head: Head, out: Path, paint: Paint) -> tuple[dict[str, Any], Strips]:
    """The user's images through the model -> figures, and each image with its tokens under the class it is given."""
    found = nec.load_model(model)
    images = dataset.load(range(min(OWN, len(dataset))), size=found.input_size)
    made = nec.encode(images, out / "images.zarr", found, mode="overwrite")
    tokens = nec.open_store(out / "images.zarr").embeddings[:]
    strips: Strips = {}
    for image, grid, label in zip(images, paint(tokens), head.predict(tokens), strict=True):
        strips.setdefault(head.class_names[label], []).append([image, grid])
    return {"images": len(images), "stored_bytes": made.store["stored_bytes"]}, strips


# -- the page ---------------------------------------------------------------------------------------------------------


def _charts(report: DemoReport, page: bool) -> dict[str, Any]:
    """Each class's share that the heads recognise, and accuracy over bytes."""
    from nec.bench.charts import alt, dressed, pd

    colours = ["#d9822b", "var(--mark)", "#009e73"] if page else ["#d55e00", "#0072b2", "#009e73"]
    size = {"width": "container" if page else 640}
    tips = {"tooltip": "tip:N", "description": "tip:N"}
    classes = [
        {"class": name, "head": HEADS[kind], "value": 100 * share, "tip": f"{name}, {HEADS[kind]}: {share:.1%}"}
        for kind, found in report.heads.items()
        for name, share in found["per_class"].items()
    ]
    head = alt.Color("head:N", title=None, scale=alt.Scale(domain=list(HEADS.values()), range=colours[:2]))
    bars = alt.Chart(pd.DataFrame(classes)).mark_bar().encode(
        x=alt.X("value:Q", title="test images recognised, %", scale=alt.Scale(domain=[0, 100])),
        y=alt.Y("class:N", title=None, sort="-x"),
        yOffset=alt.YOffset("head:N", sort=list(HEADS.values())),
        color=head.legend(orient="top", columns=1),
        **tips,
    )  # fmt: skip
    rows = [(f"linear probe, every {EVERY}th chunk", p["bytes_per_image"], p["accuracy"]) for p in report.rate_accuracy]
    whole = report.store["bytes_per_image"]
    rows += [(f"{HEADS[kind]}, all images", whole, found["accuracy"]) for kind, found in report.heads.items()]
    points = [
        {"what": what, "bytes": size_, "value": 100 * share, "tip": f"{what}\n{size_:.0f} B an image\n{share:.2%}"}
        for what, size_, share in rows
    ]
    names = list(dict.fromkeys(what for what, _, _ in rows))
    what = alt.Color("what:N", title=None, scale=alt.Scale(domain=names, range=[colours[1], colours[0], colours[2]]))
    axis = alt.Scale(type="log", base=2, nice=False, padding=20)
    base = alt.Chart(pd.DataFrame(points)).encode(
        x=alt.X("bytes:Q", title="stored bytes an image (logarithmic)", scale=axis),
        y=alt.Y("value:Q", title="test accuracy, %", scale=alt.Scale(zero=False, padding=15)),
        color=what.legend(orient="bottom", columns=1, labelLimit=300),
        **tips,
    )
    rates = base.mark_line(strokeWidth=2) + base.mark_point(size=90, opacity=1, filled=True)
    return {
        "per-class": dressed(bars.properties(height=max(120, 17 * len(classes)), **size), page),
        "rate-accuracy": dressed(rates.properties(height=300, **size), page),
    }


def _write(
    report: DemoReport,
    explained: str,
    examples: Strips,
    drawn: list[tuple[NDArray[np.uint8], str]],
    strips: Strips,
    out: Path,
    about: str,
) -> None:
    """`report.html`, `figures.json` and the charts as PNG files."""
    from nec.bench.report import data_uri, render, spec

    def uris(groups: Strips) -> dict[str, list[list[str]]]:
        return {name: [[data_uri(image) for image in group] for group in rows] for name, rows in groups.items()}

    for name, chart in _charts(report, page=False).items():
        chart.save(out / f"{name}.png", ppi=150)
    sizes = report.store
    forms = {
        "the image files as published": sizes["image_files_bytes"],
        "the same tokens as float16": sizes["float16_bytes"],
        "stored tokens": sizes["stored_bytes"],
        "beside them, once": sizes["side_bytes"],
    }
    software = {"nec": "neural-embedding-compression", **{n: n for n in ("numpy", "zarr", "constriction", "torch")}}
    page = render(
        "demo.html",
        "Images as compressed tokens",
        f"Report of nec demo: the store {sizes['name']}, the model {about}.",
        report=report,
        forms={name: size for name, size in forms.items() if size},
        heads=HEADS,
        charts={name: spec(chart) for name, chart in _charts(report, page=True).items()},
        explained=explained,
        examples=uris(examples),
        drawn=[(data_uri(image), text) for image, text in drawn],
        strips=uris(strips),
        software=", ".join(f"{name} {version(package)}" for name, package in software.items()),
    )
    (out / "report.html").write_text(page, encoding="utf-8")
    (out / "figures.json").write_text(report.to_json(), encoding="utf-8")
