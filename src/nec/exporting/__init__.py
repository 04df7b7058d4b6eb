"""What others read of a store: one small file a format, each named in `FORMATS`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from nec.errors import InputError
from nec.exporting.serve import view
from nec.store import ImageStore, RasterStore, open
from nec.store.location import Location

__all__ = ["FORMATS", "Format", "export", "view"]


@dataclass(frozen=True)
class Format:
    """A format: the module under `nec.exporting` that writes it, what of, and the suffixes that mean it.

    The module has `write(store, out, *, overwrite, <options>) -> Path`. Its options are arguments of `export`.
    """

    module: str
    of: tuple[type, ...]
    suffixes: tuple[str, ...] = ()


FORMATS = {
    "stac": Format("stac", (RasterStore,)),
    "geoparquet": Format("geoparquet", (RasterStore,), (".parquet", ".geoparquet")),
    "quicklook": Format("quicklook", (RasterStore,), (".png", ".tif", ".tiff")),
    "web": Format("web", (ImageStore, RasterStore)),
}


def export(
    store: ImageStore | RasterStore | Location,
    out: str | Path,
    *,
    format: str | None = None,
    time: str | int | None = None,
    chip: int | None = None,
    href: str | None = None,
    model_url: str | None = None,
    source_url: list[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a store in a format that other software reads.

    Args:
        store: an open store, or what `nec.open` takes.
        out: file or folder to write.
        format: "stac" (a folder: a Collection and an Item a date), "geoparquet" (chip vectors: means of squares of
            tokens), "quicklook" (.png or .tif: three principal components as colours), "web" (a folder: a page that
            shows the store in a browser); by default what the suffix of `out` means.
        time: date (ISO) of a quick-look or of the chips; by default the last, or all.
        chip: tokens along a chip's side (8).
        href: where the store is published, for a catalogue or a page; by default its relative path.
        model_url: link to the model, for a catalogue, where the store names none.
        source_url: links to the source imagery, for a catalogue, where the store names none.
        overwrite: replace `out` if it exists.

    Returns:
        `out`.

    Raises:
        InputError: no such format, the store is of a kind that the format is not for, an option means nothing to it,
            or `out` exists.
        MissingExtraError: a package that the format needs is not installed.
    """
    out = Path(out)
    name = format or next((name for name, each in FORMATS.items() if out.suffix in each.suffixes), None)
    if name not in FORMATS:
        raise InputError(f"no format {format or out.suffix!r}: give one of {', '.join(FORMATS)}")
    opened = store if isinstance(store, ImageStore | RasterStore) else open(store)
    if not isinstance(opened, FORMATS[name].of):
        raise InputError(f"{opened.path} is a {opened.kind}, which {name} is not for")
    write: Any = import_module(f"nec.exporting.{FORMATS[name].module}").write
    given = {"time": time, "chip": chip, "href": href, "model_url": model_url, "source_url": source_url}
    options = {key: value for key, value in given.items() if value is not None}
    foreign = options.keys() - inspect.signature(write).parameters.keys()
    if foreign:
        raise InputError(f"{', '.join(sorted(foreign))} means nothing to {name}")
    return write(opened, out, overwrite=overwrite, **options)
