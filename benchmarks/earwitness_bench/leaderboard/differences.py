"""Do the ranked methods differ at all, and do the columns agree on their order?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters

import numpy as np

from earwitness_bench.leaderboard.columns import ArenaScores, Column, sign_of
from earwitness_bench.statistics import cliques, critical_difference, friedman, group_means, rank_agreement
from earwitness_bench.statistics.groups import Floats, Groups, complete
from earwitness_bench.statistics.ranks import ranks_within
from earwitness_bench.tabulation import json_number

ALL = "all headline columns"


@dataclass(frozen=True)
class Difference:
    """Friedman's test over recordings, and who differs from whom.

    Attributes
    ----------
    column : str
        Title of a headline column; or :data:`ALL`: each recording ranks methods by their mean rank over those columns.
    methods : tuple of str
        Best first.
    mean_ranks : tuple of float
        Over recordings; 1 is best.
    chi_square, p, f, f_p : float or None
        See :class:`earwitness_bench.statistics.Friedman`.
    critical_difference : float
        Methods whose mean ranks are further apart differ (Nemenyi, 5 %).
    cliques : tuple of tuple of str
        The largest sets of methods that do not differ.
    groups, clips, left_out : int
        Recordings, and clips on which all methods have a score; clips on which one has none.
    absent : tuple of str
        Methods without any score there.
    """

    column: str
    methods: tuple[str, ...]
    mean_ranks: tuple[float, ...]
    chi_square: float | None
    p: float | None
    f: float | None
    f_p: float | None
    critical_difference: float
    cliques: tuple[tuple[str, ...], ...]
    groups: int
    clips: int
    left_out: int
    absent: tuple[str, ...]

    @property
    def marks(self) -> tuple[str, ...]:
        """A letter for each clique that a method is in, in the order of ``methods``: who shares one does not differ."""
        letters = [(_letter(number), set(clique)) for number, clique in enumerate(self.cliques)]
        return tuple("".join(letter for letter, clique in letters if name in clique) for name in self.methods)


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau-b between the headline columns, over the ranked methods.

    Attributes
    ----------
    columns : tuple of str
        Titles.
    tau : tuple of tuple of float or None
        Symmetric; None where two columns have fewer than two methods in common, or one has only ties.
    methods : int
    """

    columns: tuple[str, ...]
    tau: tuple[tuple[float | None, ...], ...]
    methods: int


def differences(scores: ArenaScores, methods: Sequence[str], columns: Sequence[Column]) -> tuple[Difference, ...]:
    """Over all headline columns together, then in each of them; without those that fewer than two methods, or two
    recordings, were scored in."""
    if not methods:
        return ()
    found = [_over_all(scores, methods, columns)] if len(columns) > 1 else []
    found += [
        _difference(column["title"], methods, *scores.matrix(methods, column), sign_of(column)) for column in columns
    ]
    return tuple(one for one in found if one is not None)


def agreement(values: Floats, methods: int, columns: Sequence[Column]) -> Agreement | None:
    """Of aggregated scores (methods, columns); None below three methods or two columns."""
    if methods < 3 or len(columns) < 2:
        return None
    tau = rank_agreement(values, [sign_of(column) > 0 for column in columns])
    return Agreement(
        tuple(column["title"] for column in columns),
        tuple(tuple(json_number(value) for value in row) for row in tau.tolist()),
        methods,
    )


def _over_all(scores: ArenaScores, methods: Sequence[str], columns: Sequence[Column]) -> Difference | None:
    """Each recording's mean ranks over columns, as scores of which lower is better. One column is held at a time."""
    came = [scores.come_to(methods, column) for column in columns]
    if any(bool((own != came[0]).any()) for own in came[1:]):  # an unfinished run: the columns are of other clips
        return None
    gaps = [np.isnan(scores.matrix(methods, column)[0]) for column in columns]
    present = [not any(gap[:, place].all() for gap in gaps) for place in range(len(methods))]
    whole = ~np.any([gap[:, present].any(1) for gap in gaps], axis=0)
    ranks: Floats = np.zeros(())
    for column in columns:
        values, groups = scores.matrix(methods, column)
        by_group = group_means(values[whole][:, present] * sign_of(column), groups[whole])
        ranks = ranks + ranks_within(by_group, higher_is_better=True)
    names = [name for name, there in zip(methods, present, strict=True) if there]
    absent = tuple(name for name, there in zip(methods, present, strict=True) if not there)
    counts = (int(whole.sum()), int((~whole).sum()))
    return _tested(ALL, names, ranks / len(columns), higher_is_better=False, counts=counts, absent=absent)


def _difference(title: str, methods: Sequence[str], values: Floats, groups: Groups, sign: float) -> Difference | None:
    present = [not np.isnan(own).all() for own in values.T]
    scored = values[:, present]
    whole = complete(scored)
    names = [name for name, there in zip(methods, present, strict=True) if there]
    absent = tuple(name for name, there in zip(methods, present, strict=True) if not there)
    by_group = group_means(scored, groups)
    counts = (int(whole.sum()), int((~whole).sum()))
    return _tested(title, names, by_group, higher_is_better=sign > 0, counts=counts, absent=absent)


def _tested(
    title: str,
    names: list[str],
    blocks: Floats,
    *,
    higher_is_better: bool,
    counts: tuple[int, int],
    absent: tuple[str, ...],
) -> Difference | None:
    if len(names) < 2 or len(blocks) < 2:
        return None
    found = friedman(blocks, higher_is_better=higher_is_better)
    ranks = np.round(found.mean_ranks, 9)  # sums of equal ranks in another order may differ in the last bit
    apart = critical_difference(len(names), len(blocks))
    order = sorted(range(len(names)), key=lambda place: (ranks[place], names[place]))
    return Difference(
        column=title,
        methods=tuple(names[place] for place in order),
        mean_ranks=tuple(float(ranks[place]) for place in order),
        chi_square=json_number(found.chi_square),
        p=json_number(found.p),
        f=json_number(found.f),
        f_p=json_number(found.f_p),
        critical_difference=apart,
        cliques=tuple(tuple(names[place] for place in clique) for clique in cliques(ranks, apart)),
        groups=len(blocks),
        clips=counts[0],
        left_out=counts[1],
        absent=absent,
    )


def _letter(number: int) -> str:
    """Of a clique: no two have the same."""
    return ascii_letters[number] if number < len(ascii_letters) else f"({number + 1})"
