"""A page: one HTML file with its style, pictures and data inside, light and dark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any


def resource(name: str, package: str = "nec.bench") -> str:
    """Text of a file that lies beside the code of `package`."""
    return (files(package) / name).read_text(encoding="utf-8")


class Page:
    """Collects the parts of a report in reading order; text is escaped, what is named `html` is not.

    `style` is added to the style that all pages share, `script` runs once the page is read.
    """

    def __init__(self, title: str, lead: str, *, style: str = "", script: str = "") -> None:
        self._title = title
        self._style = resource("page.css") + style
        self._script = script
        self._parts = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(lead)}</p>']

    def html(self, html: str) -> None:
        self._parts.append(html)

    def heading(self, text: str, anchor: str | None = None) -> None:
        self.html(f"<h2{f' id={chr(34)}{escape(anchor)}{chr(34)}' if anchor else ''}>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        self.html(f"<p>{escape(text)}</p>")

    def tiles(self, tiles: Iterable[tuple[str, str]]) -> None:
        """Large figures with what they mean: (figure, meaning)."""
        cells = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in tiles)
        self.html(f'<div class="tiles">{cells}</div>')

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]], mark: int | None = None) -> None:
        """A table; row number `mark` stands out."""
        body = ""
        for i, row in enumerate(rows):
            cells = "".join(f"<td>{escape(str(cell))}</td>" for cell in row)
            body += f"<tr{' class=mark' if i == mark else ''}>{cells}</tr>"
        titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
        self.html(f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>')

    def chart(self, svg: str, caption: str) -> None:
        self.html(f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>")

    def pictures(self, pictures: Iterable[tuple[str, str]]) -> None:
        """Pictures side by side: (data URI, caption)."""
        cells = "".join(
            f'<figure><img src="{uri}" alt="{escape(text)}"><figcaption>{escape(text)}</figcaption></figure>'
            for uri, text in pictures
        )
        self.html(f'<div class="row">{cells}</div>')

    def strips(self, strips: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """A named row of small pictures each: {name: [[data URI, ...] shown as one, ...]}."""
        rows = ""
        for name, groups in strips.items():
            cells = "".join(
                '<span class="pair">' + "".join(f'<img src="{uri}" alt="">' for uri in group) + "</span>"
                for group in groups
            )
            rows += f"<span>{escape(name)}</span><div>{cells}</div>"
        self.html(f'<div class="strips">{rows}</div>')

    def key(self, colours: Iterable[tuple[str, str]]) -> None:
        """What colours stand for: (name, CSS background)."""
        items = "".join(
            f'<span><i style="background:{escape(colour)}"></i>{escape(name)}</span>' for name, colour in colours
        )
        self.html(f'<div class="key">{items}</div>')

    def data(self, name: str, document: Any) -> None:
        """JSON that the page's script reads by the element's id `name`; NaN and infinities are refused."""
        text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        # Inside <script> only "</script" and "<!--" could end or change the text: JSON may write < as an escape.
        self.html(
            f'<script type="application/json" id="{escape(name)}">{text.replace("<", chr(92) + "u003c")}</script>'
        )

    def render(self) -> str:
        """The page as one HTML document."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{escape(self._title)}</title><style>{self._style}</style>"
        body = "\n".join(self._parts) + (f"\n<script>{self._script}</script>" if self._script else "")
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def megabytes(count: float) -> str:
    """Bytes in MB (10^6) with three figures."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def size_text(count: float) -> str:
    """Bytes of one image: whole bytes below 1 KiB, above it KiB (1,024 bytes) with three figures."""
    if count < 1023.5:
        return f"{count:.0f} B"
    kib = count / 1024
    return f"{kib:.2f} KiB" if kib < 9.995 else f"{kib:.1f} KiB" if kib < 99.95 else f"{kib:,.0f} KiB"
