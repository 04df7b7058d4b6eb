"""Apply a trained head to stores, rasters and images, window by window, and write maps or a table."""

from __future__ import annotations

import colorsys
import csv
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nec.encoding.images import Inputs, embed, pixel_scale, positions_of
from nec.encoding.options import Reading
from nec.errors import InputError, missing_extra
from nec.files import atomic_path
from nec.heads.head import Head, load_head
from nec.heads.targets import date_of
from nec.progress import Progress
from nec.report import Report

if TYPE_CHECKING:
    from nec.models.mae import NecModel
    from nec.store import ImageStore, RasterStore

Apply = Callable[[NDArray[Any]], NDArray[np.float32]]  # windows (n, y, x, c) -> outputs (n, k, rows, columns)
Color = tuple[int, int, int]

_AT_ONCE = 256  # images of a store that are decoded together
_TILE_PIXELS, _TILE_TOKENS = 4096, 128  # sides of what is held at once of an image, and of a raster store
_NO_CLASS = 255  # in class maps of rasters, where there were no data


@dataclass(frozen=True)
class PredictReport(Report):
    """What `predict` wrote.

    Attributes:
        head: folder of the head, or its task.
        kind: "segmenter", "attention" or "linear".
        images: how many were predicted; 1 for a raster store.
        out: folder or file that was written.
        files: maps, relative to `out`; None for a table.
        classes: {index, name, color} of the classes in maps; None for a table.
        predictions: rows of predictions.csv; None for maps.
    """

    head: str
    kind: str
    images: int
    out: str
    files: list[str] | None = None
    classes: list[dict[str, Any]] | None = None
    predictions: list[dict[str, Any]] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something."""
        return {key: value for key, value in super().to_dict().items() if value is not None}

    def __str__(self) -> str:
        return f"{self.out}: {self.images} images, {self.kind} head"


def predict(
    head: Head | str | Path,
    inputs: Any,
    out: str | Path,
    *,
    model: str | Path | NecModel | None = None,
    quality: float | None = None,
    reading: Reading | None = None,
    overlap: float = 0.5,
    time: str | None = None,
    probabilities: bool = False,
    progress: bool = False,
) -> PredictReport:
    """Apply a head to an image store, a raster store, or images through their model.

    Maps of images are PNG with a palette, GeoTIFF where there is a georeference, with classes.json beside them. What
    heads say of whole images goes to predictions.csv. A raster store gives one GeoTIFF, written window by window.

    Args:
        head: a head, or the folder of one.
        inputs: a store, open or its location; or with `model` KIND:PATH, GeoTIFFs, image files, or a dataset.
        out: folder to write; of a raster store the GeoTIFF.
        model: what turns images into embeddings: folder, name, or a loaded model.
        quality: code the embeddings of images first; default: floats.
        reading: how images are read: bands, sensor, scale (default: as of the store that the head was trained on).
        overlap: share of a window that the next one covers again, in images and rasters larger than the head's grid.
        time: date of a raster store that has several.
        probabilities: of a raster store, write a band of float32 for each class in place of the class.
        progress: show it on stderr.

    Raises:
        InputError: an input that is none, does not fit the head, or is of another model; `out` is in the way.
        MissingExtraError: torch, rasterio or Pillow is not there, and needed.
    """
    if not 0 <= overlap < 1:
        raise InputError(f"--overlap {overlap}: it must lie in 0..1 (1 excluded)")
    name = str(head) if isinstance(head, str | Path) else head.task
    head = load_head(head) if isinstance(head, str | Path) else head
    source = _opened(inputs)
    if source is not None:
        given = {"model": model, "quality": quality, **(vars(reading) if reading else {})}
        for option in (key.replace("_", "-") for key, value in given.items() if value != vars(Reading()).get(key)):
            raise InputError(f"--{option} belongs to images, and {source.path} is a store: leave it out")
        check_model(head, source.attrs.get("model"))
    if hasattr(source, "read_valid"):
        return _predict_raster(head, name, source, Path(out), overlap, time, probabilities, not progress)
    if probabilities or time is not None:
        raise InputError(f"--{'probabilities' if probabilities else 'time'} belongs to a raster store: leave it out")
    if source is not None:
        total, found = len(source), _of_store(source, head, overlap)
    else:
        total, found = _of_images(inputs, head, model, quality, reading or Reading(), overlap)
    with atomic_path(out) as folder, Progress(total, "predicting", "images", quiet=not progress) as bar:
        folder.mkdir()
        write = _write_maps if head.segments else _write_table
        written = write(folder, head, found, bar)
    return PredictReport(name, head.kind, total, str(out), **written)


def check_model(head: Head, model: dict[str, Any] | None) -> None:
    """`InputError` where the head was trained on embeddings of another model than `model`, an identity, says."""
    other = model or {}
    ours, theirs = head.model.get("sha256"), other.get("sha256")
    if ours and theirs and head.model.get("symmetries", 1) != other.get("symmetries", 1):
        raise InputError(
            f"the head was trained on means over {head.model.get('symmetries', 1)} symmetries, these embeddings are"
            f" over {other.get('symmetries', 1)}: nec fit --symmetries makes such a model"
        )
    if ours and theirs and ours != theirs:
        raise InputError(
            f"the head was trained on embeddings of the model {head.model.get('name')!r} ({ours[:12]}), these are of"
            f" {other.get('name')!r} ({theirs[:12]})"
        )


# -- where predictions come from --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Prediction:
    """`found`: class of each pixel (height, width), or outputs (k,)."""

    name: str
    found: NDArray[Any]
    reference: dict[str, Any] | None


def _opened(inputs: Any) -> Any:
    """The open store that the inputs are or name, or None where they are images."""
    if isinstance(inputs, Sequence) and not isinstance(inputs, str) and len(inputs) == 1:
        inputs = inputs[0]
    if hasattr(inputs, "embeddings"):
        return inputs
    if not isinstance(inputs, str | Path):
        return None
    from nec.store import open as open_store
    from nec.store.opening import shipped

    path = Path(inputs)
    named = "://" in str(inputs) or (not path.exists() and str(inputs) in shipped("stores"))
    return open_store(inputs) if named or (path / "zarr.json").is_file() else None


def _of_store(store: ImageStore, head: Head, overlap: float) -> Iterator[_Prediction]:
    references = (store.attrs.get("provenance") or {}).get("georeference")
    for indices, block in store.batches(_AT_ONCE):
        for index, tokens in zip(indices, block, strict=True):
            found, reference = predict_grid(head, tokens, overlap), None
            if references is not None and head.segments:
                rows, columns = references[index]["valid_pixels"]
                found = found[:rows, :columns]
                reference = _of_pixels(references[index], head)
            yield _Prediction(store.names[index], found, reference)


def _of_pixels(reference: dict[str, Any], head: Head) -> dict[str, Any]:
    """The georeference of tokens as that of the pixels that a head gives of them."""
    a, b, c, d, e, f = reference["transform"]
    y, x = head.module.pixels if head.segments else (1, 1)
    return {"crs": reference["crs"], "transform": [a / x, b / y, c, d / x, e / y, f]}


def _of_images(
    inputs: Any, head: Head, model: Any, quality: float | None, reading: Reading, overlap: float
) -> tuple[int, Iterator[_Prediction]]:
    if model is None:
        first = inputs[0] if isinstance(inputs, list | tuple) else inputs
        raise InputError(f"{first} is no store: give the --model that turns images into embeddings")
    if reading.image_size is not None:
        raise InputError("--image-size: images are predicted window by window, as large as they are: leave it out")
    # Remarks of the readers on odd tags and missing geotransforms; what makes a file unusable is raised.
    warnings.filterwarnings("ignore", module=r"PIL\.|rasterio")
    dataset = reading.images(inputs)
    if isinstance(model, str | Path):
        from nec.models import load_model

        model = load_model(str(model))
    check_model(head, model.identity)
    if model.dimensions != head.dimensions:
        raise InputError(f"the model gives {model.dimensions} values a token, the head takes {head.dimensions}")
    if quality is not None and model.codec is None:
        raise InputError(f"the model {model.name} has no codec for --quality: make one with `nec fit`")
    scale, offset, recorded = reading.scale, reading.offset, head.model.get("input") or {}
    if scale is None and not dataset.physical:
        scale, offset = recorded.get("scale"), offset or recorded.get("offset") or 0.0
    order = positions_of(dataset, reading.parts)

    def predictions() -> Iterator[_Prediction]:
        for index in order:
            image, name = dataset.read(index), dataset.names[index]
            inputs = Inputs(image.shape, None, *pixel_scale(model, dataset, image, name, scale, offset), head.grid)

            def apply(windows: NDArray[Any], inputs: Inputs = inputs) -> NDArray[np.float32]:
                tokens = embed(model, windows, inputs)
                return head.outputs(
                    tokens if quality is None else model.codec.decode(model.codec.encode(tokens, quality))
                )

            found = predict_image(head, apply, model.patch, image, overlap)
            yield _Prediction(name, found, dataset.georeference(index))

    return len(order), predictions()


# -- windows ----------------------------------------------------------------------------------------------------------


def predict_image(
    head: Head, apply: Apply, patch: tuple[int, int], image: NDArray[Any], overlap: float = 0.5, batch: int = 16
) -> NDArray[Any]:
    """Image (height, width, bands) -> class of each pixel, uint8 (height, width), or the head's outputs (k,).

    `apply` gives what model and head make of windows, `patch` are the pixels of a token.

    The model sees windows of the size that the head was trained on, which overlap by the share `overlap`; what the
    head gives is averaged (of a segmenter: less weight towards a window's edge). A smaller image is reflected.
    """
    window = (head.grid[0] * patch[0], head.grid[1] * patch[1])
    height, width = image.shape[:2]
    missing = [(0, max(0, side - have)) for side, have in zip(window, (height, width), strict=True)]
    padded = np.pad(image, [*missing, (0, 0)], mode="reflect")
    found = _over_windows(head, padded, window, overlap, apply, batch)
    return found[:height, :width] if head.segments else found


def predict_grid(head: Head, tokens: NDArray[np.floating], overlap: float = 0.5, batch: int = 16) -> NDArray[Any]:
    """Tokens (y, x, d) of one image -> as `predict_image`, in the pixels that the tokens stand for.

    Raises `InputError` for a grid smaller than the head's, where the head needs its own.
    """
    smaller = tokens.shape[0] < head.grid[0] or tokens.shape[1] < head.grid[1]
    if not head.bound_to_grid or tokens.shape[:2] == head.grid or smaller:
        found = head.outputs(tokens[None])[0]  # which says what it takes
        return found.argmax(axis=0).astype(np.uint8) if head.segments else found
    return _over_windows(head, tokens, head.grid, overlap, head.outputs, batch)


def _over_windows(
    head: Head, image: NDArray[Any], window: tuple[int, int], overlap: float, apply: Apply, batch: int
) -> NDArray[Any]:
    if head.segments:
        return predict_classes(image, window, overlap, apply, batch)
    corners = [(y, x) for y in _starts(image.shape[0], window[0], overlap) for x in
               _starts(image.shape[1], window[1], overlap)]  # fmt: skip
    return np.concatenate(list(_applied(image, corners, window, apply, batch))).mean(axis=0)


def predict_classes(
    image: NDArray[Any], window: tuple[int, int], overlap: float, apply: Apply, batch: int = 16
) -> NDArray[np.uint8]:
    """Most probable class of each pixel of an image (height, width, c), see `averaged_tiles`."""
    classes = np.empty((0, 0), np.uint8)
    for rows, columns, found in averaged_tiles(
        image.shape[:2], window, overlap, lambda rows, columns: image[rows, columns], apply, batch, _TILE_PIXELS
    ):
        y, x = found.shape[1] // (rows.stop - rows.start), found.shape[2] // (columns.stop - columns.start)
        if not classes.size:
            classes = np.empty((image.shape[0] * y, image.shape[1] * x), np.uint8)
        target = (slice(rows.start * y, rows.stop * y), slice(columns.start * x, columns.stop * x))
        classes[target] = found.argmax(axis=0)
    return classes


def averaged_tiles(
    size: tuple[int, ...],
    window: tuple[int, int],
    overlap: float,
    read: Callable[[slice, slice], NDArray[Any]],
    apply: Apply,
    batch: int = 16,
    tile: int = _TILE_TOKENS,
) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Averaged outputs of something of `size` (height, width), tile by tile: (rows, columns, outputs (k, h, w)).

    Windows lie on one grid whatever the tiles are, so tiles do not show; those that cross tiles are applied in each.
    Outputs weigh less towards a window's edges, where a model sees little of what is around. The last window of a row
    or column is shifted inwards.

    Args:
        size: at least a window.
        window: (rows, columns) of a window.
        overlap: share of a window that the next one covers again, in 0..1 (1 excluded).
        read: (rows, columns) -> pixels or tokens (h, w, c).
        apply: windows (n, *window, c) -> outputs (n, k, rows, columns), a whole multiple of the window's.
        batch: windows at a time.
        tile: side of a tile.
    """
    tops, lefts = (_starts(length, side, overlap) for length, side in zip(size, window, strict=True))
    for rows in _cuts(size[0], tile):
        for columns in _cuts(size[1], tile):
            ys = [top for top in tops if rows.start - window[0] < top < rows.stop]
            xs = [left for left in lefts if columns.start - window[1] < left < columns.stop]
            area = read(slice(ys[0], ys[-1] + window[0]), slice(xs[0], xs[-1] + window[1]))
            corners = [(top - ys[0], left - xs[0]) for top in ys for left in xs]
            total, weight = np.empty((0, 0, 0), np.float32), np.empty((0, 0), np.float32)
            found = (one for block in _applied(area, corners, window, apply, batch) for one in block)
            for (top, left), one in zip(corners, found, strict=True):
                y, x = one.shape[1] // window[0], one.shape[2] // window[1]
                if not total.size:
                    total = np.zeros((len(one), area.shape[0] * y, area.shape[1] * x), np.float32)
                    weight = np.zeros(total.shape[1:], np.float32)
                    taper = np.outer(_taper(one.shape[1]), _taper(one.shape[2]))
                place = (slice(top * y, top * y + one.shape[1]), slice(left * x, left * x + one.shape[2]))
                total[:, *place] += one * taper
                weight[place] += taper
            inside = (
                slice((rows.start - ys[0]) * y, (rows.stop - ys[0]) * y),
                slice((columns.start - xs[0]) * x, (columns.stop - xs[0]) * x),
            )
            yield rows, columns, total[:, *inside] / weight[inside]


def _applied(
    area: NDArray[Any], corners: Sequence[tuple[int, int]], window: tuple[int, int], apply: Apply, batch: int
) -> Iterator[NDArray[np.float32]]:
    for begin in range(0, len(corners), batch):
        some = corners[begin : begin + batch]
        yield apply(np.stack([area[top : top + window[0], left : left + window[1]] for top, left in some]))


def _cuts(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, step)]


def _starts(length: int, window: int, overlap: float) -> list[int]:
    """First rows or columns of the windows that cover `length`, which is at least one window."""
    if not 0 <= overlap < 1:
        raise InputError(f"the overlap of windows must lie in 0..1 (1 excluded), not {overlap}")
    stride = max(1, round(window * (1 - overlap)))
    return [*range(0, length - window, stride), length - window]


def _taper(length: int) -> NDArray[np.float32]:
    """Weights that fall linearly from the middle to the edges of a window, and stay positive."""
    return (1 - np.abs(np.arange(length) - (length - 1) / 2) / (length / 2)).astype(np.float32)


# -- raster stores ----------------------------------------------------------------------------------------------------


def _predict_raster(
    head: Head,
    name: str,
    store: RasterStore,
    out: Path,
    overlap: float,
    time: str | None,
    probabilities: bool,
    quiet: bool,
) -> PredictReport:
    """One GeoTIFF of a date: classes, or a band of outputs for each class or target."""
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise InputError(f"--out {out}: what a head says of a raster store is a GeoTIFF, so name a .tif")
    if store.dimensions != head.dimensions:
        raise InputError(f"{store.path} has {store.dimensions} values a token, the head takes {head.dimensions}")
    if store.grid[0] < head.grid[0] or store.grid[1] < head.grid[1]:
        y, x = head.grid
        raise InputError(f"{store.path} has {store.grid[0]}x{store.grid[1]} tokens, the head takes windows of {y}x{x}")
    if len(head.class_names) > _NO_CLASS and not probabilities:
        raise InputError(f"a map holds {_NO_CLASS} classes, the head has {len(head.class_names)}: add --probabilities")
    date = date_of(store, time)
    numbers = probabilities or head.task in ("regression", "multilabel")
    y, x = (round(side) for side in head.module.pixels) if head.segments else (1, 1)
    size = (store.grid[0] * y, store.grid[1] * x)
    reference = _of_pixels({"crs": store.crs, "transform": store.transform}, head)
    colors = colors_of(len(head.class_names), head.class_colors)
    kind = {"dtype": "float32", "count": len(head.class_names), "nodata": np.nan} if numbers else {"nodata": _NO_CLASS}
    layout = {"tiled": True, "blockxsize": 128, "blockysize": 128, "bigtiff": "if_safer"}
    with (
        atomic_path(out) as temporary,
        geotiff(temporary, size, reference, head.class_names, None if numbers else colors, **kind, **layout) as file,
        Progress(store.grid[0] * store.grid[1], "predicting", "tokens", quiet=quiet) as progress,
    ):
        for rows, columns, found in _raster_tiles(head, store, date, overlap):
            valid = np.kron(store.read_valid(date, rows, columns), np.ones((y, x), bool))
            corner = ((rows.start * y, rows.stop * y), (columns.start * x, columns.stop * x))
            if numbers:
                file.write(np.where(valid, found, np.float32(np.nan)), window=corner)
            else:
                file.write(np.where(valid, found.argmax(axis=0), _NO_CLASS).astype(np.uint8), 1, window=corner)
            progress.update((rows.stop - rows.start) * (columns.stop - columns.start))
    legend = None if head.task in ("regression", "multilabel") else _legend(head, colors)
    return PredictReport(name, head.kind, 1, str(out), [out.name], legend)


def _raster_tiles(
    head: Head, store: RasterStore, date: int, overlap: float
) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """Outputs of a date, tile by tile. What a head says of a whole window counts for each of its tokens."""

    def read(rows: slice, columns: slice) -> NDArray[np.float32]:
        """Tokens; those without data get the mean of the others."""
        tokens = store.read(date, rows, columns)
        valid = np.isfinite(tokens).all(axis=2)
        tokens[~valid] = tokens[valid].mean(axis=0) if valid.any() else 0
        return tokens

    def apply(windows: NDArray[np.float32]) -> NDArray[np.float32]:
        found = head.outputs(windows)
        return found if head.segments else np.broadcast_to(found[:, :, None, None], (*found.shape, *windows.shape[1:3]))

    if head.grid != (1, 1):
        yield from averaged_tiles(store.grid, head.grid, overlap, read, apply)
        return
    for rows in _cuts(store.grid[0], _TILE_TOKENS):
        for columns in _cuts(store.grid[1], _TILE_TOKENS):
            tokens = read(rows, columns)
            found = head.outputs(tokens.reshape(-1, 1, 1, tokens.shape[-1]))
            yield rows, columns, found.T.reshape(-1, *tokens.shape[:2])


# -- files ------------------------------------------------------------------------------------------------------------


def _write_maps(folder: Path, head: Head, predictions: Iterator[_Prediction], progress: Progress) -> dict[str, Any]:
    colors = colors_of(len(head.class_names), head.class_colors)
    files: list[str] = []
    for prediction in predictions:
        file = free_name(prediction.name, ".tif" if prediction.reference else ".png", files)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if prediction.reference:
            with geotiff(
                folder / file, prediction.found.shape, prediction.reference, head.class_names, colors
            ) as target:
                target.write(prediction.found, 1)
        else:
            write_png(folder / file, prediction.found, colors)
        files.append(file)
        progress.update()
    legend = _legend(head, colors)
    (folder / "classes.json").write_text(json.dumps(legend, indent=1) + "\n", encoding="utf-8")
    return {"files": files, "classes": legend}


def _write_table(folder: Path, head: Head, predictions: Iterator[_Prediction], progress: Progress) -> dict[str, Any]:
    """predictions.csv: the class and its probability, or a column a target."""
    classes = head.task == "classification"
    rows: list[dict[str, Any]] = []
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["name", "class", "probability"] if classes else ["name", *head.class_names])
        for prediction in predictions:
            values: dict[str, Any]
            if classes:
                best = int(prediction.found.argmax())
                values = {"class": head.class_names[best], "probability": float(prediction.found[best])}
                shown = [values["class"], f"{values['probability']:.6f}"]
            else:
                values = dict(zip(head.class_names, prediction.found.tolist(), strict=True))
                shown = [f"{value:.7g}" for value in values.values()]
            table.writerow([prediction.name, *shown])
            rows.append({"name": prediction.name, **values})
            progress.update()
    return {"predictions": rows}


def free_name(name: str, suffix: str, taken: Sequence[str]) -> str:
    """A path inside the output folder, whatever the image is called, that no file in `taken` has or lies under.

    Names that differ in case only are one file on some systems.
    """
    parts = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")] or ["image"]
    whole = "/".join(parts)
    files = {one.casefold() for one in taken}
    folders = {str(folder) for one in files for folder in PurePosixPath(one).parents}
    number = 1
    short = str(PurePosixPath(whole).with_suffix(suffix))
    candidate = short
    while (
        candidate.casefold() in files | folders
        or {str(folder).casefold() for folder in PurePosixPath(candidate).parents} & files
    ):
        number += 1
        candidate = whole + suffix if number == 2 else f"{whole}-{number}{suffix}"
        if number > 2 and "/" in whole:  # a folder of that name may be what is in the way
            candidate = whole.replace("/", "_") + f"-{number}{suffix}"
    return candidate


def colors_of(classes: int, given: Sequence[Color] | None) -> list[Color]:
    """The classes' own colours, or as many that differ in hue."""
    if given is not None:
        return list(given)
    shares = (colorsys.hsv_to_rgb(i * 0.618 % 1, 0.7, 0.9) for i in range(classes))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shares]


def _legend(head: Head, colors: Sequence[Color]) -> list[dict[str, Any]]:
    named = enumerate(zip(head.class_names, colors, strict=True))
    return [{"index": i, "name": name, "color": list(color)} for i, (name, color) in named]


def write_png(path: Path, classes: NDArray[np.uint8], colors: Sequence[Color]) -> None:
    """Class indices (height, width) as a PNG whose palette holds the classes' colours."""
    try:
        from PIL import Image
    except ImportError as error:
        missing_extra("Pillow", "torch", error)
    image = Image.fromarray(classes, mode="P")
    image.putpalette([value for color in colors for value in color])
    image.save(path, format="PNG", optimize=True)


@contextmanager
def geotiff(
    path: Path,
    size: tuple[int, ...],
    reference: dict[str, Any],
    names: Sequence[str],
    colors: Sequence[Color] | None,
    **profile: Any,
) -> Iterator[Any]:
    """An open GeoTIFF of `size` (height, width): of classes with a colour table and their names as tags, or without
    `colors` a band for each name.

    `reference`: {"crs": text or None, "transform": [a, b, c, d, e, f]} with x = a*column + b*row + c, and so on.
    """
    try:
        import rasterio
    except ImportError as error:
        missing_extra("rasterio", "geo", error)
    profile = {
        "driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": "uint8", "compress": "deflate",
        "crs": reference["crs"], "transform": rasterio.Affine(*reference["transform"]),
    } | profile  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        if colors is None:
            file.descriptions = tuple(names)
        else:
            file.write_colormap(1, {i: (*color, 255) for i, color in enumerate(colors)})
            file.update_tags(1, **{f"class_{i}": name for i, name in enumerate(names)})
        yield file
