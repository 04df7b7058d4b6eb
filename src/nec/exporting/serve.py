"""The page on a store, served on this machine alone."""

from __future__ import annotations

import mimetypes
import re
import sys
import webbrowser
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from zarr.abc.store import RangeByteRequest

from nec.errors import InputError, NecError
from nec.exporting.web import STORE, index, name_of, page_files, page_folder
from nec.store import ImageStore, RasterStore, open
from nec.store.location import Location, is_url, read_key, size_of_key

_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html; charset=utf-8"}


def view(
    store: ImageStore | RasterStore | Location,
    *,
    port: int = 0,
    images: str | None = None,
    browser: bool = True,
) -> None:
    """Show a store in the browser until interrupted. Other machines cannot reach the page.

    Args:
        store: an open store, or what `nec.open` takes. Zips and buckets are served as they are.
        port: of the server; by default any that is free.
        images: for a store of images, a folder of them, or a URL with {name} or {index} in it.
        browser: open the browser.

    Raises:
        InputError: there is no store, no such folder, or the port is taken.
    """
    server = make_server(store, port=port, images=images)
    address = f"http://127.0.0.1:{server.server_port}/"
    print(f"{address} shows the store; end with Ctrl-C", flush=True)
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


def make_server(
    store: ImageStore | RasterStore | Location, *, port: int = 0, images: str | None = None
) -> ThreadingHTTPServer:
    """A server of the page, the store and a folder of images, bound to 127.0.0.1. See `view`."""
    opened = store if isinstance(store, ImageStore | RasterStore) else open(store)
    folder = Path(images).resolve() if images and not is_url(images) else None
    if folder is not None and not folder.is_dir():
        raise InputError(f"{images} is neither a folder nor a URL")
    pattern = "images/{name}" if folder else images or ""
    document = index(STORE, name_of(opened), pattern).encode()
    names = set(page_files()) - {"index.html"}

    class Handler(_Handler):
        def find(self, path: str, span: tuple[int, int] | None) -> tuple[bytes, int] | None:
            root, _, rest = path.partition("/")
            if path in ("", "index.html"):
                return _part(document, span)
            if path in names:
                return _part((page_folder() / path).read_bytes(), span)
            if root == STORE:
                return _stored(opened, rest, span)
            if root == "images" and folder is not None:
                file = (folder / rest).resolve()
                return _part(file.read_bytes(), span) if file.is_relative_to(folder) and file.is_file() else None
            return None

    try:
        return _Server(("127.0.0.1", port), Handler)
    except OSError as error:
        raise InputError(f"port {port} cannot be used: {error.strerror}") from error


def _part(data: bytes, span: tuple[int, int] | None) -> tuple[bytes, int]:
    return (data if span is None else data[slice(*span)]), len(data)


def _stored(store: ImageStore | RasterStore, key: str, span: tuple[int, int] | None) -> tuple[bytes, int] | None:
    """Bytes under a key of the store, or an extent of them, and how many there are in all."""
    if ".." in key.split("/") or not key:
        return None
    if span is None:
        data = read_key(store.zarr_store, key)
        return None if data is None else (data, len(data))
    size = size_of_key(store.zarr_store, key)
    start, stop = span[0], min(span[1], size)
    if start >= stop:
        return (b"", size) if size else None
    data = read_key(store.zarr_store, key, RangeByteRequest(start, stop))
    return None if data is None else (data, size)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that browsers keep open and break off."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of what `find` gives, with ranges `bytes=first-last`."""

    protocol_version = "HTTP/1.1"

    def find(self, path: str, span: tuple[int, int] | None) -> tuple[bytes, int] | None:
        raise NotImplementedError

    def do_GET(self) -> None:
        # A page elsewhere whose name was made to lead here must not read the store.
        if self.headers.get("Host", "").partition(":")[0] not in ("127.0.0.1", "localhost"):
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = unquote(urlsplit(self.path).path).lstrip("/")
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        span = (int(asked[1]), int(asked[2]) + 1 if asked[2] else 2**62) if asked else None
        try:
            found = self.find(path, span)
        except (NecError, OSError) as error:
            self.send_error(HTTPStatus.BAD_GATEWAY, explain=str(error))
            return
        if found is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        data, size = found
        if span and not data:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
        elif span:
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {span[0]}-{span[0] + len(data) - 1}/{size}")
        else:
            self.send_response(HTTPStatus.OK)
        suffix = Path(path or "index.html").suffix
        self.send_header(
            "Content-Type", _TYPES.get(suffix) or mimetypes.guess_type(path)[0] or "application/octet-stream"
        )
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        self.end_headers()
        if self.command == "GET":
            with suppress(ConnectionError):  # the browser went elsewhere
                self.wfile.write(data)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the page says what it reads."""
