"""The self-contained HTML report: one file, no scripts, light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from nec.demo.plots import CLASS_COLOURS

STYLE = """
:root { color-scheme: light dark; --ink: #1d2430; --soft: #5b6675; --line: #dfe3e8; --card: #f6f7f9; --page: #fff;
--mark: #0072b2; } @media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b5; --line: #343b46;
--card: #1f242c;
    --page: #15181d; --mark: #56b4e9; } } * { box-sizing: border-box } body { margin: 0 auto; max-width:
60rem; padding: 2.5rem 1.25rem 4rem; color: var(--ink); background: var(--page); font: 16px/1.55 system-ui, "Segoe UI",
Roboto, "Helvetica Neue", sans-serif } h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem } h2 { font-size:
1.25rem; margin: 2.8rem 0 .6rem } p { margin: .5rem 0 1rem; max-width: 46rem } .soft, figcaption, caption { color:
var(--soft) } .tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .8rem; margin:
1.6rem 0 } .tile { background: var(--card); border-radius: 10px; padding: .9rem 1rem } .tile b { display: block;
font-size: 1.65rem; line-height: 1.2; font-variant-numeric: tabular-nums } .tile span { color: var(--soft); font-size:
.87rem } .scroll { overflow-x: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric:
tabular-nums; font-size: .93rem } th, td { text-align: right; white-space: nowrap; padding: .35rem .6rem;
border-bottom: 1px solid var(--line) } th { font-weight: 600; color: var(--soft) } th:first-child, td:first-child {
text-align: left; white-space: normal; padding-left: 0 } tr.mark td { color: var(--mark); font-weight: 600 } figure {
margin: 1.2rem 0 } figure svg { width: 100%; height: auto } figcaption { font-size: .88rem; margin-top: .4rem } figure
svg text { font-family: inherit !important } img { max-width: 100%; image-rendering: pixelated; border-radius: 4px;
display: block } .row { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: 1rem } .row
figure { margin: 0 } .row img { width: 100% } .strips { display: grid; grid-template-columns: max-content 1fr; gap:
.35rem .9rem; align-items: center; font-size: .9rem } .strips div { display: flex; gap: .35rem; flex-wrap: wrap }
.strips img { width: 68px; height: 68px } .pair { display: flex; gap: 2px } .key { display: flex; flex-wrap: wrap; gap:
.3rem 1rem; font-size: .88rem; margin: .6rem 0 } .key i { display: inline-block; width: .85em; height: .85em;
border-radius: 3px; margin-right: .4em; vertical-align: -.08em } code { font: .9em ui-monospace, SFMono-Regular, Menlo,
monospace; background: var(--card); padding: .1em .35em; border-radius: 4px }
"""


class Page:
    """Collects the parts of the report in reading order; text is escaped, what is named `html` is not."""

    def __init__(self, title: str, lead: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>", f'<p class="soft">{escape(lead)}</p>']

    def html(self, html: str) -> None:
        self._parts.append(html)

    def heading(self, text: str) -> None:
        self.html(f"<h2>{escape(text)}</h2>")

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

    def key(self, names: Sequence[str]) -> None:
        """The colours of the classes."""
        items = "".join(
            f'<span><i style="background:{CLASS_COLOURS[i % len(CLASS_COLOURS)]}"></i>{escape(name)}</span>'
            for i, name in enumerate(names)
        )
        self.html(f'<div class="key">{items}</div>')

    def render(self) -> str:
        """The page as one HTML document."""
        head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        head += f"<title>{escape(self._title)}</title><style>{STYLE}</style>"
        body = "\n".join(self._parts)
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def megabytes(count: float) -> str:
    """Bytes in MB (10^6) with three figures."""
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"
