"""An S3 API (moto's) that can fail, in a process of its own: `python s3_server.py FAULTS`. It prints its port.

While the file FAULTS holds "TIMES METHOD PATTERN", so many requests of that method whose path matches get a 503.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUSY = b"<Error><Code>ServiceUnavailable</Code><Message>Please try again.</Message></Error>"


class Faulty:
    """WSGI application that answers 503 as the file says, and else what `app` answers."""

    def __init__(self, app: Any, faults: Path) -> None:
        self.app, self.faults, self.turn = app, faults, threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if self.fails(environ):
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start("503 Service Unavailable", [("Content-Type", "application/xml"), ("Content-Length", str(len(BUSY)))])
            return [BUSY]
        return self.app(environ, start)

    def fails(self, environ: dict[str, Any]) -> bool:
        with self.turn:
            times, method, pattern = (self.faults.read_text().split() if self.faults.exists() else []) or (0, "", "")
            hit = int(times) > 0 and environ["REQUEST_METHOD"] == method and re.search(pattern, environ["PATH_INFO"])
            if hit:
                self.faults.write_text(f"{int(times) - 1} {method} {pattern}")
            return bool(hit)


if __name__ == "__main__":
    application = Faulty(DomainDispatcherApplication(create_backend_app), Path(sys.argv[1]))
    server = make_server("127.0.0.1", 0, application, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()
