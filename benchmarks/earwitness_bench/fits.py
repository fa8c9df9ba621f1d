"""Fits what a suite says must be fitted: once for each arena's classifier, and found again by all its settings."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path
from typing import Any

from earwitness.artifacts import digest_of
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, PluginError, StoreError
from earwitness.fitting import fit, fitted_identity
from earwitness.loading import load_dataset
from earwitness.parameters import resolved_parameters
from earwitness.protocols import Progress
from earwitness.registry import Registry
from earwitness_bench.identity import plugin_identity
from earwitness_bench.isolation import isolated
from earwitness_bench.monitor import Observer, Passing
from earwitness_bench.plan import Stage, explainer_parameters
from earwitness_bench.store import Store
from earwitness_bench.suite import ExplainerEntry, Suite

NOT_FITTED = "it has not been fitted yet"


def fit_all(
    suite: Suite,
    stage: Stage,
    store: Store,
    registry: Registry,
    env: dict[str, Any],
    *,
    observer: Observer | None = None,
) -> dict[str, Path | str]:
    """Fit the explainers that must be fitted, for one arena; what was fitted before is found.

    Parameters
    ----------
    suite : Suite
    stage : Stage
    store : Store
        Fits lie in its folder, one for each combination of settings.
    registry : Registry
    env : dict
        See :func:`earwitness_bench.identity.environment`.
    observer : Observer, optional
        Is told how a fit goes. Without one nothing is fitted, only found.

    Returns
    -------
    dict of str to Path or str
        By title: the folder of the fit; or why it failed, :data:`NOT_FITTED` where nothing was found.
    """
    fitted: dict[str, Path | str] = {}
    for entry in suite.explainers:
        if entry.fit is None:
            continue
        offer = registry.explainer(entry.name)
        parameters = explainer_parameters(suite, entry, offer.spec)
        train = load_dataset(entry.fit.name, parameters=entry.fit.parameters, plugins=registry)
        seed = suite.seed if entry.fit.seed is None else entry.fit.seed
        identity = {
            "environment": env,
            "explainer": [offer.qualified_name, plugin_identity(offer)],  # type: ignore[arg-type]
            "parameters": resolved_parameters(offer.spec, parameters),
            "classifier": stage.classifier.checksum,
            "train": [[clip.clip_id, clip.labels, clip.fingerprint] for clip in train.entries],
            "seed": seed,
        }
        folder = store.folder / "fits" / f"{offer.spec.name}-{digest_of(identity)[:16]}"
        if observer is None:
            fitted[entry.title] = _found(folder) or NOT_FITTED
            continue
        report = functools.partial(_fitting, observer, entry.title)
        try:
            completed = entry.model_copy(update={"parameters": parameters})
            with store.alone(folder.name):
                _fit_or_load(registry, completed, stage, train, folder, seed, report)
        except (ConfigurationError, PluginError, StoreError):
            raise
        except (Exception, SystemExit) as error:
            fitted[entry.title] = f"{type(error).__name__}: {error}"
        else:
            fitted[entry.title] = folder
    return fitted


def _found(folder: Path) -> Path | None:
    try:
        fitted_identity(folder)
    except CheckpointError:
        return None
    return folder


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


def _fitting(observer: Observer, title: str, done: int, total: int, text: str) -> None:
    observer(Passing(f"fitting {title}: {text}, {done} of {total}"))
