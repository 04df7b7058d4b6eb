"""Processes that train heads end with the run that started them, however it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

RUN = """
import os, time
from nec.bench.heads import workers

def pid_of(_):
    return os.getpid()

if __name__ == "__main__":
    with workers(2) as pool:
        print(*{pool.submit(pid_of, 0).result() for _ in range(20)}, flush=True)
        for _ in range(2):
            pool.submit(time.sleep, 600)
        time.sleep(600)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is a thing of POSIX")
def test_workers_end_when_the_run_is_killed(tmp_path) -> None:
    script = tmp_path / "run.py"
    script.write_text(RUN)
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(word) for word in process.stdout.readline().split()]
    assert workers
    process.kill()
    process.wait()
    patience = time.monotonic() + 60
    while any(_lives(pid) for pid in workers) and time.monotonic() < patience:
        time.sleep(0.1)
    assert not any(_lives(pid) for pid in workers)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # A zombie has ended; where nothing reaps orphans, as in some containers, it stays in the table.
        stat = Path(f"/proc/{pid}/stat")
        return not (stat.is_file() and stat.read_text().rpartition(")")[2].split()[0] == "Z")
    except (ProcessLookupError, FileNotFoundError):
        return False
