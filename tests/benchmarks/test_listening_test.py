"""Listening tests: blind, repeatable, and their answers a metric like any other."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from bench_stubs import stub_registry, suite_of, tones
from earwitness.errors import ConfigurationError, StoreError
from earwitness_bench.leaderboard import make_tables
from earwitness_bench.listening_test import Written, import_answers, write_test
from earwitness_bench.listening_test.key import Key, read_key
from earwitness_bench.listening_test.ratings import krippendorff_alpha, misses_the_reference, opinion
from earwitness_bench.listening_test.writing import Choice
from earwitness_bench.report import write_report
from earwitness_bench.report.facts import gather
from earwitness_bench.results import missing_in, read_scores
from earwitness_bench.runner import run_suite
from earwitness_bench.store import Store

nan = math.nan


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that tests copy before they change them."""
    results = tmp_path_factory.mktemp("ran") / "results"
    run_suite(suite_of("ideal", "wobbly", controls=True), results, registry=stub_registry())
    return results


def written(ran: Path, out: Path, **choice: Any) -> tuple[Store, Written, Key]:
    shutil.copytree(ran, out / "results")
    store = Store(out / "results")
    done = write_test(out / "results", out / "test", registry=stub_registry(), choice=Choice(**choice))
    return store, done, read_key(store, done.test)


def answer(path: Path, key: Key, scores: dict[str, float], *, reference: float = 100.0, session: str = "s") -> Path:
    """A rater who gives each explainer the same score everywhere."""
    ratings = [
        {
            "trial": trial.token,
            "sound": one.token,
            "score": {"reference": reference, "anchor": 10.0}.get(one.kind, scores.get(one.explainer, 0.0)),
        }
        for trial in key.trials
        for one in trial.stimuli
        if one.kind != "method" or one.explainer in scores
    ]
    document = {"earwitness-listening-test": 1, "test": key.test, "rater": f"rater {session}", "session": session}
    path.write_text(json.dumps({**document, "started": "then", "finished": "now", "ratings": ratings}))
    return path


def test_each_trial_plays_every_method_the_hidden_recording_and_an_anchor(ran: Path, tmp_path: Path) -> None:
    _, done, key = written(ran, tmp_path, clips=3)
    assert (done.trials, done.sounds, done.explainers) == (3, 4, ("ideal", "wobbly"))
    assert [trial.training for trial in key.trials] == [True, False, False, False]
    for trial in key.trials:
        assert sorted((s.kind, s.explainer) for s in trial.stimuli) == [
            ("anchor", ""),
            ("method", "ideal"),
            ("method", "wobbly"),
            ("reference", ""),
        ]
    recordings = {clip.clip_id: clip.waveform.numpy() for clip in (tones()[n] for n in range(5))}
    for trial in key.trials:
        sounds = {
            (s.kind, s.explainer): soundfile.read(done.folder / "sounds" / f"{s.token}.flac")[0] for s in trial.stimuli
        }
        recording = recordings[trial.row]
        scaled = recording * 0.9 / np.abs(recording).max()
        assert sounds["reference", ""] == pytest.approx(scaled, abs=1e-4)
        opened, _ = soundfile.read(done.folder / "sounds" / f"{trial.reference}.flac")
        assert opened == pytest.approx(scaled, abs=1e-4)
        energy = (sounds["anchor", ""] ** 2).sum() / (scaled**2).sum()
        assert energy == pytest.approx(0.3, abs=0.05)
        assert np.corrcoef(sounds["method", "ideal"], scaled)[0, 1] > 0.8


def test_the_pages_do_not_say_which_method_is_which(ran: Path, tmp_path: Path) -> None:
    _, done, key = written(ran, tmp_path)
    files = [path for path in done.folder.rglob("*") if path.is_file()]
    everything = b"".join(path.read_bytes() for path in files if path.suffix in (".html", ".js", ".css"))
    names = " ".join(str(path.relative_to(done.folder)) for path in files)
    for word in ("ideal", "wobbly", key.trials[0].row):
        assert word.encode() not in everything
        assert word not in names
    assert done.key.is_relative_to(tmp_path / "results")
    sounds = [path.stat() for path in (done.folder / "sounds").iterdir()]
    assert len({(one.st_mode, one.st_mtime) for one in sounds}) == 1, "the order in which they were made tells, too"


def test_orders_differ_from_trial_to_trial_and_are_repeatable(ran: Path, tmp_path: Path) -> None:
    _, _, key = written(ran, tmp_path / "a", seed=3)
    _, _, again = written(ran, tmp_path / "b", seed=3)
    _, _, other = written(ran, tmp_path / "c", seed=4)
    assert key == again
    assert key.test != other.test
    orders = {tuple((s.kind, s.explainer) for s in trial.stimuli) for trial in key.trials}
    assert len(orders) > 1


def test_more_methods_than_people_can_compare_are_refused(ran: Path, tmp_path: Path) -> None:
    shutil.copytree(ran, tmp_path / "results")
    results = tmp_path / "results"
    many = Choice(explainers=[f"ideal{n}" for n in range(11)])
    store = Store(results)
    plan = store.read_plan()
    plan["arenas"][0]["explainers"] = [{**plan["arenas"][0]["explainers"][0], "title": t} for t in many.explainers]
    store.write_plan({name: value for name, value in plan.items() if name not in ("schema", "kind")})
    with pytest.raises(ConfigurationError, match="more than the 12 sounds"):
        write_test(results, tmp_path / "test", registry=stub_registry(), choice=many)
    with pytest.raises(ConfigurationError, match="Did you mean 'ideal1'"):
        write_test(results, tmp_path / "test", registry=stub_registry(), choice=Choice(explainers=["ideal_1"]))


def test_answers_become_a_column_of_the_leaderboard(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=3)
    files = [
        answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0}, session="a"),
        answer(tmp_path / "b.json", key, {"ideal": 70.0, "wobbly": 40.0}, session="b"),
    ]
    found = import_answers(store.folder, files)
    assert [(o.name, o.score, o.ratings) for o in found.methods] == [("ideal", 75.0, 6), ("wobbly", 35.0, 6)]
    assert (found.raters, found.screened) == (2, ())
    assert (found.reference.score, found.anchor.score) == (100.0, 10.0)
    (table,) = make_tables(store)
    by_name = {s.explainer: s for s in table.standings}
    assert by_name["ideal"].values["opinion_score"] == 75.0
    assert by_name["wobbly"].values["opinion_score"] == 35.0
    assert by_name["loudness"].values["opinion_score"] is None
    assert by_name["ideal"].counts["opinion_score"].scored == 3  # the training does not count
    assert table.missing_cells == missing_in(store, store.read_plan()["arenas"][0]) == 0
    scores = read_scores(store)
    own = scores[(scores["column"] == "opinion_score") & (scores["explainer"] == "ideal")]
    rated = {trial.row for trial in key.trials if not trial.training}
    assert dict(zip(own["row"], own["outcome"], strict=True)) == {
        row: "scored" if row in rated else "skipped: not part of the listening test" for row in own["row"]
    }
    assert by_name["ideal"].mean_rank == 1.0  # a column of people is shown, and moves no rank


def test_a_report_says_what_raters_said(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=2)
    files = [
        answer(tmp_path / "a.json", key, {"ideal": 81.0, "wobbly": 30.0}, session="a"),
        answer(tmp_path / "b.json", key, {"ideal": 72.0, "wobbly": 40.0}, session="b"),
        answer(tmp_path / "c.json", key, {"ideal": 1.0, "wobbly": 1.0}, reference=3.0, session="<b>c"),
    ]
    found = import_answers(store.folder, files)
    page = (write_report(store.folder, tmp_path / "html", registry=stub_registry()).folder / "index.html").read_text()
    said = page.partition("<h3>Listening test</h3>")[2].partition("<h3>")[0]
    assert "76.5" in said
    assert "72.0 – 81.0" in said  # over two raters
    assert "2 raters; not counted, because they missed the hidden recording: rater &lt;b&gt;c." in said
    assert f"{found.alpha:.2f} (1 agreement" in said
    kinds = [result.kind for result in gather(store)[0].results["ideal"].values()]
    assert kinds == ["scored"] * 5, "a clip that nobody was asked about lacks nothing"


def test_an_import_takes_the_place_of_the_one_before(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=2)
    import_answers(store.folder, [answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0})])
    import_answers(store.folder, [answer(tmp_path / "a.json", key, {"ideal": 60.0, "wobbly": 30.0})])
    plan = store.read_plan()
    assert [metric["name"] for metric in plan["metrics"]].count("earwitness:listening-test") == 1
    (table,) = make_tables(store)
    assert {s.values["opinion_score"] for s in table.standings} == {60.0, 30.0, None}


def test_who_does_not_hear_the_hidden_recording_does_not_count(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=2)
    good = answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0}, session="a")
    deaf = answer(tmp_path / "b.json", key, {"ideal": 10.0, "wobbly": 90.0}, reference=50.0, session="b")
    found = import_answers(store.folder, [good, deaf])
    assert found.screened == ("rater b",)
    assert found.methods[0].score == 80.0
    with pytest.raises(ConfigurationError, match="nothing is left"):
        import_answers(store.folder, [deaf])


def test_the_screening_is_that_of_the_recommendation() -> None:
    assert not misses_the_reference(np.array([100.0] * 17 + [89.0] * 3))  # 15 %
    assert misses_the_reference(np.array([100.0] * 16 + [89.0] * 4))
    assert not misses_the_reference(np.array([90.0, nan]))
    assert not misses_the_reference(np.array([nan]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"test": "nowhere"}, "no key of the listening test 'nowhere'"),
        ({"ratings": [{"trial": "t", "sound": "s", "score": 50}]}, "not in the test"),
        ({"ratings": [{"trial": "t", "sound": "s", "score": 101}]}, "less than or equal to 100"),
        ({"more": 1}, "more"),
        ({"rater": ""}, "rater"),
    ],
)
def test_files_that_are_no_answers_are_refused(ran: Path, tmp_path: Path, change: dict[str, Any], said: str) -> None:
    store, _, key = written(ran, tmp_path, clips=1)
    path = answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0})
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = (store.folder / "plan.json").read_text()
    with pytest.raises((ConfigurationError, StoreError), match=said):
        import_answers(store.folder, [path])
    assert (store.folder / "plan.json").read_text() == before


def test_the_same_answers_twice_are_refused(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=1)
    path = answer(tmp_path / "a.json", key, {"ideal": 80.0})
    with pytest.raises(ConfigurationError, match="would count twice"):
        import_answers(store.folder, [path, path])


def test_explanations_that_are_not_those_of_the_last_run_are_refused(ran: Path, tmp_path: Path) -> None:
    store, _, key = written(ran, tmp_path, clips=1)
    path = answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0})
    run_suite(suite_of("ideal", "wobbly", seed=1), store.folder, registry=stub_registry())
    with pytest.raises(StoreError, match="not part of the last run"):
        import_answers(store.folder, [path])


def test_alpha_is_that_of_krippendorffs_own_example() -> None:
    """Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011, example C: 0.849 for interval data."""
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert krippendorff_alpha(np.array(observers)) == pytest.approx(0.849, abs=5e-4)


def test_alpha_equals_the_formula_pair_by_pair() -> None:
    random = np.random.default_rng(0)
    ratings = random.uniform(0, 100, (4, 7)) + 30 * np.arange(7)
    ratings[random.uniform(size=ratings.shape) < 0.3] = nan
    units = [own for column in ratings.T if len(own := column[~np.isnan(column)]) >= 2]
    values = np.concatenate(units)
    observed = sum(
        sum((a - b) ** 2 for a, b in itertools.permutations(own, 2)) / (len(own) - 1) for own in units
    ) / len(values)
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(values, 2)) / (len(values) * (len(values) - 1))
    assert krippendorff_alpha(ratings) == pytest.approx(1 - observed / expected)


def test_alpha_is_one_for_agreement_and_nothing_where_nothing_varies() -> None:
    assert krippendorff_alpha(np.array([[1.0, 50.0, 90.0]] * 3)) == pytest.approx(1.0)
    assert math.isnan(krippendorff_alpha(np.full((3, 4), 50.0)))
    assert math.isnan(krippendorff_alpha(np.array([[1.0, nan], [nan, 2.0]])))


def test_an_opinion_score_weighs_clips_alike_and_has_both_intervals() -> None:
    ratings = np.array([[10.0, 20.0, 30.0], [30.0, nan, 50.0], [nan, nan, 70.0]])
    found = opinion("x", ratings, ["a", "b", "b"])
    assert found.score == pytest.approx((20 + 20 + 50) / 3)
    assert found.ratings == 6
    assert found.over_raters[0] < found.over_raters[1]
    assert found.over_clips[0] <= found.score <= found.over_clips[1]
    assert math.isnan(opinion("x", np.full((2, 2), nan), ["a", "b"]).score)


def test_the_command_writes_and_imports(ran: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from earwitness.cli.shell import shell

    shutil.copytree(ran, tmp_path / "results")
    monkeypatch.setattr("earwitness.cli.context.registry", lambda switched_off=(): stub_registry())
    results, out = str(tmp_path / "results"), str(tmp_path / "test")
    done = CliRunner().invoke(shell, ["listening-test", results, "--out", out, "--clips", "2"])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    (path,) = (tmp_path / "results" / "listening-tests").glob("*.json")
    key = read_key(Store(tmp_path / "results"), path.stem)
    file = answer(tmp_path / "a.json", key, {"ideal": 80.0, "wobbly": 30.0})
    done = CliRunner().invoke(shell, ["listening-test", results, "--import", str(file)])
    assert done.exit_code == 0, f"{done.output}\n{done.exception!r}"
    assert "ideal" in done.stdout
    assert "80.0" in done.stdout
    document = json.loads(
        CliRunner().invoke(shell, ["listening-test", results, "--import", str(file), "--json"]).stdout
    )
    assert document["methods"][0]["score"] == 80.0
    assert CliRunner().invoke(shell, ["listening-test", results]).exit_code == 2
