"""The report's folder: complete, within its budget, and inert whatever names hold."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from bench_stubs import stub_registry, suite_of
from earwitness.errors import StoreError
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.report import Report, write_report
from earwitness_bench.report.charts import chart_of, ranks_of
from earwitness_bench.report.facts import gather
from earwitness_bench.report.gallery import Budget, affordable_rows
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store
from handmade import ROWS, constant, table_of, write

NASTY = "<img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [value for _, attrs in self.tags for name in ("href", "src") if (value := attrs.get(name))]


def report_of(results: Path, **options: Any) -> Report:
    return write_report(results, results.parent / "html", registry=stub_registry(), **options)


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Report]:
    """A run whose names hold HTML, with a method that fails and a clip that is silent."""
    results = tmp_path_factory.mktemp("nasty") / "results"
    broken = {"name": "naughty", "parameters": {"way": "crash"}, "label": "naughty"}
    suite = suite_of(
        {"name": "ideal", "label": NASTY},
        "wobbly",
        broken,
        metrics=("mean-map", "two", "own-mask"),
        data={"silent": True},
        controls=True,
        summary=NASTY,
    )
    run_suite(suite, results, registry=stub_registry())
    return Store(results), report_of(results)


def test_every_link_and_every_sound_is_in_the_folder(nasty: tuple[Store, Report]) -> None:
    folder = nasty[1].folder
    pages = sorted(folder.glob("*.html"))
    assert len(pages) == nasty[1].pages
    for page in pages:
        for link in Page(page).links():
            assert not re.match(r"(https?:)?//", link), "no network"
            if not link.startswith(("data:", "#")):
                assert (folder / link.partition("#")[0]).is_file(), (page.name, link)


def test_there_is_a_page_for_each_explainer_and_clip_with_recording_heard_and_rest(nasty: tuple[Store, Report]) -> None:
    folder = nasty[1].folder
    assert len(list(folder.glob("explainer-1-*.html"))) == 11  # three methods, five controls, three shuffled
    assert len(list(folder.glob("clip-1-*.html"))) == 5
    assert nasty[1].sounds == 5 * (1 + 2 * 2)
    page = Page(folder / "clip-1-1.html")
    players = [attrs["data-what"] for tag, attrs in page.tags if tag == "audio"]
    assert players == ["recording", *["recording", "heard", "rest"] * 2]
    assert sum(tag == "img" for tag, _ in page.tags) == 1 + 2


def test_markup_in_names_is_text(nasty: tuple[Store, Report]) -> None:
    for path in nasty[1].folder.glob("*.html"):
        page = Page(path)
        assert all(attrs.get("src") != "x" for _, attrs in page.tags)
        assert not any(name.startswith("on") for _, attrs in page.tags for name in attrs), "no inline handlers"
        assert not any(tag == "script" and not attrs.get("src") for tag, attrs in page.tags)
    assert NASTY in Page(nasty[1].folder / "index.html").text


def test_failures_and_skips_are_shown_with_their_reasons(nasty: tuple[Store, Report]) -> None:
    index = Page(nasty[1].folder / "index.html").text
    assert "out of luck" in index
    facts = gather(nasty[0])[0]
    failed = [t for t in facts.troubles() if t.kind == "failed"]
    assert {t.explainer for t in failed} == {"naughty", "shuffled: naughty"}
    assert all(len(t.rows) == 5 and t.metric == "explanation" for t in failed)
    assert "out of luck" in Page(nasty[1].folder / "clip-1-1.html").text


def test_every_value_of_the_leaderboard_is_on_the_page(nasty: tuple[Store, Report]) -> None:
    page = Page(nasty[1].folder / "index.html")
    shown = {float(v) for tag, attrs in page.tags if tag == "td" and (v := attrs.get("data-value"))}
    (table,) = make_tables(nasty[0])
    for standing in table.standings:
        for title, value in standing.values.items():
            assert value is None or value in shown, (standing.explainer, title)


def test_provenance_names_versions_checksums_and_parameters(nasty: tuple[Store, Report]) -> None:
    said = Page(nasty[1].folder / "index.html").text.partition("Provenance")[2]
    plan, (facts,) = nasty[0].read_plan(), gather(nasty[0])
    for version in plan["environment"].values():
        assert str(version) in said
    assert plan["arenas"][0]["classifier"]["checksum"][:16] in said
    assert facts.data_checksum[:16] in said
    assert "way = crash" in said
    (name, row), *_ = facts.rows.items()
    facts.rows[name] = dataclasses.replace(row, fingerprint="another recording")
    assert facts.data_checksum[:16] not in said


def test_papers_lie_beside_the_pages(nasty: tuple[Store, Report]) -> None:
    assert "| --- |" in (nasty[1].folder / "leaderboard.md").read_text()
    assert r"\begin{tabular}" in (nasty[1].folder / "leaderboard.tex").read_text()


def test_curves_are_means_over_the_clips_of_the_cells(nasty: tuple[Store, Report]) -> None:
    store = nasty[0]
    plan = store.read_plan()
    place = [metric["name"] for metric in plan["metrics"]].index("stubs:two")
    explainer = next(e for e in plan["arenas"][0]["explainers"] if e["title"] == "wobbly")
    cells = [store.read_cell("score", cell["scores"][place]) for cell in explainer["cells"]]
    rows = np.array([row for cell in cells for row in cell["curves"]["ramp"]["y"]])  # type: ignore[index]
    (lines,) = gather(store)[0].lines
    assert lines.x == (0.0, 0.25, 1.0)
    assert lines.y["wobbly"] == pytest.approx(rows.mean(0))
    assert lines.clips == 5
    assert "naughty" not in lines.y


def test_a_curve_ends_where_its_values_lie(nasty: tuple[Store, Report]) -> None:
    (lines,) = gather(nasty[0])[0].lines
    chart = chart_of(lines, ["wobbly", "no such"])
    (series,) = chart.series
    points = [tuple(map(float, point.split())) for point in series.path[1:].split("L")]
    low, high = (float(text) for text in (chart.y_ticks[0][1], chart.y_ticks[-1][1]))
    bottom, top = chart.y_ticks[0][0], chart.y_ticks[-1][0]
    read = [low + (bottom - y) / (bottom - top) * (high - low) for _, y in points]
    assert read == pytest.approx(lines.y["wobbly"], abs=0.01)


def test_a_critical_difference_diagram_places_methods_by_their_mean_ranks(tmp_path: Path) -> None:
    values = {f"m{n}": {"up": [n + 0.01 * k for k in range(ROWS)], "down": [5.0 - n] * ROWS} for n in range(5)}
    difference = table_of(write(tmp_path, values)).differences[0]
    layout = ranks_of(difference)
    at = {rank: x for x, rank in layout.ticks}
    for name in layout.names:
        assert name.x == pytest.approx(np.interp(name.rank, list(at), list(at.values())))
    assert [name.left for name in layout.names] == [True, True, True, False, False]
    assert len({(name.left, name.y) for name in layout.names}) == 5  # no two names on one line
    unit = at[2] - at[1]
    assert layout.critical[1] - layout.critical[0] == pytest.approx(difference.critical_difference * unit)
    assert len(layout.bars) == len(difference.cliques)


def test_results_without_data_or_suite_still_have_a_report(tmp_path: Path) -> None:
    write(tmp_path / "results", {"a": constant(0.9, 1.0), "<b>b": constant(0.5, 2.0)})
    done = report_of(tmp_path / "results")
    assert done.sounds == 0
    assert "no sounds and no pictures" in done.notes[0]
    assert "No sound: see the notes" in Page(done.folder / "clip-1-1.html").text
    assert "<b>b" in Page(done.folder / "index.html").text


def test_a_small_budget_lowers_quality_then_leaves_clips_out_and_says_so(tmp_path: Path) -> None:
    run_suite(suite_of("ideal", "wobbly"), tmp_path / "results", registry=stub_registry())
    rich = report_of(tmp_path / "results", max_mb=30)
    assert rich.notes == ()
    for max_mb, clips in ((0.2, 4), (0.15, 2), (0.12, 1)):
        done = report_of(tmp_path / "results", max_mb=max_mb)
        assert done.sounds == clips * 5
        assert f"{clips} of 5 clips, because more do not fit into {max_mb:g} MB" in done.notes[0]
        assert done.notes[0] in Page(done.folder / "index.html").text
        assert "No sound: see the notes" in Page(done.folder / "clip-1-5.html").text
        assert done.size_mb == sum(path.stat().st_size for path in done.folder.rglob("*.*")) / 1e6 <= max_mb
    done = report_of(tmp_path / "results", max_mb=0.05)
    assert done.sounds == 0
    assert "its tables alone are large" in done.notes[-1]
    assert report_of(tmp_path / "results", clips=2).sounds == 2 * 5


def test_ten_explainers_and_eighty_clips_of_five_seconds_have_room_in_thirty_megabytes() -> None:
    tables = 2.5e6  # with 13 explainers and their controls, on seven headline columns, ESC-10 took 2.2 MB
    assert affordable_rows(80, 10, 5.0, 29.4e6 - tables) == 80
    assert affordable_rows(80, 10, 5.0, 10e6) < 40
    assert affordable_rows(80, 10, 5.0, -1e6) == 0


def test_what_a_sound_does_not_use_goes_to_those_that_follow() -> None:
    budget = Budget(left=100_000, sounds=10, pictures=0)
    first = budget.bitrate(3.0)
    budget.sounds, budget.left = 9, 99_000
    assert budget.bitrate(3.0) > first
    budget.left = 0
    assert budget.bitrate(3.0) == 16.0
    assert budget.kbps == 16.0


def test_a_report_replaces_a_report_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "results", {"a": constant(0.9, 1.0)})
    done = report_of(tmp_path / "results")
    (done.folder / "old.html").write_text("old")
    assert not (report_of(tmp_path / "results").folder / "old.html").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.tex").write_text("years of work")
    with pytest.raises(StoreError, match="no report"):
        write_report(tmp_path / "results", other, registry=stub_registry())
    assert (other / "chapter.tex").exists()


def test_the_command_says_where_the_report_is(tmp_path: Path) -> None:
    from earwitness.cli.shell import shell

    write(tmp_path / "results", {"a": constant(0.9, 1.0)})
    words = ["report", str(tmp_path / "results"), "--out", str(tmp_path / "html")]
    done = CliRunner().invoke(shell, words)
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "html" / "index.html") in done.stdout
    document = json.loads(CliRunner().invoke(shell, [*words, "--json"]).stdout)
    assert document["pages"] == 1 + 1 + ROWS  # the leaderboard, the explainer, and its clips
