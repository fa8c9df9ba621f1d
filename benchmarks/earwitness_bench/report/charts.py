"""Where the lines of the report's diagrams go; the templates draw them, in the colours of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from earwitness_bench.leaderboard import Difference
from earwitness_bench.report.facts import Lines

WIDTH = 760.0
"""Of a critical-difference diagram."""

_MARGIN = 190.0
_ROW = 22.0

CURVE_WIDTH, CURVE_HEIGHT = 300.0, 190.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 38.0, 8.0, 10.0, 24.0
COLOURS = 8
"""How many colours curves have; then they begin again, dashed."""


@dataclass(frozen=True)
class Name:
    """A method on a critical-difference diagram: a line from its rank down and out to its name."""

    name: str
    rank: float
    x: float
    y: float
    edge: float
    left: bool


@dataclass(frozen=True)
class Ranks:
    """A critical-difference diagram (Demšar, JMLR 7, 2006, figure 1).

    Attributes
    ----------
    height : float
    ticks : tuple of (float, int)
        Place and rank.
    names : tuple of Name
    bars : tuple of (float, float, float)
        From, to and height: joins methods that do not differ.
    critical : (float, float)
        Ends of the critical difference, drawn above the axis.
    """

    height: float
    ticks: tuple[tuple[float, int], ...]
    names: tuple[Name, ...]
    bars: tuple[tuple[float, float, float], ...]
    critical: tuple[float, float]


AXIS_Y = 54.0


def ranks_of(difference: Difference) -> Ranks:
    """Lay out a critical-difference diagram: the better half at the left, the best on top."""
    count = len(difference.methods)
    half = math.ceil(count / 2)
    below = AXIS_Y + 22 + 9 * len(difference.cliques)

    def x(rank: float) -> float:
        return _MARGIN + (rank - 1) / max(count - 1, 1) * (WIDTH - 2 * _MARGIN)

    names = []
    for place, (name, rank) in enumerate(zip(difference.methods, difference.mean_ranks, strict=True)):
        left = place < half
        y = below + _ROW * (place if left else count - 1 - place)
        names.append(Name(name, rank, x(rank), y, _MARGIN - 14 if left else WIDTH - _MARGIN + 14, left))
    rank_of = dict(zip(difference.methods, difference.mean_ranks, strict=True))
    bars = []
    for number, clique in enumerate(difference.cliques):
        own = [rank_of[name] for name in clique]
        bars.append((x(min(own)) - 4, x(max(own)) + 4, AXIS_Y + 12 + 9 * number))
    critical = (x(1), min(x(1 + difference.critical_difference), WIDTH - 20))
    return Ranks(
        below + _ROW * half, tuple((x(r), r) for r in range(1, count + 1)), tuple(names), tuple(bars), critical
    )


@dataclass(frozen=True)
class Series:
    """A curve as an SVG path, with its number in the legend."""

    name: str
    number: int
    path: str


@dataclass(frozen=True)
class Chart:
    """A small diagram of one column.

    Attributes
    ----------
    title, direction : str
    series : tuple of Series
    x_ticks, y_ticks : tuple of (float, str)
    clips : int
    headline : bool
    """

    title: str
    direction: str
    series: tuple[Series, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    clips: int
    headline: bool


def chart_of(lines: Lines, names: Sequence[str]) -> Chart:
    """Lay out a column's mean curves; ``names`` are those of the legend, in its order."""
    values = [value for name in names if name in lines.y for value in lines.y[name]]
    ticks = _nice(min(values, default=0.0), max(values, default=1.0))
    low, high = ticks[0], ticks[-1]
    first, last = lines.x[0], lines.x[-1]

    def x(value: float) -> float:
        return _LEFT + (value - first) / (last - first) * (CURVE_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + (high - value) / (high - low) * (CURVE_HEIGHT - _TOP - _BOTTOM)

    series = tuple(
        Series(
            name, number, "M" + "L".join(f"{x(a):.1f} {y(b):.1f}" for a, b in zip(lines.x, lines.y[name], strict=True))
        )
        for number, name in enumerate(names)
        if name in lines.y
    )
    middle = [first, (first + last) / 2, last]
    share = last <= 1
    return Chart(
        lines.column["title"],
        lines.column["direction"],
        series,
        tuple((x(value), f"{100 * value:.0f} %" if share else f"{value:g}") for value in middle),
        tuple((y(value), f"{value:g}") for value in ticks),
        lines.clips,
        bool(lines.column["headline"]),
    )


def _nice(low: float, high: float) -> list[float]:
    """Three to six round numbers that span the values."""
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(n * step, 10) for n in range(first, last + 1)]
