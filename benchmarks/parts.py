"""Time and bytes of reading parts of a store beside reading its chunks whole.

    python benchmarks/parts.py [STORE]

Prints, for the first chunk of a store (the shipped one by default), the best of 20 readings and the bytes of shards
that it fetched. One thread, compiled path where it is installed.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sys
import time
from collections.abc import Callable
from typing import Any

from zarr.storage import LocalStore, WrapperStore

import nec


class Counting(WrapperStore[Any]):
    """Counts the bytes that are read of shards."""

    read = 0

    async def get(self, key: str, *args: Any, **options: Any) -> Any:
        value = await super().get(key, *args, **options)
        self.read += len(value) if value is not None and "zarr.json" not in key else 0
        return value


def main() -> None:
    path = nec.open_store(sys.argv[1] if len(sys.argv) > 1 else "eurosat").path
    counting = Counting(LocalStore(path, read_only=True))
    store = nec.open_store(counting)
    count, (rows, columns) = min(store.images_per_chunk, len(store)), store.grid
    everything = slice(None)
    tasks: dict[str, Callable[[], Any]] = {
        f"chunk of {count} images": lambda: store.embeddings[:count],
        "one image of it": lambda: store.embeddings[count // 2],
        "a quarter of rows and columns": lambda: store.embeddings.read(
            0, count, (slice(max(rows // 4, 1)), slice(max(columns // 4, 1)), everything)
        ),
        "16 channels": lambda: store.embeddings.read(0, count, (everything, everything, slice(16))),
    }
    spacing = 1
    while spacing < max(rows, columns):
        spacing *= 2
        tasks[f"coarse grid, spacing {spacing}"] = lambda spacing=spacing: store.coarse(spacing, 0, count)  # type: ignore[misc]
    for _ in range(2):  # the compiled path takes over two seconds after the first coding
        store.embeddings[:count]
        time.sleep(2.5)
    store.embeddings[:count]
    for name, task in tasks.items():
        best = float("inf")
        for _ in range(20):
            counting.read, begin = 0, time.perf_counter()
            task()
            best = min(best, time.perf_counter() - begin)
        print(f"{name:32}{1e3 * best:8.2f} ms{counting.read:10,} bytes")


if __name__ == "__main__":
    main()
