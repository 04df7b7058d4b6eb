"""Examples in the documents run as they stand, what they point to exists, and their sentences are short."""

from __future__ import annotations

import csv
import doctest
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import nec
from nec.cli import main
from nec.cli.commands import COMMANDS, app
from nec.exporting import FORMATS, Format
from nec.models.adapters import ADAPTERS
from nec.store import ImageStore

ROOT = Path(__file__).parents[1]
README, CONTRIBUTING, SECURITY = (ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY"))
DOCUMENTS = [README, CONTRIBUTING, SECURITY, *sorted((ROOT / "docs").glob("*.md"))]
# Documents whose Python runs here; that of the others runs in the tests of their rooms, but for blocks marked `no-run`.
RUN = [README, *(ROOT / "docs" / f"{name}.md" for name in ("baselines", "heads", "store"))]
# Still to be written plainly: those that are left out.
PLAIN = [path for path in DOCUMENTS if path.stem not in ("bench", "format", "models", "performance")]


def blocks(document: Path, language: str) -> list[str]:
    """Blocks of code that are marked as `language`, in order."""
    text = document.read_text(encoding="utf-8")
    fences = re.findall(r"^```([^\n]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for marked, code in fences if marked == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where examples run: images of two classes that differ, and a store of their embeddings."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("documents")
    rng = np.random.default_rng(0)
    for i in range(24):
        path = folder / "my-images" / ("forest", "river")[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.fromarray((rng.integers(0, 100, (64, 64, 3)) + 100 * (i % 2)).astype(np.uint8)).save(path)
    nec.encode(f"folder:{folder / 'my-images'}", folder / "my.zarr", "eurosat-tiny")
    return folder


@pytest.mark.parametrize(
    ("document", "number"),
    [pytest.param(path, i, id=f"{path.stem}-{i}") for path in RUN for i in range(len(blocks(path, "python")))],
)
def test_python_examples_run(document: Path, number: int, folder: Path) -> None:
    code = blocks(document, "python")[number]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert result.returncode == 0, result.stderr


def test_commands_of_the_readme_run(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = [code for code in blocks(README, "") if "nec fit" in code]
    lines = [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("nec ")]
    assert [line[0] for line in lines] == ["fit", "encode", "verify", "classify", "predict"]
    (tmp_path / "my-images").symlink_to(folder / "my-images")
    monkeypatch.chdir(tmp_path)
    assert [main(line) for line in lines] == [0] * len(lines)


def module(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `code` defines, as a module of that name."""
    made = ModuleType(name)
    exec(compile(code, name, "exec"), made.__dict__)
    monkeypatch.setitem(sys.modules, name, made)


def entry(number: int) -> dict[str, Any]:
    return eval(f"{{{blocks(CONTRIBUTING, 'python entry')[number]}}}", {"Format": Format, "ImageStore": ImageStore})


def test_a_new_export_format(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(CONTRIBUTING, "python format")
    assert len(code.splitlines()) < 60
    module("nec.exporting.table", code, monkeypatch)
    for name, format in entry(0).items():
        monkeypatch.setitem(FORMATS, name, format)
    out = nec.export(folder / "my.zarr", folder / "mine.csv")
    with open(out, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    store = nec.open_store(folder / "my.zarr")
    assert header[:3] == ["name", "class", "0"]
    assert [row[0] for row in rows] == store.names
    assert all(row[1] == row[0].split("/")[0] for row in rows)
    means = np.array([row[2:] for row in rows], np.float32)
    np.testing.assert_allclose(means, store.embeddings[:].mean(axis=(1, 2)), atol=1e-5)
    with pytest.raises(nec.InputError, match="exists"):
        nec.export(store, out)


def test_a_new_backbone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = blocks(CONTRIBUTING, "python adapter")
    module("nec.models.adapters.patches", code, monkeypatch)
    for name, form in entry(1).items():
        monkeypatch.setitem(ADAPTERS, name, form)
    images = np.random.default_rng(1).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    nec.encode(images, folder / "patches.zarr", "patches:8", quality=8)
    store = nec.open_store(folder / "patches.zarr")
    assert store.attrs["model"]["name"] == "patches:8"
    means = (images / 255).reshape(20, 8, 8, 8, 8, 3).mean(axis=(2, 4)) * 4 - 2
    assert np.mean((store.embeddings[:] - means) ** 2) < 0.05 * means.var()


def test_links_and_commands_of_the_documents_exist() -> None:
    for document in [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "recipes" / "README.md"]:
        text = document.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            path = document.parent / target if target else document
            assert path.exists(), f"{document.name} points to {target}"
            assert not anchor or anchor in anchors(path), f"{document.name} points to {target}#{anchor}"
        for command in re.findall(r"(?:^|`)nec ([a-z]+)\b", text, re.MULTILINE):
            assert command in COMMANDS, f"{document.name} names nec {command}"


def command_lines(document: Path) -> list[str]:
    """Lines of code, and code within lines, that begin with `nec`, without comments."""
    text = document.read_text(encoding="utf-8")
    code = "".join([*blocks(document, ""), *blocks(document, "bash")]).replace("\\\n", " ")
    lines = [part for line in code.splitlines() for part in line.split("  #")[0].split(" && ")]
    lines += re.findall(r"(?<!`)`(nec [^`]+)`(?!`)", text) + re.findall(r"^    (nec .*)$", text, re.MULTILINE)
    return [line.strip() for line in lines if line.strip().startswith("nec ")]


def test_flags_of_the_documents_exist() -> None:
    for document in [*DOCUMENTS, ROOT / "recipes" / "README.md"]:
        for line in command_lines(document):
            command = line.split()[1]
            if command not in COMMANDS:  # `nec --help`
                continue
            known = {name for argument in app[command].assemble_argument_collection() for name in argument.names}
            flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", line))
            assert flags <= {*known, "--help"}, f"{document.name}: {line}"


def anchors(document: Path) -> set[str]:
    """Places in a document that a link can name: its headings as GitHub writes them."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_names_of_the_documents_exist() -> None:
    """`nec.x.y` in the text is something that can be imported."""
    for document in DOCUMENTS:
        for name in set(re.findall(r"`(nec(?:\.\w+)+)[`(\[]", document.read_text(encoding="utf-8"))):
            assert resolves(name), f"{document.name} names {name}"


def resolves(name: str) -> bool:
    if name == "nec.embedding":  # the codec in Zarr's metadata
        return True
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name != ".".join(parts[:cut]) and not str(error.name).startswith("nec"):
                return True  # of a package that is not installed
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def sentences(document: Path) -> list[str]:
    """Sentences of a document without code, tables, headings and the targets of links; inline code is a word."""
    text = re.sub(r"```.*?```", "\n\n", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"`[^`]+`", "code", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    lines = ["" if re.match(r"\||#|    ", line) else line for line in text.splitlines()]
    text = re.sub(r"\n\s*(?:[-*]|\d+\.) ", "\n\n", "\n".join(lines))
    paragraphs = [" ".join(paragraph.replace("*", "").split()) for paragraph in re.split(r"\n\s*\n", text)]
    return [part for paragraph in paragraphs for part in re.split(r"(?<=[.!?])\s+", paragraph) if part]


@pytest.mark.parametrize("document", PLAIN, ids=lambda path: path.stem)
def test_sentences_are_short(document: Path) -> None:
    """The 90th percentile of words a sentence lies below 28."""
    words = sorted((len(sentence.split()), sentence) for sentence in sentences(document))
    count, sentence = words[int(0.9 * len(words))]
    assert count < 28, sentence


@pytest.mark.parametrize("module_name", ["nec.progress", "nec.codec.embedding_codec"])
def test_docstring_examples_run(module_name: str) -> None:
    results = doctest.testmod(importlib.import_module(module_name))
    assert results.attempted
    assert not results.failed
