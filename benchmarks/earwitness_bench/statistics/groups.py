"""Groups: the recordings that clips were cut from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Groups = Sequence[str] | NDArray[np.int64]
"""Names of recordings; or their numbers in the order of the names, which a million rows are sorted by much faster."""


def group_places(groups: Groups) -> tuple[Places, int]:
    """The place of each row's group among the sorted names or numbers, and how many groups there are."""
    given = groups if isinstance(groups, np.ndarray) else np.asarray(groups, dtype=object).astype(str)
    names, places = np.unique(given, return_inverse=True)
    return places, len(names)


def some_groups(groups: Groups, kept: NDArray[np.bool_]) -> Groups:
    """The groups of some rows: ``kept`` (n,) says which."""
    if isinstance(groups, np.ndarray):
        return groups[kept]
    left: list[str] = np.asarray(groups, dtype=object)[kept].tolist()
    return left


def complete(values: Floats) -> NDArray[np.bool_]:
    """Which rows of (n,) or (n, k) hold no NaN: ndarray (n,), bool."""
    whole = values if values.ndim > 1 else values[:, None]
    kept: NDArray[np.bool_] = np.logical_not(np.isnan(whole).any(axis=1))
    return kept


def group_means(values: Floats, groups: Groups) -> Floats:
    """One value for each group: the mean over its clips.

    Parameters
    ----------
    values : ndarray (n,) or (n, k), float
        A row for each clip. A row with a NaN is left out, with all its columns: what is compared is measured on the
        same clips.
    groups : sequence of str or of int, length n

    Returns
    -------
    ndarray (G,) or (G, k), float
        In the order of the groups' sorted names; only groups of which a row is left.
    """
    whole = values if values.ndim > 1 else values[:, None]
    kept = complete(values)
    places, n_groups = group_places(some_groups(groups, kept))
    sums = np.zeros((n_groups, whole.shape[1]))
    np.add.at(sums, places, whole[kept])
    means = sums / np.bincount(places, minlength=n_groups)[:, None]
    return means if values.ndim > 1 else means[:, 0]
