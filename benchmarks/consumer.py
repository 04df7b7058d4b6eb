"""What a consumer's training loop waits for: a store's embeddings, against decoding JPEGs and running the model.

    python benchmarks/consumer.py [STORE] [--images-zip EuroSAT_RGB.zip] [--model MODEL] [--count N]

Prints images a second of wall and of processor time for one pass in random batches of 128, and the wall time from
starting Python to the first batch.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

import nec

BATCH = 128
FIRST = "import sys, nec; nec.open_store(sys.argv[1]).embeddings[:128]"


def rate(name: str, batches: Callable[[], Iterator[int]]) -> None:
    """Print the images a second of one pass; `batches` yields how many images each batch had."""
    wall, processor = time.perf_counter(), time.process_time()
    count = sum(batches())
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    print(f"{name:34}{count / wall:12.0f} images/s of wall time{count / processor:10.0f} of processor time")


def from_store(path: str, count: int) -> Iterator[int]:
    """One pass over the chunks of a store, in random order."""
    store = nec.open_store(path)
    starts = np.random.default_rng(0).permutation(range(0, min(count, len(store)), BATCH))
    for start in starts.tolist():
        yield len(store.embeddings[start : start + BATCH])


def from_images(archive: Path, model_name: str, count: int) -> Iterator[int]:
    """The same number of images, decoded and embedded."""
    import torch
    from PIL import Image

    model = nec.load_model(model_name).eval()
    with zipfile.ZipFile(archive) as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))[:count]
        for start in range(0, len(names), BATCH):
            files = [file.read(name) for name in names[start : start + BATCH]]
            images = np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files])
            with torch.inference_mode():
                yield len(model.embed(model.normalize(images)))


def first_batch(name: str, program: str, store: str) -> None:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program, store], check=True)
    print(f"{name:34}{time.perf_counter() - began:12.2f} s to the first batch")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", nargs="?", default="eurosat")
    parser.add_argument("--images-zip", type=Path)
    parser.add_argument("--model", default="eurosat-tiny")
    parser.add_argument("--count", type=int, default=4096)
    args = parser.parse_args()
    list(from_store(args.store, BATCH))  # loads
    rate("store", lambda: from_store(args.store, args.count))
    if args.images_zip:
        rate("JPEG and model", lambda: from_images(args.images_zip, args.model, args.count // 16))
    first_batch("a new process", FIRST, args.store)


if __name__ == "__main__":
    main()
