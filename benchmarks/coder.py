"""Speed of the entropy stage beside CompressAI's coder and zstd, on the same symbols and in one run.

    python benchmarks/coder.py EMBEDDINGS.npz [--compressai WHEEL] [--images N] [--rounds R] [--threads T] [--plain]

CompressAI pins numpy<2 and torch-geometric, but its coder is one extension module that needs neither: give the wheel
(`pip download --no-deps compressai==1.2.8`), whose `ans` module is taken out and loaded. It codes all symbols under the
tables of our factorised prior at each level, once with its Python lists made before the clock starts (module) and once
with arrays, as its callers have them. Codecs are fitted on other images than are coded. Speeds are million symbols a
second of processor time, medians of interleaved rounds, and ratios to both in the same run; --threads gives the wall
time of chunks of 64 images spread over threads. Absolute figures depend on the machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
from numcodecs import Zstd
from numpy.typing import NDArray

from nec.codec import EmbeddingCodec, coder

LEVELS = (-33, -25, -18, 0, 16)
CHUNK = 64
Ints = NDArray[np.integer]
Pair = tuple[Callable[[], Any], Callable[[Any], Any]]


def load_ans(wheel: Path) -> ModuleType:
    """CompressAI's coder out of its wheel, without the package around it."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        name = next(n for n in archive.namelist() if n.startswith("compressai/ans") and n.endswith(".so"))
        path = Path(archive.extract(name, folder))
        spec = importlib.util.spec_from_file_location("compressai.ans", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module


def compressai(ans: ModuleType, codec: EmbeddingCodec, symbols: Ints, level: int) -> tuple[Pair, Pair]:
    """Its encoder and decoder under the tables that the factorised codec has for the channels at this level.

    The module alone; then with arrays made into lists and back, as CompressAI's entropy models do for every image.
    """
    prior = codec._prior
    wave = prior.resolutions(1, 1)[0][0]
    context = prior.context(wave, np.zeros((1, 1, 1, codec.rank), np.int64), prior.relatives(wave, 1, 1), level)
    used = np.unique(context.table)
    cdfs = [[0, *np.cumsum(prior.bank.table(int(t))).tolist()] for t in used]
    sizes, offsets = [len(cdf) for cdf in cdfs], [-int(prior.bank.radii[t]) for t in used]
    table = np.broadcast_to(np.searchsorted(used, context.table.reshape(-1)), symbols.shape).ravel()
    indexes, flat = table.tolist(), symbols.ravel().tolist()

    def encode(values: list[int], tables: list[int]) -> bytes:
        return ans.RansEncoder().encode_with_indexes(values, tables, cdfs, sizes, offsets)

    def decode(data: bytes, tables: list[int]) -> list[int]:
        return ans.RansDecoder().decode_with_indexes(data, tables, cdfs, sizes, offsets)

    return (
        (lambda: encode(flat, indexes), lambda data: decode(data, indexes)),
        (
            lambda: encode(symbols.ravel().tolist(), table.tolist()),
            lambda data: np.array(decode(data, table.tolist()), np.int32),
        ),
    )


def ours(codec: EmbeddingCodec, symbols: Ints, quality: float, plain: bool = False) -> Pair:
    def run(task: Callable[[], Any]) -> Any:
        with patch.object(coder, "KERNEL", None if plain else coder.KERNEL):
            return task()

    return (
        lambda: run(lambda: codec.encode_symbols(symbols, quality)),
        lambda data: run(lambda: codec.decode_symbols(data)[0]),
    )


def zstd(symbols: Ints) -> Pair:
    narrow = np.ascontiguousarray(symbols, np.int8 if np.abs(symbols).max(initial=0) < 128 else np.int16)
    compressor = Zstd(3)
    return lambda: compressor.encode(narrow), lambda data: np.frombuffer(compressor.decode(data), narrow.dtype)


def measured(pairs: dict[str, Pair], rounds: int, symbols: dict[str, Ints]) -> dict[str, tuple[int, float, float]]:
    """Bytes, and seconds encoding and decoding, of each."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in pairs}
    sizes = {}
    for turn in range(rounds + 1):  # the first one warms up
        for name, (encode, decode) in pairs.items():
            began = time.process_time()
            data = encode()
            between = time.process_time()
            back = decode(data)
            ended = time.process_time()
            if turn == 0 and not np.array_equal(np.reshape(np.asarray(back), symbols[name].shape), symbols[name]):
                raise SystemExit(f"{name} did not give the symbols back")
            if turn:
                times[name].append((between - began, ended - between))
            sizes[name] = len(data)
    return {name: (sizes[name], *map(statistics.median, zip(*times[name], strict=True))) for name in pairs}


def scaling(codec: EmbeddingCodec, symbols: Ints, quality: float, threads: int) -> tuple[float, float]:
    """How many times faster chunks of 64 images are coded and read by so many threads than by one."""
    chunks = [symbols[i : i + CHUNK] for i in range(0, len(symbols), CHUNK)] * 4
    blobs = [codec.encode_symbols(chunk, quality) for chunk in chunks]
    found = []
    for task, inputs in ((lambda c: codec.encode_symbols(c, quality), chunks), (codec.decode_symbols, blobs)):
        walls = []
        for count in (1, threads):
            with ThreadPoolExecutor(count) as pool:
                began = time.perf_counter()
                list(pool.map(task, inputs))
                walls.append(time.perf_counter() - began)
        found.append(walls[0] / walls[1])
    return found[0], found[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embeddings", help=".npz with an array `embeddings` (n, y, x, d)")
    parser.add_argument("--compressai", type=Path, metavar="WHEEL")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="also the speed of so many threads against one")
    parser.add_argument("--plain", action="store_true", help="also the plain coder")
    args = parser.parse_args()
    with np.load(args.embeddings) as file:
        values = file["embeddings"].astype(np.float32)
    values = values[np.random.default_rng(0).permutation(len(values))]
    coded, rest = values[: args.images], values[args.images :]
    factorised, hierarchical, pyramid = (
        EmbeddingCodec.fit(rest, prior=prior, spatial=spatial)  # type: ignore[arg-type]
        for prior, spatial in (("factorized", None), ("hierarchical", None), ("hierarchical", "haar"))
    )
    ans = load_ans(args.compressai) if args.compressai else None
    print(f"{len(coded)} images of {coded.shape[1:]}; {os.cpu_count()} cores; coder: {coder.active()}")
    for level in LEVELS:
        quality = 2 ** (level / 8)
        symbols = factorised.symbols(coded, quality)
        coefficients = pyramid.symbols(coded, quality)
        rivals = compressai(ans, factorised, symbols, level) if ans else ()
        pairs = dict(zip(("module", "arrays"), rivals, strict=False))
        for plain in (False, True) if args.plain else (False,):
            pairs["factorised" + ", plain" * plain] = ours(factorised, symbols, quality, plain)
            pairs["hierarchical" + ", plain" * plain] = ours(
                hierarchical, hierarchical.symbols(coded, quality), quality, plain
            )
            pairs["pyramid" + ", plain" * plain] = ours(pyramid, coefficients, quality, plain)
        pairs["zstd 3"] = zstd(symbols)
        expected = {name: coefficients if name.startswith("pyramid") else symbols for name in pairs}
        rows = measured(pairs, args.rounds, expected)
        print(f"\nlevel {level}: {len(np.flatnonzero(symbols.any((0, 1, 2))))} live channels of {symbols.shape[3]}")
        head = "".join(f"{f'times {name}':>18}" for name in rows if name in ("module", "arrays"))
        print(f"{'':22}{'bits/value':>11}{'M/s encode':>12}{'M/s decode':>12}{head}")
        for name, (size, encode, decode) in rows.items():
            speeds = f"{symbols.size / encode / 1e6:12.1f}{symbols.size / decode / 1e6:12.1f}"
            for base in (rows[name] for name in ("module", "arrays") if name in rows):
                speeds += f"{base[1] / encode:10.1f}{base[2] / decode:8.1f}"
            print(f"{name:22}{8 * size / symbols.size:11.3f}{speeds}")
        if args.threads:
            faster = scaling(hierarchical, symbols, quality, args.threads)
            print("{} threads: {:.2f} times encoding, {:.2f} times decoding".format(args.threads, *faster))


if __name__ == "__main__":
    main()
