"""`nec verify`: check every byte of a store."""

from __future__ import annotations

import argparse

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
    print(report.to_json() if args.json else report)
    return 0 if report.ok else 1
