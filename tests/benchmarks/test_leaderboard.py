"""The leaderboard of results that were written by hand."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from bench_stubs import stub_registry, suite_of
from earwitness_bench.commands.leaderboard import leaderboard as command
from earwitness_bench.leaderboard import FORMATS, Counts, Standing, Table, make_tables
from earwitness_bench.runner import run_suite
from earwitness_bench.statistics import bootstrap, group_bootstrap
from handmade import COLUMNS, CONTROLS, ROWS, Values, constant, line_of, table_of, write


def test_methods_are_ranked_by_their_mean_rank_in_the_direction_of_each_column(tmp_path: Path) -> None:
    values = {"bad": constant(0.1, 9.0), "mixed": constant(0.9, 5.0), "good": constant(0.8, 1.0)}
    table = table_of(write(tmp_path, values))
    assert [(s.place, s.explainer, s.mean_rank) for s in table.standings] == [
        (1, "good", 1.5),
        (1, "mixed", 1.5),
        (3, "bad", 3.0),
    ]
    assert line_of(table, "bad").values == {"up": pytest.approx(0.1), "down": 9.0}


def test_controls_and_by_design_models_are_never_ranked_and_move_no_rank(tmp_path: Path) -> None:
    values = {
        "all-ones": constant(1.0, 0.0),
        "apnet": constant(0.95, 0.1),
        "own": constant(0.5, 3.0),
        "z": constant(0.4, 4.0),
    }
    table = table_of(write(tmp_path, values, scopes={"all-ones": "control", "apnet": "by-design"}))
    assert [(s.place, s.explainer, s.mean_rank) for s in table.standings] == [
        (1, "own", 1.0),
        (2, "z", 2.0),
        (None, "apnet", None),
        (None, "all-ones", None),
    ]
    assert line_of(table, "all-ones").above_control == ""


def test_missing_values_leave_a_column_out_of_a_mean_rank(tmp_path: Path) -> None:
    values = {"a": constant(0.9, None), "b": constant(0.8, 1.0), "c": constant(0.7, 2.0)}
    values["b"]["up"][0] = None
    table = table_of(write(tmp_path, values))
    assert line_of(table, "a").values["down"] is None
    assert line_of(table, "a").mean_rank == 1.0
    assert line_of(table, "b").mean_rank == 1.5
    assert line_of(table, "b").values["up"] == pytest.approx(0.8)


def test_columns_without_a_better_or_that_are_not_headline_enter_no_rank(tmp_path: Path) -> None:
    columns = {
        "up": {"direction": "neither", "aggregate": "mean", "headline": True},
        "down": {"direction": "lower", "aggregate": "mean", "headline": False},
    }
    table = table_of(write(tmp_path, {"a": constant(0.9, 1.0), "b": constant(0.1, 2.0)}, columns=columns))
    assert {(s.place, s.mean_rank) for s in table.standings} == {(None, None)}


@pytest.mark.parametrize(("aggregate", "wanted"), [("mean", 19.5), ("median", 2.5), ("bench_stubs:double_mean", 39.0)])
def test_a_column_is_aggregated_as_its_spec_says(tmp_path: Path, aggregate: str, wanted: float) -> None:
    columns = {"up": {"direction": "higher", "aggregate": aggregate, "headline": True}}
    values: Values = {"a": {"up": [0.0, 1.0, 2.0, 3.0, 11.0, 100.0, None, None]}}
    assert line_of(table_of(write(tmp_path, values, columns=columns)), "a").values["up"] == wanted


@pytest.mark.parametrize("target", ["bench_stubs:failing_aggregate", "bench_stubs:nobody"])
def test_an_aggregate_that_fails_costs_its_column_and_is_named(tmp_path: Path, target: str) -> None:
    columns = {"up": {**COLUMNS["up"], "aggregate": target}, "down": COLUMNS["down"]}
    table = table_of(write(tmp_path, {"a": constant(1.0, 2.0)}, columns=columns))
    assert line_of(table, "a").values == {"up": None, "down": 2.0}
    assert [note for note in table.notes if note.startswith("up could not be aggregated")]


# --- above control


def duel(out: Path, own: list[float | None], **others: list[float | None]) -> str:
    columns = {"up": COLUMNS["up"]}
    yardsticks = {name: {"up": others.get(name, [0.0] * ROWS)} for name in CONTROLS}
    shuffled = {"shuffled: own": {"up": others.get("shuffled", [0.0] * ROWS)}}
    store = write(
        out,
        {"own": {"up": own}, **yardsticks, **shuffled},
        columns=columns,
        scopes=dict.fromkeys(CONTROLS, "control"),
        identities=CONTROLS,
    )
    return line_of(table_of(store), "own").above_control


CLEAR = [0.5, 0.6, 0.55, 0.5, 0.6, 0.4, 0.45, 0.7]


def test_a_method_that_beats_every_control_on_every_clip_is_above_them(tmp_path: Path) -> None:
    assert duel(tmp_path, CLEAR) == "1/1"


@pytest.mark.parametrize("name", ["noise", "loud", "gain", "shuffled"])
def test_one_control_that_is_not_beaten_is_enough(tmp_path: Path, name: str) -> None:
    assert duel(tmp_path, CLEAR, **{name: [value + 0.01 for value in CLEAR]}) == "0/1"
    assert duel(tmp_path, CLEAR, **{name: [None] * ROWS}) == "0/1"


def test_the_comparison_is_paired(tmp_path: Path) -> None:
    spread = [10.0 * n for n in range(ROWS)]
    assert duel(tmp_path / "a", [value + 0.1 for value in spread], noise=spread) == "1/1"
    assert duel(tmp_path / "b", [value + 0.1 for value in spread], noise=spread[::-1]) == "0/1"


def test_a_difference_that_is_not_clear_is_none(tmp_path: Path) -> None:
    assert duel(tmp_path, [1.0, -0.9, 1.0, -0.8, 1.0, -0.9, 1.0, -0.8]) == "0/1"


def test_clips_of_one_recording_show_nothing(tmp_path: Path) -> None:
    values: Values = {"own": {"up": list(CLEAR)}, "noise": {"up": [0.0] * ROWS}}
    columns, scopes = {"up": COLUMNS["up"]}, {"noise": "control"}
    for name, groups, wanted in (("one", ["same"] * ROWS, "0/1"), ("many", None, "1/1")):
        store = write(tmp_path / name, values, columns=columns, scopes=scopes, identities=CONTROLS, groups=groups)
        assert line_of(table_of(store), "own").above_control == wanted


def test_lower_is_above_where_lower_is_better(tmp_path: Path) -> None:
    values = {"own": constant(1.0, -1.0), "worse": constant(1.0, 1.0), "noise": constant(0.0, 0.0)}
    table = table_of(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))
    assert line_of(table, "own").above_control == "2/2"
    assert line_of(table, "worse").above_control == "1/2"


def test_a_control_that_a_metric_does_not_apply_to_does_not_count_but_one_that_failed_does(tmp_path: Path) -> None:
    values: Values = {"own": {"up": list(CLEAR)}, "noise": {"up": [0.0] * ROWS}, "loud": {"up": [None] * ROWS}}
    columns, scopes = {"up": COLUMNS["up"]}, {"noise": "control", "loud": "control"}
    for said, wanted in (("skipped: it has no parts", "1/1"), ("failed: out of luck", "0/1")):
        store = write(
            tmp_path / said[:4],
            values,
            columns=columns,
            scopes=scopes,
            identities=CONTROLS,
            outcomes={"loud": [said] * ROWS},
        )
        assert line_of(table_of(store), "own").above_control == wanted


def test_other_controls_are_no_yardstick(tmp_path: Path) -> None:
    values = {"own": constant(1.0, 1.0), "all-ones": constant(9.0, 0.0), "noise": constant(0.0, 2.0)}
    scopes = {"all-ones": "control", "noise": "control"}
    table = table_of(write(tmp_path, values, scopes=scopes, identities=CONTROLS))
    assert line_of(table, "own").above_control == "2/2"


def test_what_is_above_control_is_marked_column_by_column(tmp_path: Path) -> None:
    values = {"own": constant(1.0, 2.0), "noise": constant(0.0, 1.0)}
    table = table_of(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))
    assert line_of(table, "own").above == ("up",)
    assert line_of(table, "noise").above == ()
    for form in ("table", "markdown"):
        line = next(text for text in FORMATS[form]([table]).splitlines() if "own" in text.split())
        assert line.count("*") == 1


def test_headline_columns_have_an_interval_over_recordings(tmp_path: Path) -> None:
    columns = {name: {**COLUMNS["up"], "aggregate": how} for name, how in (("up", "mean"), ("middle", "median"))}
    columns["twice"] = {**COLUMNS["up"], "aggregate": "bench_stubs:double_mean"}
    columns["beside"] = {**COLUMNS["up"], "headline": False}
    own: list[float | None] = [0.1, 0.9, 0.4, 0.6, 0.5, 0.2, 0.8, None]
    values = {"own": dict.fromkeys(columns, own), "alone": dict.fromkeys(columns, [0.3] * ROWS)}
    table = table_of(write(tmp_path, values, columns=columns))
    intervals = line_of(table, "own").intervals
    assert list(intervals) == ["up", "middle", "twice"]
    known = np.array([value for value in own if value is not None])
    assert intervals["up"] == group_bootstrap(known, [str(n) for n in range(7)])
    assert intervals["up"][0] < known.mean() < intervals["up"][1]
    assert intervals["twice"] == pytest.approx([2 * end for end in intervals["up"]], rel=0.1)
    assert set(intervals["middle"]) <= set(known)  # of an odd number of values, a median is one of them
    assert line_of(table, "alone").intervals["up"] == pytest.approx((0.3, 0.3))
    row = next(csv.DictReader(io.StringIO(FORMATS["csv"]([table]))))
    assert {"up low", "up high"} <= set(row)
    assert "beside low" not in row


def test_controls_are_corrected_for_their_number(tmp_path: Path) -> None:
    """A difference that one control alone would let pass, four do not."""
    narrow: list[float | None] = [1.0, 1.0, 1.0, -0.3, 1.0, -0.2, 0.3, 1.0]
    values: Values = {"own": {"up": narrow}, "noise": {"up": [0.0] * ROWS}}
    columns = {"up": COLUMNS["up"]}
    store = write(tmp_path / "one", values, columns=columns, scopes={"noise": "control"}, identities=CONTROLS)
    p = bootstrap(np.array(narrow, dtype=float), [str(n) for n in range(ROWS)]).p_value()
    assert 0.05 / 4 < p < 0.05
    assert line_of(table_of(store), "own").above_control == "1/1"
    assert duel(tmp_path / "four", narrow) == "0/1"


def test_every_table_marks_what_is_above_control_and_says_who_is_nowhere(tmp_path: Path) -> None:
    columns = {"up": COLUMNS["up"], "beside": {**COLUMNS["up"], "headline": False}}
    columns["unread"] = {**COLUMNS["up"], "headline": False, "direction": "neither"}
    values = {"own": {name: list(CLEAR) for name in columns}, "noise": dict.fromkeys(columns, [0.0] * ROWS)}
    values["low"] = dict.fromkeys(columns, [-1.0] * ROWS)
    table = table_of(write(tmp_path, values, columns=columns, scopes={"noise": "control"}, identities=CONTROLS))
    assert line_of(table, "own").above == ("up", "beside")
    assert line_of(table, "own").above_control == "1/1"
    lines = [line for line in FORMATS["table"]([table]).splitlines() if line.startswith("1 ")]
    assert [line.count("*") for line in lines] == [1, 1]
    assert "not above control on any headline column: low" in table.notes
    (row, *_) = csv.DictReader(io.StringIO(FORMATS["csv"]([table])))
    assert row["above"] == "up; beside"


def test_a_model_that_explains_itself_is_held_against_controls_too(tmp_path: Path) -> None:
    values = {"apnet": constant(1.0, 0.0), "noise": constant(0.0, 1.0)}
    scopes = {"apnet": "by-design", "noise": "control"}
    line = line_of(table_of(write(tmp_path, values, scopes=scopes, identities=CONTROLS)), "apnet")
    assert (line.place, line.above_control) == (None, "2/2")


# --- what is not there


def test_failures_and_maps_that_point_nowhere_are_counted_and_said(tmp_path: Path) -> None:
    values = {"a": constant(1.0, 1.0), "b": constant(None, None)}
    table = table_of(write(tmp_path, values, failed=("b",), degenerate={"a": 2}))
    a, b = line_of(table, "a"), line_of(table, "b")
    assert (a.clips, a.degenerate, a.failed) == (8, 2, 0)
    assert (b.clips, b.failed, b.place, b.mean_rank) == (0, 8, None, None)
    assert table.notes == ("a: 2 of 8 maps point nowhere", "b: 8 of 8 explanations failed")
    assert (a.counts["up"], b.counts["up"]) == (Counts(8, 0, 0, 2), Counts(0, 0, 8, 0))


def test_clips_without_a_score_are_counted_column_by_column_and_marked(tmp_path: Path) -> None:
    values = {"a": constant(1.0, 1.0), "b": constant(2.0, 2.0), "c": constant(3.0, 3.0)}
    values["a"]["up"][:3] = [None, None, None]
    said = ["skipped: too quiet", "failed: it broke", "skipped: too quiet"] + ["scored"] * 5
    table = table_of(write(tmp_path, values, outcomes={"a": said}, degenerate={"a": 4}))
    counts = line_of(table, "a").counts
    assert counts == {"up": Counts(5, 2, 1, 1), "down": Counts(8, 0, 0, 4)}
    assert line_of(table, "b").counts["up"] == Counts(8, 0, 0, 0)
    text = FORMATS["table"]([table])
    line = next(line for line in text.splitlines() if line.split()[1:2] == ["a"])
    assert line.count("†") == 1
    grid = text[text.index("Clips: scored/skipped/failed") :].splitlines()
    assert grid[2].split() == ["explainer", "up", "down"]
    assert grid[4].split() == ["a", "5/2/1/1", "8/0/0/4"]
    assert grid[5].split() == ["everybody", "else", "8/0/0/0", "8/0/0/0"]
    (row, *_) = [r for r in csv.DictReader(io.StringIO(FORMATS["csv"]([table]))) if r["explainer"] == "a"]
    assert [row[f"up {what}"] for what in ("scored", "skipped", "failed", "degenerate")] == ["5", "2", "1", "1"]


def test_where_nothing_is_missing_the_table_says_so_in_a_sentence(tmp_path: Path) -> None:
    text = FORMATS["table"]([table_of(write(tmp_path, {"a": constant(1.0, 1.0), "b": constant(2.0, 2.0)}))])
    assert "Clips: every explainer has a score on all 8 clips, and every map points somewhere." in text
    assert "†" not in text


def test_an_unfinished_run_has_a_table_and_says_what_is_missing(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0), "b": constant(2.0, 2.0)}, absent=("b",))
    table = table_of(store)
    assert table.missing_cells == 1
    assert line_of(table, "b").values == {"up": None, "down": None}
    done = CliRunner().invoke(command, [str(tmp_path), "--json"])
    assert done.exit_code == 0
    assert "1 cells are missing" in done.stderr
    assert json.loads(done.stdout)["tables"][0]["missing_cells"] == 1


def test_a_control_that_is_not_scored_yet_is_not_beaten(tmp_path: Path) -> None:
    values = {"own": constant(1.0, 1.0), "noise": constant(0.0, 2.0)}
    store = write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS, absent=("noise",))
    assert line_of(table_of(store), "own").above_control == "0/2"


def test_a_run_that_has_not_begun_has_an_empty_table(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 1.0)})
    for path in tmp_path.glob("cells/*/*/*"):
        path.unlink()
    table = table_of(store)
    assert table.missing_cells == 2
    assert line_of(table, "a").place is None
    for form in FORMATS.values():
        assert "a" in form([table])


def test_columns_of_one_name_from_two_metrics_stand_side_by_side(tmp_path: Path) -> None:
    store = write(tmp_path, {"a": constant(1.0, 2.0)})
    plan = store.read_plan()
    plan["metrics"].append({**plan["metrics"][0], "name": "other:both"})
    (explainer,) = plan["arenas"][0]["explainers"]
    explainer["cells"][0]["scores"].append("s-second")
    store.write_cell("score", "s-second", {"columns": constant(3.0, 4.0), "outcomes": ["scored"] * ROWS})
    store.write_plan({key: value for key, value in plan.items() if key != "schema"})
    assert line_of(table_of(store), "a").values == {
        "stubs:both:up": 1.0, "stubs:both:down": 2.0, "other:both:up": 3.0, "other:both:down": 4.0,
    }  # fmt: skip


# --- formats


@pytest.fixture
def odd_tables(tmp_path: Path) -> list[Table]:
    values = {'a|b, "c"\nd': constant(0.123456789, 12.345), "plain": constant(0.1, None), "noise": constant(0.0, 20.0)}
    return make_tables(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))


def test_markdown_has_the_same_number_of_cells_in_every_row(odd_tables: list[Table]) -> None:
    grids = [part for part in FORMATS["markdown"](odd_tables).split("\n\n") if part.startswith("|")]
    lines = grids[0].splitlines()
    assert len(lines) == 2 + 3
    assert {line.replace("\\|", "").count("|") for line in lines} == {4 + 2 + 1}
    for grid in grids:
        assert len({line.replace("\\|", "").count("|") for line in grid.strip().splitlines()}) == 1
    assert '| a\\|b, "c" d |' in "\n".join(lines)
    assert "up ↑" in lines[0]
    assert "down ↓" in lines[0]


def test_csv_comes_back_with_full_precision(odd_tables: list[Table]) -> None:
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](odd_tables))))
    assert [row["explainer"] for row in rows] == ['a|b, "c"\nd', "plain", "noise"]
    assert float(rows[0]["up"]) == 0.123456789
    assert rows[1]["down"] == ""
    assert (rows[2]["place"], rows[2]["scope"]) == ("", "control")
    assert rows[0]["failed"] == "0"


def test_json_has_a_schema_and_every_number(odd_tables: list[Table]) -> None:
    document = json.loads(FORMATS["json"](odd_tables))
    assert document["schema"] == 2
    (table,) = document["tables"]
    assert set(table) == set(Table.__dataclass_fields__)
    assert set(table["standings"][0]) == set(Standing.__dataclass_fields__)
    assert table["standings"][0]["values"]["up"] == 0.123456789
    assert {column["metric"] for column in table["columns"]} == {"stubs:both"}


def test_the_terminal_table_is_aligned_and_rounds_for_eyes(odd_tables: list[Table]) -> None:
    text = FORMATS["table"](odd_tables)
    assert text.startswith("here\n====\n")
    assert "0.123" in text
    assert "12.3" in text
    assert "1234567" not in text


@pytest.mark.parametrize("form", sorted(FORMATS))
def test_equal_results_give_equal_bytes(tmp_path: Path, form: str) -> None:
    answers = []
    for name in "ab":
        run_suite(suite_of(controls=True), tmp_path / name, registry=stub_registry())
        done = CliRunner().invoke(command, [str(tmp_path / name), "--format", form])
        assert done.exit_code == 0
        answers.append(done.stdout_bytes)
    assert answers[0] == answers[1]
    assert b"shuffled: ideal" in answers[0]
