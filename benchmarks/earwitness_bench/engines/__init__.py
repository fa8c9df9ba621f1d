"""How cells are run. An engine owns neither cache, nor seeds, nor retries: it maps a function over units of work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

U = TypeVar("U")
R = TypeVar("R")


class Engine(Protocol):
    """Anything that applies a function to units of work and yields results as they come."""

    def map(self, function: Callable[[U], R], units: Iterable[U]) -> Iterator[R]:
        """Apply ``function`` to each unit, once; results may come in any order."""
        ...


class Serial:
    """One after another, in this process."""

    def map(self, function: Callable[[U], R], units: Iterable[U]) -> Iterator[R]:
        """Apply ``function`` to each unit, in order."""
        return map(function, units)
