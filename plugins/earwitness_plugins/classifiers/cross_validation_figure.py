"""A picture of cross-validated networks: a dot for each fold, a line for the mean."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from earwitness.pictures import save_figure
from earwitness_plugins.classifiers.cross_validation_table import Row, Table, with_deviation

_SPREAD = 0.3  # of a row's height: folds stand apart, the same one always in the same place


def draw_cross_validation(path: Path, table: Table, *, title: str) -> Path:
    """Draw a table.

    Parameters
    ----------
    path : Path
        PNG file to write.
    table : Table
    title : str

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    figure = Figure(figsize=(8.0, 1.5 + 0.62 * len(table.rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, row in enumerate(table.rows):
        _draw_row(axis, row, place, table)
    names = [_name(row, len(table.folds)) for row in table.rows]
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("accuracy in %: mean ± standard deviation over folds")
    axis.grid(axis="x", linewidth=0.4, alpha=0.5)
    handles, labels = _legend(axis)
    figure.legend(handles, labels, title="test fold", loc="outside right upper", frameon=False, fontsize=8)
    figure.suptitle(_plain(title), fontsize=10, x=0.01, ha="left")
    return save_figure(figure, path)


def _name(row: Row, n_folds: int) -> str:
    done = len(row.accuracies)
    partly = "" if done == n_folds else f", {done} of {n_folds} folds"
    return f"{_plain(row.label)}\n{row.n_parameters:,} parameters{partly}"


def _draw_row(axis: Axes, row: Row, place: int, table: Table) -> None:
    colours = mpl.colormaps["tab10"]
    for number, fold in enumerate(table.folds):
        if fold in row.by_fold:
            height = place + _SPREAD * (number / (len(table.folds) - 1) - 0.5) * 2
            axis.scatter(100 * row.by_fold[fold], height, color=colours(number % 10), s=28, label=str(fold), zorder=3)
    mean = 100 * row.mean
    axis.plot([mean, mean], [place - 0.42, place + 0.42], color="black", linewidth=1.6, zorder=2)
    axis.annotate(
        with_deviation(row), (1.0, place), xycoords=("axes fraction", "data"), xytext=(4, 0),
        textcoords="offset points", va="center", fontsize=8, annotation_clip=False,
    )  # fmt: skip


def _legend(axis: Axes) -> tuple[list[Artist], list[str]]:
    """Each fold once, in order."""
    handles, labels = axis.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    order = sorted(found, key=int)
    return [found[label] for label in order], order


def _plain(text: str) -> str:
    """A name as it is: a dollar sign would begin a formula."""
    return text.replace("$", r"\$")
