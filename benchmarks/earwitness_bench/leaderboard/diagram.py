"""The critical-difference diagram (Demšar, JMLR 7, 2006, figure 1)."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from earwitness.errors import StoreError
from earwitness_bench.leaderboard.differences import Difference

_ROW = 0.30
"""Inches from one name to the next."""


def draw_critical_difference(path: Path, difference: Difference, *, title: str) -> Path:
    """Methods on the axis of their mean ranks, the best at the left; a bar joins those that do not differ.

    Parameters
    ----------
    path : Path
        ``.svg`` or ``.png`` file to write; equal differences give equal files.
    difference : Difference
    title : str
        Printed above.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    count = len(difference.methods)
    rows = math.ceil(count / 2)
    bars = len(difference.cliques)
    depth = 1.2 + 0.45 * bars + rows  # in rows, below the axis
    figure = Figure(figsize=(9.0, 0.95 + _ROW * (depth + 2.2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_axis_off()
    margin = 0.75 * (count - 1)
    axes.set_xlim(1 - margin, max(count + margin, 1.1 + difference.critical_difference))
    axes.set_ylim(-depth, 2.2)
    _axis(axes, count, difference.critical_difference)
    for place, (name, rank) in enumerate(zip(difference.methods, difference.mean_ranks, strict=True)):
        _method(axes, name, rank, _Place(place, count, rows, 0.9 + 0.45 * bars))
    ranks = dict(zip(difference.methods, difference.mean_ranks, strict=True))
    for number, clique in enumerate(difference.cliques):
        own = [ranks[name] for name in clique]
        overhang = 0.012 * count
        height = -0.5 - 0.45 * number
        axes.plot([min(own) - overhang, max(own) + overhang], [height, height], color="black", lw=3.5)
    figure.suptitle(title, fontsize=10, x=0.01, ha="left", wrap=True, parse_math=False)
    try:
        with mpl.rc_context({"svg.hashsalt": "earwitness"}):
            figure.savefig(path, dpi=130, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    return path


def _axis(axes: Axes, count: int, critical_difference: float) -> None:
    axes.plot([1, count], [0, 0], color="black", lw=1)
    for rank in range(1, count + 1):
        axes.plot([rank, rank], [0, 0.25], color="black", lw=1)
        axes.text(rank, 0.4, str(rank), ha="center", va="bottom", fontsize=8)
    end = 1 + critical_difference
    axes.plot([1, end], [1.6, 1.6], color="black", lw=1.5)
    for edge in (1, end):
        axes.plot([edge, edge], [1.45, 1.75], color="black", lw=1.5)
    axes.text((1 + end) / 2, 1.75, f"CD = {critical_difference:.2f}", ha="center", va="bottom", fontsize=8)


class _Place:
    """Where a name stands: the better half at the left, the best on top; the others at the right, the worst on top."""

    def __init__(self, place: int, count: int, rows: int, start: float) -> None:
        self.is_left = place < rows
        self.height = -start - (place if self.is_left else count - 1 - place)
        self.edge = 1 - 0.06 * count if self.is_left else count + 0.06 * count
        self.alignment = "right" if self.is_left else "left"


def _method(axes: Axes, name: str, rank: float, place: _Place) -> None:
    axes.plot([rank, rank, place.edge], [0, place.height, place.height], color="black", lw=0.8)
    gap = np.copysign(0.015 * axes.get_xlim()[1], 1 if not place.is_left else -1)
    axes.text(
        place.edge + gap,
        place.height,
        f"{name} ({rank:.2f})",
        ha=place.alignment,
        va="center",
        fontsize=8,
        parse_math=False,
    )
