"""Reads the answers of raters and makes a metric of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from earwitness.artifacts import digest_of, write_json
from earwitness.errors import ConfigurationError, StoreError
from earwitness_bench.identity import distribution_identity, machine
from earwitness_bench.listening_test.key import Key, Stimulus, Trial, read_key
from earwitness_bench.listening_test.ratings import Opinion, krippendorff_alpha, misses_the_reference, opinion
from earwitness_bench.report.facts import NOT_ASKED
from earwitness_bench.results import write_parquet
from earwitness_bench.statistics.groups import Floats
from earwitness_bench.store import Store
from earwitness_bench.tabulation import json_ready

METRIC = "earwitness:listening-test"
VERSION = 1
COLUMN = "opinion_score"
"""Of a clip: the mean over raters, 0 to 100."""

_NOT_RATED = "skipped: nobody rated it"


class Rating(BaseModel):
    """What a rater gave a sound."""

    model_config = ConfigDict(extra="forbid")
    trial: str
    sound: str
    score: float = Field(ge=0, le=100, allow_inf_nan=False)


class Answers(BaseModel):
    """A rater's file, as the page writes it."""

    model_config = ConfigDict(extra="forbid")
    earwitness_listening_test: int = Field(alias="earwitness-listening-test", ge=1, le=1)
    test: str
    rater: str = Field(min_length=1, max_length=200)
    session: str = Field(min_length=1, max_length=64)
    started: str
    finished: str
    ratings: list[Rating]


@dataclass(frozen=True)
class Imported:
    """A test's outcome.

    Attributes
    ----------
    test, arena : str
    raters : int
        Whose ratings count.
    screened : tuple of str
        Raters who did not hear the hidden reference; their ratings do not count.
    methods : tuple of Opinion
        The best first.
    reference, anchor : Opinion
    alpha : float
        Krippendorff's, of the raters on the methods' sounds.
    """

    test: str
    arena: str
    raters: int
    screened: tuple[str, ...]
    methods: tuple[Opinion, ...]
    reference: Opinion
    anchor: Opinion
    alpha: float


def import_answers(results: str | os.PathLike[str], files: Sequence[str | os.PathLike[str]]) -> Imported:
    """Enter raters' answers into a results folder, as the metric ``listening-test``.

    All files of a test are given together: an import takes the place of the one before. Ratings of screened-out raters
    do not count. The metric is part of the results until the suite is run again; then import the files again.

    Parameters
    ----------
    results : str or Path
    files : sequence of path
        What the page let its raters save.

    Raises
    ------
    ConfigurationError
        A file is no answer, is of another test, or rates what was not in the test; or two files are of one session.
    StoreError
        The test's key is not in the folder, or its explanations are not those of the last run.
    """
    store = Store(results)
    answers = [_read(Path(file)) for file in files]
    key = _key_of(store, answers, files)
    table = _Ratings(key, answers)
    screened = [n for n in range(len(answers)) if misses_the_reference(table.of("reference")[n])]
    counted = [n for n in range(len(answers)) if n not in screened]
    if not counted:
        raise ConfigurationError(
            f"All {len(answers)} raters rate the hidden recording below 90 in more than 15 % of the trials: nothing is "
            "left to import."
        )
    _enter(store, key, {e: table.of("method", e)[counted].T for e in key.explainers}, digest_of(table.identity()))
    groups = [trial.group for trial in table.trials]

    def of(name: str, kind: str) -> Opinion:
        return opinion(name, table.of(kind, name if kind == "method" else "")[counted], groups)

    methods = sorted((of(e, "method") for e in key.explainers), key=lambda o: (math.isnan(o.score), -o.score, o.name))
    rated = np.concatenate([table.of("method", e)[counted] for e in key.explainers], 1)
    found = Imported(
        key.test,
        key.arena,
        len(counted),
        tuple(answers[n].rater for n in screened),
        tuple(methods),
        of("hidden recording", "reference"),
        of("noise mask", "anchor"),
        krippendorff_alpha(rated),
    )
    write_json(_outcome_path(store, key.test), json_ready(asdict(found)))
    write_parquet(store)
    return found


def outcome_of(store: Store) -> dict[str, Any] | None:
    """What the last run's listening test came to, as :class:`Imported` in JSON; ``None`` where that is not known."""
    metric = next((one for one in store.read_plan()["metrics"] if one["name"] == METRIC), None)
    path = _outcome_path(store, metric["parameters"]["test"]) if metric else None
    if path is None or not path.is_file():
        return None
    outcome: dict[str, Any] = json.loads(path.read_bytes())
    return outcome


def _outcome_path(store: Store, test: str) -> Path:
    return store.folder / "listening-tests" / f"{test}-result.json"


class _Ratings:
    """Ratings of all raters by trial and sound; training left out."""

    def __init__(self, key: Key, answers: Sequence[Answers]) -> None:
        self.trials = [trial for trial in key.trials if not trial.training]
        self._answers = answers
        places = {(trial.token, one.token): n for n, trial in enumerate(self.trials) for one in trial.stimuli}
        practice = {(trial.token, one.token) for trial in key.trials if trial.training for one in trial.stimuli}
        self._given: list[dict[tuple[int, str], float]] = []
        for own in answers:
            given: dict[tuple[int, str], float] = {}
            for rating in own.ratings:
                place = (rating.trial, rating.sound)
                if place in practice:
                    continue
                if place not in places:
                    raise ConfigurationError(
                        f"{own.rater!r} rates a sound that is not in the test {key.test}: {place}."
                    )
                if (places[place], rating.sound) in given:
                    raise ConfigurationError(f"{own.rater!r} rates one sound twice: {place}.")
                given[places[place], rating.sound] = rating.score
            self._given.append(given)

    def of(self, kind: str, explainer: str = "") -> Floats:
        """Ratings (raters, trials) of one kind of sound; NaN where there is none."""
        tokens = [_token(trial, kind, explainer) for trial in self.trials]
        return np.array(
            [[given.get((n, token), math.nan) for n, token in enumerate(tokens)] for given in self._given],
            dtype=np.float64,
        ).reshape(len(self._given), len(tokens))

    def identity(self) -> Any:
        """What the metric's numbers depend on."""
        return sorted(digest_of(own.model_dump(mode="json")) for own in self._answers)


def _token(trial: Trial, kind: str, explainer: str) -> str:
    return next(s.token for s in trial.stimuli if s.kind == kind and s.explainer == explainer)


def _read(path: Path) -> Answers:
    try:
        return Answers.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"]) or "the document"
        raise ConfigurationError(
            f"{path} holds no answers of a listening test: {place}: {problem['msg']}. Give the "
            "files that the page saved."
        ) from None


def _key_of(store: Store, answers: Sequence[Answers], files: Sequence[str | os.PathLike[str]]) -> Key:
    if not answers:
        raise ConfigurationError("There are no answers. Give the files that the page saved.")
    tests = sorted({own.test for own in answers})
    if len(tests) > 1:
        raise ConfigurationError(f"These files are of {len(tests)} tests ({', '.join(tests)}). Import one at a time.")
    sessions: dict[str, str] = {}
    for own, file in zip(answers, files, strict=True):
        if own.session in sessions:
            raise ConfigurationError(f"{file} and {sessions[own.session]} are of one session: they would count twice.")
        sessions[own.session] = str(file)
    return read_key(store, tests[0])


def _enter(store: Store, key: Key, rated: dict[str, Floats], answers: str) -> None:
    """Write a score cell beside every explanation of the run, and name the metric in the plan."""
    plan = store.read_plan()
    identity = {
        "name": METRIC,
        "version": VERSION,
        "columns": [COLUMN],
        "plugin": distribution_identity("earwitness", "earwitness_bench"),
        "parameters": {"test": key.test, "answers": answers},
    }
    column = {"name": COLUMN, "direction": "higher", "aggregate": "mean", "headline": False}
    trials = [trial for trial in key.trials if not trial.training]
    values = {
        (_stimulus(trial, e).explain, trial.row): value
        for e, ratings in rated.items()
        for trial, value in zip(trials, (_mean(own) for own in ratings), strict=True)
    }
    there = {cell["explain"] for arena in plan["arenas"] for e in arena["explainers"] for cell in e["cells"]}
    lost = {explain for explain, _ in values} - there
    if lost:
        raise StoreError(
            f"{len(lost)} explanations of the listening test {key.test} are not part of the last run of "
            f"{store.folder}. Run the suite again as it was, then import."
        )
    place = next((n for n, metric in enumerate(plan["metrics"]) if metric["name"] == METRIC), len(plan["metrics"]))
    for arena, explainer, cell in _cells(plan):
        score = digest_of({"kind": "score", "metric": identity, "explain": cell["explain"]})
        explained = store.read_cell("explain", cell["explain"])
        if explained is not None and explained["status"] == "ok":
            store.write_cell("score", score, _score(explained, cell["explain"], identity, values, (arena, explainer)))
        cell["scores"] = [*cell["scores"][:place], score, *cell["scores"][place + 1 :]]
    plan["metrics"][place : place + 1] = [{**identity, "columns": [column]}]
    store.write_plan({name: value for name, value in plan.items() if name not in ("schema", "kind")})


def _score(
    explained: dict[str, Any],
    key: str,
    identity: dict[str, Any],
    values: dict[tuple[str, str], float | None],
    titles: tuple[str, str],
) -> dict[str, Any]:
    rows = [row["row"] for row in explained["rows"]]
    own = [values.get((key, row)) for row in rows]
    outcomes = [
        row["outcome"] if row["outcome"] != "explained"
        else "scored" if value is not None
        else _NOT_RATED if (key, row["row"]) in values
        else NOT_ASKED
        for row, value in zip(explained["rows"], own, strict=True)
    ]  # fmt: skip
    return {
        "explain": key,
        "arena": titles[0],
        "title": titles[1],
        "metric": identity,
        "provenance": None,
        "columns": {COLUMN: own},
        "outcomes": outcomes,
        "seconds": 0.0,
        "peak_memory_mb": None,
        "machine": machine(),
    }


def _cells(plan: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for arena in plan["arenas"]:
        for explainer in arena["explainers"]:
            for cell in explainer["cells"]:
                yield arena["title"], explainer["title"], cell


def _stimulus(trial: Trial, explainer: str) -> Stimulus:
    return next(s for s in trial.stimuli if s.kind == "method" and s.explainer == explainer)


def _mean(ratings: Floats) -> float | None:
    given = ratings[~np.isnan(ratings)]
    return float(given.mean()) if len(given) else None
