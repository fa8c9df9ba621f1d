"""The keys of a run's cells, of which there may be a hundred million: in a file of their own, not in memory.

``DIR/plan-<digest>.keys`` holds them as bytes, 32 a key: unit after unit in the order of the plan, of each first the
explanation's key and then one for each metric. The file's name is the hash of its content, so several processes on one
folder can write it at the same time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from earwitness.artifacts import canonical_json
from earwitness.errors import StoreError
from earwitness_bench.drafts import drafted

KEY_BYTES = 32

Cell = dict[str, Any]


class Form:
    """A document with one open place: its digest for whatever is put there, without writing the rest again.

    Parameters
    ----------
    document : dict
        Without the open place.
    place : str
        Its name.
    """

    def __init__(self, document: dict[str, Any], place: str) -> None:
        mark = "\ufffc the open place"
        text = canonical_json({**document, place: mark})
        before, found, after = text.partition(canonical_json(mark))
        assert found, "the open place is part of the document"
        self._begun = hashlib.sha256(before.encode())
        self._after = after.encode()

    def digest(self, text: str) -> str:
        """That of :func:`earwitness.artifacts.digest_of`, where the open place holds this canonical JSON."""
        whole = self._begun.copy()
        whole.update(text.encode())
        whole.update(self._after)
        return whole.hexdigest()


def write_keys(folder: Path, keys: Iterable[Sequence[str]]) -> str:
    """Write the keys of all units, each a sequence of hexadecimal digests; returns the file's name.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    digest = hashlib.sha256()
    with drafted(folder / "plan.keys") as draft:
        for unit in keys:
            content = bytes.fromhex("".join(unit))
            digest.update(content)
            draft.file.write(content)
        draft.path = folder / f"plan-{digest.hexdigest()[:16]}.keys"
    return draft.path.name


class PlannedCells(Sequence[Cell]):
    """The cells of one explainer, chunk by chunk, as a plan in memory has them: ``{"explain": key, "scores": [keys]}``.

    Parameters
    ----------
    keys : ndarray (chunks, 1 + metrics, 32), uint8
    """

    def __init__(self, keys: NDArray[np.uint8]) -> None:
        self._keys = keys

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, place: int) -> Cell: ...

    @overload
    def __getitem__(self, place: slice) -> PlannedCells: ...

    def __getitem__(self, place: int | slice) -> Cell | PlannedCells:
        if isinstance(place, slice):
            return PlannedCells(self._keys[place])
        explain, *scores = (key.tobytes().hex() for key in self._keys[place])
        return {"explain": explain, "scores": scores}

    def __iter__(self) -> Iterator[Cell]:
        return (self[place] for place in range(len(self)))

    def find(self, key: str) -> tuple[int, int] | None:
        """The chunk of a key, and its place there: 0 is the explanation."""
        wanted = np.frombuffer(bytes.fromhex(key), np.uint8)
        block = 2**16
        for start in range(0, len(self), block):
            hits = np.argwhere((self._keys[start : start + block] == wanted).all(2))
            if len(hits):
                return start + int(hits[0][0]), int(hits[0][1])
        return None


def planned_cells(path: Path, shapes: Sequence[tuple[int, int]], cells_of_unit: int) -> list[list[PlannedCells]]:
    """The cells of each arena and explainer, from a file of keys that stays on disk.

    Parameters
    ----------
    path : Path
    shapes : sequence of (int, int)
        Chunks and explainers of each arena.
    cells_of_unit : int

    Raises
    ------
    StoreError
        The file is not there, or has another size.
    """
    n_units = sum(chunks * explainers for chunks, explainers in shapes)
    wanted = n_units * cells_of_unit * KEY_BYTES
    size = path.stat().st_size if path.is_file() else 0
    if size != wanted:
        raise StoreError(f"{path} has {size} bytes instead of {wanted}. Run the same `earwitness bench` again.")
    keys = np.memmap(path, np.uint8, "r", shape=(n_units, cells_of_unit, KEY_BYTES))
    found, first = [], 0
    for chunks, explainers in shapes:
        own = keys[first : first + chunks * explainers].reshape(chunks, explainers, cells_of_unit, KEY_BYTES)
        found.append([PlannedCells(own[:, place]) for place in range(explainers)])
        first += chunks * explainers
    return found
