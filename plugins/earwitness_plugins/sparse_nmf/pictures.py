"""Pictures of a dictionary: all patterns side by side, and each for itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from torch import Tensor

from earwitness.errors import StoreError
from earwitness_plugins.sparse_nmf.dictionary import Dictionary

_LOWEST_HZ = 50.0
_TICKS_HZ = (100, 300, 1000, 3000, 10000)
_LABELLED = 60


def display_order(dictionary: Dictionary) -> list[int]:
    """Patterns of a class together, low ones first."""
    frequencies = _frequencies(dictionary)
    centroids = (frequencies @ dictionary.patterns.double()) / dictionary.patterns.double().sum(0)
    labels = dictionary.labels
    place = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return sorted(range(len(dictionary)), key=lambda number: (place[labels[number]], float(centroids[number])))


def draw_patterns(path: Path, dictionary: Dictionary) -> Path:
    """All patterns as columns over Hz, in :func:`display_order`, with their numbers.

    Raises
    ------
    StoreError
        The file cannot be written.
    """
    order = display_order(dictionary)
    figure = Figure(figsize=(max(5.0, min(20.0, 2.5 + 0.16 * len(order))), 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    edges, rows = _log_rows(dictionary)
    shown = dictionary.patterns[:, order].numpy()[rows]
    norm = PowerNorm(0.5, 0.0, max(float(shown.max()), 1e-12))  # weak bins stay visible beside the strongest
    image = axis.pcolormesh(np.arange(len(order) + 1), edges, shown, cmap="magma", norm=norm, rasterized=True)
    _frequency_axis(axis.yaxis, edges)
    axis.set_ylabel("frequency in Hz")
    _name_columns(axis, dictionary, order)
    figure.colorbar(image, ax=axis, label="weight (columns have unit norm)", pad=0.01)
    figure.suptitle(f"{len(order)} patterns of log(1 + |S|), low ones first", fontsize=10, x=0.01, ha="left")
    return _save(figure, path)


def draw_each(paths: Sequence[Path], dictionary: Dictionary) -> Iterator[Path]:
    """One picture a pattern, its weight over Hz.

    Raises
    ------
    StoreError
        A file cannot be written.
    """
    figure = Figure(figsize=(5.0, 2.6))
    figure.subplots_adjust(left=0.12, right=0.97, bottom=0.2, top=0.88)  # once: it takes longer than to draw
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    frequencies = _frequencies(dictionary).numpy()
    (line,) = axis.plot(frequencies, np.zeros(len(frequencies)), linewidth=1)
    _frequency_axis(axis.xaxis, frequencies[frequencies >= min(_LOWEST_HZ, frequencies[-1])])
    axis.set_xlabel("frequency in Hz")
    axis.set_ylabel("weight")
    for number, path in enumerate(paths):
        weights = dictionary.patterns[:, number].numpy()
        line.set_ydata(weights)
        axis.set_ylim(0.0, 1.05 * float(weights.max()))
        axis.set_title(_name(dictionary, number), loc="left", fontsize=10)
        yield _save(figure, path)


def _name(dictionary: Dictionary, number: int) -> str:
    label = dictionary.labels[number]
    return f"pattern {number}" if label is None else f"pattern {number}, {label}"


def _name_columns(axis: Axes, dictionary: Dictionary, order: Sequence[int]) -> None:
    """Numbers below, where there is room; classes above, between lines."""
    step = -(-len(order) // _LABELLED)
    axis.set_xticks([place + 0.5 for place in range(0, len(order), step)], [str(n) for n in order[::step]], fontsize=7)
    axis.tick_params(axis="x", labelrotation=90)
    axis.set_xlabel("pattern" if step == 1 else f"pattern (one in {step} is numbered)")
    labels = [dictionary.labels[number] for number in order]
    starts = [place for place in range(len(labels)) if not place or labels[place] != labels[place - 1]]
    if len(starts) < 2:
        return
    for start, end in zip(starts, [*starts[1:], len(labels)], strict=True):
        axis.axvline(start, color="white", linewidth=0.8)
        middle = ((start + end) / 2, 1.01)
        text = labels[start] or "noise"
        axis.annotate(text, middle, xycoords=("data", "axes fraction"), rotation=45, fontsize=7, annotation_clip=False)


def _frequencies(dictionary: Dictionary) -> Tensor:
    return dictionary.stft.grid(dictionary.stft.n_fft).frequencies_hz


def _log_rows(dictionary: Dictionary) -> tuple[np.ndarray, np.ndarray]:
    """Edges in Hz of 256 rows on a logarithmic axis, and the bin that each row shows."""
    frequencies = _frequencies(dictionary).numpy()
    edges = np.geomspace(max(_LOWEST_HZ, frequencies[1]), frequencies[-1], 257)
    nearest = np.abs(frequencies[:, None] - np.sqrt(edges[1:] * edges[:-1])).argmin(0)
    return edges, nearest


def _frequency_axis(axis: object, shown: np.ndarray) -> None:
    low, high = float(shown[0]), float(shown[-1])
    ticks = [f for f in _TICKS_HZ if low <= f <= high]
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (low, high)})  # type: ignore[attr-defined]
    axis.set_ticks(ticks, [f"{f:g}" if f < 1000 else f"{f / 1000:g}k" for f in ticks])  # type: ignore[attr-defined]
    axis.set_ticks([], minor=True)  # type: ignore[attr-defined]


def _save(figure: Figure, path: Path) -> Path:
    try:
        figure.savefig(path, dpi=90)
    except OSError as error:
        raise StoreError(f"Cannot write {path}: {error.strerror}.") from error
    return path
