"""`nec verify`: check every byte of a store."""

from __future__ import annotations

import argparse
import json

from nec.progress import Progress

HELP = "check every chunk and checksum of a store or product; exit status 1 if it is damaged"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `nec verify`."""
    parser.add_argument("store", metavar="STORE", help="store or product, its URL, or a shipped name")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what is damaged; 0 if nothing is, else 1."""
    from nec.store import verify

    with Progress(None, "verifying", "images", quiet=args.json) as progress:
        report = verify(args.store, progress=progress)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        for fault in report["corrupt"]:
            place = " images {} to {}".format(*fault["images"]) if "images" in fault else ""
            place += " tokens from row {}, column {}".format(*fault["tokens"]) if "tokens" in fault else ""
            print(f"corrupt: {fault['where']}{place}: {fault['reason']}")
        print(f"{report['found']} of {report['chunks']} chunks are whole: {'ok' if report['ok'] else 'DAMAGED'}")
    return 0 if report["ok"] else 1
