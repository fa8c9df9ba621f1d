"""Computes one kept cell again, from nothing, and compares."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earwitness.errors import StoreError
from earwitness.registry import Registry
from earwitness_bench.engines.process import cpu_threads
from earwitness_bench.planned_keys import PlannedCells
from earwitness_bench.runner import make_plan
from earwitness_bench.store import Kind, Store
from earwitness_bench.suite import Suite, parse_suite
from earwitness_bench.tasks import Task
from earwitness_bench.worker import Worker

UNLIKE = frozenset(
    {"seconds", "peak_memory_mb", "machine", "traceback", "provenance", "explain", "key", "schema", "rows_per_call"}
)
"""What may differ between two computations of one cell, and what is compared by itself."""


@dataclass(frozen=True)
class Reproduction:
    """How a cell came out the second time.

    Attributes
    ----------
    kind, key, title : str
    equal : bool
        Every value, outcome, and bit of the maps.
    difference : float
        The largest one between two numbers, or two cells of a map over its row's peak; infinite where one is missing.
    changed : tuple of str
        What the numbers depend on and is not as it was then, ``"torch: 2.11.0, now 2.12.0"``.
    said : tuple of str
        Outcomes and other texts that differ.
    """

    kind: Kind
    key: str
    title: str
    equal: bool
    difference: float
    changed: tuple[str, ...]
    said: tuple[str, ...]


def reproduce(
    cell: str, out: str | os.PathLike[str], *, registry: Registry, device: torch.device | str | None = None
) -> Reproduction:
    """Compute a cell of a results folder again, in a temporary one, and compare the two.

    Parameters
    ----------
    cell : str
        Its key, or the beginning of it.
    out : str or Path
        The results folder. Its plan says how to come by the data and the classifier; fitted explainers are taken from
        there, since their checksums are part of what is reproduced.
    registry : Registry
    device : torch.device or str, optional
        Default: the kind of device that it was computed on.

    Raises
    ------
    StoreError
        There is no such cell, or more than one, or it is not part of the last run.
    """
    store = Store(out)
    kind, key = _the_cell(store, cell)
    kept = store.read_cell(kind, key)
    if kept is None:
        raise StoreError(f"The cell {key} is damaged. Give the same `earwitness bench` again: it is computed anew.")
    document = store.read_plan()
    arena, explainer, chunk, judge = _position(document, key)
    suite = parse_suite(document["suite"])
    device = device or document["environment"]["device"]
    with cpu_threads(document["environment"]["threads"]), tempfile.TemporaryDirectory() as scratch:
        plan, _ = make_plan(_only(suite, arena), store, registry=registry, device=device)
        number = chunk * len(plan.lineups[0].contestants) + explainer
        if kind == "score":
            plan = replace(plan, judges=(plan.judges[judge],))
        worker = Worker(plan, Store(scratch, create=True), registry)
        worker(Task(number))
        unit = plan[number]
        new_key = unit.explain_key if kind == "explain" else unit.score_keys[0]
        again = worker.store.read_cell(kind, new_key)
        maps = _map_difference(store, key, worker.store, new_key) if kind == "explain" else 0.0
    explained = kept if kind == "explain" else store.read_cell("explain", kept["explain"])
    before = (explained or {}).get("provenance") or {}
    difference, said = _compare(_comparable(kept), _comparable(again or {}))
    changed = _changed(
        {**before, "rows_per_call": kept.get("rows_per_call")},
        {**unit.provenance, "rows_per_call": (again or {}).get("rows_per_call")},
    )
    equal = difference == 0 and maps == 0 and not said
    return Reproduction(kind, key, kept["title"], equal, max(difference, maps), tuple(changed), tuple(said))


def _the_cell(store: Store, beginning: str) -> tuple[Kind, str]:
    beginning = Path(beginning).stem
    found = store.keys_like(beginning) if len(beginning) >= 4 else []
    if len(found) == 1:
        return found[0]
    if found:
        raise StoreError(f"{len(found)} cells of {store.folder} begin with {beginning!r}. Give more of the key.")
    raise StoreError(
        f"{store.folder} has no cell {beginning!r}. Give the name of a file in its folder `cells`, or at least the "
        "first four characters of one."
    )


def _position(plan: dict[str, Any], key: str) -> tuple[int, int, int, int]:
    """Numbers of the arena, explainer, chunk and metric of a cell."""
    for a, arena in enumerate(plan["arenas"]):
        for e, explainer in enumerate(arena["explainers"]):
            found = _find(explainer["cells"], key)
            if found is not None:
                return a, e, *found
    raise StoreError(
        f"The cell {key[:12]}… is not part of the last run of this folder. Run the suite it belongs to again."
    )


def _find(cells: Sequence[dict[str, Any]], key: str) -> tuple[int, int] | None:
    """The chunk and the metric of a cell; -1 is the explanation."""
    if isinstance(cells, PlannedCells):
        found = cells.find(key)
        return None if found is None else (found[0], found[1] - 1)
    for c, cell in enumerate(cells):
        keys = [cell["explain"], *cell["scores"]]
        if key in keys:
            return c, keys.index(key) - 1
    return None


def _only(suite: Suite, arena: int) -> Suite:
    return suite.model_copy(update={"arenas": (suite.arenas[arena],)})


def _comparable(cell: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in cell.items() if name not in UNLIKE}


def _compare(one: Any, other: Any, where: str = "") -> tuple[float, list[str]]:
    """Largest difference between numbers, and the places where anything else differs."""
    if isinstance(one, dict) and isinstance(other, dict):
        pairs = [(one.get(k), other.get(k), f"{where}.{k}" if where else str(k)) for k in {**one, **other}]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [(a, b, f"{where}[{i}]") for i, (a, b) in enumerate(zip(one, other, strict=True))]
    elif _is_number(one) and _is_number(other):
        return abs(one - other), []
    elif one == other:
        return 0.0, []
    else:
        return math.inf, [f"{where}: {one!r}, now {other!r}"]
    compared = [_compare(a, b, place) for a, b, place in pairs]
    return max((difference for difference, _ in compared), default=0.0), [text for _, said in compared for text in said]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _map_difference(one: Store, key: str, other: Store, new_key: str) -> float:
    """Largest difference between the maps of two stores; 0 where the first did not keep them."""
    kept, again = one.read_maps(key), other.read_maps(new_key)
    if kept is None:
        return 0.0
    if again is None or set(kept[0]) != set(again[0]):
        return math.inf
    return max((_apart(values, again[0][name]) for name, values in kept[0].items()), default=0.0)


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return math.inf
    return float((one.double() - other.double()).abs().max()) if one.numel() else 0.0


def _changed(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What a cell depends on and is not as it was."""
    flat_before, flat_now = _flat(before), _flat(now)
    names = [name for name in {**flat_before, **flat_now} if flat_before.get(name) != flat_now.get(name)]
    return [f"{name}: {flat_before.get(name)}, now {flat_now.get(name)}" for name in names]


def _flat(document: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in document.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
