"""Examples in the documents run as they stand, and what they point to exists."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nec.cli import commands

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_python_examples_of_the_readme_run(number: int) -> None:
    code = blocks("python")[number]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_links_and_commands_of_the_documents_exist() -> None:
    for document in [README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (document.parent / target).exists(), f"{document.name} points to {target}"
        for command in re.findall(r"(?:^|`)nec ([a-z]+)\b", text, re.MULTILINE):
            assert command in commands(), f"{document.name} names nec {command}"


@pytest.mark.parametrize("module", ["nec.progress", "nec.codec.embedding_codec"])
def test_docstring_examples_run(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted
    assert not results.failed
