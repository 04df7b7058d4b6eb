"""What is made of a benchmark's results: tables, figures, panels and the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("altair")
pytest.importorskip("vl_convert")
pytest.importorskip("jinja2")

from made_up import made_up, write_panels

from nec.bench import charts, tables
from nec.bench import report as panels
from nec.bench.legend import size_text, style_of
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
        self.alts: list[str] = []
        self._script: str | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "xlink:href", "action", "srcset")]
        if tag == "img":
            self.alts.append(given.get("alt") or "")
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
            self._script = given.get("id") or given.get("class") or f"code {len(self.scripts)}"
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
    assert len(page) < 2_000_000


def test_every_picture_says_what_it_shows(page: str) -> None:
    alts = Reader(page).alts
    assert len(alts) == len(set(alts)) > 10
    assert {"Test image 1: image", "Test image 2: ground truth"} <= set(alts)


def chart_data(chart: Any) -> list[dict[str, Any]]:
    """All rows of a chart's data."""
    return [row for rows in chart.to_dict()["datasets"].values() for row in rows]


@pytest.mark.parametrize("name", ["eurosat", "dubai"])
def test_the_charts_hold_every_point_of_every_metric(results: Results, name: str) -> None:
    rows = {
        (row["method"], row["label"], row["decoder"], row["metric"]): row
        for row in chart_data(charts.rate_accuracy(results, name, page=True))
    }
    wanted = {
        (style_of(s.method).name, s.label, charts.DECODERS[s.decoder], tables.title(tables.metric_name(metric))): s
        for s in results.of(name)
        for metric in s.metrics
    }
    assert rows.keys() == wanted.keys()
    for metric in results.metrics(name):
        for s in results.of(name):
            key = style_of(s.method).name, s.label, charts.DECODERS[s.decoder], tables.title(tables.metric_name(metric))
            values = 100 * np.array(s.values[metric])
            assert rows[key]["bytes"] == s.bytes_per_image
            assert rows[key]["value"] == pytest.approx(values.mean())
            assert rows[key]["high"] - rows[key]["low"] == pytest.approx(2 * values.std(ddof=1))
            assert tables.spread_text(s.metrics[metric]) in rows[key]["tip"]
    text = json.dumps(charts.rate_accuracy(results, name, page=True).to_dict())
    assert '"type": "log"' in text
    assert '"bind": "legend"' in text
    assert "#0072B2" not in text  # colours are the page's, so that they follow light and dark


def test_the_card_shows_the_better_of_with_and_without_decoder(results: Results) -> None:
    for sign in (0.3, -0.3):
        rows = [
            replace(row, metrics={name: value + sign * row.decoder for name, value in row.metrics.items()})
            for row in results.rows
            if row.dataset == "eurosat" and row.method == "nec-factorized"
        ]
        (figure, meaning) = tables.headline_tiles(replace(results, rows=rows), "eurosat")[-1]
        best = max(results_of_rows(rows), key=lambda s: s.metrics["accuracy"].mean)
        assert figure == f"{best.metrics['accuracy'].mean:.1%}"
        assert ("with decoder" in meaning) == (sign > 0)


def results_of_rows(rows: list[Any]) -> list[Any]:
    return Results({}, {}, {"eurosat": {"task": "classification"}}, rows).points


def test_the_pages_data_are_the_results(page: str, results: Results) -> None:
    document = json.loads(Reader(page).scripts["results"])
    assert {key: document[key] for key in asdict(results)} == asdict(results)
    assert Results.from_dict(document) == results


def test_the_pages_tables_hold_every_point_with_numpys_mean_and_spread(page: str, results: Results) -> None:
    lines = {tuple(cell.strip() for cell in row) for table in Reader(page).tables for row in table}
    found = results.points
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
    summary = results.of("eurosat")[0]
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
    summary = next(s for s in results.of("eurosat") if s.decoder and s.method == "uqe")
    assert tables.spread_text(summary.metrics["accuracy"]) in text


@pytest.mark.parametrize(("name", "count"), [("eurosat", 1), ("dubai", 2)])
def test_the_still_figure_has_a_line_a_curve_and_three_references_a_panel(
    results: Results, name: str, count: int, written: Path
) -> None:
    svg = (written / f"rate-accuracy-{name}.svg").read_text(encoding="utf-8")
    curves = {(r.method, r.decoder) for r in results.rows if not style_of(r.method).reference}
    single = {r.method for r in results.rows if r.method == "rdc"}  # one point is no line
    lines = re.findall(r'aria-roledescription="line mark"', svg)
    assert len(lines) == count * len(curves)
    assert len(single) == 1
    assert svg.count(">full fine-tuning ") == svg.count(">original files ") == count
    sizes = {s.label for s in results.of(name) if f">{size_text(s.bytes_per_image)}<" in svg}
    assert len(sizes) > 10


def test_sizes_read_well() -> None:
    assert [size_text(x) for x in (0, 52.4, 1023.4, 1023.6, 10_240, 102_400, 2_097_152)] == [
        "0 B", "52 B", "1023 B", "1.00 KiB", "10.0 KiB", "100 KiB", "2,048 KiB",
    ]  # fmt: skip


def test_panels_compare_methods_of_nearly_one_size(written: Path, results: Results) -> None:
    found = results.of("dubai")
    kept = panels.load_panels(found, written)
    assert len(kept) == len(found)
    chosen = panels.choose(kept)
    assert chosen[0].summary.method == "nec-factorized"
    assert len({p.summary.method for p in chosen}) == len(chosen) <= panels.MOST_PREDICTIONS
    assert all(panel.summary.decoder for panel in chosen)
    middle = chosen[0].summary.bytes_per_image
    for panel in chosen[1:-1]:
        family = [s.bytes_per_image for s in found if s.method == panel.summary.method]
        assert abs(np.log(panel.summary.bytes_per_image / middle)) == np.min(np.abs(np.log(np.divide(family, middle))))


def test_ignored_pixels_are_grey_and_classes_have_their_colours() -> None:
    colours = [("a", "#ff0000"), ("b", "#0000ff")]
    painted = panels.paint(np.array([[[0, 1, 255, 7]]], np.uint8), colours)[0, 0]
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
def test_a_browser_draws_every_chart(written: Path, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run")
    command = [browser, *flags, "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path}"]
    command += ["--window-size=390,2000", "--virtual-time-budget=20000", "--dump-dom"]
    dom = subprocess.run([*command, (written / "report.html").as_uri()], capture_output=True, text=True, timeout=240)
    if "<svg" not in dom.stdout:
        pytest.skip("chromium did not run")
    charts_drawn = dom.stdout.split('<figure class="plot"')[1:]
    assert len(charts_drawn) == 8
    assert all("<svg" in part and 'role="graphics-symbol"' in part for part in charts_drawn)
    assert "var(--m-nec-factorized)" in charts_drawn[0]
    widths = [float(width) for width in re.findall(r'<svg[^>]* class="marks" width="([\d.]+)"', dom.stdout)]
    assert len(widths) == 8
    assert max(widths) <= 500  # chromium's narrowest window
