"""Two methods, one and all the others, or all of them, pair by pair."""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from earwitness.errors import ConfigurationError, nearest
from earwitness_bench.arena_table import read_arena
from earwitness_bench.leaderboard.columns import ArenaScores, Column, aggregate_of, columns_of, sign_of
from earwitness_bench.leaderboard.formats import text_section
from earwitness_bench.leaderboard.sections import ARROWS, NONE, Section, show, show_p
from earwitness_bench.statistics import Comparison, Pair, compare_many
from earwitness_bench.store import Store
from earwitness_bench.tabulation import json_number, json_ready


@dataclass(frozen=True)
class ColumnComparison:
    """Two methods in a column.

    Attributes
    ----------
    column : str
        Title.
    direction : str
    first, second : str
    better : str or None
        The one whose scores are better; None where the interval of the difference does not exclude 0 after Holm.
    comparison : Comparison
        First less second.
    """

    column: str
    direction: str
    first: str
    second: str
    better: str | None
    comparison: Comparison


@dataclass(frozen=True)
class ArenaComparison:
    """All that is compared in an arena.

    Attributes
    ----------
    arena : str
    columns : tuple of ColumnComparison
    """

    arena: str
    columns: tuple[ColumnComparison, ...]


def compare_two(store: Store, first: str, second: str) -> list[ArenaComparison]:
    """Two methods in every arena that has both, column by column.

    Holm corrects for the number of headline columns, and for that of the other ones.

    Raises
    ------
    ConfigurationError
        They are the same, or no arena has both.
    """
    plan = store.read_plan()
    titles = {e["title"] for arena in plan["arenas"] for e in arena["explainers"]}
    for name in (first, second):
        _check_known("results", name, titles)
    if first == second:
        raise ConfigurationError(f"A comparison is of two methods, got {first!r} twice.")
    found = []
    for arena in plan["arenas"]:
        if {first, second} <= {e["title"] for e in arena["explainers"]}:
            scores = ArenaScores(read_arena(store, plan, arena))
            columns = [c for c in columns_of(plan) if sign_of(c)]
            families = ([c for c in columns if bool(c["headline"]) is headline] for headline in (True, False))
            compared = [_compared(scores, [(first, second, c) for c in family]) for family in families]
            found.append(ArenaComparison(arena["title"], tuple(itertools.chain(*compared))))
    if not found:
        raise ConfigurationError(f"No arena has both {first!r} and {second!r}.")
    return found


def compare_with_others(store: Store, name: str, columns: Sequence[str] = ()) -> list[ArenaComparison]:
    """One method with every other one and every control, in every arena that has it.

    Parameters
    ----------
    store : Store
    name : str
        Title of the method, which stands first in each comparison.
    columns : sequence of str
        Titles; all headline columns without any. Holm corrects for all comparisons of an arena.

    Raises
    ------
    ConfigurationError
        There are no results of that name, or no such column with a better and a worse end.
    """
    plan = store.read_plan()
    directed = {column["title"]: column for column in columns_of(plan) if sign_of(column)}
    _check_known("results", name, {e["title"] for arena in plan["arenas"] for e in arena["explainers"]})
    for title in columns:
        _check_known("columns", title, directed)
    chosen = [column for title, column in directed.items() if title in columns or (not columns and column["headline"])]
    found = []
    for arena in plan["arenas"]:
        titles = [e["title"] for e in arena["explainers"]]
        if name in titles:
            scores = ArenaScores(read_arena(store, plan, arena))
            family = [(name, other, column) for column in chosen for other in titles if other != name]
            found.append(ArenaComparison(arena["title"], tuple(_compared(scores, family))))
    return found


def compare_all(store: Store) -> list[ArenaComparison]:
    """All pairs of post-hoc methods in each headline column of every arena; Holm corrects for the pairs of a column."""
    plan = store.read_plan()
    headline = [column for column in columns_of(plan) if column["headline"] and sign_of(column)]
    found = []
    for arena in plan["arenas"]:
        scores = ArenaScores(read_arena(store, plan, arena))
        methods = [e["title"] for e in arena["explainers"] if e["scope"] == "post-hoc"]
        pairs = list(itertools.combinations(methods, 2))
        compared = [_compared(scores, [(a, b, column) for a, b in pairs]) for column in headline]
        found.append(ArenaComparison(arena["title"], tuple(itertools.chain(*compared))))
    return found


def comparisons_as_json(comparisons: list[ArenaComparison]) -> str:
    """For machines; null where a number is not defined."""
    document = {"schema": 1, "arenas": [json_ready(asdict(c)) for c in comparisons]}
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def comparisons_as_text(comparisons: list[ArenaComparison]) -> str:
    """For a terminal."""
    parts = []
    for arena in comparisons:
        rows: list[tuple[str, ...]] = [_HEAD]
        rows += [_line(column) for column in arena.columns]
        parts.append(f"{arena.arena}\n{'=' * len(arena.arena)}\n" + text_section(Section(_HEADING, tuple(rows), 3)))
    return "\n".join(parts)


_HEAD = (
    *("column", "pair", "better", "difference", "95 % interval", "p (Holm)", "Wilcoxon p (Holm)"),
    *("rank-biserial", "Cohen's d", "recordings", "clips", "unpaired"),
)
_HEADING = "Paired differences, first less second; better: the interval excludes 0 after Holm"


def _check_known(what: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ConfigurationError(f"There is no {name!r} among the {what}. {nearest(name, known)}")


def _compared(scores: ArenaScores, family: list[tuple[str, str, Column]]) -> list[ColumnComparison]:
    """Comparisons that are corrected together."""
    pairs = []
    for first, second, column in family:
        values, groups = scores.matrix([first, second], column)
        pairs.append(Pair(values[:, 0], values[:, 1], groups))
    found = compare_many(pairs, [aggregate_of(column) for _, _, column in family])
    return [
        ColumnComparison(
            column["title"],
            column["direction"],
            first,
            second,
            {1.0: first, -1.0: second}.get(comparison.sign * sign_of(column)),
            comparison,
        )
        for (first, second, column), comparison in zip(family, found, strict=True)
    ]


def _line(found: ColumnComparison) -> tuple[str, ...]:
    c = found.comparison
    low, high = (_shown(end) for end in c.interval)
    return (
        f"{found.column}{ARROWS[found.direction]}",
        f"{found.first} - {found.second}",
        found.better or NONE,
        _shown(c.difference),
        f"[{low}, {high}]",
        show_p(json_number(c.p_holm)),
        show_p(json_number(c.wilcoxon_holm)),
        show(json_number(c.rank_biserial), 2),
        show(json_number(c.cohen_d), 2),
        str(c.groups),
        str(c.clips),
        str(c.unpaired),
    )


def _shown(value: float) -> str:
    return show(json_number(value), 3)
