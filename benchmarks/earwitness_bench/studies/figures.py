"""Figures of studies, each as PNG and as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from earwitness.errors import StoreError

_MOST_BANDS = 15  # more would hide the lines


@dataclass(frozen=True)
class Matrix:
    """A panel of :func:`draw_matrices`.

    Attributes
    ----------
    title : str
    values : sequence of sequence of float or None
        Rows from top to bottom; None is left empty.
    rows, columns : sequence of str
        Names.
    """

    title: str
    values: Sequence[Sequence[float | None]]
    rows: Sequence[str]
    columns: Sequence[str]


def draw_matrices(path: Path, matrices: Sequence[Matrix], *, title: str, row_axis: str, column_axis: str) -> list[Path]:
    """Matrices side by side, with their numbers, each on its own scale around zero.

    Parameters
    ----------
    path : Path
        Without suffix: ``.png`` and ``.svg`` are written.
    matrices : sequence of Matrix
    title, row_axis, column_axis : str

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    size = max(3.2, 0.62 * max(len(matrix.columns) for matrix in matrices) + 2.2)
    figure = Figure(figsize=(size * len(matrices), size + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axis, matrix in zip(axes, matrices, strict=True):
        _draw(axis, matrix)
        axis.set_xlabel(column_axis)
        axis.set_ylabel(row_axis)
    return _save(figure, path, title)


def draw_scatter(path: Path, places: NDArray[np.float64], classes: Sequence[str], *, title: str) -> list[Path]:
    """Points in a plane whose axes have no meaning, coloured by class.

    Parameters
    ----------
    path : Path
        Without suffix: ``.png`` and ``.svg`` are written.
    places : ndarray (n, 2), float
    classes : sequence of str, length n
    title : str

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    figure = Figure(figsize=(7.6, 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    names = list(dict.fromkeys(classes))
    colours = mpl.colormaps["tab20" if len(names) > 10 else "tab10"]
    for number, name in enumerate(sorted(names)):
        own = places[[other == name for other in classes]]
        axis.scatter(own[:, 0], own[:, 1], s=22, color=colours(number % colours.N), label=name, linewidths=0)
    axis.set_xticks([])
    axis.set_yticks([])
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return _save(figure, path, title)


@dataclass(frozen=True)
class Line:
    """A line of :func:`draw_lines`.

    Attributes
    ----------
    name : str
    values : sequence of float or None
        At each place; None is left out.
    intervals : sequence of (float or None, float or None)
        At each place.
    dashed : bool
        For controls.
    """

    name: str
    values: Sequence[float | None]
    intervals: Sequence[Sequence[float | None]]
    dashed: bool = False


def draw_lines(
    path: Path,
    lines: Sequence[Line],
    *,
    places: Sequence[float],
    ticks: Sequence[str],
    title: str,
    x_axis: str,
    y_axis: str,
) -> list[Path]:
    """Lines over common places, each with a band for its intervals; of many lines, without.

    Parameters
    ----------
    path : Path
        Without suffix: ``.png`` and ``.svg`` are written.
    lines : sequence of Line
    places, ticks
        Where the values stand on the horizontal axis, and what is written there.
    title, x_axis, y_axis : str

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    figure = Figure(figsize=(9.6, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = mpl.colormaps["tab20" if len(lines) > 10 else "tab10"]
    for number, line in enumerate(lines):
        values, low, high = (
            np.array([np.nan if v is None else v for v in column], dtype=float)
            for column in (line.values, *zip(*line.intervals, strict=True))
        )
        colour = colours(number % colours.N)
        style = "--" if line.dashed else "-"
        axis.plot(places, values, style, color=colour, label=line.name, linewidth=1.5, marker="o", markersize=3)
        if len(lines) <= _MOST_BANDS:
            axis.fill_between(places, low, high, color=colour, alpha=0.1, linewidth=0)
    axis.set_xticks(places, ticks)
    if max(map(len, ticks), default=0) > 8:
        axis.tick_params(axis="x", rotation=40, labelsize=8)
    axis.set_xlabel(x_axis)
    axis.set_ylabel(y_axis)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    return _save(figure, path, title)


def _save(figure: Figure, path: Path, title: str) -> list[Path]:
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    paths = [path.with_suffix(suffix) for suffix in (".png", ".svg")]
    try:
        with mpl.rc_context({"svg.hashsalt": "earwitness"}):  # equal matrices give equal files
            for written in paths:
                figure.savefig(written, dpi=130, metadata={"Date": None} if written.suffix == ".svg" else None)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    return paths


def _draw(axis: Axes, matrix: Matrix) -> None:
    values = np.array([[np.nan if v is None else v for v in row] for row in matrix.values], dtype=float)
    largest = max(1e-12, float(np.nanmax(np.abs(values), initial=0.0)))
    axis.imshow(values, cmap="RdBu_r", vmin=-largest, vmax=largest)
    axis.set_xticks(range(len(matrix.columns)), matrix.columns, rotation=45, ha="right")
    axis.set_yticks(range(len(matrix.rows)), matrix.rows)
    axis.set_title(matrix.title, loc="left", fontsize=10)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            colour = "white" if abs(value) > 0.6 * largest else "black"
            axis.text(column, row, f"{value:.3g}", ha="center", va="center", fontsize=8, color=colour)
