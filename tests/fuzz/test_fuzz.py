"""A short run of the fuzzer with random mutations; `make fuzz` is the long, guided one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import fuzz_codec


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value")
@pytest.mark.parametrize(("target", "runs"), [("frame", 1500), ("coarse", 600), ("metadata", 300), ("legal", 320)])
def test_mutated_inputs_are_refused_or_read(
    target: str, runs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tried, accepted = fuzz_codec.mutate(target, runs, seed=7)
    assert tried == runs
    assert min(len(fuzz_codec.seeds(target)), runs // 10) <= accepted < runs


def test_an_input_that_was_slow_while_others_computed() -> None:
    """atheris reported it as a time-out: the first input of a process once waited for a compiler."""
    data = bytes.fromhex("9a4e0100624e905a78d654e70101010302 0046d210")
    assert fuzz_codec.check("frame", data)
    assert not fuzz_codec.check("coarse", data)  # one token has no coarse grid


@pytest.mark.parametrize("data", [b'""', b"[]", b"3", b"null", b'{"name":"nec.embedding","configuration":[]}'])
def test_metadata_that_is_no_object(data: bytes) -> None:
    """atheris found the first: a string has no keys."""
    assert not fuzz_codec.check("metadata", data)
