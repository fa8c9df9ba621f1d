"""Who differs from whom, how columns agree, and the comparison of two."""

from __future__ import annotations

import itertools
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy import stats

from earwitness.errors import ConfigurationError, StoreError
from earwitness_bench.commands.leaderboard import leaderboard as command
from earwitness_bench.leaderboard import (
    FORMATS,
    compare_all,
    compare_two,
    compare_with_others,
    draw_critical_difference,
    make_tables,
    write_pages,
)
from earwitness_bench.statistics import Pair, compare, compare_many, friedman
from earwitness_bench.store import Store
from handmade import COLUMNS, CONTROLS, ROWS, Values, constant, table_of, write

GROUPS = ["a", "a", "b", "c", "d", "e", "f", "g"]


def drawn(*names: str, seed: int = 0) -> dict[str, dict[str, list[float | None]]]:
    """Random scores; each method is better than the one after it, by chance not always."""
    generator = np.random.default_rng(seed)
    return {
        name: {
            "up": (generator.normal(size=ROWS) - 0.8 * place).tolist(),
            "down": (generator.normal(size=ROWS) + 0.8 * place).tolist(),
        }
        for place, name in enumerate(names)
    }


def by_recording(values: Values, column: str) -> np.ndarray:
    """Means over the two clips of recording a, and the other clips as they are: (7, methods)."""
    table = np.array([own[column] for own in values.values()], dtype=float).T
    return np.concatenate([table[:2].mean(0, keepdims=True), table[2:]])


# --- over all methods


def test_friedmans_test_has_recordings_for_blocks_in_each_headline_column(tmp_path: Path) -> None:
    values = drawn("x", "y", "z")
    table = table_of(write(tmp_path, values, groups=GROUPS))
    by_column = {one.column: one for one in table.differences}
    assert list(by_column) == ["all headline columns", "up", "down"]
    for name, sign in (("up", -1), ("down", 1)):
        found, blocks = by_column[name], by_recording(values, name)
        wanted = stats.friedmanchisquare(*blocks.T)
        assert (found.chi_square, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
        ranks = dict(zip("xyz", stats.rankdata(sign * blocks, axis=1).mean(0), strict=True))
        assert dict(zip(found.methods, found.mean_ranks, strict=True)) == pytest.approx(ranks)
        assert list(found.mean_ranks) == sorted(found.mean_ranks)
        assert (found.groups, found.clips, found.left_out, found.absent) == (7, 8, 0, ())


def test_over_all_columns_each_recording_ranks_by_its_own_mean_rank(tmp_path: Path) -> None:
    values = drawn("x", "y", "z", seed=4)
    found = table_of(write(tmp_path, values, groups=GROUPS)).differences[0]
    own = np.mean([stats.rankdata(s * by_recording(values, c), axis=1) for c, s in (("up", -1), ("down", 1))], axis=0)
    wanted = friedman(own, higher_is_better=False)
    assert found.p == pytest.approx(wanted.p)
    assert sorted(found.mean_ranks) == pytest.approx(sorted(wanted.mean_ranks))


def test_controls_enter_no_friedman_test(tmp_path: Path) -> None:
    values = drawn("x", "y", "noise")
    table = table_of(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))
    assert {name for one in table.differences for name in one.methods} == {"x", "y"}


def test_clips_and_methods_without_a_score_are_left_out_and_counted(tmp_path: Path) -> None:
    values = drawn("x", "y", "z", "gone")
    values["gone"]["up"] = [None] * ROWS
    values["y"]["up"][3] = None
    table = table_of(write(tmp_path, values))
    everywhere, up, down = table.differences
    assert (up.clips, up.left_out, up.groups, up.absent) == (7, 1, 7, ("gone",))
    assert (everywhere.clips, everywhere.left_out, everywhere.absent) == (7, 1, ("gone",))
    assert (down.clips, down.left_out, down.absent) == (8, 0, ())
    assert "without 1 clips, on which one has no score, gone" in FORMATS["table"]([table])


def test_methods_that_share_a_letter_are_within_the_critical_difference(tmp_path: Path) -> None:
    found = table_of(write(tmp_path, drawn(*"uvwxyz"))).differences[0]
    ranks = dict(zip(found.methods, found.mean_ranks, strict=True))
    marks = dict(zip(found.methods, found.marks, strict=True))
    assert found.cliques
    for one, other in itertools.combinations(ranks, 2):
        near = abs(ranks[one] - ranks[other]) <= found.critical_difference
        assert bool(set(marks[one]) & set(marks[other])) == near


def test_no_two_cliques_have_one_letter(tmp_path: Path) -> None:
    found = table_of(write(tmp_path, drawn("x", "y"))).differences[0]
    names = [f"m{number}" for number in range(61)]
    many = replace(found, methods=tuple(names), cliques=tuple(itertools.pairwise(names)))
    assert (many.marks[0], many.marks[1], many.marks[26], many.marks[60]) == ("a", "ab", "zA", "(60)")
    assert len(set(many.marks)) == 61


def test_columns_of_other_clips_are_not_put_side_by_side(tmp_path: Path) -> None:
    """An unfinished run: one metric has come to the first chunk, the other to the second, which is as long."""
    chunks = [write(tmp_path / name, drawn("x", "y", seed=seed)) for seed, name in enumerate("ab")]
    store = write(tmp_path / "both", drawn("x", "y"))
    metrics = [
        {"name": f"stubs:{name}", "version": 1, "columns": [{"name": name, **COLUMNS[name]}]} for name in ("up", "down")
    ]
    explainers = []
    for title in "xy":
        cells = []
        for place, (chunk, name) in enumerate(zip(chunks, ("up", "down"), strict=True)):
            explained, score = chunk.read_cell("explain", f"e-{title}"), chunk.read_cell("score", f"s-{title}")
            assert explained is not None
            assert score is not None
            rows = [{**row, "row": f"{row['row']} of chunk {place}"} for row in explained["rows"]]
            own = {"columns": {name: score["columns"][name]}, "outcomes": score["outcomes"]}
            store.write_cell("explain", f"e-{title}{place}", {"status": "ok", "rows": rows})
            store.write_cell("score", f"s-{title}{place}", own)
            scores = [f"s-{title}{place}" if number == place else "none" for number in range(2)]
            cells.append({"explain": f"e-{title}{place}", "scores": scores})
        explainer = {"title": title, "scope": "post-hoc", "shuffle_of": None, "identity": {"name": title}}
        explainers.append({**explainer, "cells": cells})
    store.write_plan({"metrics": metrics, "arenas": [{"title": "here", "explainers": explainers}]})
    table = table_of(store)
    assert table.missing_cells == 4
    assert [one.column for one in table.differences] == ["up", "down"]


def test_a_test_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    values = drawn("x", "y")
    values["x"] = {name: [*own[:4], None, None, None, None] for name, own in values["x"].items()}
    values["y"] = {name: [None, None, None, None, *own[4:]] for name, own in values["y"].items()}
    table = table_of(write(tmp_path, values))
    assert table.differences == ()
    assert "Who differs was not tested" in FORMATS["table"]([table])


def test_columns_agree_as_kendall_says_over_ranked_methods(tmp_path: Path) -> None:
    values = drawn("x", "y", "z", "noise")
    table = table_of(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))
    up, down = (np.array([np.mean(values[n][c]) for n in "xyz"]) for c in ("up", "down"))
    assert table.agreement is not None
    assert table.agreement.columns == ("up", "down")
    assert table.agreement.methods == 3
    assert table.agreement.tau[0][1] == pytest.approx(stats.kendalltau(up, -down).statistic)
    assert table_of(write(tmp_path / "two", drawn("x", "y"))).agreement is None


# --- the diagram and the pages


def texts(path: Path) -> str:
    """What an SVG says: Matplotlib draws letters and keeps their text as comments."""
    return " ".join(re.findall(r"<!-- (.*?) -->", path.read_text()))


def test_the_diagram_names_every_method_with_its_rank_and_is_the_same_each_time(tmp_path: Path) -> None:
    found = table_of(write(tmp_path / "store", drawn("x", "y", "$z_1$ & <b>"))).differences[0]
    paths = [draw_critical_difference(tmp_path / name, found, title="here: $a$") for name in ("a.svg", "b.svg")]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    ET.parse(paths[0])  # well formed
    said = texts(paths[0])
    for name, rank in zip(found.methods, found.mean_ranks, strict=True):
        plain = name.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        assert f"{plain} ({rank:.2f})" in said
    assert f"CD = {found.critical_difference:.2f}" in said


def test_a_diagram_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    found = table_of(write(tmp_path / "store", drawn("x", "y"))).differences[0]
    with pytest.raises(StoreError, match="Cannot write"):
        draw_critical_difference(tmp_path / "absent" / "a.svg", found, title="")


def test_pages_are_markdown_latex_and_a_diagram_for_each_column(tmp_path: Path) -> None:
    store = write(tmp_path / "store", drawn("x", "y", "z"))
    done = CliRunner().invoke(command, [str(store.folder), "--out", str(tmp_path / "pages")])
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "pages").iterdir())
    assert names == [
        "critical-difference-1-here-all-headline-columns.svg",
        "critical-difference-1-here-down.svg",
        "critical-difference-1-here-up.svg",
        "leaderboard.md",
        "leaderboard.tex",
    ]
    assert (tmp_path / "pages" / "leaderboard.md").read_text() == FORMATS["markdown"](make_tables(store))
    assert (tmp_path / "pages" / "leaderboard.tex").read_text() == FORMATS["tex"](make_tables(store))
    assert done.stderr.count("written: ") == 5


def test_a_folder_for_pages_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="Cannot make the folder"):
        write_pages([], tmp_path / "file" / "pages")


def test_latex_has_no_character_that_it_would_execute(tmp_path: Path) -> None:
    odd = "50 % of a_b & c # $x$ {y} \\input{z} ~ ^ <|>"
    values = {odd: constant(1.0, 2.0), "plain": constant(0.5, 3.0), "noise": constant(0.0, 4.0)}
    text = FORMATS["tex"]([table_of(write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS))])
    assert r"50 \% of a\_b \& c \# \$x\$ \{y\} \textbackslash{}input\{z\} \textasciitilde{} \textasciicircum{}" in text
    assert r"1.000$^{*}$ [1.00, 1.00]" in text
    assert r"up $\uparrow$" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for begin, end in (
        (r"\begin{table}", r"\end{table}"),
        (r"\begin{tabular}", r"\end{tabular}"),
        (r"\toprule", r"\bottomrule"),
    ):
        assert body.count(begin) == body.count(end) > 0
    for grid in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", body, re.DOTALL):
        for row in re.findall(r"^(.*) \\\\$", grid[1], re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", row)) == len(grid[0]) - 1
    escaped = re.sub(r"\\[%&#_$]", "", body)
    assert "%" not in re.sub(r"\{%\n", "", escaped)
    assert escaped.count("{") - escaped.count(r"\{") == escaped.count("}") - escaped.count(r"\}")


# --- two methods


def test_two_methods_are_compared_column_by_column_and_corrected_together(tmp_path: Path) -> None:
    values = drawn("x", "y")
    (arena,) = compare_two(write(tmp_path, values, groups=GROUPS), "x", "y")
    pairs = [Pair(*(np.array(values[name][c]) for name in "xy"), GROUPS) for c in ("up", "down")]
    wanted = compare_many(pairs, [None, None])
    assert [one.comparison for one in arena.columns] == wanted
    assert [one.column for one in arena.columns] == ["up", "down"]


def test_the_better_one_is_named_in_the_direction_of_its_column(tmp_path: Path) -> None:
    store = write(tmp_path, {"x": constant(1.0, 1.0), "y": constant(0.5, 0.5), "z": constant(1.0, 1.0)})
    (arena,) = compare_two(store, "x", "y")
    assert [one.better for one in arena.columns] == ["x", "y"]
    (arena,) = compare_two(store, "x", "z")
    assert [one.better for one in arena.columns] == [None, None]


def test_headline_and_other_columns_are_corrected_apart(tmp_path: Path) -> None:
    columns = {**COLUMNS, "beside": {**COLUMNS["up"], "headline": False}}
    values = drawn("x", "y")
    for own in values.values():
        own["beside"] = own["up"]
    (arena,) = compare_two(write(tmp_path, values, columns=columns), "x", "y")
    up, _, beside = (one.comparison for one in arena.columns)
    assert beside.p_holm == beside.p == up.p
    assert up.p_holm >= up.p


def test_a_column_of_medians_is_compared_by_medians(tmp_path: Path) -> None:
    columns = {"up": {**COLUMNS["up"], "aggregate": "median"}}
    values = {name: {"up": own["up"]} for name, own in drawn("x", "y").items()}
    (arena,) = compare_two(write(tmp_path, values, columns=columns), "x", "y")
    (found,) = arena.columns
    first, second = (np.array(values[name]["up"]) for name in "xy")
    assert found.comparison.difference == pytest.approx(np.median(first) - np.median(second))
    assert found.comparison == compare(Pair(first, second, [f"group-{n}" for n in range(ROWS)]), np.median)


def test_all_pairs_are_corrected_within_each_column(tmp_path: Path) -> None:
    values = drawn("x", "y", "z", "noise")
    store = write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS)
    (arena,) = compare_all(store)
    assert [(one.column, one.first, one.second) for one in arena.columns] == [
        (column, *pair) for column in ("up", "down") for pair in (("x", "y"), ("x", "z"), ("y", "z"))
    ]
    groups = [f"group-{n}" for n in range(ROWS)]
    pairs = [Pair(np.array(values[a]["up"]), np.array(values[b]["up"]), groups) for a, b in ("xy", "xz", "yz")]
    assert [one.comparison for one in arena.columns[:3]] == compare_many(pairs, [None] * 3)


def test_one_is_compared_with_all_others_and_controls_and_corrected_together(tmp_path: Path) -> None:
    values = drawn("x", "y", "z", "noise")
    store = write(tmp_path, values, scopes={"noise": "control"}, identities=CONTROLS)
    (arena,) = compare_with_others(store, "y", ["down", "up"])
    assert [(one.column, one.first, one.second) for one in arena.columns] == [
        (column, "y", other) for column in ("up", "down") for other in ("x", "z", "noise")
    ]
    groups = [f"group-{n}" for n in range(ROWS)]
    pairs = [
        Pair(np.array(values["y"][column]), np.array(values[other][column]), groups)
        for column in ("up", "down")
        for other in ("x", "z", "noise")
    ]
    assert [one.comparison for one in arena.columns] == compare_many(pairs, [None] * 6)
    (headline,) = compare_with_others(store, "y")
    assert [one.column for one in headline.columns] == ["up"] * 3 + ["down"] * 3


def test_a_comparison_with_all_names_what_there_is(tmp_path: Path) -> None:
    write(tmp_path, {"alpha": constant(1.0, 1.0), "beta": constant(0.0, 0.5)})
    runner, folder = CliRunner(), str(tmp_path)
    done = runner.invoke(command, [folder, "--against-all", "alpha", "--column", "up"])
    assert (done.exit_code, "alpha - beta" in done.output, "down" in done.output) == (0, True, False)
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        compare_with_others(Store(tmp_path), "alpa")
    with pytest.raises(ConfigurationError, match="no 'upp' among the columns"):
        compare_with_others(Store(tmp_path), "alpha", ["upp"])
    for wrong in (["--column", "up"], ["--against-all", "alpha", "--compare", "alpha", "beta"]):
        assert runner.invoke(command, [folder, *wrong]).exit_code == 2


def test_the_command_prints_a_comparison_as_a_table_and_as_json(tmp_path: Path) -> None:
    values = drawn("x", "y")
    values["x"]["up"][2] = None
    write(tmp_path, values)
    done = CliRunner().invoke(command, [str(tmp_path), "--compare", "x", "y"])
    assert done.exit_code == 0, done.output
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("up")]
    assert line.split()[-3:] == ["7", "7", "1"]  # recordings, clips, unpaired
    document = json.loads(CliRunner().invoke(command, [str(tmp_path), "--compare", "x", "y", "--json"]).stdout)
    (arena,) = document["arenas"]
    assert [one["column"] for one in arena["columns"]] == ["up", "down"]
    assert arena["columns"][0]["comparison"]["unpaired"] == 1
    assert CliRunner().invoke(command, [str(tmp_path), "--compare", "x", "y", "--format", "csv"]).exit_code == 2


def test_a_comparison_with_nobody_or_oneself_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path, {"alpha": constant(1.0, 1.0), "beta": constant(0.0, None)})
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        compare_two(store, "alpa", "beta")
    with pytest.raises(ConfigurationError, match="'beta' twice"):
        compare_two(store, "beta", "beta")
    document = json.loads(CliRunner().invoke(command, [str(tmp_path), "--compare", "alpha", "beta", "--json"]).stdout)
    down = document["arenas"][0]["columns"][1]
    assert (down["better"], down["comparison"]["p"], down["comparison"]["unpaired"]) == (None, None, ROWS)


# --- one version, one seed


def plan(store: Store, **changes: Any) -> None:
    said = {**store.read_plan(), **changes}
    store.write_plan({k: v for k, v in said.items() if k not in ("schema", "kind")})


def altered(store: Store, kind: Any, key: str, **changes: Any) -> None:
    cell = store.read_cell(kind, key)
    assert cell is not None
    store.write_cell(kind, key, {k: v for k, v in {**cell, **changes}.items() if k not in ("schema", "kind", "key")})


def test_every_table_says_of_which_versions_and_seed_it_is(tmp_path: Path) -> None:
    store = write(tmp_path, drawn("x", "y"))
    store.write_plan(
        {**{k: v for k, v in store.read_plan().items() if k not in ("schema", "kind")}, "suite": {"seed": 3}}
    )
    table = table_of(store)
    assert table.seed == 3
    for form in ("table", "markdown", "tex"):
        assert "Seed 3. Metric versions: stubs:both 1." in FORMATS[form]([table])


def test_two_versions_of_a_metric_are_never_in_one_table(tmp_path: Path) -> None:
    store = write(tmp_path / "score", drawn("x", "y"))
    altered(store, "score", "s-y", metric={"name": "stubs:both", "version": 2})
    with pytest.raises(StoreError, match="stubs:both version 2 stands where the run has stubs:both version 1"):
        make_tables(store)
    store = write(tmp_path / "plan", drawn("x", "y"))
    (metric,) = store.read_plan()["metrics"]
    plan(store, metrics=[metric, {**metric, "version": 2}])
    with pytest.raises(StoreError, match=r"2 times, in the versions 1, 2: tables never mix them\. Give"):
        make_tables(store)


def test_two_versions_of_an_explainer_or_two_seeds_are_never_in_one_table(tmp_path: Path) -> None:
    store = write(tmp_path, drawn("x", "y"))
    altered(store, "explain", "e-y", provenance={"explainer": {"name": "stubs:y"}, "seed": 0})
    make_tables(store)
    altered(store, "explain", "e-y", provenance={"explainer": {"name": "stubs:y", "plugin": "2.0"}, "seed": 0})
    with pytest.raises(StoreError, match="y is of another explainer, version or parameter"):
        make_tables(store)
    altered(store, "explain", "e-y", provenance={"explainer": {"name": "stubs:y"}, "seed": 1})
    make_tables(store)  # the plan does not say of which seed it is
    store.write_plan(
        {**{k: v for k, v in store.read_plan().items() if k not in ("schema", "kind")}, "suite": {"seed": 0}}
    )
    with pytest.raises(StoreError, match="the seed 1, where the run has 0"):
        make_tables(store)
