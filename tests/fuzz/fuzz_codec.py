"""Mutated frames and Zarr metadata against the decoder: only our errors, no hang, no large memory, no two answers.

    python tests/fuzz/fuzz_codec.py {frame,coarse,metadata,legal} [--runs N] [--seed S]

`frame` decodes whole frames, `coarse` the coarse grids of frames and of their prefixes, both for the fixtures of all
codec versions and grids of any size. `legal` makes random codecs that the format allows, and frames of them.

With atheris installed the mutations are guided by coverage, else they are random. CRC and id are made to fit what was
mutated, since otherwise nothing behind these checks would be reached. A failing input is written to `crash-*`.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

try:
    import atheris
except ImportError:
    atheris = None

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "codec"))

with atheris.instrument_imports(include=["nec"]) if atheris and __name__ == "__main__" else nullcontext():
    from nec.codec import EmbeddingCodec, NecEmbeddingCodec, coder
    from nec.errors import CorruptError, InputError

import legal_codecs

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "codec"
MAX_BYTES = 1 << 25
SLOWEST = 1.0  # seconds of the processor for one input of a few hundred bytes, or of one of metadata
SPACINGS = (2, 4, 8, 16)
Target = Callable[[bytes], bool]

CODECS = {path.stem: EmbeddingCodec.load(path) for path in sorted(FIXTURES.glob("v*/*.json"))}
FRAMES = [path.read_bytes() for path in sorted(FIXTURES.glob("v*/*.bin")) if path.stat().st_size < 2000]


def adopted(data: bytes) -> tuple[EmbeddingCodec, bytes]:
    """The codec whose id a mutated frame starts with, or one for any other, and the frame with its id and a CRC."""
    codec = next((c for c in CODECS.values() if c.id[:8] == data[4:8].hex()), CODECS["hierarchical"])
    return codec, legal_codecs.sealed(data[:4] + bytes.fromhex(codec.id[:8]) + data[8:])


def both(read: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """What the compiled coder reads; constriction must read the same."""
    found = read()
    with patch.object(coder, "KERNEL", None):
        again = read()
    assert np.array_equal(found, again, equal_nan=True)
    return found


def frame(data: bytes) -> bool:
    """One mutated frame; returns whether it decoded."""
    if len(data) < 12:
        return False
    codec, blob = adopted(data)
    try:
        decoded = codec.decode(blob, max_bytes=MAX_BYTES)
    except (CorruptError, InputError):  # InputError: of frames that declare more than MAX_BYTES
        return False
    assert decoded.dtype == np.float32
    assert decoded.shape[3] == codec.dimensions
    both(lambda: codec.decode_symbols(blob)[0])
    return True


def coarse(data: bytes) -> bool:
    """A coarse grid of one mutated frame, from all of it and from a prefix; returns whether it decoded."""
    if len(data) < 12:
        return False
    (codec, blob), spacing = adopted(data), SPACINGS[data[8] % 4]  # a byte of the CRC, which is made anew
    try:
        size = codec.coarse_size(blob, spacing)
        found = both(lambda: codec.decode_coarse(blob, spacing, max_bytes=MAX_BYTES))
    except (CorruptError, InputError):  # InputError: of spacings that the frame does not have
        return False
    assert size <= len(blob)
    assert np.array_equal(codec.decode_coarse(blob[:size], spacing), found, equal_nan=True)
    whole = _own(codec, blob)
    if whole.size and codec.spatial is None:
        assert np.array_equal(whole[:, ::spacing, ::spacing], found)
    return True


def _own(codec: EmbeddingCodec, blob: bytes) -> NDArray[np.float32]:
    """What a frame decodes to, if the codec would write that frame; else, a forged one, nothing."""
    try:
        whole = codec.decode(blob, max_bytes=MAX_BYTES)
        own = codec.encode_symbols(*codec.decode_symbols(blob)) == blob
    except (CorruptError, InputError):
        own = False
    return whole if own else np.zeros(0, np.float32)


@lru_cache(maxsize=4)
def _legal_codec(number: int) -> EmbeddingCodec:
    return legal_codecs.codec(np.random.default_rng(number))


def legal(data: bytes) -> bool:
    """One frame of a legal codec: whole, a part, coarse; one of symbols there and back. Returns whether it decoded."""
    number = int.from_bytes(data, "big")
    codec, rng = _legal_codec(number // 32), np.random.default_rng(number)
    blob = legal_codecs.frame(rng, codec)
    part = slice(None, 2), slice(1, None), slice(-2, None), slice(None, 3)
    tasks: list[Callable[[], Any]] = [lambda: codec.decode(blob), lambda: codec.decode(blob, part=part)]
    tasks += [lambda s=spacing: codec.decode_coarse(blob, s) for spacing in SPACINGS]  # type: ignore[misc]
    found = [_outcome(task) for task in tasks]
    with patch.object(coder, "KERNEL", None):
        for (value, error), task in zip(found, tasks, strict=True):
            again, message = _outcome(task)
            assert error == message
            assert np.array_equal(value, again, equal_nan=True)
    if number % 4 == 0:
        symbols, quality = legal_codecs.symbols(rng, codec), legal_codecs.quality(rng)
        own = codec.encode_symbols(symbols, quality)
        assert np.array_equal(codec.decode_symbols(own)[0], symbols)
        with patch.object(coder, "KERNEL", None):
            assert codec.encode_symbols(symbols, quality) == own
            assert np.array_equal(codec.decode_symbols(own)[0], symbols)
    return not found[0][1]


def _outcome(task: Callable[[], NDArray[Any]]) -> tuple[NDArray[Any], str]:
    try:
        return task(), ""
    except (CorruptError, InputError) as error:
        return np.zeros(0), str(error)


def metadata(data: bytes) -> bool:
    """Zarr metadata as JSON; the id is made to fit, so that malformed contents reach the decoder."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        return False
    try:
        codec = NecEmbeddingCodec.from_dict(parsed)
    except InputError as error:
        if "has id" in str(error):
            fitting = copy.deepcopy(parsed)
            fitting["configuration"]["codec"]["id"] = str(error).split("has id ")[1][:16]
            return metadata(json.dumps(fitting).encode())
        return False
    chunk = np.zeros([{"n": 1, "y": 2, "x": 2, "c": codec.codec.dimensions}[axis] for axis in codec.axes], np.float32)
    try:
        blob = codec.encode_chunk(chunk)
        codec.decode_chunk(blob, chunk.shape, np.dtype("f4"), np.nan)
        if codec.codec.prior == "hierarchical":
            codec.codec.decode_coarse(blob, 2)
    except (InputError, CorruptError):
        return False
    return True


def seeds(target: str) -> list[bytes]:
    """Inputs to start from."""
    if target == "legal":
        return [number.to_bytes(8, "big") for number in range(32)]
    if target != "metadata":
        return FRAMES
    small = [NecEmbeddingCodec(codec, 1.0).to_dict() for codec in CODECS.values()]
    return [json.dumps(value, separators=(",", ":")).encode() for value in small]


TARGETS: dict[str, Target] = {"frame": frame, "coarse": coarse, "metadata": metadata, "legal": legal}
TOKENS = (b"null", b"-1", b"0", b"1e999", b"NaN", b"[]", b"{}", b'""', b"true", b"65536", b"1099511627776", b'"<f4"')


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A few random changes of bytes, bits, lengths and (for JSON) values."""
    out = bytearray(data)
    for _ in range(1 << rng.randrange(4)):
        at, kind = rng.randrange(len(out) + 1), rng.randrange(6)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            out[at:at] = rng.randbytes(1 << rng.randrange(4))
        elif kind == 3:
            del out[at : at + (1 << rng.randrange(6))]
        elif kind == 4:
            out[12 : 12 + rng.randrange(8)] = rng.randbytes(rng.randrange(8))
        else:
            out[at : at + rng.randrange(12)] = rng.choice(TOKENS)
    return bytes(out)


def check(target: str, data: bytes) -> bool:
    """Run one input; anything but our own errors is a finding, a hang too."""
    for _ in range(2):  # the first time may have loaded something
        began = time.process_time()
        accepted = TARGETS[target](data)
        taken = time.process_time() - began
        if taken <= SLOWEST:
            return accepted
    raise AssertionError(f"took {taken:.1f} s of the processor")


def warm(target: str) -> None:
    """Load what the seeds need: time of the first inputs that is not the decoder's."""
    for data in seeds(target):
        TARGETS[target](data)


def mutate(target: str, runs: int, seed: int) -> tuple[int, int]:
    """The seeds, then random mutations of them, without coverage: (inputs, how many were accepted)."""
    rng, start, accepted = random.Random(seed), seeds(target), 0
    warm(target)
    for turn in range(runs):
        if target == "legal":
            data = (seed << 40 | turn).to_bytes(8, "big")
        else:
            data = start[turn] if turn < len(start) else mutated(rng.choice(start), rng)
        try:
            accepted += check(target, data)
        except Exception:
            Path(f"crash-{hashlib.sha256(data).hexdigest()[:12]}").write_bytes(data)
            raise
    return runs, accepted


def guided(target: str, runs: int, seed: int) -> None:
    """The same checks under atheris; it ends the process."""
    corpus = Path(f"fuzz-corpus-{target}")
    corpus.mkdir(exist_ok=True)
    for data in seeds(target):
        (corpus / hashlib.sha256(data).hexdigest()[:12]).write_bytes(data)
    length = 4096 if target != "metadata" else 1 << 15
    warm(target)
    flags = [f"-runs={runs}", f"-seed={seed}", f"-max_len={length}", "-rss_limit_mb=2048", "-timeout=600"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: check(target, data) and None)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=tuple(TARGETS))
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="random mutations even where atheris is installed")
    args = parser.parse_args()
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):  # which maps terabytes
        resource.setrlimit(resource.RLIMIT_AS, (1 << 36, 1 << 36))
    if atheris and not args.random:
        guided(args.target, args.runs, args.seed)
    print("random mutations, not guided by coverage")
    print("{} inputs, {} accepted".format(*mutate(args.target, args.runs, args.seed)))


if __name__ == "__main__":
    main()
