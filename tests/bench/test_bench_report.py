"""What is made of a benchmark's results: tables, figures, panels and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from made_up import made_up, write_panels

from nec.bench import figures, gallery, plots, tables
from nec.bench.html import size_text
from nec.bench.report import write_report
from nec.bench.results import Results
from nec.errors import CorruptError

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Reader(HTMLParser):
    """Checks that elements close in order, and collects tables, scripts, references and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.scripts: dict[str, str] = {}
        self.links: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action", "srcset")]
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "script":
            self._script = given.get("id") or "code"
            self.scripts[self._script] = ""

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "script":
            self._script = None

    def handle_data(self, data: str) -> None:
        if self._script is not None:
            self.scripts[self._script] += data
        elif "td" in self.open or "th" in self.open:
            self.tables[-1][-1][-1] += data


@pytest.fixture(scope="module")
def results() -> Results:
    return made_up()


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report")
    write_panels(results, out)
    paths = write_report(results, out)
    assert all(path.is_file() and path.stat().st_size > 0 for path in paths)
    assert sorted(path.name for path in paths) == sorted(path.name for path in out.iterdir() if path.is_file())
    return out


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / "report.html").read_text(encoding="utf-8")


def test_the_page_is_whole_and_refers_to_nothing_outside(page: str) -> None:
    reader = Reader(page)
    assert reader.links
    assert all(link.startswith(("data:", "#")) for link in reader.links)
    assert "url(http" not in page
    assert "@import" not in page
    # What remains of addresses are XML names in SVGs, never fetched.
    assert set(re.findall(r"https?://[\w./-]+", re.sub(r"<metadata>.*?</metadata>", "", page, flags=re.S))) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_the_pages_data_are_the_results(page: str, results: Results) -> None:
    document = json.loads(Reader(page).scripts["results"])
    assert {key: document[key] for key in asdict(results)} == asdict(results)
    assert Results.from_dict(document) == results


def test_the_pages_tables_hold_every_point_with_numpys_mean_and_spread(page: str, results: Results) -> None:
    lines = {tuple(cell.strip() for cell in row) for table in Reader(page).tables for row in table}
    found = [summary for name in results.datasets for summary in tables.summaries(results, name)]
    assert len(found) == len({(r.dataset, r.method, r.label, r.decoder) for r in results.rows})
    for s in found:
        rows = [r for r in results.rows if (r.dataset, r.method, r.label) == (s.dataset, s.method, s.label)]
        rows = [r for r in rows if r.decoder == s.decoder]
        wanted = {s.label, "with" if s.decoder else "without", size_text(np.mean([r.bytes_per_image for r in rows]))}
        for metric in rows[0].metrics:
            values = 100 * np.array([r.metrics[metric] for r in rows])
            wanted.add(f"{values.mean():.2f} ± {values.std(ddof=1):.2f}")
        assert any(wanted <= set(line) for line in lines), wanted
        np.testing.assert_array_equal(s.confusion, np.sum([r.confusion for r in rows], axis=0))


def test_shares_of_classes_are_scikit_learns(results: Results) -> None:
    learn = pytest.importorskip("sklearn.metrics")
    summary = tables.summaries(results, "eurosat")[0]
    counts = np.asarray(summary.confusion)
    truth, predicted = (np.repeat(i.ravel(), counts.ravel()) for i in np.indices(counts.shape))
    shares = tables.per_class(summary)
    np.testing.assert_allclose(shares["recall"], learn.recall_score(truth, predicted, average=None))
    np.testing.assert_allclose(shares["precision"], learn.precision_score(truth, predicted, average=None))
    np.testing.assert_allclose(shares["iou"], learn.jaccard_score(truth, predicted, average=None))


def test_markdown_tables_are_rectangular_and_hold_both_decoder_settings(written: Path, results: Results) -> None:
    text = (written / "tables.md").read_text(encoding="utf-8")
    for name in results.datasets:
        part = text.split(f"### {name}\n")[1].split("### ")[0]
        rows = [line.strip("|").split("|") for line in part.splitlines() if line.startswith("|")]
        assert len({len(row) for row in rows}) == 1
        assert len(rows) == 2 + len({(r.method, r.label) for r in results.rows if r.dataset == name})
        assert all(cell.strip() == "---:" for cell in rows[1][2:])
    summary = next(s for s in tables.summaries(results, "eurosat") if s.decoder and s.method == "uqe")
    assert tables.spread_text(summary.metrics["accuracy"]) in text


@pytest.mark.parametrize(("name", "panels"), [("eurosat", 1), ("dubai", 2)])
def test_the_figure_has_a_line_a_curve_an_error_bar_a_curve_and_a_size_a_point(
    results: Results, name: str, panels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(figures.plt, "close", drawn.append)
    plots.rate_accuracy(tmp_path / "figure.png", results, name)
    curves = {(r.method, r.decoder) for r in results.rows if not plots.style_of(r.method).reference}
    points = {(r.method, r.label) for r in results.rows if not plots.style_of(r.method).reference}
    assert len(drawn[0].axes) == panels
    for axes in drawn[0].axes:
        assert len(axes.containers) == len(curves)
        horizontal = [line for line in axes.get_lines() if list(line.get_xdata()) == [0, 1]]
        assert len(horizontal) == 3
        sizes = [text for text in axes.texts if text.get_gid() == "size"]
        assert len(points) - 3 <= len(sizes) <= len(points)
        assert axes.get_xscale() == "log"


def test_sizes_read_well() -> None:
    assert [size_text(x) for x in (0, 52.4, 1023.4, 1023.6, 10_240, 102_400, 2_097_152)] == [
        "0 B", "52 B", "1023 B", "1.00 KiB", "10.0 KiB", "100 KiB", "2,048 KiB",
    ]  # fmt: skip


def test_panels_compare_methods_of_nearly_one_size(written: Path, results: Results) -> None:
    found = tables.summaries(results, "dubai")
    panels = gallery.load_panels(found, written)
    assert len(panels) == len(found)
    chosen = gallery.choose(panels)
    assert chosen[0].summary.method == "nec-factorized"
    assert len({p.summary.method for p in chosen}) == len(chosen) <= gallery.MOST_PREDICTIONS
    assert all(panel.summary.decoder for panel in chosen)
    middle = chosen[0].summary.bytes_per_image
    for panel in chosen[1:-1]:
        family = [s.bytes_per_image for s in found if s.method == panel.summary.method]
        assert abs(np.log(panel.summary.bytes_per_image / middle)) == np.min(np.abs(np.log(np.divide(family, middle))))


def test_ignored_pixels_are_grey_and_classes_have_their_colours() -> None:
    colours = [("a", "#ff0000"), ("b", "#0000ff")]
    painted = gallery.paint(np.array([[[0, 1, 255, 7]]], np.uint8), colours)[0, 0]
    assert painted[:2].tolist() == [[255, 0, 0], [0, 0, 255]]
    assert all(len(set(pixel.tolist())) == 1 for pixel in painted[2:])


def test_a_damaged_panel_is_reported_and_nothing_is_written(results: Results, tmp_path: Path) -> None:
    folder = tmp_path / "panels" / "dubai"
    folder.mkdir(parents=True)
    (folder / "broken.npz").write_bytes(b"PK\x03\x04nonsense")
    with pytest.raises(CorruptError, match=r"broken\.npz"):
        write_report(results, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["panels"]


def test_one_seed_one_dataset_no_decoder_no_panels(tmp_path: Path) -> None:
    results = made_up(seeds=1, decoders=(False,), names=("eurosat",))
    rows = [
        replace(row, fidelity=None, confusion=None, method=row.method.replace("rdc", "png")) for row in results.rows
    ]
    paths = write_report(replace(results, rows=rows), tmp_path)
    assert sorted(path.name for path in paths) == [
        "rate-accuracy-eurosat.png", "rate-accuracy-eurosat.svg", "report.html", "tables.md",
    ]  # fmt: skip
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    Reader(text)
    assert "±" not in (tmp_path / "tables.md").read_text(encoding="utf-8").split("| Method")[1]


def test_a_single_point_without_references(results: Results, tmp_path: Path) -> None:
    first = next(row for row in results.rows if row.method == "nec-factorized")
    assert write_report(replace(results, rows=[first]), tmp_path)
    assert size_text(first.bytes_per_image) in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_results_without_rows_or_without_nec(tmp_path: Path) -> None:
    results = made_up(seeds=2)
    for name, rows in {"empty": [], "plain": [r for r in results.rows if r.method in ("float", "original")]}.items():
        write_report(replace(results, rows=rows), tmp_path / name)
        Reader((tmp_path / name / "report.html").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_browser_draws_what_the_address_asks_for(written: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    asked = "#dataset=dubai&metric=mean_iou&decoder=with&hide=uqe,rdc&focus=1"
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    command = [browser, *flags, "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}"]
    command += ["--dump-dom", f"{(written / 'report.html').as_uri()}{asked}"]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=240).stdout
    if "<svg" not in dom:
        pytest.skip("chromium did not run")
    shown = set(re.findall(r'<g data-method="([\w-]+)" data-decoder="(\w+)"', dom.split('id="fidelities"')[0]))
    expected = {"nec-factorized", "nec-hyperprior", "codec-hierarchical", "uqe-channel", "jpeg2000"}
    assert shown == {(method, "true") for method in expected}
    assert re.search(r'id="tip"[^>]*visibility: visible.*?<b>codec, tokens, q=0.3</b>', dom, re.S)
    assert 'class="confusion"' in dom
