"""The leaderboard of random results with gaps of every kind, derived a second time with pandas, row by row."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from earwitness_bench.leaderboard import Table, compare_two, make_tables
from earwitness_bench.statistics import intervals
from earwitness_bench.store import Store

CLIPS, CHUNK, GROUPS, DRAWS = 45, 10, 8, 1500
METHODS = ("m0", "m1", "m2", "m3")
SCOPES = {"own": "by-design", "noise": "control", "loud": "control", "ones": "control", "shuffled: m0": "control"}
NAMES = {"noise": "earwitness:uniform-noise", "loud": "earwitness:loudness", "ones": "earwitness:all-ones"}
EXPLAINERS = (*METHODS, *SCOPES)
METRICS = (
    {
        "name": "stubs:one",
        "version": 1,
        "columns": [
            {"name": "up", "direction": "higher", "aggregate": "mean", "headline": True},
            {"name": "down", "direction": "lower", "aggregate": "median", "headline": True},
            {"name": "size", "direction": "neither", "aggregate": "mean", "headline": False},
        ],
    },
    {
        "name": "stubs:two",
        "version": 3,
        "columns": [
            {"name": "twice", "direction": "higher", "aggregate": "bench_stubs:double_mean", "headline": True},
            {"name": "beside", "direction": "lower", "aggregate": "mean", "headline": False},
        ],
    },
)
COLUMNS = {column["name"]: {**column, "metric": metric["name"]} for metric in METRICS for column in metric["columns"]}
HEADLINE = [name for name, column in COLUMNS.items() if column["headline"]]
SIGN = {"higher": 1.0, "lower": -1.0, "neither": 0.0}
WHY = ("skipped: too quiet", "failed: out of luck")


class Random:
    """A run of random results: what is written to a store is noted here row by row."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.store = Store(folder, create=True)
        self.scores: list[dict[str, Any]] = []
        self.maps: list[dict[str, Any]] = []
        self.missing = 0
        self.groups = [f"recording {number}" for number in self.random.integers(0, GROUPS, CLIPS)]
        self.labels = [["dog"] if heads else ["cat"] for heads in self.random.integers(0, 2, CLIPS)]
        explainers = [
            {
                "title": title,
                "scope": SCOPES.get(title, "post-hoc"),
                "shuffle_of": title.removeprefix("shuffled: ") if title.startswith("shuffled") else None,
                "identity": {"name": NAMES.get(title, f"stubs:{title}")},
                "cells": [self._unit(title, chunk) for chunk in range(math.ceil(CLIPS / CHUNK))],
            }
            for title in EXPLAINERS
        ]
        plan = {"metrics": list(METRICS), "suite": {"target": "predicted", "seed": 0}}
        self.store.write_plan({**plan, "arenas": [{"title": "here", "explainers": explainers}]})

    def _one_of(self, *shares: float) -> int:
        """0, or one of the others with these probabilities."""
        return int(self.random.choice(len(shares) + 1, p=[1 - sum(shares), *shares]))

    def _unit(self, title: str, chunk: int) -> dict[str, Any]:
        keys = {"explain": f"e-{title}-{chunk}", "scores": [f"{m}-{title}-{chunk}" for m in range(len(METRICS))]}
        clips = range(chunk * CHUNK, min(CLIPS, (chunk + 1) * CHUNK))
        whole = self._one_of(0.06, 0.06)  # all of it skipped, or failed
        if title != "m0" and self._one_of(0.08):
            self.missing += 1 + len(METRICS)
            return keys
        said: dict[str, Any] = {"status": ("ok", "skipped", "failed")[whole]}
        said |= {} if not whole else {"reason": "too quiet"} if whole == 1 else {"error": "out of luck"}
        why = [WHY[whole - 1] if whole else ("explained", *WHY)[self._one_of(0.05, 0.05)] for _ in clips]
        rows = [
            {
                "row": f"clip {clip}",
                "clip_id": f"clip {clip}",
                "group": self.groups[clip],
                "labels": self.labels[clip],
                "target": None if whole else "dog",
                "outcome": outcome,
                "degenerate": bool(self._one_of(0.1)) if outcome == "explained" else None,
                "diagnostics": {},
            }
            for clip, outcome in zip(clips, why, strict=True)
        ]
        self.store.write_cell("explain", keys["explain"], {**said, "rows": rows})
        self.maps += [{"explainer": title, **row} for row in rows]
        for number, metric in enumerate(METRICS):
            self._score(title, rows, metric, keys["scores"][number], written=not whole)
        return keys

    def _score(
        self, title: str, rows: list[dict[str, Any]], metric: dict[str, Any], key: str, *, written: bool
    ) -> None:
        if written and self._one_of(0.06):
            self.missing += 1
            return
        never = title == "loud" and metric["name"] == "stubs:two"  # it does not apply
        outcomes = []
        for row in rows:
            own = WHY[0] if never else ("scored", *WHY)[self._one_of(0.08, 0.04)]
            outcomes.append(own if row["outcome"] == "explained" else row["outcome"])
        columns: dict[str, list[float | None]] = {}
        for column in metric["columns"]:
            better = SIGN[column["direction"]] * {"m0": 3.0, "m1": 1.0, "own": 2.0, "m3": 1.0}.get(title, 0.0)
            columns[column["name"]] = [
                # Rounded, so that there are ties. What is not scored has no value; of a scored row, all columns have.
                round(better + float(self.random.normal()), 1) if outcome == "scored" else None
                for outcome in outcomes
            ]
        if written:
            self.store.write_cell("score", key, {"columns": columns, "outcomes": outcomes})
        for column, values in columns.items():
            for row, value, outcome in zip(rows, values, outcomes, strict=True):
                shared = {name: row[name] for name in ("row", "group", "degenerate")}
                self.scores.append({"explainer": title, "column": column, "value": value, "outcome": outcome, **shared})


@pytest.fixture(params=[0, 1], scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Random, Table]:
    drawn = Random(tmp_path_factory.mktemp("random"), request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intervals, "DRAWS", DRAWS)
        patch.setattr(intervals, "FUNCTION_DRAWS", DRAWS)
        (table,) = make_tables(drawn.store)
    return drawn, table


@pytest.fixture
def scores(run: tuple[Random, Table]) -> pd.DataFrame:
    return pd.DataFrame(run[0].scores).astype({"value": float})


# --- the second derivation


def aggregate(values: pd.Series | np.ndarray, column: str) -> float:
    own = np.asarray(values)
    if not len(own):
        return math.nan
    how = COLUMNS[column]["aggregate"]
    return float(np.median(own) if how == "median" else own.sum() / len(own) * (2 if "double" in how else 1))


def draws(values: pd.DataFrame, column: str) -> np.ndarray:
    """Aggregates (draws, methods) of resampled recordings, each resample written out; of rows without a gap."""
    members = [own.drop(columns="group").to_numpy() for _, own in values.groupby("group", sort=True)]
    if len(members) < 2:
        return np.empty((0, values.shape[1] - 1))
    chosen = np.random.default_rng(0).integers(0, len(members), size=(DRAWS, len(members)))
    resamples = (np.concatenate([members[place] for place in own]) for own in chosen)
    return np.array([[aggregate(own, column) for own in rows.T] for rows in resamples])


def wide(scores: pd.DataFrame, column: str, titles: list[str]) -> pd.DataFrame:
    """A row for each clip that one of them has come to, a column for each explainer, and ``group``."""
    own = scores[(scores["column"] == column) & scores["explainer"].isin(titles)]
    values = own.pivot(index="row", columns="explainer", values="value").reindex(columns=titles)
    return values.assign(group=own.drop_duplicates("row").set_index("row")["group"])


def p_of(drawn: np.ndarray, n_groups: int) -> float:
    share = (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn))
    wider = math.sqrt(n_groups / (n_groups - 1))
    return 1.0 if share >= 0.5 else 2 * stats.t.cdf(stats.norm.ppf(share) / wider, n_groups - 1)


def is_above(scores: pd.DataFrame, title: str, column: str) -> bool:
    sign, found = SIGN[COLUMNS[column]["direction"]], []
    for control in ("noise", "loud", *(["shuffled: m0"] if title == "m0" else [])):
        outcomes = scores[(scores["explainer"] == control) & (scores["column"] == column)]["outcome"]
        if len(outcomes) and outcomes.str.startswith("skipped").all():
            continue
        both = wide(scores, column, [title, control]).dropna()
        if both["group"].nunique() < 2:
            return False
        drawn = draws(both, column)
        difference = aggregate(both[title], column) - aggregate(both[control], column)
        found.append((p_of(drawn[:, 0] - drawn[:, 1], both["group"].nunique()), sign * difference))
    worst = max((p * (len(found) - place) for place, (p, _) in enumerate(sorted(found))), default=1.0)
    return worst < 0.05 and all(difference > 0 for _, difference in found)


# --- and the comparison


def test_aggregates_counts_and_what_is_missing(run: tuple[Random, Table], scores: pd.DataFrame) -> None:
    drawn, table = run
    maps = pd.DataFrame(drawn.maps)
    assert table.missing_cells == drawn.missing > 0
    known = maps[maps["target"].notna()].drop_duplicates("row")
    right = [row.target in row.labels for row in known.itertuples()]
    assert table.accuracy == pytest.approx(sum(right) / len(right))
    for line in table.standings:
        own = maps[maps["explainer"] == line.explainer]
        kind = own["outcome"].str.partition(":")[0]
        assert (line.clips, line.skipped, line.failed) == tuple(
            (kind == said).sum() for said in ("explained", "skipped", "failed")
        )
        assert line.degenerate == (own["degenerate"] == True).sum()  # noqa: E712 - or None
        for column in COLUMNS:
            rows = scores[(scores["explainer"] == line.explainer) & (scores["column"] == column)]
            kind = rows["outcome"].str.partition(":")[0]
            counts = line.counts[column]
            assert (counts.scored, counts.skipped, counts.failed) == tuple(
                (kind == said).sum() for said in ("scored", "skipped", "failed")
            )
            assert counts.degenerate == ((kind == "scored") & (rows["degenerate"] == True)).sum()  # noqa: E712
            wanted = aggregate(rows["value"].dropna(), column)
            found = line.values[column]
            assert found == pytest.approx(wanted) if found is not None else math.isnan(wanted)


def test_intervals_and_what_is_above_control(run: tuple[Random, Table], scores: pd.DataFrame) -> None:
    some = 0
    for line in run[1].standings:
        for column in HEADLINE:
            own = wide(scores, column, [line.explainer]).dropna()
            n_groups = own["group"].nunique()
            if n_groups < 2:
                assert column not in line.intervals
                continue
            tail = math.sqrt(n_groups / (n_groups - 1)) * stats.t.ppf(0.025, n_groups - 1)
            share = 100 * stats.norm.cdf(tail)
            wanted = np.percentile(draws(own, column)[:, 0], [share, 100 - share])
            assert line.intervals[column] == pytest.approx(tuple(wanted))
        if line.scope != "control":
            above = [
                name for name in COLUMNS if SIGN[COLUMNS[name]["direction"]] and is_above(scores, line.explainer, name)
            ]
            assert list(line.above) == above
            assert line.above_control == f"{len(set(above) & set(HEADLINE))}/{len(HEADLINE)}"
            some += len(above)
    assert some  # else nothing was tested


def test_ranks_places_and_agreement(run: tuple[Random, Table], scores: pd.DataFrame) -> None:
    _, table = run
    of_methods = scores[scores["explainer"].isin(METHODS) & scores["column"].isin(HEADLINE)].dropna(subset="value")
    values = (
        of_methods.groupby(["column", "explainer"])["value"].apply(lambda own: aggregate(own, own.name[0])).unstack()
    )
    better = values.mul([SIGN[COLUMNS[name]["direction"]] for name in values.index], axis=0)
    ranks = better.rank(axis=1, ascending=False).mean().round(9)
    lines = {line.explainer: line for line in table.standings}
    assert {t: lines[t].mean_rank for t in METHODS} == pytest.approx(ranks.to_dict())
    assert {t: lines[t].place for t in METHODS} == ranks.rank(method="min").astype(int).to_dict()
    assert all(lines[title].place is None for title in SCOPES)
    assert table.agreement is not None
    for a, first in enumerate(table.agreement.columns):
        for b, second in enumerate(table.agreement.columns):
            wanted = stats.kendalltau(better.loc[first], better.loc[second]).statistic
            assert table.agreement.tau[a][b] == pytest.approx(wanted)


def test_who_differs(run: tuple[Random, Table], scores: pd.DataFrame) -> None:
    _, table = run
    found = {one.column: one for one in table.differences}
    assert list(found) == ["all headline columns", *HEADLINE]
    gaps = {name: wide(scores, name, list(METHODS)) for name in HEADLINE}
    for name, own in gaps.items():
        blocks = own.dropna().groupby("group").mean()
        check_friedman(found[name], SIGN[COLUMNS[name]["direction"]] * blocks, own.isna().any(axis=1))
    rows = gaps[HEADLINE[0]].index
    assert all(list(own.sort_index().index) == list(rows.sort_values()) for own in gaps.values())
    left_out = pd.concat([own.isna().any(axis=1) for own in gaps.values()], axis=1).any(axis=1)
    ranks = [
        (SIGN[COLUMNS[name]["direction"]] * own[~left_out.reindex(own.index)].groupby("group").mean()).rank(
            axis=1, ascending=False
        )
        for name, own in gaps.items()
    ]
    check_friedman(found["all headline columns"], -sum(ranks) / len(ranks), left_out)


def check_friedman(found: Any, better: pd.DataFrame, left_out: pd.Series) -> None:
    wanted = stats.friedmanchisquare(*better.round(9).to_numpy().T)
    assert (found.chi_square, found.p) == pytest.approx((wanted.statistic, wanted.pvalue))
    assert (found.groups, found.clips, found.left_out) == (len(better), (~left_out).sum(), left_out.sum())
    ranks = better.round(9).rank(axis=1, ascending=False).mean()
    assert dict(zip(found.methods, found.mean_ranks, strict=True)) == pytest.approx(ranks.to_dict())


def test_pairs(run: tuple[Random, Table], scores: pd.DataFrame) -> None:
    (found,) = compare_two(run[0].store, "m0", "m2")
    assert [one.column for one in found.columns] == [*HEADLINE, "beside"]
    for one in found.columns:
        own = wide(scores, one.column, ["m0", "m2"])
        both, c = own.dropna(), one.comparison
        assert c.difference == pytest.approx(aggregate(both["m0"], one.column) - aggregate(both["m2"], one.column))
        assert (c.clips, c.unpaired, c.groups) == (len(both), len(own) - len(both), both["group"].nunique())
        means = (both["m0"] - both["m2"]).groupby(both["group"]).mean()
        assert c.wilcoxon == pytest.approx(stats.wilcoxon(means, zero_method="zsplit").pvalue)
        assert c.cohen_d == pytest.approx(means.mean() / means.std())
