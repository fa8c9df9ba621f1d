"""The results folder. One JSON file per cell is the truth; everything else is derived.

::

    DIR/plan.json                          which cells make up the last run
    DIR/cells/explain/ab/ab12….json        one explained chunk: rows, diagnostics, seconds, provenance
    DIR/cells/score/cd/cd34….json          one metric on it: values and outcomes per row
    DIR/maps/ab/ab12….safetensors          the maps, half precision (absent above the size cap)
    DIR/fits/…                             fitted explainers
    DIR/scores.parquet                     derived: one row per clip, explainer and column

A file is written beside its place and moved there, so a kill leaves it whole or absent. A damaged cell is set aside
(``*.corrupt``) and computed again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from earwitness.artifacts import load_tensors, save_tensors, write_json
from earwitness.errors import CheckpointError, StoreError

SCHEMA = 1

Kind = Literal["explain", "score"]


class Store:
    """A results folder.

    Parameters
    ----------
    folder : Path
    create : bool
        Make it if need be; otherwise it must exist.

    Raises
    ------
    StoreError
        It does not exist, or cannot be made or written to.
    """

    def __init__(self, folder: Path, *, create: bool = False) -> None:
        self.folder = folder
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
        """Where a cell lies."""
        return self.folder / "cells" / kind / key[:2] / f"{key}.json"

    def read_cell(self, kind: Kind, key: str) -> dict[str, Any] | None:
        """A cell, or None if there is none; a damaged one is set aside."""
        path = self.cell_path(kind, key)
        try:
            cell: dict[str, Any] = json.loads(path.read_text())
            if cell["schema"] != SCHEMA or cell["key"] != key:
                raise ValueError("another schema or key")
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, UnicodeDecodeError):
            path.replace(path.with_suffix(".corrupt"))
            return None
        return cell

    def write_cell(self, kind: Kind, key: str, cell: dict[str, Any]) -> None:
        """Write a cell, whole or not at all."""
        write_json(self.cell_path(kind, key), {"schema": SCHEMA, "kind": kind, "key": key, **cell})

    def maps_path(self, key: str) -> Path:
        """Where an explanation's maps lie."""
        return self.folder / "maps" / key[:2] / f"{key}.safetensors"

    def read_maps(self, key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The maps of an explanation, or None if they were not kept or are damaged."""
        path = self.maps_path(key)
        if not path.exists():
            return None
        try:
            return load_tensors(path)
        except CheckpointError:
            path.replace(path.with_suffix(".corrupt"))
            return None

    def write_maps(self, key: str, tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
        """Keep the maps of an explanation."""
        save_tensors(self.maps_path(key), tensors, document)

    def write_plan(self, plan: dict[str, Any]) -> None:
        """Say which cells make up this run."""
        write_json(self.folder / "plan.json", {"schema": SCHEMA, **plan})

    def read_plan(self) -> dict[str, Any]:
        """What the last run consists of.

        Raises
        ------
        StoreError
            The plan is damaged or of another schema.
        """
        path = self.folder / "plan.json"
        try:
            plan: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {error}. Run the same `earwitness bench` again.") from error
        if plan.get("schema") != SCHEMA:
            raise StoreError(f"{path} has schema {plan.get('schema')}; this version reads schema {SCHEMA}.")
        return plan
