"""Results that were written by hand: of one arena and one metric, without a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from earwitness_bench.leaderboard import Standing, Table, make_tables
from earwitness_bench.store import Store

CONTROLS = {"noise": "earwitness:uniform-noise", "loud": "earwitness:loudness", "gain": "earwitness:constant-gain"}
COLUMNS = {
    "up": {"direction": "higher", "aggregate": "mean", "headline": True},
    "down": {"direction": "lower", "aggregate": "mean", "headline": True},
}
ROWS = 8
Values = dict[str, dict[str, list[float | None]]]


def write(
    out: Path,
    values: Values,
    *,
    columns: dict[str, dict[str, Any]] | None = None,
    scopes: dict[str, str] | None = None,
    identities: dict[str, str] | None = None,
    failed: tuple[str, ...] = (),
    absent: tuple[str, ...] = (),
    degenerate: dict[str, int] | None = None,
    groups: list[str] | None = None,
    outcomes: dict[str, list[str]] | None = None,
) -> Store:
    """Results of one arena and one metric: ``values[explainer][column]``, one chunk each."""
    out.mkdir(parents=True, exist_ok=True)
    store, columns = Store(out, create=True), columns or COLUMNS
    explainers = []
    for title, own in values.items():
        rows = [
            {
                "row": f"clip-{n}",
                "clip_id": f"clip-{n}",
                "group": (groups or [f"group-{n}" for n in range(ROWS)])[n],
                "labels": [],
                "target": "dog",
                "outcome": "failed: out of luck" if title in failed else "explained",
                "degenerate": None if title in failed else n < (degenerate or {}).get(title, 0),
                "diagnostics": {},
            }
            for n in range(ROWS)
        ]
        said = {"status": "failed", "error": "out of luck"} if title in failed else {"status": "ok"}
        store.write_cell("explain", f"e-{title}", {**said, "rows": rows})
        cell = {"columns": own, "outcomes": (outcomes or {}).get(title, ["scored"] * ROWS)}
        if title not in absent:
            store.write_cell("score", f"s-{title}", cell)
        control = (scopes or {}).get(title) == "control"
        shuffle_of = title.removeprefix("shuffled: ") if title.startswith("shuffled: ") else None
        explainers.append(
            {
                "title": title,
                "scope": "control" if control or shuffle_of else (scopes or {}).get(title, "post-hoc"),
                "shuffle_of": shuffle_of,
                "identity": {"name": (identities or {}).get(title, f"stubs:{title}")},
                "cells": [{"explain": f"e-{title}", "scores": [f"s-{title}"]}],
            }
        )
    metric = {"name": "stubs:both", "version": 1, "columns": [{"name": n, **c} for n, c in columns.items()]}
    store.write_plan({"metrics": [metric], "arenas": [{"title": "here", "explainers": explainers}]})
    return store


def constant(up: float | None, down: float | None) -> dict[str, list[float | None]]:
    return {"up": [up] * ROWS, "down": [down] * ROWS}


def table_of(store: Store) -> Table:
    (table,) = make_tables(store)
    return table


def line_of(table: Table, explainer: str) -> Standing:
    return next(line for line in table.standings if line.explainer == explainer)
