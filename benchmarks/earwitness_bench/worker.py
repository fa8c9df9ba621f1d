"""Does one unit of work: explains a chunk, scores the explanation, keeps both."""

from __future__ import annotations

import math
import resource
import time
import traceback
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from earwitness.audio.rules import parse_rule
from earwitness.batching import load_batch
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import EarwitnessError, ExplanationError, StoreError
from earwitness.explanation import Explanation
from earwitness.loading import load_explainer
from earwitness.parameters import build
from earwitness.protocols import Curve, Explainer, Metric
from earwitness.random import Random, stream_seed
from earwitness.registry import Registry
from earwitness.render import Scene
from earwitness_bench.packing import degenerate_rows, pack, shuffled, unpack
from earwitness_bench.plan import Judge, Unit
from earwitness_bench.store import Store
from earwitness_bench.suite import Suite


@dataclass
class Outcome:
    """What became of a unit: cells computed and found, and what failed."""

    title: str
    explained: int = 0
    scored: int = 0
    cached: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A chunk that has been read: its scene, the explained classes and each row's identity."""

    scene: Scene
    target: Tensor
    row_ids: tuple[str, ...]


class Worker:
    """Does one unit of work after another; keeps the last chunk and the built plugins warm."""

    def __init__(self, suite: Suite, store: Store, registry: Registry) -> None:
        self.suite = suite
        self.store = store
        self.registry = registry
        self._chunk: tuple[Any, _Prepared] | None = None
        self._explainers: dict[tuple[str, str], Explainer] = {}

    def __call__(self, unit: Unit) -> Outcome:
        outcome = Outcome(f"{unit.stage.arena.title} · {unit.contestant.title}")
        cell = self.store.read_cell("explain", unit.explain_key)
        scores = [self.store.read_cell("score", key) for key in unit.score_keys]
        outcome.cached = sum(found is not None for found in (cell, *scores))
        if cell is not None and (cell["status"] == "failed" or all(scores)):
            if cell["status"] == "failed":
                outcome.errors.append(f"{outcome.title}: {cell['error']}")
            outcome.errors += [
                f"{outcome.title} · {judge.reference.name}: {score['error']}"
                for judge, score in zip(unit.judges, scores, strict=True)
                if score and score.get("error")
            ]
            return outcome
        explanation = self._explained(unit, cell, outcome)
        if explanation is not None:
            self._score(unit, explanation, scores, outcome)
        return outcome

    def _explained(self, unit: Unit, cell: dict[str, Any] | None, outcome: Outcome) -> Explanation | None:
        """The explanation of a unit: from the store, or computed and kept."""
        if cell is not None:
            kept = self.store.read_maps(unit.explain_key)
            if kept is not None:
                return unpack(*kept, device=unit.stage.classifier.device)
        started = time.perf_counter()
        document: dict[str, Any] = {
            "status": "ok",
            "title": unit.contestant.title,
            "arena": unit.stage.arena.title,
            "provenance": unit.provenance,
        }
        try:
            prepared = self._prepare(unit)
            tensors, layout = pack(self._explain(unit, prepared))
            explanation = unpack(tensors, layout, unit.stage.classifier.device)
        except StoreError:
            raise
        except Exception as error:
            document |= {"status": "failed", "error": _describe(error), "traceback": traceback.format_exc()}
            self.store.write_cell("explain", unit.explain_key, document)
            outcome.errors.append(f"{outcome.title}: {document['error']}")
            return None
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        if size <= self.suite.map_cap_mb * 1e6:
            self.store.write_maps(unit.explain_key, tensors, layout)
        if cell is None:
            document |= {
                "rows": self._rows(unit, prepared, explanation),
                "seconds": round(time.perf_counter() - started, 4),
                "peak_memory_mb": _peak_memory_mb(),
            }
            self.store.write_cell("explain", unit.explain_key, document)
            outcome.explained = 1
        return explanation

    def _explain(self, unit: Unit, prepared: _Prepared) -> Explanation:
        contestant, scene = unit.contestant, prepared.scene
        if unit.base_key:
            base = self.store.read_maps(unit.base_key)
            if base is not None:
                return shuffled(unpack(*base, device=scene.classifier.device), self._others(prepared))
        random = Random(self.suite.seed, prepared.row_ids)
        explainer = self._explainer(unit)
        explanation = explainer.explain(scene.classifier, scene.batch, target=prepared.target, random=random)
        if not isinstance(explanation, Explanation) or len(explanation.target) != len(scene.batch):
            raise ExplanationError(f"explain() must return an Explanation of {len(scene.batch)} rows.")
        return shuffled(explanation, self._others(prepared)) if contestant.shuffle_of else explanation

    def _others(self, prepared: _Prepared) -> Tensor:
        return _derangement(self.suite.seed, prepared.row_ids).to(prepared.target.device)

    def _explainer(self, unit: Unit) -> Explainer:
        entry, folder, classifier = unit.contestant.entry, unit.contestant.folder, unit.stage.classifier
        key = (entry.title, classifier.checksum)
        if key not in self._explainers:
            self._explainers[key] = load_explainer(
                entry.name,
                parameters=None if folder else entry.parameters,
                checkpoint=folder,
                classifier=classifier,
                plugins=self.registry,
            )
        return self._explainers[key]

    def _prepare(self, unit: Unit) -> _Prepared:
        """Read and analyse a chunk; the last one is kept, because its explainers come one after another."""
        if self._chunk is None or self._chunk[0] is not unit.chunk:
            classifier, dataset = unit.stage.classifier, unit.stage.dataset
            batch = load_batch(dataset, [i for i, _ in unit.chunk], classifier.rate, device=classifier.device)
            scene = Scene(classifier, batch, classifier.listening, self.suite.route)
            labels = [label for _, label in unit.chunk]
            if labels[0] is None:
                target = classifier.probabilities(batch.waveforms).argmax(1)
            else:
                target = torch.tensor([classifier.target_of(str(label)) for label in labels], device=classifier.device)
            ids = tuple(
                clip_id if label is None else f"{clip_id}#{label}"
                for clip_id, label in zip(batch.clip_ids, labels, strict=True)
            )
            self._chunk = (unit.chunk, _Prepared(scene, target, ids))
        return self._chunk[1]

    @staticmethod
    def _rows(unit: Unit, prepared: _Prepared, explanation: Explanation) -> list[dict[str, Any]]:
        degenerate = degenerate_rows(explanation)
        labels = prepared.scene.classifier.labels
        return [
            {
                "row": row_id,
                "clip_id": clip.clip_id,
                "group": clip.group,
                "labels": list(clip.labels),
                "target": labels[int(prepared.target[index])],
                "degenerate": degenerate[index],
                "diagnostics": {name: _number(values[index]) for name, values in explanation.diagnostics.items()},
            }
            for index, (row_id, clip) in enumerate(zip(prepared.row_ids, prepared.scene.batch.clips, strict=True))
        ]

    def _score(
        self, unit: Unit, explanation: Explanation, scores: list[dict[str, Any] | None], outcome: Outcome
    ) -> None:
        """Score an explanation by the metrics that have not seen it; one context serves them all."""
        context: Context | None = None
        for judge, key, found in zip(unit.judges, unit.score_keys, scores, strict=True):
            if found is not None:
                continue
            context = context or self._context(unit, explanation)
            started = time.perf_counter()
            document: dict[str, Any] = {
                "explain": unit.explain_key,
                "title": unit.contestant.title,
                "arena": unit.stage.arena.title,
                "metric": judge.identity,
                **self._judge(judge, explanation, context),
                "seconds": round(time.perf_counter() - started, 4),
            }
            self.store.write_cell("score", key, document)
            outcome.scored += 1
            if document.get("error"):
                outcome.errors.append(f"{outcome.title} · {judge.reference.name}: {document['error']}")

    def _context(self, unit: Unit, explanation: Explanation) -> Context:
        prepared = self._prepare(unit)
        suite = self.suite

        def explain_again(classifier: AudioClassifier, batch: Batch) -> Explanation:
            random = Random(suite.seed, prepared.row_ids)
            return self._explainer(unit).explain(classifier, batch, target=prepared.target, random=random)

        return Context(
            unit.stage.classifier,
            prepared.scene.batch,
            explanation,
            random=Random(suite.seed, prepared.row_ids),
            rule=parse_rule(suite.rule),
            scale=suite.scale,
            route=suite.route,
            explain=explain_again,
            scene=prepared.scene,
        )

    def _judge(self, judge: Judge, explanation: Explanation, context: Context) -> dict[str, Any]:
        """Values and outcomes of one metric on one chunk; a metric that fails says so in its cell."""
        n_rows = len(context.batch)
        names = [column.name for column in judge.spec.columns]
        nothing: dict[str, Any] = {"columns": {name: [None] * n_rows for name in names}}
        if "sources" in judge.spec.needs and context.batch.target_sources(context.target_labels) is None:
            return {**nothing, "outcomes": ["skipped: the clean sources of these clips are not known"] * n_rows}
        try:
            metric: Metric = self._metric(judge)
            return _tabulate(metric.score(explanation, context), names, n_rows)
        except StoreError:
            raise
        except Exception as error:
            text = _describe(error)
            return {
                **nothing,
                "outcomes": [f"failed: {text}"] * n_rows,
                "error": text,
                "traceback": traceback.format_exc(),
            }

    def _metric(self, judge: Judge) -> Metric:
        return build(judge.spec, judge.reference.parameters)  # type: ignore[no-any-return]


def _tabulate(score: Any, names: list[str], n_rows: int) -> dict[str, Any]:
    """A metric's answer as plain JSON: columns of values, curves, and one outcome per row."""
    by_name = score if isinstance(score, dict) else {names[0]: score}
    if set(by_name) != set(names):
        raise ExplanationError(f"the metric's spec has the columns {names}, but it returned {sorted(by_name)}")
    columns, curves = {}, {}
    for name in names:
        value = by_name[name]
        if isinstance(value, Curve):
            curves[name] = {"x": [_number(x) for x in value.x], "y": [[_number(y) for y in row] for row in value.y]}
            value = value.area()
        if not isinstance(value, Tensor) or tuple(value.shape) != (n_rows,):
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ExplanationError(f"column {name!r} must be a Tensor of shape ({n_rows},), got {shape}")
        columns[name] = [_number(v) for v in value]
    outcomes = []
    for row in range(n_rows):
        missing = [name for name in names if columns[name][row] is None]
        outcomes.append(f"skipped: {', '.join(missing)} not defined for this clip" if missing else "scored")
    return {"columns": columns, "outcomes": outcomes, **({"curves": curves} if curves else {})}


def _number(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None


def _derangement(seed: int, row_ids: tuple[str, ...]) -> Tensor:
    """For each row another one: a seeded order, rotated by one place.

    Raises
    ------
    ExplanationError
        There is only one row.
    """
    if len(row_ids) < 2:
        raise ExplanationError("a chunk of one clip has no other clip to take a map from")
    order = sorted(range(len(row_ids)), key=lambda index: stream_seed(seed, row_ids[index], "shuffle"))
    rows = torch.empty(len(row_ids), dtype=torch.int64)
    for place, index in enumerate(order):
        rows[index] = order[(place + 1) % len(order)]
    return rows


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, EarwitnessError) else f"{type(error).__name__}: {error}"


def _peak_memory_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
