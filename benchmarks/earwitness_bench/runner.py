"""Runs a suite: explains what is not explained, scores what is not scored, and keeps every result at once."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from earwitness.artifacts import digest_of
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, PluginError, StoreError
from earwitness.fitting import fit
from earwitness.loading import load_classifier, load_dataset
from earwitness.parameters import resolved_parameters
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.engines import Engine, Serial
from earwitness_bench.identity import environment, machine, plugin_identity
from earwitness_bench.isolation import isolated
from earwitness_bench.plan import (
    Contestant,
    Judge,
    Stage,
    Unit,
    explainer_parameters,
    make_contestants,
    make_judges,
    make_stage,
    make_units,
)
from earwitness_bench.store import Store
from earwitness_bench.suite import ExplainerEntry, Suite
from earwitness_bench.worker import Worker


def _silent(done: int, total: int, text: str) -> None:
    """No progress."""


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes
    ----------
    explained, scored : int
        Cells computed now, failures included.
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
    out: str | os.PathLike[str],
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
    out : str or Path
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
                arena.classifier.name,
                parameters=arena.classifier.parameters,
                device=device,
                precision=suite.precision,
                plugins=registry,
            )
            stage = make_stage(suite, arena, dataset, classifier)
            contestants = make_contestants(suite, registry, _fit_all(suite, stage, store, registry, env, progress))
            stage_units = list(make_units(suite, stage, contestants, judges, env))
            units += stage_units
            plans.append(_plan_of(stage, contestants, stage_units))
            notes += [f"{arena.title}: {note}" for note in (*dataset.notes, *_precision_note(classifier))]
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


def _precision_note(classifier: AudioClassifier) -> list[str]:
    if classifier.precision == "float32":
        return []
    return [
        f"the network computes in {classifier.precision}; on noise its logits differ from those in float32 by up to "
        f"{classifier.precision_deviation:.2%} of the largest |logit|."
    ]


def _fit_all(
    suite: Suite, stage: Stage, store: Store, registry: Registry, env: dict[str, Any], progress: Progress
) -> dict[str, Path | str]:
    """Fit the explainers that must be fitted, for one arena: their folders by title, or why a fit failed."""
    fitted: dict[str, Path | str] = {}
    for entry in suite.explainers:
        if entry.fit is None:
            continue
        offer = registry.explainer(entry.name)
        parameters = explainer_parameters(suite, entry, offer.spec)
        train = load_dataset(entry.fit.name, parameters=entry.fit.parameters, plugins=registry)
        identity = {
            "environment": env,
            "explainer": [offer.qualified_name, plugin_identity(offer)],  # type: ignore[arg-type]
            "parameters": resolved_parameters(offer.spec, parameters),
            "classifier": stage.classifier.checksum,
            "train": [[clip.clip_id, clip.labels, clip.fingerprint] for clip in train.entries],
            "seed": suite.seed,
        }
        folder = store.folder / "fits" / f"{offer.spec.name}-{digest_of(identity)[:16]}"
        report = functools.partial(_fitting, progress, entry.title)
        try:
            completed = entry.model_copy(update={"parameters": parameters})
            _fit_or_load(registry, completed, stage, train, folder, suite.seed, report)
        except (ConfigurationError, PluginError, StoreError):
            raise
        except (Exception, SystemExit) as error:
            fitted[entry.title] = f"{type(error).__name__}: {error}"
        else:
            fitted[entry.title] = folder
    return fitted


def _fit_or_load(
    registry: Registry, entry: ExplainerEntry, stage: Stage, train: Dataset, folder: Path, seed: int, report: Progress
) -> None:
    """Fit into a folder that is named after all the settings: what does not load from it is damaged."""
    for attempt in range(2):
        try:
            with isolated(seed, stage.classifier.device):
                fit(
                    registry,
                    entry.name,
                    stage.classifier.to(stage.classifier.device),
                    train,
                    folder,
                    parameters=entry.parameters,
                    seed=seed,
                    progress=report,
                )
            return
        except CheckpointError:
            if attempt:
                raise
            set_aside = folder.with_name(f"{folder.name}.corrupt")
            shutil.rmtree(set_aside, ignore_errors=True)
            folder.replace(set_aside)


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
