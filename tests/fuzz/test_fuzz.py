"""A short run of the fuzzer with random mutations; `make fuzz` is the long, guided one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_codec


@pytest.mark.parametrize(("target", "runs"), [("frame", 1500), ("coarse", 600), ("metadata", 300)])
def test_mutated_inputs_are_refused_or_read(
    target: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried, accepted = fuzz_codec.mutate(target, runs, seed=7)
    assert tried == runs
    assert len(fuzz_codec.seeds(target)) <= accepted < runs
