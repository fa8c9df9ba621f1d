"""Folds of a data set, as its publisher made them: taken as they are, and refused where somebody has shuffled them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from earwitness.errors import DatasetError
from earwitness_bench.datasets.local_copy import Take
from earwitness_bench.datasets.recordings import first_of

Folded = Sequence[tuple[int, Take]]


def in_folds(takes: Folded, wanted: AbstractSet[object]) -> list[Take]:
    """The clips of some folds, in their order."""
    return [take for fold, take in takes if fold in wanted]


def fold_notes(table: Path, takes: Folded) -> Iterator[str]:
    """Recordings of which clips of different classes are in different folds: a sentence, where there are any.

    Raises
    ------
    DatasetError
        Clips of one class from one recording are in two folds, so the table is not the published one.
    """
    pairs = {(take.group, take.label): fold for fold, take in takes}
    shuffled = sorted({take.group for fold, take in takes if pairs[take.group, take.label] != fold})
    if shuffled:
        raise DatasetError(
            f"{table}: clips of one class from one recording ({first_of(shuffled)}) are in more than one fold. The "
            "published folds keep them together, or else a test has been heard in training: take those, unshuffled."
        )
    first = {group: fold for (group, _), fold in pairs.items()}
    several = sorted({group for (group, _), fold in pairs.items() if first[group] != fold})
    if several:
        yield (
            f"As published, {len(several)} recordings have clips of different classes in different folds: "
            f"{first_of(several, 5)}."
        )
