"""Do explainers look at the same places? From the maps that a run has kept."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness_bench.packing import unpack
from earwitness_bench.statistics import group_bootstrap, standard_ranks
from earwitness_bench.store import Store


@dataclass(frozen=True)
class MapAgreement:
    """Spearman's correlation of two explainers' maps.

    Attributes
    ----------
    first, second : str
        Titles.
    mean : float or None
        Over clips.
    interval : (float, float) or None
        95 %, over source recordings; None for fewer than two.
    clips : int
        On which both have a map that is not constant.
    constant, apart, absent : int
        Clips that are left out: one of the maps is constant; they are on different grids (one on the classifier's
        features, one on the listening STFT), which only Hz and seconds could join; one was not explained, has no map,
        or its map was not kept.
    """

    first: str
    second: str
    mean: float | None
    interval: tuple[float, float] | None
    clips: int
    constant: int
    apart: int
    absent: int


@dataclass
class _Tally:
    values: list[float] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


_Ranked = tuple[tuple[Any, ...], Tensor]
"""The grid of a map, and its standard ranks (M,)."""


def map_agreements(store: Store, arena: str) -> list[MapAgreement]:
    """Every two explainers of an arena that are no controls, clip by clip.

    What is compared is a method's own mask where it has one, else its relevance with its sign, on the grid on which it
    was kept. One chunk of clips is held at a time.

    Parameters
    ----------
    store : Store
    arena : str
        Title; one that the run has not gives an empty list.

    Returns
    -------
    list of MapAgreement
        In the order of the suite.
    """
    explainers = [
        explainer
        for document in store.read_plan()["arenas"]
        if document["title"] == arena
        for explainer in document["explainers"]
        if explainer["scope"] != "control"
    ]
    pairs = list(itertools.combinations(range(len(explainers)), 2))
    tallies = {pair: _Tally() for pair in pairs}
    for cells in zip(*(explainer["cells"] for explainer in explainers), strict=True):
        ranked = [dict(_ranked_maps(store, cell["explain"])) for cell in cells]
        for row, group in _rows(store, [cell["explain"] for cell in cells]).items():
            for pair in pairs:
                _count(tallies[pair], [ranked[place].get(row) for place in pair], group)
    return [_agreement(explainers[a]["title"], explainers[b]["title"], tally) for (a, b), tally in tallies.items()]


def _rows(store: Store, keys: list[str]) -> dict[str, str]:
    """The group of each row of a chunk, from whichever explainer has come to it."""
    cells = [store.read_cell("explain", key) for key in keys]
    return {row["row"]: row["group"] for cell in cells if cell is not None for row in cell["rows"]}


def _ranked_maps(store: Store, key: str) -> Iterator[tuple[str, _Ranked]]:
    """Each explained row of a chunk with its map."""
    cell, kept = store.read_cell("explain", key), store.read_maps(key)
    if cell is None or kept is None:
        return
    explanation = unpack(*kept)
    found = explanation.mask or explanation.relevance
    if found is None:
        return
    grid = (found.domain, *found.values.shape[1:])
    names = [row["row"] for row in cell["rows"] if row["outcome"] == "explained"]
    for name, ranks in zip(names, standard_ranks(found.values), strict=True):
        yield name, (grid, ranks)


def _count(tally: _Tally, maps: list[_Ranked | None], group: str) -> None:
    there = [one for one in maps if one is not None]
    if len(there) < 2:
        tally.left_out["absent"] += 1
    elif there[0][0] != there[1][0]:
        tally.left_out["apart"] += 1
    elif math.isnan(value := float(torch.dot(there[0][1], there[1][1]))):
        tally.left_out["constant"] += 1
    else:
        tally.values.append(value)
        tally.groups.append(group)


def _agreement(first: str, second: str, tally: _Tally) -> MapAgreement:
    values = np.array(tally.values, dtype=np.float64)
    low, high = group_bootstrap(values, tally.groups)
    return MapAgreement(
        first,
        second,
        float(values.mean()) if len(values) else None,
        None if math.isnan(low) else (low, high),
        len(values),
        **{reason: tally.left_out[reason] for reason in ("constant", "apart", "absent")},
    )
