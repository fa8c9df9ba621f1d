"""From scores to a ranking: the mean rank over headline columns, controls beside it, never a sum of raw scores."""

from __future__ import annotations

from earwitness_bench.leaderboard.comparisons import (
    ArenaComparison,
    ColumnComparison,
    compare_all,
    compare_two,
    compare_with_others,
    comparisons_as_json,
    comparisons_as_text,
)
from earwitness_bench.leaderboard.diagram import draw_critical_difference
from earwitness_bench.leaderboard.differences import Agreement, Difference
from earwitness_bench.leaderboard.formats import FORMATS, as_csv, as_json, as_markdown, as_tex, as_text
from earwitness_bench.leaderboard.pages import write_pages
from earwitness_bench.leaderboard.tables import Counts, Standing, Table, make_tables

__all__ = [
    "FORMATS",
    "Agreement",
    "ArenaComparison",
    "ColumnComparison",
    "Counts",
    "Difference",
    "Standing",
    "Table",
    "as_csv",
    "as_json",
    "as_markdown",
    "as_tex",
    "as_text",
    "compare_all",
    "compare_two",
    "compare_with_others",
    "comparisons_as_json",
    "comparisons_as_text",
    "draw_critical_difference",
    "make_tables",
    "write_pages",
]
