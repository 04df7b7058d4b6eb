"""The frame of the command line: help, version, one line and status 2 for every kind of bad input."""

from __future__ import annotations

import errno
import inspect
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nec
from nec import cli
from nec.cli import commands
from nec.cli.commands import COMMANDS
from nec.store.document import group_document

Run = Callable[..., subprocess.CompletedProcess[str]]


def test_version_and_help(run: Run) -> None:
    assert run("--version").stdout == run("-V").stdout == f"nec {nec.__version__}\n"
    help_text = run("--help")
    assert help_text.returncode == 0
    for name, command in COMMANDS.items():
        assert f" {name} " in help_text.stdout
        assert command.group in help_text.stdout
    assert {"info", "verify", "decode", "encode", "fit", "export"} <= set(COMMANDS)


def test_help_imports_no_room(src: Path) -> None:
    """`nec --help` is quick because it reads neither arrays nor stores: NumPy alone takes as long as all of it."""
    code = "import sys; from nec.cli import main; main(['--help']); print(sorted(set(sys.modules) & {'numpy', 'zarr'}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(src)}
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_without_a_command_the_overview_and_status_2(run: Run) -> None:
    result = run()
    assert result.returncode == 2
    assert "Usage" in result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"Usage: nec {name}" in out
    for line in COMMANDS[name].examples:
        assert line in out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_explained_and_every_example_parses(name: str) -> None:
    parameters = inspect.signature(COMMANDS[name].callback()).parameters.values()
    for parameter in parameters:
        (settings,) = parameter.annotation.__metadata__
        assert settings.help, f"nec {name}: {parameter.name} has no help: the docstring does not name it"
    for line in COMMANDS[name].examples:
        words = line.split()
        assert words[:2] == ["nec", name]
        commands.app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize(
    ("arguments", "suggestion"),
    [
        (["verfy", "eurosat"], '"verify"'),
        (["verify", "eurosat", "--jsn"], "--json"),
        (["encode", "--ou", "x"], "--out"),
    ],
)
def test_typos_get_suggestions(arguments: list[str], suggestion: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    assert f"Did you mean {suggestion}?" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(shell: str) -> None:
    script = commands.app.generate_completion(shell=shell)
    assert "encode" in script
    assert "target-bytes" in script


def test_system(run: Run) -> None:
    report = json.loads(run("info", "--system", "--json").stdout)
    assert report["coder"] in ("compiled", "plain")
    assert report["packages"]["numpy"] == np.__version__
    assert report["devices"][0] == "cpu"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["unknown"], 'Unknown command "unknown"'),
        (["info"], "--system"),
        (["info", "nowhere"], "'nowhere'"),
        (["info", "no/where"], "no such store: no/where"),
        (["info", "."], "neither a store"),
        (["info", "text.txt"], "text.txt"),
        (["info", "--what", "toy.zarr"], "--what"),
        (["verify", "nowhere", "--json"], "'nowhere'"),
        (["verify", "text.txt"], "is a file"),
        (["verify", "unfinished.zarr"], "--resume"),
        (["decode", "toy.zarr"], "--out"),
        (["decode", "toy.zarr", "--out", "x.csv"], ".npy, .npz, .zarr"),
        (["decode", "toy.zarr", "--out", "text.txt/x.npy"], "cannot make the folder"),
        (["decode", "toy.zarr", "--out", "taken.npy"], "--overwrite"),
        (["decode", "damaged.zarr", "--out", "x.npy"], "chunk 2"),
        (["decode", "damaged.zarr", "--out", "x.npz"], "chunk 2"),
        (["decode", "damaged.zarr", "--out", "x.zarr"], "chunk 2"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    arguments: list[str], words: str, tmp_path: Path, store_path: Path, run: Run
) -> None:
    (tmp_path / "text.txt").write_text("not a codec")
    (tmp_path / "taken.npy").write_text("keep me")
    damaged = shutil.copytree(store_path, tmp_path / "damaged.zarr") / "embeddings" / "c.1.0.0.0"
    damaged.write_bytes(b"\0" + damaged.read_bytes()[1:])
    unfinished = shutil.copytree(store_path, tmp_path / "unfinished.zarr") / "zarr.json"
    document = json.loads(unfinished.read_text())
    nec_attributes = {**document["attributes"]["nec"], "complete": False}
    metadata = document["consolidated_metadata"]["metadata"]
    unfinished.write_text(json.dumps(group_document(nec_attributes, metadata)))
    before = sorted(tmp_path.rglob("*"))
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nec: error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "taken.npy").read_text() == "keep me"


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (nec.InputError("a\nb"), 2, "nec: error: a b\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out.npy"), 2, "nec: error: [Errno 28]"),
        (KeyboardInterrupt(), 130, "nec: interrupted; `--resume`"),
    ],
)
def test_what_a_command_raises(
    error: BaseException, status: int, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(location: str) -> None:
        raise error

    monkeypatch.setattr("nec.store.info", fail)
    assert cli.main(["info", "toy"]) == status
    assert capsys.readouterr().err.startswith(line)


def test_a_closed_pipe_is_no_error(store_path: Path, src: Path) -> None:
    command = f"{sys.executable} -m nec info {store_path} --json | true"
    environment = {**os.environ, "PYTHONPATH": str(src)}
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment)
    assert result.stderr == ""
