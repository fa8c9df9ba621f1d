"""A chunk that cannot be explained as a whole: smaller batches where memory is short, single rows where one is bad."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from earwitness.errors import CheckpointError, ConfigurationError, NotApplicableError, PluginError, StoreError
from earwitness.explanation import Explanation
from earwitness_bench.chunks import ContractError
from earwitness_bench.packing import joined

NOT_A_ROWS_FAULT = (ContractError, CheckpointError, ConfigurationError, NotApplicableError, PluginError, StoreError)
"""Errors for which no single row is to blame, so that asking for each row alone would tell nothing new."""

_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")

Explain = Callable[[Sequence[int]], Explanation]
"""Explains some rows of a chunk."""


@dataclass(frozen=True, eq=False)
class Explained:
    """What came of the rows of a chunk.

    Attributes
    ----------
    explanation : Explanation
        Of the rows that could be explained, in their order.
    rows : tuple of int
        Which those are.
    errors : dict of int to Exception
        Of the others.
    rows_per_call : int
        The most rows that the method was asked for at a time: it may change the last bits.
    """

    explanation: Explanation
    rows: tuple[int, ...]
    errors: dict[int, Exception]
    rows_per_call: int


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory was short, on the CPU or on a GPU."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _MEMORY)


def free_memory() -> None:
    """Give back what a failed attempt left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def explain_rows(explain: Explain, rows: Sequence[int], *, divisible: bool = True) -> Explained:
    """Explain rows together if that can be done.

    Where memory is short the batches are halved until it is enough. Where anything else goes wrong, each row is
    explained alone, so that one bad row costs only itself.

    Parameters
    ----------
    explain : callable (rows)
    rows : sequence of int, length B
    divisible : bool
        Whether fewer rows at a time mean the same: not for a method that needs several clips.

    Raises
    ------
    Exception
        What the attempt for all rows raised, if no row can be explained.
    """
    size = len(rows)
    while True:
        batches = [tuple(rows[start : start + size]) for start in range(0, len(rows), size)]
        try:
            return Explained(joined([explain(batch) for batch in batches]), tuple(rows), {}, size)
        except Exception as error:
            if not divisible or len(rows) == 1 or isinstance(error, NOT_A_ROWS_FAULT):
                raise
            if size == 1 or not is_out_of_memory(error):
                return _one_by_one(explain, rows, error)
        free_memory()
        size = (size + 1) // 2


def _one_by_one(explain: Explain, rows: Sequence[int], first: Exception) -> Explained:
    made: dict[int, Explanation] = {}
    errors: dict[int, Exception] = {}
    for row in rows:
        try:
            made[row] = explain((row,))
        except StoreError:
            raise
        except Exception as error:
            errors[row] = error
    if not made:
        raise first
    return Explained(joined(list(made.values())), tuple(made), errors, 1)
