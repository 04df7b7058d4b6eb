"""The same bytes and symbols whatever the machine: byte order, flushed denormals, numbers of threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nec.codec import EmbeddingCodec

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures" / "codec"
# Denormal values beside ordinary ones: codecs fitted to them and their frames.
CODER = """if True:
    import hashlib, json, sys
    import numpy as np
    if sys.argv[1] == "flush":
        import torch
        assert torch.set_flush_denormal(True)
        assert np.float64(1e-308) / np.float64(16) == 0.0
    from nec.codec import EmbeddingCodec
    digests = {}
    rng = np.random.default_rng(7)
    sample = np.cumsum(rng.normal(size=(64, 6, 7, 24)), axis=1).astype(np.float32)
    sample[::3, :, :, ::2] = rng.normal(size=sample[::3, :, :, ::2].shape) * 1e-40
    sample[1::3, :3] *= np.float32(1e-38)
    assert ((sample != 0) & (np.abs(sample) < 1e-38)).any() or sys.argv[1] == "flush"
    for name, options in (("tokens", {}), ("pyramid", {"spatial": "haar", "positions": True})):
        codec = EmbeddingCodec.fit(sample, **options)
        for quality in (0.25, 2.0, 1000.0):
            blob = codec.encode(sample, quality)
            symbols, _ = codec.decode_symbols(blob)
            assert (symbols == codec.symbols(sample, quality)).all()
            digests[f"{name} {quality}"] = [codec.id, hashlib.sha256(blob).hexdigest()]
    print(json.dumps(digests))
"""


def digests(mode: str = "plain", **environment: str) -> dict[str, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", CODER, mode], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_flushed_denormals_change_no_byte() -> None:
    pytest.importorskip("torch")
    assert digests() == digests("flush")


@pytest.mark.slow
@pytest.mark.parametrize("plain", ["0", "1"])
def test_threads_change_no_byte(plain: str) -> None:
    one, many = (
        digests(NEC_PLAIN=plain if plain == "1" else "", OMP_NUM_THREADS=n, OPENBLAS_NUM_THREADS=n) for n in ("1", "4")
    )
    assert one == many


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*/*.bin")), ids=lambda path: path.stem)
def test_bytes_are_read_in_their_own_order(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine of the other byte order would: what is read without a byte order comes out reversed."""
    true, recorded = np.frombuffer, np.load(path.with_suffix(".npz"))["symbols"]

    def elsewhere(buffer: Any, dtype: Any = float, **options: Any) -> np.ndarray:
        array = true(buffer, dtype, **options)
        return array if isinstance(dtype, str) and dtype[0] in "<>" else array.byteswap()

    monkeypatch.setattr(np, "frombuffer", elsewhere)
    assert np.frombuffer(b"\1\0\0\0", np.uint32)[0] == 1 << 24
    name = max((p for p in path.parent.glob("*.json") if path.name.startswith(p.stem)), key=lambda p: len(p.stem))
    codec = EmbeddingCodec.load(name)
    symbols, quality = codec.decode_symbols(path.read_bytes())
    np.testing.assert_array_equal(symbols, recorded)
    swapped = symbols.astype(symbols.dtype.newbyteorder(">"))
    assert codec.encode_symbols(swapped, quality) == path.read_bytes()
