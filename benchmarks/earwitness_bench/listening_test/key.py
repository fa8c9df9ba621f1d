"""The key of a test: what its pages must not know. It lies in the results folder, ``listening-tests/ID.json``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from earwitness.artifacts import write_json
from earwitness.errors import StoreError
from earwitness_bench.store import Store

SCHEMA = 1

Kind = Literal["method", "reference", "anchor"]


@dataclass(frozen=True)
class Stimulus:
    """One sound to be rated.

    Attributes
    ----------
    token : str
        Its name on the pages.
    kind : str
        ``method``, ``reference`` (the recording itself, hidden) or ``anchor`` (a random mask).
    explainer : str
        Title; empty for the others.
    explain : str
        Key of the explanation.
    """

    token: str
    kind: Kind
    explainer: str = ""
    explain: str = ""


@dataclass(frozen=True)
class Trial:
    """A recording and the sounds that were made of it, in the order of the page.

    Attributes
    ----------
    token : str
    row : str
        Its name in the results.
    group, target : str
    reference : str
        Token of the open reference.
    training : bool
        Its ratings do not count.
    stimuli : tuple of Stimulus
    """

    token: str
    row: str
    group: str
    target: str
    reference: str
    training: bool
    stimuli: tuple[Stimulus, ...]


@dataclass(frozen=True)
class Key:
    """Everything about a test.

    Attributes
    ----------
    test : str
        Identity.
    arena : str
        Title.
    seed : int
    rule : str
        Of the run: how relevance became sound.
    trials : tuple of Trial
    """

    test: str
    arena: str
    seed: int
    rule: str
    trials: tuple[Trial, ...]

    @property
    def explainers(self) -> list[str]:
        """Titles, in alphabetical order."""
        return sorted({s.explainer for trial in self.trials for s in trial.stimuli if s.kind == "method"})


def write_key(store: Store, key: Key) -> Path:
    """Keep a key in the results folder."""
    path = store.folder / "listening-tests" / f"{key.test}.json"
    write_json(path, {"schema": SCHEMA, **asdict(key)})
    return path


def read_key(store: Store, test: str) -> Key:
    """The key of a test.

    Raises
    ------
    StoreError
        There is none, or it is damaged.
    """
    folder = store.folder / "listening-tests"
    known = _known(folder)
    if test not in known:
        said = f"Tests of this folder: {', '.join(known)}." if known else "No test was written from this folder."
        raise StoreError(f"{store.folder} has no key of the listening test {test!r}. {said}")
    path = folder / f"{test}.json"
    try:
        document = json.loads(path.read_bytes())
        trials = tuple(
            Trial(**{**trial, "stimuli": tuple(Stimulus(**one) for one in trial["stimuli"])})
            for trial in document["trials"]
        )
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']!r}")
        return Key(document["test"], document["arena"], document["seed"], document["rule"], trials)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}). Write the test again with the same options.") from error


def _known(folder: Path) -> Sequence[str]:
    return sorted(path.stem for path in folder.glob("*.json") if "-" not in path.stem)  # an outcome is ID-result.json
