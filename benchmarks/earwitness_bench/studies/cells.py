"""The cells of a study: computed once, kept at once, found again by all that can change their numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from earwitness.artifacts import digest_of
from earwitness.errors import EarwitnessError, StoreError
from earwitness.protocols import Progress
from earwitness_bench.identity import distribution_identity
from earwitness_bench.store import Store


@dataclass(frozen=True, eq=False)
class Cell:
    """A piece of work.

    Attributes
    ----------
    title : str
        What it is called while it runs, and where it fails. Enters no key.
    identity : dict
        Plain values: all that can change its numbers but the study's own code, of which the key knows.
    compute : callable
        Takes nothing; returns plain values, finite or None.
    """

    title: str
    identity: dict[str, Any]
    compute: Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Ran:
    """What became of a study's cells.

    Attributes
    ----------
    results : tuple of dict or None
        What each cell returned; None where it failed.
    computed, found : int
    failed : tuple of str
        Which cells failed, and why. They are not kept, and tried again by the next run.
    """

    results: tuple[dict[str, Any] | None, ...]
    computed: int
    found: int
    failed: tuple[str, ...]


def run_cells(store: Store, study: str, cells: Sequence[Cell], progress: Progress) -> Ran:
    """Compute what is not there yet.

    Parameters
    ----------
    store : Store
    study : str
        Its name: part of every key.
    cells : sequence of Cell
    progress : callable (done, total, text)

    Raises
    ------
    StoreError
        A cell cannot be read or written.
    """
    results: list[dict[str, Any] | None] = []
    code = distribution_identity("earwitness", "earwitness_bench")
    computed, failed = 0, []
    for number, cell in enumerate(cells):
        progress(number, len(cells), cell.title)
        key = digest_of({"kind": "study", "study": [study, code], **cell.identity})
        kept = store.read_cell("study", key)
        if kept is None:
            try:
                kept = {"result": cell.compute()}
            except StoreError:
                raise
            except Exception as error:
                failed.append(f"{cell.title}: {_describe(error)}")
                results.append(None)
                continue
            store.write_cell("study", key, {"study": study, "title": cell.title, "identity": cell.identity, **kept})
            computed += 1
        results.append(kept["result"])
    progress(len(cells), len(cells), study)
    return Ran(tuple(results), computed, len(cells) - computed - len(failed), tuple(failed))


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, EarwitnessError) else f"{type(error).__name__}: {error}"
