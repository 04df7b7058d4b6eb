"""A page that shows a store in a browser: static files, which decode the store themselves (`web/` of the sources)."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from nec.errors import InputError, NecError
from nec.files import atomic_path
from nec.store import ImageStore, RasterStore
from nec.store.location import is_url

STORE = "data"  # folder of a store that is copied into the site


def write(
    store: ImageStore | RasterStore, out: str | Path, *, href: str | None = None, overwrite: bool = False
) -> Path:
    """Write the page into a folder that any web server or bucket serves. Servers must answer range requests.

    Args:
        store: an open store.
        out: folder to write.
        href: the store's address as the page will see it, a URL or a path relative to `out`. By default, the relative
            path where the store lies beside `out`, and a copy in `out/data` elsewhere.
        overwrite: replace `out` if it exists.

    Raises:
        InputError: `out` exists, `href` holds credentials, or the store is no folder and no `href` is given.
    """
    out = Path(out)
    folder = Path(store.path)
    if href is None and is_url(store.path):
        href = store.path
    if href is not None and (urlsplit(href).username or urlsplit(href).query):
        raise InputError("the address of the store may hold no user and no query: everyone can read it in the page")
    if href is not None and urlsplit(href).scheme not in ("", "https", "http"):
        raise InputError(f"browsers cannot read {href}: give the store's https address as href")
    if href is None and not folder.is_dir():
        raise InputError(f"{store.path} is no folder: unpack it, or give its address as href")
    beside = href is None and folder.resolve().parent == out.resolve().parent
    with atomic_path(out, overwrite=overwrite) as temporary:
        for name in page_files():
            target = temporary / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page_folder() / name, target)
        if href is None and not beside:
            shutil.copytree(folder, temporary / STORE, ignore=shutil.ignore_patterns(".nec-*"))
        where = href or (quote(Path(os.path.relpath(folder, out)).as_posix()) if beside else STORE)
        (temporary / "index.html").write_text(index(where, name_of(store)), encoding="utf-8")
    return out


def page_folder() -> Path:
    """The page's files: in the package where it is installed, in `web/` of a checkout.

    Raises:
        NecError: the installation lacks them.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "web", package.parents[1] / "web"):
        if (folder / "index.html").is_file():
            return folder
    raise NecError("this installation lacks the page's files (nec/web): install the package again")


def page_files() -> Iterator[str]:
    """Names of the files that the page consists of."""
    folder = page_folder()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".html", ".css", ".js"):
            yield path.relative_to(folder).as_posix()


def name_of(store: ImageStore | RasterStore) -> str:
    """The store's name in the page's title."""
    return Path(urlsplit(store.path).path).name.removesuffix(".zip").removesuffix(".zarr") or "Embeddings"


def index(store: str, name: str, images: str = "") -> str:
    """`index.html` for a store, which may ask for nothing but itself, the store, and images if a pattern is given."""
    origins = [f"{part.scheme}://{part.netloc}" for part in map(urlsplit, (store, images)) if part.netloc]
    sources = " ".join(["'self'", *origins])
    policy = f"default-src 'self'; connect-src {sources}; img-src {sources} data: blob:"
    text = (page_folder() / "index.html").read_text(encoding="utf-8")
    body = (
        f'<body data-store="{html.escape(store)}" data-images="{html.escape(images)}" data-name="{html.escape(name)}">'
    )
    head = f'<head>\n<meta http-equiv="Content-Security-Policy" content="{html.escape(policy)}">'
    return text.replace('<body data-store="data" data-images="">', body).replace("<head>", head, 1)
