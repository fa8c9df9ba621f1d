"""The report and the listening test as people meet them: in a real browser, from disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench_stubs import N_SAMPLES, RATE, stub_registry, suite_of
from browser import Tab, browser
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.listening_test import import_answers, write_test
from earwitness_bench.listening_test.key import read_key
from earwitness_bench.listening_test.writing import Choice
from earwitness_bench.report import write_report
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store

NASTY = "<img src=x onerror=alert(1)>"
PHONE = {"viewport": {"width": 360, "height": 740}}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, chromium: Any) -> Path:
    """A run with a method that fails, a name that holds HTML and controls; its report, and a listening test of it."""
    root = tmp_path_factory.mktemp("pages")
    broken = {"name": "naughty", "parameters": {"way": "crash"}, "label": "broken"}
    explainers = ({"name": "ideal", "label": NASTY}, "wobbly", broken)
    run_suite(
        suite_of(*explainers, metrics=("mean-map", "two"), controls=True, summary=NASTY),
        root / "results",
        registry=stub_registry(),
    )
    write_report(root / "results", root / "report", registry=stub_registry())
    choice = Choice(explainers=[NASTY, "wobbly"], clips=2)
    write_test(root / "results", root / "test", registry=stub_registry(), choice=choice)
    return root


def opened(chromium: Any, path: Path, **options: Any) -> Tab:
    tab = Tab(chromium, **options)
    tab.page.goto(path.as_uri())
    return tab


def column(tab: Tab, number: int) -> list[str]:
    """Text of a column of the leaderboard's methods, from the top."""
    rows = tab.page.locator("#board-1-1 tbody:first-of-type tr:not(.group)")
    return [row.locator("td, th").nth(number).inner_text().split("\n")[0] for row in rows.all()]


def test_pages_open_from_disk_without_an_error_and_without_a_network(chromium: Any, folder: Path) -> None:
    pages = ["index.html", "explainer-1-1.html", "explainer-1-3.html", "clip-1-1.html"]
    for path in [*(folder / "report" / name for name in pages), folder / "test" / "index.html"]:
        tab = opened(chromium, path)
        tab.page.wait_for_load_state("load")
        assert tab.troubles == [], path
        assert all(url.startswith(("file:", "data:")) for url in tab.requests)
        tab.context.close()


def test_names_with_html_in_them_are_inert(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "index.html")
    assert tab.page.locator("img[src=x]").count() == 0
    assert tab.page.get_by_role("link", name=NASTY).count() >= 1
    tab.page.get_by_role("link", name=NASTY).first.click()
    assert tab.page.locator("h1").inner_text() == NASTY
    assert tab.page.locator("img[src=x]").count() == 0
    assert tab.troubles == []


def test_every_sound_of_a_clip_loads_and_lasts_as_long_as_the_recording(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "clip-1-1.html")
    durations = tab.page.evaluate(
        """() => Promise.all([...document.querySelectorAll("audio")].map((audio) => new Promise((done) => {
            audio.addEventListener("loadedmetadata", () => done(audio.duration), { once: true });
            audio.addEventListener("error", () => done(-1), { once: true });
            audio.preload = "metadata";
            audio.load();
        })))"""
    )
    assert len(durations) == 1 + 2 * 3
    assert durations == pytest.approx([N_SAMPLES / RATE] * len(durations), abs=0.06)
    pictures = tab.page.evaluate("[...document.images].map((image) => [image.complete, image.naturalHeight])")
    assert pictures == [[True, 64]] * 3


def test_a_sound_plays_by_keyboard_and_one_stops_the_other(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "clip-1-1.html")
    tab.page.evaluate("for (const audio of document.querySelectorAll('audio')) audio.loop = true")
    buttons = tab.page.locator(".play")
    buttons.nth(1).focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_function("document.querySelectorAll('.play')[1].getAttribute('aria-pressed') === 'true'")
    tab.page.keyboard.press("Tab")
    tab.page.keyboard.press("Space")
    tab.page.wait_for_function("document.querySelectorAll('.play')[2].getAttribute('aria-pressed') === 'true'")
    assert buttons.nth(1).get_attribute("aria-pressed") == "false"
    paused = tab.page.evaluate("[...document.querySelectorAll('audio')].map((audio) => audio.paused)")
    assert paused.count(False) == 1
    assert tab.troubles == []


def test_the_leaderboard_sorts_by_click_and_by_enter_and_keeps_controls_apart(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "index.html")
    (table,) = make_tables(Store(folder / "results"))
    ranked = [s.explainer for s in table.standings if s.scope == "post-hoc"]
    assert column(tab, 1) == ranked
    heads = tab.page.locator("#board-1-1 thead th")
    heads.nth(1).locator("button").click()
    assert column(tab, 1) == sorted(ranked, key=str.casefold)
    heads.nth(4).locator("button").focus()
    tab.page.keyboard.press("Enter")
    assert heads.nth(4).get_attribute("aria-sort") == "descending"
    assert heads.nth(1).get_attribute("aria-sort") is None
    values = column(tab, 4)
    assert values[-1] == "–"  # what failed comes last, either way
    assert [float(v.rstrip("*†")) for v in values[:-1]] == sorted(
        (float(v.rstrip("*†")) for v in values[:-1]), reverse=True
    )
    tab.page.keyboard.press("Enter")
    assert heads.nth(4).get_attribute("aria-sort") == "ascending"
    assert column(tab, 4) == [*reversed(values[:-1]), "–"]
    controls = tab.page.locator("#board-1-1 tbody").nth(1).inner_text()
    assert "uniform-noise" in controls
    assert NASTY not in controls


def test_clips_are_filtered_by_class_outcome_and_name(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "explainer-1-2.html")
    cards = tab.page.locator("#cards .card:visible")
    assert cards.count() == 5
    form = tab.page.locator("form.filters")
    form.locator("[name=class]").select_option("low")
    assert cards.count() == 3
    assert form.locator("output").inner_text() == "3 of 5 clips"
    assert all("low" in text for text in cards.locator(".class").all_inner_texts())
    form.locator("[name=outcome]").select_option("failed")
    assert cards.count() == 0
    form.locator("[name=outcome]").select_option("scored")
    form.locator("[name=text]").fill("CLIP-2")
    assert cards.count() == 1
    form.locator("[name=text]").fill("")
    form.locator("[name=class]").select_option("")
    form.locator("[name=order]").select_option("0")
    values = [float(card.get_attribute("data-s0")) for card in cards.all()]
    assert values == sorted(values, reverse=True)
    assert tab.troubles == []


@pytest.mark.parametrize("page", ["index.html", "explainer-1-1.html", "clip-1-1.html", "../test/index.html"])
def test_a_phone_does_not_scroll_sideways(chromium: Any, folder: Path, page: str) -> None:
    tab = opened(chromium, (folder / "report" / page).resolve(), **PHONE)
    for details in tab.page.locator("details").all():
        details.evaluate("(one) => { one.open = true; }")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= 360
    tab.context.close()


def test_dark_and_light_follow_the_system_until_somebody_chooses(chromium: Any, folder: Path) -> None:
    def brightness(tab: Tab) -> int:
        return tab.page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")

    tab = opened(chromium, folder / "report" / "index.html", color_scheme="dark")
    assert brightness(tab) < 60
    tab.page.locator("[data-theme-toggle]").click()
    assert brightness(tab) > 200
    tab.page.reload()
    assert brightness(tab) > 200
    assert brightness(opened(chromium, folder / "report" / "index.html", color_scheme="light")) > 200


def test_a_curve_stands_out_when_its_name_is_focused(chromium: Any, folder: Path) -> None:
    tab = opened(chromium, folder / "report" / "index.html")
    button = tab.page.locator(".legend button", has_text="wobbly")
    button.focus()
    assert tab.page.locator(".curve.on title").all_text_contents() == ["wobbly"]
    tab.page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "true"


def test_a_rater_goes_through_the_test_by_keyboard_stops_goes_on_and_saves_answers(
    chromium: Any, folder: Path, tmp_path: Path
) -> None:
    tab = opened(chromium, folder / "test" / "index.html", accept_downloads=True)
    page = tab.page
    page.fill("input[name=rater]", "Ann <b>")
    page.keyboard.press("Enter")
    page.click("[data-volume]")
    page.click("[data-next]")
    store = Store(folder / "results")
    (test,) = [path.stem for path in (folder / "results" / "listening-tests").glob("*.json")]
    key = read_key(store, test)
    hidden = {s.token for trial in key.trials for s in trial.stimuli if s.kind == "reference"}

    def sounds_of(explainer: str) -> set[str]:
        return {s.token for trial in key.trials for s in trial.stimuli if s.explainer == explainer}

    for trial in range(3):
        page.click("#forward")
        assert "Listen to every sound first" in page.inner_text("#ask")
        lines = page.locator("#sounds li")
        assert lines.count() == 4
        for number in range(4):
            page.keyboard.press(str(number + 1))
            page.wait_for_function(
                "(n) => document.querySelectorAll('#sounds .play')[n].getAttribute('aria-pressed') === 'true'",
                arg=number,
            )
        # The page does not tell which sound is the recording: the test asks what the page was told to play.
        token = page.evaluate("JSON.parse(document.getElementById('test').textContent).trials.map((t) => t.sounds)")
        assert all(len(hidden.intersection(own)) == 1 for own in token)
        for number in range(4):
            lines.nth(number).locator("input").focus()
            page.keyboard.press("End" if number == 1 else "ArrowLeft")
        if trial == 1:
            before = page.locator("#sounds output").all_inner_texts()
            page.reload()
            assert page.locator("#sounds output").all_inner_texts() == before == ["49", "100", "49", "49"]
            assert page.inner_text("#where") == "1 of 2"
        page.click("#forward")
    with page.expect_download() as download:
        page.click("#save")
    saved = tmp_path / download.value.suggested_filename
    download.value.save_as(saved)
    document = json.loads(saved.read_text())
    assert document["rater"] == "Ann <b>"
    assert len(document["ratings"]) == 2 * 4
    assert tab.troubles == []
    for rating in document["ratings"]:  # as a rater who hears the recording
        rating["score"] = 100 if rating["sound"] in hidden else min(rating["score"], 50)
    saved.write_text(json.dumps(document))
    assert import_answers(folder / "results", [saved]).raters == 1
    (table,) = make_tables(store)
    assert {s.explainer: s.values["opinion_score"] for s in table.standings if s.scope != "control"} == {
        NASTY: pytest.approx(np.mean([r["score"] for r in document["ratings"] if r["sound"] in sounds_of(NASTY)])),
        "wobbly": pytest.approx(
            np.mean([r["score"] for r in document["ratings"] if r["sound"] in sounds_of("wobbly")])
        ),
        "broken": None,
    }
    with page.expect_navigation():
        page.click("#anew")  # the next person, in the same browser
    assert page.inner_text("h1 >> visible=true") == "What did the classifier hear?"
    assert page.input_value("input[name=rater]") == ""
    assert tab.troubles == []
