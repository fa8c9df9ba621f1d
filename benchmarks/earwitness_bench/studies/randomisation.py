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

from earwitness.artifacts import write_atomically, write_json
from earwitness.batching import load_batch
from earwitness.errors import EarwitnessError
from earwitness_bench.cascade import stages
from earwitness_bench.contestants import Contestant
from earwitness_bench.plan import Plan
from earwitness_bench.stages import Stage
from earwitness_bench.store import Store
from earwitness_bench.studies.cells import Ran
from earwitness_bench.studies.figures import Line, draw_lines
from earwitness_bench.studies.methods import Workbench
from earwitness_bench.studies.summaries import as_csv, floats, interval, mean, mean_and_interval
from earwitness_bench.suite import Reference, Suite

NAME = "randomisation"
METRIC = "earwitness:cascading-randomisation"
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
        worked = bench.work_off(suite.model_copy(update={"metrics": (metric,)}))
        plan = worked.plan
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
            "layers": _layers(lineup.stage, max_stages),
            "methods": {contestant.title: _summary(plan, bench.store, contestant) for contestant in lineup.contestants},
        }
    if not any(found["clips"] for found in document["methods"].values()):
        raise EarwitnessError(f"No method could be scored: {next(iter(worked.errors), 'all maps are constant')}")
    write_json(bench.out / f"{NAME}.json", document)
    write_atomically(bench.out / f"{NAME}.csv", _as_csv(document).encode())
    _draw(bench.out / NAME, document)
    return document, Ran((), worked.computed, worked.found, tuple(worked.errors))


def _layers(stage: Stage, max_stages: int) -> list[list[str]]:
    batch = load_batch(stage.dataset, [stage.chunks[0][0][0]], stage.classifier.rate, device=stage.classifier.device)
    with torch.no_grad():
        return [
            list(names) for names in stages(stage.classifier, stage.classifier.features(batch.waveforms), max_stages)
        ]


def _summary(plan: Plan, store: Store, contestant: Contestant) -> dict[str, Any]:
    """Of one method: mean similarity at each stage with its interval, the area, and why clips are missing."""
    curves: list[list[float | None]] = []
    groups: list[str] = []
    columns: dict[str, list[float | None]] = {"SSIM_randomised": [], "SSIM_other_clip": [], "degenerate_randomised": []}
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
                groups.append(rows[row]["group"])
                for name, column in columns.items():
                    column.append(scored["columns"][name][row])
    values = np.array(curves, dtype=np.float64)
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
        "constant_when_randomised": mean(floats(columns["degenerate_randomised"])),
        "ignores_the_weights": bool(len(values) and values.min() > UNCHANGED),
    }


def _as_csv(document: dict[str, Any]) -> str:
    layers = ["", *(" ".join(names) for names in document["layers"])]
    return as_csv(
        ("method", "stage", "layers", "SSIM", "low", "high", "clips"),
        (
            (title, str(number), layers[number], value, *ends, str(found["clips"]))
            for title, found in document["methods"].items()
            for number, (value, ends) in enumerate(zip(found["mean"], found["interval"], strict=True))
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
