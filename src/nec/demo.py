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

from nec.datasets import Dataset, open_dataset
from nec.encoding import SceneOptions, encode
from nec.errors import InputError, missing_extra
from nec.files import make_folder, write_bytes
from nec.heads import HeadResult, HeadSettings, fit_probe, pooled_features, train_head
from nec.report import Report
from nec.store import open_product, open_store

if TYPE_CHECKING:
    from nec.heads import Head

ZIP_NAME = "EuroSAT_RGB.zip"
CHUNK, EVERY = 128, 4  # images of a chunk, and which chunks the coarser rates are measured on
COARSER = (0.7, 0.5, 0.25)  # qualities of the transcodes, as shares of the store's own
SIDE, METRES = 512, 10.0  # of the drawn scene, in pixels, and of a pixel
NAMES = {"linear": "linear probe", "attention": "attention pooling"}
Strips = dict[str, list[list[Any]]]  # named rows of pictures, those of one image together
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

    def __str__(self) -> str:
        s, accuracy = self.store, {name: found["accuracy"] for name, found in self.heads.items()}
        each = f"{s['bytes_per_image']:.0f} each"
        return (
            f"{s['name']}: {s['images']:,} images in {s['stored_bytes']:,} bytes ({each})\n"
            f"accuracy on held-out images: {accuracy['attention']:.2%} (linear probe {accuracy['linear']:.2%})\n"
            f"drawn scene: {self.scene['pixel_bytes']:,} -> {self.scene['stored_bytes']:,} bytes\n"
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
    try:
        from nec.bench.charts import alt  # noqa: F401
    except ImportError as error:
        missing_extra("altair", "bench", error)
    began, out = time.perf_counter(), Path(out)
    if out.is_file():
        raise InputError(f"--out {out} is a file: name a folder")
    held = open_store(store)
    if held.labels is None or held.split is None:
        raise InputError(f"{store} has no labels or no split: the demo needs both")
    dataset = _find_data(data)
    own = None if images is None else open_dataset(f"folder:{images}" if Path(images).is_dir() else images)
    make_folder(out)

    def say(line: str) -> None:
        if progress:
            print(f"nec demo: {line}", file=sys.stderr)

    heads: dict[str, HeadResult] = {}
    for kind in ("linear", "attention"):
        settings = HeadSettings(epochs=epochs if kind == "attention" else None)
        heads[kind] = train_head(held, head=kind, seed=seed, settings=settings)
        say(f"{NAMES[kind]}: {heads[kind].report.figures['accuracy']:.2%} of the held-out images")
    points, sample = coarser_rates(held)
    paint, explained = colours_of(sample)
    say("drawing a scene, and encoding it as a producer would")
    scene, drawn = _scene(out, model, seed)
    real, originals = (None, {}) if dataset is None else _real(held, dataset, model, heads["attention"].head, out, seed)
    user, strips = (None, {}) if own is None else _user(own, model, heads["attention"].head, out, paint)
    report = DemoReport(
        str(out / "report.html"),
        _sizes(held, store),
        {name: result.report.to_dict() for name, result in heads.items()},
        points,
        scene,
        real,
        user,
        time.perf_counter() - began,
    )
    pictures = _examples(held, paint, originals)
    page = _page(report, heads, explained, pictures, drawn, strips, out, f"{model}, seed {seed}")
    write_bytes(out / "report.html", page.encode())
    write_bytes(out / "figures.json", report.to_json().encode())
    return report


# -- a consumer -------------------------------------------------------------------------------------------------------


def _sizes(store: Any, name: str) -> dict[str, Any]:
    """Bytes of the embeddings in the store, of what lies beside them, and of the same in other forms."""
    values = len(store) * store.grid[0] * store.grid[1] * store.dimensions
    facts = {"name": name, "images": len(store), "grid": list(store.grid), "dimensions": store.dimensions}
    facts |= {"stored_bytes": store.stored_bytes, "bytes_per_image": store.bytes_per_image, "quality": store.quality}
    facts |= {"side_bytes": sum(store.side_information().values()), "float16_bytes": 2 * values}
    return facts | {"image_files_bytes": (store.attrs.get("provenance") or {}).get("raw_bytes")}


def coarser_rates(store: Any) -> tuple[list[dict[str, float]], NDArray[np.float32]]:
    """Every fourth chunk coded again at coarser qualities with the store's own codec, and a linear probe at each.

    The bytes are those of whole coded chunks. A coarser point is a transcode: quantised embeddings quantised again,
    which costs a little accuracy against coding the originals. Also a sample of decoded token grids (n, y, x, d).
    """
    starts = range(0, len(store), EVERY * CHUNK)
    index = np.concatenate([np.arange(start, min(start + CHUNK, len(store))) for start in starts])
    blocks = [store.embeddings[start : start + CHUNK] for start in starts]
    split, labels = np.asarray(store.split)[index], np.asarray(store.labels)[index]
    parts = [np.flatnonzero((split == name) & (labels >= 0)) for name in ("train", "val", "test")]
    points = []
    for quality in (store.quality, *(share * store.quality for share in COARSER)):
        blobs = [store.codec.encode(block, quality) for block in blocks]
        pooled = np.concatenate([pooled_features(store.codec.decode(blob)) for blob in blobs])
        train, val, test = ((pooled[rows], labels[rows]) for rows in parts)
        right = fit_probe(train, val, len(store.class_names)).predict(test[0]) == test[1]
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


def _examples(store: Any, paint: Paint, originals: dict[int, NDArray[np.uint8]]) -> Strips:
    """Four test images of each class: the original where there is one, and its tokens."""
    split, labels = np.asarray(store.split), np.asarray(store.labels)
    found: Strips = {}
    for label, name in enumerate(store.class_names):
        rows = _of_class(split, labels, label)
        grids: Any = paint(store.embeddings[rows]) if len(rows) else []
        found[name] = [
            [*([originals[row]] if row in originals else []), grid] for row, grid in zip(rows, grids, strict=True)
        ]
    return found


def _of_class(split: NDArray[Any], labels: NDArray[Any], label: int) -> list[int]:
    return np.flatnonzero((split == "test") & (labels == label))[:4].tolist()


# -- a producer -------------------------------------------------------------------------------------------------------


def draw_scene(side: int = SIDE, seed: int = 0) -> NDArray[np.uint8]:
    """A drawn landscape (side, side, 3): fields, a wood on the left, a river through the middle. No data of anybody."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    cells = rng.uniform(0, side, (int(side * side / 1600), 2)).astype(np.float32)
    bend = 30 * np.sin(y / 90) + 12 * np.sin(y / 31)
    crops = np.array([[178, 138, 122], [150, 122, 112], [112, 98, 98], [70, 96, 82], [58, 92, 74], [92, 112, 84]])
    nearest = np.stack(
        [((y[row] - cells[:, 0, None]) ** 2 + (x[row] - cells[:, 1, None]) ** 2).argmin(0) for row in range(side)]
    )
    picture = crops[rng.integers(0, len(crops), len(cells))][nearest].astype(np.float32)
    picture[x < side / 4 + 2 * bend] = (37, 60, 70)
    picture[abs(x - side * 0.6 - 2 * bend) < 14 + 4 * np.sin(y / 60)] = (46, 76, 94)
    return (picture + rng.normal(0, 5, picture.shape)).clip(0, 255).astype(np.uint8)


def _scene(out: Path, model: str, seed: int) -> tuple[dict[str, Any], list[tuple[Any, str]]]:
    """The drawn scene as a GeoTIFF, encoded to a raster store -> figures, and pictures with what they show."""
    try:
        import rasterio
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    picture, path = draw_scene(seed=seed), out / "scene.tif"
    where = rasterio.Affine(METRES, 0, 600_000, 0, -METRES, 5_340_000)  # a round place in southern Germany
    profile = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    with rasterio.open(path, "w", **profile, transform=where, compress="deflate") as file:
        file.write(np.moveaxis(picture, -1, 0))
    made = encode([str(path)], out / "scene.zarr", model, mode="overwrite", scenes=SceneOptions(time=["2026-06-01"]))
    raster = open_product(out / "scene.zarr")
    tokens = np.nan_to_num(raster.read(0))
    colours = colours_of(tokens.reshape(-1, 1, 1, tokens.shape[-1]))[0](tokens)
    pictures: list[tuple[Any, str]] = [(picture, "the drawn scene"), (colours, "its decoded tokens, in colours")]
    unit = tokens - tokens.mean(axis=(0, 1))
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True) + 1e-9
    rows, columns = tokens.shape[:2]
    for name, place in {"the wood": (0.5, 0.1), "the river": (0.12, 0.71), "a field": (0.3, 0.9)}.items():
        alike = (unit @ unit[int(rows * place[0]), int(columns * place[1])]).clip(0, 1)[..., None]
        pictures.append((np.rint(255 - alike * (255 - np.array([0, 78, 130]))).astype(np.uint8), f"places like {name}"))
    size = {"size": SIDE, "seed": seed, "pixel_bytes": picture.nbytes, "stored_bytes": raster.stored_bytes}
    return {"file": path.name, **size, "tokens": rows * columns, "seconds": made.seconds}, pictures


def _find_data(given: str | None) -> Dataset | None:
    """EuroSAT at `given` (zip, folder, KIND:PATH, or a folder that holds the zip), or in the usual places if there."""
    if given is None:
        path = Path(os.environ.get("NEC_DATA", Path("..") / "shared" / "data")) / ZIP_NAME
        return open_dataset(f"eurosat:{path}") if path.is_file() else None
    inside = Path(given) / ZIP_NAME
    return open_dataset(f"eurosat:{inside}" if inside.is_file() else given)


def _real(
    store: Any, dataset: Dataset, model: str, head: Head, out: Path, seed: int, count: int = 500
) -> tuple[dict[str, Any] | None, dict[int, NDArray[np.uint8]]]:
    """Some of the store's test images encoded again from their files and compared; and the originals to be shown.

    Other machines may round an embedding beside the edge of a quantiser step differently, so a few symbols may differ.
    """
    position = {name: i for i, name in enumerate(dataset.names)}
    split, labels = np.asarray(store.split), np.asarray(store.labels)
    test = [int(i) for i in np.flatnonzero(split == "test") if store.names[i] in position]
    if not test:
        return None, {}
    chosen = np.sort(np.random.default_rng(seed).choice(test, min(count, len(test)), replace=False))
    encode(
        dataset.load([position[store.names[i]] for i in chosen]),
        out / "real.zarr",
        model,
        store.codec,
        store.quality,
        mode="overwrite",
    )
    ours, theirs = open_store(out / "real.zarr").embeddings[:], store.embeddings[chosen]
    equal = store.codec.symbols(ours, store.quality) == store.codec.symbols(theirs, store.quality)
    right = head.predict(ours) == labels[chosen]
    shown = [row for label in range(len(store.class_names)) for row in _of_class(split, labels, label) if row in test]
    figures = {"images": len(chosen), "equal_symbols": float(equal.mean()), "accuracy": float(right.mean())}
    return figures, {row: dataset.load([position[store.names[row]]])[0] for row in shown}


def _user(
    dataset: Dataset, model: str, head: Head, out: Path, paint: Paint, limit: int = 64
) -> tuple[dict[str, Any], Strips]:
    """The user's images through the model -> figures, and each image with its tokens under the class it is given."""
    from nec.models import load_model

    found = load_model(model)
    images = dataset.load(range(min(limit, len(dataset))), size=found.input_size)
    made = encode(images, out / "images.zarr", found, mode="overwrite")
    tokens = open_store(out / "images.zarr").embeddings[:]
    strips: Strips = {}
    for image, grid, label in zip(images, paint(tokens), head.predict(tokens), strict=True):
        strips.setdefault(head.class_names[label], []).append([image, grid])
    return {"images": len(images), "stored_bytes": made.store["stored_bytes"]}, strips


# -- the page ---------------------------------------------------------------------------------------------------------


def _charts(report: DemoReport, heads: dict[str, HeadResult], page: bool) -> dict[str, Any]:
    from nec.bench.charts import alt, dressed, pd

    blue, orange = ("var(--mark)", "#d9822b") if page else ("#0072b2", "#d55e00")
    classes = pd.DataFrame(
        {"class": name, "head": NAMES[kind], "value": 100 * share, "tip": f"{name}, {NAMES[kind]}: {share:.1%}"}
        for kind, result in heads.items()
        for name, share in result.report.figures["per_class"].items()
    )
    colour = alt.Color(
        "head:N",
        title=None,
        legend=alt.Legend(orient="top"),
        scale=alt.Scale(domain=list(NAMES.values()), range=[orange, blue]),
    )
    bars = (
        alt.Chart(classes)
        .mark_bar()
        .encode(
            x=alt.X("value:Q", title="test images recognised, %", scale=alt.Scale(domain=[0, 100])),
            y=alt.Y("class:N", title=None, sort="-x"),
            yOffset=alt.YOffset("head:N", sort=list(NAMES.values())),
            color=colour,
            tooltip="tip:N",
            description="tip:N",
        )
    )
    rows = [
        ("linear probe, a quarter of the images", p["bytes_per_image"], p["accuracy"]) for p in report.rate_accuracy
    ]
    rows += [
        (f"{NAMES[k]}, all images", report.store["bytes_per_image"], h["accuracy"]) for k, h in report.heads.items()
    ]
    points = pd.DataFrame(
        {"what": what, "bytes": size, "value": 100 * share, "tip": f"{what}\n{size:.0f} B an image\n{share:.2%}"}
        for what, size, share in rows
    )
    what = alt.Color(
        "what:N",
        title=None,
        legend=alt.Legend(orient="bottom", columns=1, labelLimit=300),
        scale=alt.Scale(range=[blue, orange, "#009e73"], domain=list(dict.fromkeys(r[0] for r in rows))),
    )
    base = alt.Chart(points).encode(
        x=alt.X(
            "bytes:Q",
            title="stored bytes an image (logarithmic)",
            scale=alt.Scale(type="log", base=2, nice=False, padding=20),
        ),
        y=alt.Y("value:Q", title="test accuracy, %", scale=alt.Scale(zero=False, padding=15)),
        color=what,
        tooltip="tip:N",
        description="tip:N",
    )
    rates = base.mark_line(strokeWidth=2) + base.mark_point(size=90, opacity=1, filled=True)
    size = {"width": "container" if page else 640}
    return {
        "per-class": dressed(bars.properties(height=max(120, 34 * len(classes) // 2), **size), page),
        "rate-accuracy": dressed(rates.properties(height=300, **size), page),
    }


def _page(
    report: DemoReport,
    heads: dict[str, HeadResult],
    explained: float,
    examples: Strips,
    drawn: list[tuple[Any, str]],
    strips: Strips,
    out: Path,
    about: str,
) -> str:
    from nec.bench.panels import data_uri
    from nec.bench.report import render, spec
    from nec.bench.tables import Table

    def uris(groups: Strips) -> dict[str, list[list[str]]]:
        return {name: [[data_uri(image) for image in group] for group in rows] for name, rows in groups.items()}

    sizes, best = report.store, heads["attention"].report
    forms = [("the image files as published", sizes["image_files_bytes"])] if sizes["image_files_bytes"] else []
    forms += [("the same tokens as float16", sizes["float16_bytes"]), ("stored tokens", sizes["stored_bytes"])]
    forms += [("beside them, once", sizes["side_bytes"])]
    rows = [[(name, None), (f"{n / 1e6:,.2f} MB", n), (f"{n / sizes['images']:,.0f}", n)] for name, n in forms]
    accuracy: list[list[Any]] = [
        [
            (NAMES[kind], None),
            (f"{r.report.figures['accuracy']:.2%}", None),
            (f"{r.report.head_parameters:,}", None),
            (f"{r.report.seconds:.0f} s", None),
            ("no" if kind == "linear" else "yes", None),
        ]
        for kind, r in heads.items()
    ]
    tiles = [
        (f"{best.figures['accuracy']:.1%}", f"of {best.test_images:,} held-out images classified correctly"),
        (f"{sizes['bytes_per_image']:.0f} B", "stored for an image"),
        (f"{forms[0][1] / sizes['stored_bytes']:.0f} : 1", f"against {forms[0][0]}"),
        (f"{best.seconds:.0f} s", "to read the store and train the head on this machine"),
    ]
    for name, chart in _charts(report, heads, page=False).items():
        chart.save(out / f"{name}.png", ppi=150)
    software = {"nec": "neural-embedding-compression", **{n: n for n in ("numpy", "zarr", "constriction", "torch")}}
    return render(
        "demo.html",
        "Images as a few hundred bytes",
        f"Report of nec demo: the store {sizes['name']}, the model {about}.",
        tiles=tiles,
        report=report,
        sizes=Table("", ["form", "total", "bytes an image"], rows, sortable=False, mark=len(forms) - 2),
        accuracy=Table(
            "",
            ["head", "test accuracy", "parameters", "read and train", "needs PyTorch"],
            accuracy,
            sortable=False,
            mark=1,
        ),
        charts={name: spec(chart) for name, chart in _charts(report, heads, page=True).items()},
        explained=f"{explained:.0%}",
        examples=uris(examples),
        drawn=[(data_uri(image), text) for image, text in drawn],
        strips=uris(strips),
        software=", ".join(f"{name} {version(package)}" for name, package in software.items()),
    )
