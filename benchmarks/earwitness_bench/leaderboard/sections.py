"""What a leaderboard says to people, section by section, before it is text, Markdown or LaTeX."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from earwitness_bench.leaderboard.columns import Column
from earwitness_bench.leaderboard.differences import Agreement
from earwitness_bench.leaderboard.tables import Counts, Standing, Table

ARROWS = {"higher": " ↑", "lower": " ↓", "neither": ""}
INCOMPLETE = "†"
NONE = "–"


@dataclass(frozen=True)
class Section:
    """A heading and a grid, or a sentence.

    Attributes
    ----------
    heading : str
    rows : tuple of tuple of str
        The first is the head; none for a sentence.
    names : int
        How many columns, from the left, are names and not numbers.
    """

    heading: str
    rows: tuple[tuple[str, ...], ...] = ()
    names: int = 1


def sections(table: Table) -> Iterator[Section]:
    """The headline; models that explain themselves, in a table of their own; then each metric whose columns are not
    headline, without columns that are empty; then who differs, how columns agree, which clips are behind the numbers,
    and notes."""
    shown = [c for c in table.columns if any(s.values[c["title"]] is not None for s in table.standings)]
    headline = [c for c in shown if c["headline"]]
    if headline:
        yield _headline(table, headline)
        yield from _by_design(table, headline)
    for metric in dict.fromkeys(c["metric"] for c in shown if not c["headline"]):
        chosen = [c for c in shown if c["metric"] == metric and not c["headline"]]
        legend = _legend(table, chosen, "not ranked")
        facts = [(str(s.place or NONE), s.explainer) for s in table.standings]
        rows = [("#", "explainer", *map(_head, chosen))]
        rows += [(*fact, *_cells(s, chosen)) for fact, s in zip(facts, table.standings, strict=True)]
        yield Section(f"{metric.removeprefix('earwitness:')} ({legend})", tuple(rows), 2)
    yield from _differences(table)
    if table.agreement:
        yield _agreement(table.agreement)
    yield _clips(table, shown)
    yield from _fits(table)
    if table.notes:
        yield Section(f"Notes: {'; '.join(table.notes)}.")
    yield Section(_origin(table))


def show(value: float | None, digits: int) -> str:
    """A number for eyes."""
    if value is None:
        return NONE
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"


def show_p(value: float | None) -> str:
    """A p-value for eyes: it is never 0."""
    if value is None:
        return NONE
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _headline(table: Table, columns: list[Column]) -> Section:
    legend = _legend(table, columns, f"{NONE} is not ranked")
    rows = [("#", "explainer", "mean rank", "above control", *map(_head, columns))]
    for s in table.standings:
        if s.scope == "by-design":
            continue
        facts = (str(s.place or NONE), s.explainer, show(s.mean_rank, 2), s.above_control or NONE)
        rows.append((*facts, *_cells(s, columns)))
    return Section(f"Headline ({legend}; in brackets the 95 % interval over source recordings)", tuple(rows), 2)


def _by_design(table: Table, columns: list[Column]) -> Iterator[Section]:
    """What a classifier says of itself, with its accuracy; then what methods say of the same network."""
    standings = sorted((s for s in table.standings if s.scope != "control"), key=lambda s: s.scope != "by-design")
    if not standings or standings[0].scope != "by-design":
        return
    accuracy = NONE if table.accuracy is None else f"{100 * table.accuracy:.1f} %"
    rows = [("explainer", "scope", "accuracy", "above control", *map(_head, columns))]
    rows += [(s.explainer, s.scope, accuracy, s.above_control or NONE, *_cells(s, columns)) for s in standings]
    yield Section(
        "By design: a classifier that explains itself, and methods that explain the same network, for comparison "
        f"({_legend(table, columns, 'not ranked')}; accuracy is the classifier's, on these clips)",
        tuple(rows),
        2,
    )


def _legend(table: Table, columns: list[Column], first: str) -> str:
    incomplete = any(_is_incomplete(s.counts[c["title"]]) for s in table.standings for c in columns)
    said = [first, "* is above control"] + ([f"{INCOMPLETE} not every clip has a score"] if incomplete else [])
    return "; ".join(said)


def _head(column: Column) -> str:
    return f"{column['title']}{ARROWS[column['direction']]}"


def _cells(standing: Standing, columns: list[Column]) -> list[str]:
    return [_cell(standing, column["title"]) for column in columns]


def _cell(standing: Standing, title: str) -> str:
    value = show(standing.values[title], 3) + ("*" if title in standing.above else "")
    if standing.values[title] is not None and _is_incomplete(standing.counts[title]):
        value += INCOMPLETE
    if title not in standing.intervals:
        return value
    low, high = standing.intervals[title]
    return f"{value} [{show(low, 2)}, {show(high, 2)}]"


def _is_incomplete(counts: Counts) -> bool:
    return bool(counts.skipped or counts.failed)


def _differences(table: Table) -> Iterator[Section]:
    """The first of them, which is over all columns where there are several, with letters for the cliques."""
    if sum(standing.place is not None for standing in table.standings) < 2:
        return
    if not table.differences:
        yield Section("Who differs was not tested: no two recordings have scores of all methods.")
        return
    found = table.differences[0]
    rows = [("explainer", "mean rank", "does not differ from those with the same letter")]
    rows += [
        (name, show(rank, 2), marks)
        for name, rank, marks in zip(found.methods, found.mean_ranks, found.marks, strict=True)
    ]
    left_out = ([f"{found.left_out} clips, on which one has no score"] if found.left_out else []) + list(found.absent)
    yield Section(
        f"Who differs, on {found.column}: ranks within each of {found.groups} recordings (Friedman chi2 = "
        f"{show(found.chi_square, 2)}, p {_is(found.p)}); means more than {found.critical_difference:.2f} apart differ "
        f"(Nemenyi, 5 %){'; without ' if left_out else ''}{', '.join(left_out)}",
        tuple(rows),
    )


def _is(p: float | None) -> str:
    said = show_p(p)
    return said if said.startswith("<") else f"= {said}"


def _agreement(found: Agreement) -> Section:
    rows = [("", *found.columns)]
    rows += [(name, *(show(tau, 2) for tau in line)) for name, line in zip(found.columns, found.tau, strict=True)]
    return Section(f"Do the columns agree? Kendall's tau-b of the order of {found.methods} methods", tuple(rows))


def _clips(table: Table, shown: list[Column]) -> Section:
    """How many clips are behind each number; columns with the same counts for everybody share one."""
    profiles: dict[tuple[Counts, ...], list[Column]] = {}
    for column in shown:
        profile = tuple(standing.counts[column["title"]] for standing in table.standings)
        profiles.setdefault(profile, []).append(column)
    counts = [c for profile in profiles for c in profile]
    sizes = {c.scored for c in counts}
    if counts and len(sizes) == 1 and not any(_is_incomplete(c) or c.degenerate for c in counts):
        return Section(
            f"Clips: every explainer has a score on all {sizes.pop()} clips, and every map points somewhere."
        )
    if not counts:
        return Section("Clips: nothing has a score yet.")
    rows = [("explainer", *(_profile_name(columns, shown) for columns in profiles.values()))]
    most = max(c.scored + c.skipped + c.failed for c in counts)
    plain = Counts(most, 0, 0, 0)
    for place, standing in enumerate(table.standings):
        own = [profile[place] for profile in profiles]
        if any(c != plain for c in own):
            rows.append((standing.explainer, *map(_show_counts, own)))
    if len(rows) <= len(table.standings):
        rows.append(("everybody else", *[_show_counts(plain)] * len(profiles)))
    return Section("Clips: scored/skipped/failed/pointing nowhere (of the scored ones)", tuple(rows))


def _fits(table: Table) -> Iterator[Section]:
    """What was fitted, and what that took."""
    fitted = [standing for standing in table.standings if standing.fit_seconds is not None]
    if fitted:
        rows = [("explainer", "fit, seconds", "fitted parameters")]
        rows += [
            (s.explainer, f"{s.fit_seconds:.0f}", NONE if s.n_parameters is None else f"{s.n_parameters:,}")
            for s in fitted
        ]
        yield Section("Fits", tuple(rows))


def _show_counts(c: Counts) -> str:
    return f"{c.scored}/{c.skipped}/{c.failed}/{c.degenerate}"


def _profile_name(columns: list[Column], shown: list[Column]) -> str:
    """Metrics by their names where all their columns are meant."""
    if len(columns) == len(shown):
        return "all columns"
    titles = {column["title"] for column in columns}
    names = []
    for column in columns:
        whole = {c["title"] for c in shown if c["metric"] == column["metric"]} <= titles
        names.append(column["metric"].removeprefix("earwitness:") if whole else column["title"])
    return ", ".join(dict.fromkeys(names))


def _origin(table: Table) -> str:
    """One version of each metric, one seed."""
    versions = {column["metric"].removeprefix("earwitness:"): column["version"] for column in table.columns}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    return ("" if table.seed is None else f"Seed {table.seed}. ") + f"Metric versions: {said}."
