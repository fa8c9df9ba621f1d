"""Numbers of a study's document: JSON knows no NaN, so what is not defined is None."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from earwitness_bench.statistics import group_bootstrap
from earwitness_bench.tabulation import json_number

Floats = NDArray[np.float64]


def floats(values: Sequence[float | None]) -> Floats:
    """With NaN for None: ndarray (n,), float64."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def mean(values: Floats) -> float | None:
    """Of the values that are defined; None where none is."""
    return None if np.isnan(values).all() else json_number(np.nanmean(values))


def interval(values: Floats, groups: Sequence[str]) -> list[float | None]:
    """The 95 % interval of the mean, which resamples ``groups``; Nones where there are fewer than two."""
    return [json_number(end) for end in group_bootstrap(values, groups)]


def mean_and_interval(values: Floats, groups: Sequence[str]) -> dict[str, Any]:
    """Both, by name."""
    return {"mean": mean(values), "interval": interval(values, groups)}


def as_csv(head: Sequence[str], rows: Iterable[Sequence[str | float | None]]) -> str:
    """A table; six digits of a number, and nothing where there is none."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row])
    return text.getvalue()
