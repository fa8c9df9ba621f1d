"""Do explanations change when the classifier forgets what it learnt? The metric ``cascading-randomisation``, as curves.

The layers of a classifier are randomised from the output down, one after the other, and every method of a suite
explains each clip again at every stage; see :mod:`earwitness_bench.metrics.randomisation`.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018; Paissan et al., ICML 2024, figures 3 and 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from earwitness.artifacts import write_atomically, write_json
from earwitness.classifier import AudioClassifier
from earwitness.errors import EarwitnessError
from earwitness_bench.cascade import cascade
from earwitness_bench.chunks import prepare
from earwitness_bench.contestants import Contestant
from earwitness_bench.plan import Plan
from earwitness_bench.store import Store
from earwitness_bench.studies.cells import Ran
from earwitness_bench.studies.figures import Line, draw_lines
from earwitness_bench.studies.methods import Workbench
from earwitness_bench.studies.summaries import as_csv, floats, interval, mean, mean_and_interval
from earwitness_bench.suite import Reference, Suite

NAME = "randomisation"
METRIC = "earwitness:cascading-randomisation"
_OF_A_STAGE = ("mean", "interval", "constant_share", "mean_where_not_constant")
UNCHANGED = 1 - 1e-3
"""A map whose least similarity is above has not changed: the rest is half precision."""


def run_randomisation(suite: Suite, bench: Workbench, *, max_stages: int) -> tuple[dict[str, Any], Ran]:
    """Explain at every stage of the cascade; write ``randomisation.json``, ``.csv``, ``.png`` and ``.svg``.

    Parameters
    ----------
    suite : Suite
        Of one arena, and without controls (:func:`.methods.chosen`); its own metrics do not matter.
    bench : Workbench
    max_stages : int
        Of the cascade.

    Returns
    -------
    document : dict
        What the JSON file holds.
    ran : Ran

    Raises
    ------
    EarwitnessError
        No method could be scored at all.
    """
    metric = Reference(name=METRIC, parameters={"max_stages": max_stages})
    with bench.own_threads(suite):
        plan = bench.plan(suite.model_copy(update={"metrics": (metric,)}))
        layers = _layers(plan, max_stages)
        worked = bench.work_off(plan)
        (lineup,) = plan.lineups
        document: dict[str, Any] = {
            "study": NAME,
            "settings": {
                "suite": suite.name,
                "arena": suite.arenas[0].title,
                "classifier": lineup.stage.classifier.checksum,
                "environment": plan.environment,
                "metric": plan.judges[0].identity,
                "seed": suite.seed,
                "target": suite.target,
            },
            **layers,
            "methods": {contestant.title: _summary(plan, bench.store, contestant) for contestant in lineup.contestants},
        }
    if not any(found["clips"] for found in document["methods"].values()):
        raise EarwitnessError(f"No method could be scored: {next(iter(worked.errors), 'all maps are constant')}")
    write_json(bench.out / f"{NAME}.json", document)
    write_atomically(bench.out / f"{NAME}.csv", _as_csv(document).encode())
    _draw(bench.out / NAME, document)
    return document, Ran((), worked.computed, worked.found, tuple(worked.errors))


@torch.no_grad()
def _layers(plan: Plan, max_stages: int) -> dict[str, Any]:
    """The layers of each stage, and how far apart its random network still hears clips, as a share of the trained one:
    the standard deviation of its logits over the clips of a chunk."""
    classifier = plan.lineups[0].stage.classifier
    features = classifier.features(_some_clips(plan))
    found = [*cascade(classifier, features[:1], seed=plan.suite.seed, most=max_stages)]
    apart = [_apart(each, features) for each in (classifier, *(stage.classifier for stage in found))]
    return {
        "layers": [list(stage.layers) for stage in found],
        "hears_apart": [each / apart[0] if apart[0] else None for each in apart[1:]],
    }


def _some_clips(plan: Plan) -> Tensor:
    """The first chunk of which a clip can be read; else what is wrong with the first one."""
    errors: list[Exception] = []
    for number in range(len(plan)):
        try:
            return prepare(plan[number], plan.suite, plan[number].stage.classifier).scene.batch.waveforms
        except Exception as error:
            errors.append(error)
    raise errors[0]


def _apart(classifier: AudioClassifier, features: Tensor) -> float:
    return float(classifier.logits_of_features(features).double().std(0, correction=0).mean())


def _summary(plan: Plan, store: Store, contestant: Contestant) -> dict[str, Any]:
    """Of one method: mean similarity at each stage with its interval, the area, and why clips are missing."""
    curves: list[list[float | None]] = []
    groups: list[str] = []
    columns: dict[str, list[float | None]] = {"SSIM_randomised": [], "SSIM_other_clip": []}
    constant_then: list[list[float]] = []
    constant, outcomes = 0, dict.fromkeys([""])
    for number in range(len(plan)):
        unit = plan[number]
        if unit.contestant is not contestant:
            continue
        explained, scored = store.read_cell("explain", unit.explain_key), store.read_cell("score", unit.score_keys[0])
        rows = explained["rows"] if explained else []
        constant += sum(bool(row["degenerate"]) for row in rows)
        outcomes.update(dict.fromkeys(row["outcome"] for row in rows if row["outcome"] != "explained"))
        if scored is None or "curves" not in scored:
            outcomes.update(dict.fromkeys(scored["outcomes"] if scored else []))
            continue
        for row, curve in enumerate(scored["curves"]["SSIM_randomised"]["y"]):
            if None not in curve:
                curves.append(curve)
                constant_then.append(scored["curves"]["degenerate_randomised"]["y"][row])
                groups.append(rows[row]["group"])
                for name, column in columns.items():
                    column.append(scored["columns"][name][row])
    values, flat = np.array(curves, dtype=np.float64), np.array(constant_then, dtype=bool)
    areas = floats(columns["SSIM_randomised"])
    return {
        "control": contestant.is_control,
        "clips": len(curves),
        "constant": constant,
        "reasons": [text for text in outcomes if text],
        "mean": values.mean(0).tolist() if len(values) else [],
        "interval": [interval(stage, groups) for stage in values.T] if len(values) else [],
        "area": mean_and_interval(areas, groups),
        "other_clip": mean(floats(columns["SSIM_other_clip"])),
        "constant_share": flat.mean(0).tolist() if len(values) else [],
        "mean_where_not_constant": [mean(stage) for stage in np.where(flat, np.nan, values).T] if len(values) else [],
        "ignores_the_weights": bool(len(values) and values.min() > UNCHANGED),
    }


def _as_csv(document: dict[str, Any]) -> str:
    layers = ["", *(" ".join(names) for names in document["layers"])]
    return as_csv(
        ("method", "stage", "layers", "SSIM", "low", "high", "clips", "constant_share", "SSIM_where_not_constant"),
        (
            (title, str(number), layers[number], value, *ends, str(found["clips"]), *others)
            for title, found in document["methods"].items()
            for number, (value, ends, *others) in enumerate(zip(*(found[name] for name in _OF_A_STAGE), strict=True))
        ),
    )


def _draw(path: Path, document: dict[str, Any]) -> None:
    """Similarity against the layer down to which all are random, a line for each method; controls dashed."""
    lines = [
        Line(title, found["mean"], found["interval"], dashed=found["control"])
        for title, found in document["methods"].items()
        if found["clips"]
    ]
    ticks = ["none", *(names[-1] if len(names) == 1 else f"… {names[-1]}" for names in document["layers"])]
    draw_lines(
        path,
        lines,
        places=[float(number) for number in range(len(ticks))],
        ticks=ticks,
        title=f"{document['settings']['arena']}: similarity to the original map as layers are randomised",
        x_axis="random from the output down to",
        y_axis="SSIM",
    )
