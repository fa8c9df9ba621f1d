"""Runs a suite: explains what is not explained, scores what is not scored, and keeps every result at once."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earwitness.artifacts import digest_of
from earwitness.fitting import fit
from earwitness.loading import load_classifier, load_dataset
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.engines import Engine, Serial
from earwitness_bench.identity import environment, machine
from earwitness_bench.plan import Contestant, Judge, Stage, Unit, make_contestants, make_judges, make_stage, make_units
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite
from earwitness_bench.worker import Worker


def _silent(done: int, total: int, text: str) -> None:
    """No progress."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    explained, scored : int
        Cells computed now.
    cached : int
        Cells found.
    failed : tuple of str
        Explainers and metrics that failed, with the error.
    notes : tuple of str
        What a reader of the results should know.
    """

    explained: int
    scored: int
    cached: int
    failed: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def run_suite(
    suite: Suite,
    out: Path,
    *,
    registry: Registry,
    engine: Engine | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = _silent,
) -> Summary:
    """Run a suite into a results folder; what is there already is not computed again.

    Parameters
    ----------
    suite : Suite
    out : Path
        Results folder, see :mod:`earwitness_bench.store`.
    registry : Registry
    engine : Engine, optional
        Default: serial.
    device : torch.device or str
    progress : callable (done, total, text)

    Raises
    ------
    EarwitnessError
        The suite names something that does not exist, or the folder cannot be written to. Errors of single explainers
        and metrics are kept in their cells instead.
    """
    store = Store(out, create=True)
    with _threads(suite.threads):
        judges = make_judges(suite, registry)
        units, plans, notes = [], [], []
        env = environment(device)
        for arena in suite.arenas:
            progress(0, 0, f"loading {arena.title}")
            dataset = load_dataset(arena.dataset.name, parameters=arena.dataset.parameters, plugins=registry)
            classifier = load_classifier(
                arena.classifier.name, parameters=arena.classifier.parameters, device=device, plugins=registry
            )
            stage = make_stage(suite, arena, dataset, classifier)
            contestants = make_contestants(suite, registry, _fit_all(suite, stage, store, registry, progress))
            stage_units = list(make_units(suite, stage, contestants, judges, env))
            units += stage_units
            plans.append(_plan_of(stage, contestants, stage_units))
            notes += [f"{arena.title}: {note}" for note in dataset.notes]
        store.write_plan(
            {
                "suite": suite.model_dump(mode="json"),
                "environment": env,
                "machine": machine(),
                "metrics": [_judge_document(judge) for judge in judges],
                "arenas": plans,
                "notes": notes,
            }
        )
        worker = Worker(suite, store, registry)
        tally = [0, 0, 0]
        failed: dict[str, None] = {}
        for done, outcome in enumerate((engine or Serial()).map(worker, units), start=1):
            tally = [a + b for a, b in zip(tally, (outcome.explained, outcome.scored, outcome.cached), strict=True)]
            failed.update(dict.fromkeys(outcome.errors))
            progress(done, len(units), outcome.title)
    explained, scored, cached = tally
    return Summary(explained, scored, cached, tuple(failed), tuple(notes))


def _fit_all(suite: Suite, stage: Stage, store: Store, registry: Registry, progress: Progress) -> dict[str, Path]:
    """Fit the explainers that must be fitted, for one arena; folders by title."""
    folders = {}
    for entry in suite.explainers:
        if entry.fit is None:
            continue
        train = load_dataset(entry.fit.name, parameters=entry.fit.parameters, plugins=registry)
        identity = [entry.model_dump(mode="json"), stage.classifier.checksum, suite.seed]
        folder = store.folder / "fits" / f"{entry.name.replace(':', '_')}-{digest_of(identity)[:16]}"
        fit(
            registry,
            entry.name,
            stage.classifier,
            train,
            folder,
            parameters=entry.parameters,
            seed=suite.seed,
            progress=functools.partial(_fitting, progress, entry.title),
        )
        folders[entry.title] = folder
    return folders


def _plan_of(stage: Stage, contestants: list[Contestant], units: list[Unit]) -> dict[str, Any]:
    return {
        "title": stage.arena.title,
        "dataset": stage.arena.dataset.model_dump(mode="json"),
        "classifier": {"name": stage.classifier.name, "checksum": stage.classifier.checksum},
        "explainers": [
            {
                "title": contestant.title,
                "scope": "control" if contestant.is_control else contestant.spec.scope,
                "shuffle_of": contestant.shuffle_of,
                "identity": contestant.identity,
                "cells": [
                    {"explain": unit.explain_key, "scores": unit.score_keys}
                    for unit in units
                    if unit.contestant is contestant
                ],
            }
            for contestant in contestants
        ],
    }


def _judge_document(judge: Judge) -> dict[str, Any]:
    columns = [
        {"name": c.name, "direction": c.direction, "aggregate": c.aggregate, "headline": c.headline}
        for c in judge.spec.columns
    ]
    return {**judge.identity, "columns": columns}


@contextmanager
def _threads(wanted: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _fitting(progress: Progress, title: str, done: int, total: int, text: str) -> None:
    progress(done, total, f"fitting {title}: {text}")
