"""`nec info`: what a store, a codec or a model is."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nec.errors import InputError

HELP = "say what a store, a product, a codec file or a model folder holds"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec info`."""
    parser.add_argument(
        "path", metavar="PATH", help="store, product, codec file, model folder, URL of a store, or a shipped name"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what `args.path` is."""
    report = describe(args.path)
    print(json.dumps(report, indent=2) if args.json else "\n".join(_table(report)))
    return 0


def describe(path: str) -> dict[str, Any]:
    """Facts about the store, codec file or model folder at `path` or of that shipped name; `kind` says which it is.

    Raises:
        InputError: it is none of them.
    """
    from nec.store import assets, info

    folder = Path(path)
    if folder.is_file():
        return _describe_codec(folder)
    if folder.is_dir() and not any((folder / marker).is_file() for marker in ("zarr.json", "config.json")):
        raise InputError(f"{path} is neither a store (it has no zarr.json) nor a model (it has no config.json)")
    is_model = (folder / "config.json").is_file() or (not folder.exists() and path in assets.shipped("models"))
    return _describe_model(assets.resolve(path, "models")) if is_model else info(path)


def _describe_codec(file: Path) -> dict[str, Any]:
    from nec.codec import EmbeddingCodec

    codec = EmbeddingCodec.load(file)
    return {
        "kind": "codec",
        "path": str(file),
        "prior": codec.prior,
        "id": codec.id,
        "dimensions": codec.dimensions,
        "rank": codec.rank,
        "nbytes": codec.nbytes,
        "side_information": codec.side_information(),
    }


def _describe_model(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except ValueError as error:
        raise InputError(f"{folder / 'config.json'} is not JSON: {error}") from error
    codec = folder / "codec.json"
    return {
        "kind": "model",
        "path": str(folder),
        "name": folder.name,
        "files": {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()},
        "config": config,
        "codec": _describe_codec(codec) if codec.is_file() else None,
    }


def _table(report: dict[str, Any], indent: str = "") -> list[str]:
    """The report as aligned lines, nested parts indented."""
    lines = []
    width = max(map(len, report), default=0)
    for key, value in report.items():
        name = f"{indent}{key.replace('_', ' '):<{width}}"
        if isinstance(value, dict) and value:
            lines += [name.rstrip(), *_table(value, indent + "  ")]
        else:
            lines.append(f"{name}  {_text(value)}")
    return lines


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value)
    return str(value)
