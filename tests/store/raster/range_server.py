"""A web server with byte ranges, in a process of its own: `python range_server.py ROOT LOG`.

It prints its port, serves the files under ROOT and writes one JSON line a request to LOG. While a file `overloaded`
lies in ROOT it answers 503.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Ranges(BaseHTTPRequestHandler):
    """GET and HEAD of files, whole or by one range `a-b`, `a-` or `-n`."""

    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, log: Path, *rest: Any) -> None:
        self.root, self.log = root, log
        super().__init__(*rest)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        file = self.root / self.path.strip("/")
        if (self.root / "overloaded").exists():
            self.respond(503, b"", body, 0)
        elif not file.is_file():
            self.respond(404, b"", body, 0)
        else:
            data = file.read_bytes()
            part = self.part(len(data))
            self.respond(200 if part is None else 206, data[part or slice(None)], body, len(data), part)

    def part(self, size: int) -> slice | None:
        if "Range" not in self.headers:
            return None
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        if not first:
            return slice(max(0, size - int(last)), size)
        return slice(int(first), min(size, int(last) + 1) if last else size)

    def respond(self, status: int, data: bytes, body: bool, size: int, part: slice | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        if part is not None:
            self.send_header("Content-Range", f"bytes {part.start}-{part.stop - 1}/{size}")
        self.end_headers()
        sent = len(data) if body else 0
        with self.log.open("a") as log:
            line = {"method": self.command, "path": self.path.strip("/"), "status": status, "bytes": sent}
            log.write(json.dumps({**line, "range": None if part is None else [part.start, part.stop]}) + "\n")
        if body:
            self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, Path(sys.argv[1]), Path(sys.argv[2])))
    print(server.server_port, flush=True)
    server.serve_forever()
