"""The results folder. One JSON file per cell is the truth; everything else is derived.

::

    DIR/plan.json                          which cells make up the last run; the keys of many in plan-….keys
    DIR/cells/explain/ab/ab12….json        one explained chunk: rows, diagnostics, seconds, provenance
    DIR/cells/score/cd/cd34….json          one metric on it: values and outcomes per row
    DIR/cells/study/ef/ef56….json          one piece of a study
    DIR/maps/ab/ab12….safetensors          the maps, half precision (absent above the size cap)
    DIR/fits/…                             fitted explainers
    DIR/scores.parquet                     derived: one row per clip, explainer and column
    DIR/run.log                            what ``earwitness bench`` did, what failed, which workers ended

Runs of more than a million cells have folders in these folders, ``ab/12/ab12….json``; readers look in both places.

A file is written beside its place and moved there, so a kill leaves it whole or absent. Cells and maps carry their own
checksum; a damaged one is set aside (``*.corrupt``) and computed again. A file's name is the hash of all that can
change its content: folders of several machines are merged by copying ``cells``, ``maps`` and ``fits`` together, and two
processes may work on one folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from earwitness.artifacts import digest_of, load_tensors, save_tensors, write_json
from earwitness.errors import CheckpointError, StoreError
from earwitness.identity import digest_of_tensors
from earwitness_bench.planned_keys import planned_cells, write_keys

SCHEMA = 2
_PLAN_SCHEMA = 3
_MAPS_SCHEMA = 1

INLINE_CELLS = 100_000
"""A plan of more cells keeps their keys in a file of their own: see :mod:`earwitness_bench.planned_keys`."""

DEEP_CELLS = 2**20
"""A run of more cells has folders in its 256 folders: above 4096 files each, listing and copying one gets slow."""

LEFTOVER_S = 3600.0
"""A temporary file that is older was left by a writer that was killed: writing one takes milliseconds."""

Kind = Literal["explain", "score", "study"]


class Store:
    """A results folder.

    Parameters
    ----------
    folder : str or Path
    create : bool
        Make it if need be; otherwise it must exist.

    Raises
    ------
    StoreError
        It does not exist, or cannot be made or written to.
    """

    def __init__(self, folder: str | os.PathLike[str], *, create: bool = False) -> None:
        self.folder = folder = Path(folder)
        self._deep = False
        if create:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StoreError(f"Cannot make the results folder {folder}: {error.strerror}.") from error
            if not os.access(folder, os.W_OK):
                raise StoreError(f"The results folder {folder} is not writable. Choose another --out.")
        elif not (folder / "plan.json").is_file():
            raise StoreError(f"{folder} holds no results (plan.json is missing). Run `earwitness bench` first.")

    def cell_path(self, kind: Kind, key: str) -> Path:
        """Where a cell lies, or is to be written."""
        return self._place(self.folder / "cells" / kind, key, ".json")

    def _place(self, folder: Path, key: str, suffix: str) -> Path:
        """Folders of both depths may have been merged: what is there is found wherever it lies."""
        places = [folder / key[:2] / f"{key}{suffix}", folder / key[:2] / key[2:4] / f"{key}{suffix}"]
        usual, other = reversed(places) if self._deep else places
        return other if other.exists() and not usual.exists() else usual

    def read_cell(self, kind: Kind, key: str) -> dict[str, Any] | None:
        """A cell, or None if there is none; a damaged one is set aside.

        Raises
        ------
        StoreError
            The file is there and cannot be read, or a newer earwitness wrote it.
        """
        path = self.cell_path(kind, key)
        try:
            cell: dict[str, Any] = json.loads(path.read_bytes())
            checksum = cell.pop("checksum")
            if (cell["kind"], cell["key"]) != (kind, key) or checksum != digest_of(cell):
                raise ValueError("another cell, or altered")
            cell = _migrated(cell, path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
        except (ValueError, KeyError, TypeError, AttributeError):
            _set_aside(path)
            return None
        return cell

    def write_cell(self, kind: Kind, key: str, cell: dict[str, Any]) -> None:
        """Write a cell, whole or not at all."""
        document = {"schema": SCHEMA, "kind": kind, "key": key, **cell}
        write_json(self.cell_path(kind, key), {**document, "checksum": digest_of(document)})

    def maps_path(self, key: str) -> Path:
        """Where an explanation's maps lie, or are to be written."""
        return self._place(self.folder / "maps", key, ".safetensors")

    def read_maps(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The maps of an explanation, or None if they were not kept or are damaged."""
        path = self.maps_path(key)
        if not path.exists():
            return None
        try:
            tensors, header = load_tensors(path)
            if header["schema"] != _MAPS_SCHEMA or header["checksum"] != digest_of([key, digest_of_tensors(tensors)]):
                raise ValueError("another schema, another explanation, or altered")
            document: dict[str, Any] = header["document"]
        except (CheckpointError, ValueError, KeyError):
            _set_aside(path)
            return None
        return tensors, document

    def write_maps(self, key: str, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Keep the maps of an explanation."""
        checksum = digest_of([key, digest_of_tensors(tensors)])
        save_tensors(self.maps_path(key), tensors, {"schema": _MAPS_SCHEMA, "checksum": checksum, "document": document})

    def write_plan(self, plan: dict[str, Any], keys: Iterable[Sequence[str]] | None = None) -> None:
        """Say which cells make up this run.

        Parameters
        ----------
        plan : dict
            As :meth:`read_plan` gives it; or without the explainers' ``cells``, with the number of ``chunks`` of each
            arena, and with ``keys``.
        keys : iterable of sequence of str, optional
            Of each unit, in the order of the plan: the explanation's key, then one for each metric.

        Raises
        ------
        StoreError
            It cannot be written; or a metric was added to a plan whose keys lie in a file of their own.
        """
        if keys is not None:
            plan = self._with_keys(plan, keys)
        elif "keys" in plan:
            if plan["keys"]["cells_of_unit"] != 1 + len(plan["metrics"]):
                raise StoreError(f"{self.folder} is too large for metrics that are added by hand.")
            plan = {**plan, "arenas": [_without_cells(arena) for arena in plan["arenas"]]}
        write_json(self.folder / "plan.json", {**plan, "schema": _PLAN_SCHEMA if "keys" in plan else SCHEMA})

    def _with_keys(self, plan: dict[str, Any], keys: Iterable[Sequence[str]]) -> dict[str, Any]:
        cells_of_unit = 1 + len(plan["metrics"])
        n_cells = cells_of_unit * sum(chunks * explainers for chunks, explainers in _shapes(plan))
        self._deep = n_cells > DEEP_CELLS
        if n_cells > INLINE_CELLS:
            return {**plan, "keys": {"file": write_keys(self.folder, keys), "cells_of_unit": cells_of_unit}}
        units = iter(keys)
        arenas = []
        for arena in plan["arenas"]:
            cells: list[list[dict[str, Any]]] = [[] for _ in arena["explainers"]]
            for own in (own for _ in range(arena["chunks"]) for own in cells):
                explain, *scores = next(units)
                own.append({"explain": explain, "scores": scores})
            explainers = [{**e, "cells": own} for e, own in zip(arena["explainers"], cells, strict=True)]
            arenas.append({**arena, "explainers": explainers})
        return {**plan, "arenas": arenas}

    def read_plan(self) -> dict[str, Any]:
        """What the last run consists of.

        Raises
        ------
        StoreError
            The plan is damaged or of another schema.
        """
        path = self.folder / "plan.json"
        try:
            plan: dict[str, Any] = json.loads(path.read_bytes())
            plan = _migrated({"kind": "plan", **plan}, path)
            if "keys" in plan:
                file, cells_of_unit = plan["keys"]["file"], plan["keys"]["cells_of_unit"]
                cells = planned_cells(self.folder / file, _shapes(plan), cells_of_unit)
                for arena, of_arena in zip(plan["arenas"], cells, strict=True):
                    for explainer, own in zip(arena["explainers"], of_arena, strict=True):
                        explainer["cells"] = own
                self._deep = cells_of_unit * sum(map(math.prod, _shapes(plan))) > DEEP_CELLS
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{path} cannot be read: {error}. Run the same `earwitness bench` again.") from error
        return plan

    def keys_like(self, beginning: str) -> list[tuple[Kind, str]]:
        """Explanations and scores whose keys begin so: at least two characters."""
        kinds: tuple[Kind, ...] = ("explain", "score")
        return [
            (kind, path.stem)
            for kind in kinds
            for depth in ("", f"{beginning[2:4]:?<2}/")
            for path in sorted((self.folder / "cells" / kind / beginning[:2]).glob(f"{depth}{beginning}*.json"))
        ]

    def sweep(self) -> int:
        """Remove the temporary files of writers that were killed; returns how many there were."""
        of_cells = (
            Path(folder, name)
            for part in ("cells", "maps")
            for folder, _, names in os.walk(self.folder / part)
            for name in names
            if name.startswith(".")
        )
        swept = 0
        for path in itertools.chain(of_cells, self.folder.glob(".plan.*"), self.folder.glob(".scores.parquet.*")):
            with contextlib.suppress(OSError):  # another process was faster, or the folder is not ours
                if time.time() - path.stat().st_mtime > LEFTOVER_S:
                    path.unlink()
                    swept += 1
        return swept

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Do something that one process at a time may do in this folder; another one waits."""
        path = self.folder / ".locks" / name
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(OSError):  # not every file system can lock; then each process does it for itself
                path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(path.open("w"))
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _migrated(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """A cell or plan as this version writes it.

    Raises
    ------
    StoreError
        A newer version wrote it: it is no damage, and must not be set aside.
    ValueError
        It has no schema.
    """
    schema = document["schema"]
    if not isinstance(schema, int) or schema < 1:
        raise ValueError(f"its schema is {schema!r}")
    newest = _PLAN_SCHEMA if document.get("kind") == "plan" else SCHEMA
    if schema > newest:
        raise StoreError(f"{path} has schema {schema}; this version reads up to {newest}. Update earwitness.")
    for old in range(schema, SCHEMA):
        document = {**_MIGRATIONS[old](document), "schema": old + 1}
    return document


def _shapes(plan: dict[str, Any]) -> list[tuple[int, int]]:
    """Chunks and explainers of each arena."""
    return [(arena["chunks"], len(arena["explainers"])) for arena in plan["arenas"]]


def _without_cells(arena: dict[str, Any]) -> dict[str, Any]:
    explainers = [{name: fact for name, fact in e.items() if name != "cells"} for e in arena["explainers"]]
    return {**arena, "explainers": explainers}


def _from_1(document: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 says what became of each row, and on which machine."""
    if document["kind"] == "explain":
        said = {"ok": "explained", "skipped": f"skipped: {document.get('reason')}"}
        outcome = said.get(document["status"], f"failed: {document.get('error')}")
        rows = [{**row, "outcome": outcome, "fingerprint": None} for row in document["rows"]]
        return {**document, "rows": rows, "rows_per_call": len(rows), "machine": None}
    if document["kind"] == "score":
        return {**document, "provenance": None, "peak_memory_mb": None, "machine": None}
    return document


_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}
"""From a schema to the next one."""


def _set_aside(path: Path) -> None:
    with contextlib.suppress(OSError):  # a reader of a folder that is not its own leaves it there
        path.replace(path.with_suffix(".corrupt"))
