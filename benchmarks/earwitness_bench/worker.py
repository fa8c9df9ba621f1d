"""Does one unit of work: explains a chunk, scores the explanation, keeps both."""

from __future__ import annotations

import resource
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from earwitness.audio.rules import parse_rule
from earwitness.batching import load_batch
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import DatasetError, EarwitnessError, ExplanationError, NotApplicableError, StoreError
from earwitness.explanation import Explanation
from earwitness.loading import load_explainer
from earwitness.parameters import build
from earwitness.protocols import Explainer, Metric
from earwitness.random import Random, stream_seed
from earwitness.registry import Registry
from earwitness.render import Scene
from earwitness_bench.isolation import isolated
from earwitness_bench.packing import degenerate_rows, pack, shuffled, unpack
from earwitness_bench.plan import Judge, Unit
from earwitness_bench.store import Kind, Store
from earwitness_bench.suite import Suite
from earwitness_bench.tabulation import json_number, tabulate

_TRANSIENT = (OSError, MemoryError, torch.OutOfMemoryError, DatasetError)
"""What may be gone at the next run: such a failure is kept, shown, and tried again."""


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

    @property
    def target_labels(self) -> list[str]:
        return [self.scene.classifier.labels[index] for index in self.target.tolist()]


class Worker:
    """Does one unit of work after another; keeps the last chunk and the built explainers warm."""

    def __init__(self, suite: Suite, store: Store, registry: Registry) -> None:
        self.suite = suite
        self.store = store
        self.registry = registry
        self._chunk: tuple[Any, _Prepared] | None = None
        self._explainers: dict[tuple[str, str], Explainer] = {}

    def __call__(self, unit: Unit) -> Outcome:
        outcome = Outcome(f"{unit.stage.arena.title} · {unit.contestant.title}")
        cell = self._found("explain", unit.explain_key)
        scores = [self._found("score", key) for key in unit.score_keys]
        outcome.cached = sum(found is not None for found in (cell, *scores))
        explanation = None
        if cell is None:
            explanation, cell = self._explain_and_keep(unit)
            outcome.explained = 1
        elif cell["status"] == "ok" and None in scores:
            explanation = self._explained_before(unit, outcome)
        if explanation is not None and None in scores:
            scores = self._score(unit, explanation, scores, outcome)
        if cell["status"] == "failed":
            outcome.errors.append(f"{outcome.title}: {cell['error']}")
        outcome.errors += [
            f"{outcome.title} · {judge.reference.name}: {score['error']}"
            for judge, score in zip(unit.judges, scores, strict=True)
            if score and "error" in score
        ]
        return outcome

    def _found(self, kind: Kind, key: str) -> dict[str, Any] | None:
        """A cell from the store, unless it holds a failure that is worth another try."""
        cell = self.store.read_cell(kind, key)
        return None if cell is None or cell.get("transient") else cell

    # --- explaining

    def _explain_and_keep(self, unit: Unit) -> tuple[Explanation | None, dict[str, Any]]:
        """Explain a chunk, or say why not; the maps are written first, so that a cell never lacks them after a kill."""
        started = time.perf_counter()
        prepared = explanation = None
        try:
            prepared = self._prepare(unit)
            explanation = self._explain(unit, prepared)
            said: dict[str, Any] = {"status": "ok"}
        except StoreError:
            raise
        except NotApplicableError as reason:
            said = {"status": "skipped", "reason": str(reason)}
        except (Exception, SystemExit) as error:
            said = {"status": "failed", **_failure(error)}
        if explanation is not None:
            explanation = self._keep_maps(unit, explanation)
        cell = {
            **said,
            "title": unit.contestant.title,
            "arena": unit.stage.arena.title,
            "rows": _rows(unit, prepared, explanation),
            "seconds": round(time.perf_counter() - started, 4),
            "peak_memory_mb": _peak_memory_mb(),
            "provenance": unit.provenance,
        }
        self.store.write_cell("explain", unit.explain_key, cell)
        return explanation, cell

    def _explained_before(self, unit: Unit, outcome: Outcome) -> Explanation | None:
        """The explanation of a cell that is there already: its maps, or the same again where they were not kept."""
        try:
            prepared = self._prepare(unit)
            kept = self.store.read_maps(unit.explain_key)
            if kept is not None:
                return unpack(*kept, device=unit.stage.classifier.device)
            return self._keep_maps(unit, self._explain(unit, prepared))
        except StoreError:
            raise
        except (Exception, SystemExit) as error:
            outcome.errors.append(f"{outcome.title}: it could not be explained again: {_describe(error)}")
            return None

    def _keep_maps(self, unit: Unit, explanation: Explanation) -> Explanation:
        """Keep the maps, if they are not too large; returns the explanation as it will be read again."""
        tensors, document = pack(explanation)
        if sum(tensor.nbytes for tensor in tensors.values()) <= self.suite.map_cap_mb * 1e6:
            self.store.write_maps(unit.explain_key, tensors, document)
        return unpack(tensors, document, unit.stage.classifier.device)

    def _explain(self, unit: Unit, prepared: _Prepared) -> Explanation:
        """The explanation of a chunk, in half precision."""
        contestant, scene = unit.contestant, prepared.scene
        _check_needs(contestant.spec.needs, prepared)
        if contestant.shuffle_of is None:
            explanation = self._ask(unit, prepared, scene.classifier, scene.batch)
            _check_shapes(explanation, scene)
            return explanation
        others = _others(self.suite.seed, scene.batch.clip_ids, prepared)
        return shuffled(self._base(unit, prepared), others.to(prepared.target.device))

    def _base(self, unit: Unit, prepared: _Prepared) -> Explanation:
        """The explanation that a shuffled control is made of."""
        assert unit.base_key is not None
        kept = self.store.read_maps(unit.base_key)
        if kept is not None:
            return unpack(*kept, device=prepared.scene.classifier.device)
        cell = self._found("explain", unit.base_key)
        if cell is not None and cell["status"] == "failed":
            raise ExplanationError(cell["error"])
        if cell is not None and cell["status"] == "skipped":
            raise NotApplicableError(cell["reason"])
        explanation = self._ask(unit, prepared, prepared.scene.classifier, prepared.scene.batch)
        _check_shapes(explanation, prepared.scene)
        return explanation

    def _ask(
        self,
        unit: Unit,
        prepared: _Prepared,
        classifier: AudioClassifier,
        batch: Batch,
        *,
        target: Tensor | None = None,
        rows: Sequence[int] | None = None,
    ) -> Explanation:
        """Call an explainer on private copies of classifier and samples; its maps go through half precision.

        ``rows`` of the chunk are what ``batch`` stands for (default: all), and their classes are explained unless
        ``target`` names others.
        """
        seed = self.suite.seed
        row_ids = prepared.row_ids if rows is None else tuple(prepared.row_ids[row] for row in rows)
        if target is None:
            target = prepared.target if rows is None else prepared.target[list(rows)]
        private = Batch(batch.waveforms.clone(), batch.rate, batch.clips)
        explainer = self._explainer(unit)
        try:
            with isolated(stream_seed(seed, "explain", *row_ids), classifier.device):
                explanation = explainer.explain(
                    classifier.to(classifier.device),
                    private,
                    target=target.clone(),
                    random=Random(seed, row_ids),
                )
        except BaseException:
            self._explainers.clear()  # an explainer that broke off may be left in any state
            raise
        if not isinstance(explanation, Explanation):
            raise ExplanationError(f"explain() must return an Explanation, got {type(explanation).__name__}.")
        if not torch.equal(explanation.target.cpu(), target.cpu()):
            raise ExplanationError(
                f"explain() was asked for the classes {target.tolist()}, but explained {explanation.target.tolist()}."
            )
        return unpack(*pack(explanation), device=classifier.device)

    def _explainer(self, unit: Unit) -> Explainer:
        entry, fitted, classifier = unit.contestant.entry, unit.contestant.fitted, unit.stage.classifier
        if isinstance(fitted, str):
            raise ExplanationError(f"It could not be fitted: {fitted}")
        key = (entry.title, classifier.checksum)
        if key not in self._explainers:
            self._explainers[key] = load_explainer(
                entry.name,
                parameters=None if fitted else unit.contestant.parameters,
                checkpoint=fitted,
                classifier=classifier,
                plugins=self.registry,
            )
        return self._explainers[key]

    def _prepare(self, unit: Unit) -> _Prepared:
        """Read and analyse a chunk; the last one is kept, because its explainers come one after another."""
        key = (unit.stage.arena, unit.chunk)
        if self._chunk is None or self._chunk[0] != key:
            classifier, dataset = unit.stage.classifier, unit.stage.dataset
            batch = load_batch(dataset, [i for i, _ in unit.chunk], classifier.rate, device=classifier.device)
            scene = Scene(classifier, batch, classifier.listening, self.suite.route)
            if self.suite.target == "predicted":
                target = classifier.probabilities(batch.waveforms).argmax(1)
            else:
                classes = [classifier.target_of(str(label)) for _, label in unit.chunk]
                target = torch.tensor(classes, device=classifier.device)
            self._chunk = (key, _Prepared(scene, target, tuple(_row_ids(unit))))
        return self._chunk[1]

    # --- scoring

    def _score(
        self, unit: Unit, explanation: Explanation, scores: list[dict[str, Any] | None], outcome: Outcome
    ) -> list[dict[str, Any] | None]:
        """Score an explanation by the metrics that have not seen it; one context serves them all."""
        prepared = self._prepare(unit)
        context = self._context(unit, prepared, explanation)
        complete: list[dict[str, Any] | None] = []
        for judge, key, found in zip(unit.judges, unit.score_keys, scores, strict=True):
            cell = found
            if cell is None:
                started = time.perf_counter()
                cell = {
                    "explain": unit.explain_key,
                    "title": unit.contestant.title,
                    "arena": unit.stage.arena.title,
                    "metric": judge.identity,
                    **self._judge(judge, explanation, context, prepared),
                    "seconds": round(time.perf_counter() - started, 4),
                }
                self.store.write_cell("score", key, cell)
                outcome.scored += 1
            complete.append(cell)
        return complete

    def _context(self, unit: Unit, prepared: _Prepared, explanation: Explanation) -> Context:
        suite = self.suite

        def explain_again(
            classifier: AudioClassifier, batch: Batch, *, target: Tensor | None, rows: Sequence[int] | None
        ) -> Explanation:
            if unit.contestant.shuffle_of is None:
                return self._ask(unit, prepared, classifier, batch, target=target, rows=rows)
            others = _others(suite.seed, prepared.scene.batch.clip_ids, prepared).to(prepared.target.device)
            if target is None and rows is None:
                return shuffled(self._ask(unit, prepared, classifier, batch), others)
            # The map is of another recording, whatever was done to this one.
            own = torch.arange(len(others)) if rows is None else torch.tensor(rows)
            chosen = others[own.to(others.device)].tolist()
            again = self._ask(
                unit, prepared, classifier, prepared.scene.batch.select(chosen), target=target, rows=chosen
            )
            return replace(again, target=prepared.target[own] if target is None else target, diagnostics={})

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

    def _judge(self, judge: Judge, explanation: Explanation, context: Context, prepared: _Prepared) -> dict[str, Any]:
        """Values and outcomes of one metric on one chunk; a metric that fails says so in its cell."""
        n_rows = len(context.batch)
        names = [column.name for column in judge.spec.columns]
        nothing: dict[str, Any] = {"columns": {name: [None] * n_rows for name in names}}
        seed = stream_seed(self.suite.seed, judge.identity["name"], *prepared.row_ids)
        try:
            _check_needs(judge.spec.needs, prepared)
            metric: Metric = build(judge.spec, judge.reference.parameters)
            with isolated(seed, context.classifier.device):
                return tabulate(metric.score(explanation, context), names, n_rows)
        except StoreError:
            raise
        except NotApplicableError as reason:
            return {**nothing, "outcomes": [f"skipped: {reason}"] * n_rows}
        except (Exception, SystemExit) as error:
            return {**nothing, "outcomes": [f"failed: {_describe(error)}"] * n_rows, **_failure(error)}


def _row_ids(unit: Unit) -> list[str]:
    """Identity of each row: the clip's, and the label where a clip may have several."""
    entries = unit.stage.dataset.entries
    ids = [(entries[index].clip_id, label) for index, label in unit.chunk]
    return [clip_id if label is None else f"{clip_id}#{label}" for clip_id, label in ids]


def _rows(unit: Unit, prepared: _Prepared | None, explanation: Explanation | None) -> list[dict[str, Any]]:
    """What is known of each row, also where explaining failed or the chunk could not even be read."""
    targets = prepared.target_labels if prepared else [label for _, label in unit.chunk]
    degenerate = degenerate_rows(explanation) if explanation else [None] * len(unit.chunk)
    diagnostics = explanation.diagnostics if explanation else {}
    entries = [unit.stage.dataset.entries[index] for index, _ in unit.chunk]
    return [
        {
            "row": row_id,
            "clip_id": entry.clip_id,
            "group": entry.group,
            "labels": list(entry.labels),
            "target": targets[index],
            "degenerate": degenerate[index],
            "diagnostics": {name: json_number(values[index]) for name, values in diagnostics.items()},
        }
        for index, (row_id, entry) in enumerate(zip(_row_ids(unit), entries, strict=True))
    ]


def _check_needs(needs: frozenset[str], prepared: _Prepared) -> None:
    """Raise :class:`NotApplicableError` where a plugin needs what this chunk does not have."""
    batch = prepared.scene.batch
    if "sources" in needs and batch.target_sources(prepared.target_labels) is None:
        raise NotApplicableError("the clean sources of these clips are not known")
    if "several-clips" in needs and len(set(batch.clip_ids)) < 2:
        raise NotApplicableError("it needs several clips, and this chunk has one")


def _check_shapes(explanation: Explanation, scene: Scene) -> None:
    """Each map must lie on the grid of its domain, here and not when a metric first looks at it."""
    n_rows, n_samples = scene.batch.waveforms.shape
    grid = scene.classifier.feature_grid(n_samples)
    expected = {
        "stft": tuple(scene.magnitude.shape),
        "waveform": (n_rows, n_samples),
        "features": None if grid is None else (n_rows, *grid.shape),
    }
    maps = [(m.domain, m.values) for m in (explanation.relevance, explanation.mask) if m is not None]
    if explanation.heard is not None:
        maps.append(("waveform", explanation.heard))
    for domain, values in maps:
        if tuple(values.shape) != expected[domain]:
            raise ExplanationError(
                f"A map in the domain {domain!r} must have shape {expected[domain]} here, got {tuple(values.shape)}."
            )


def _others(seed: int, clip_ids: tuple[str, ...], prepared: _Prepared) -> Tensor:
    """For each row a row of another clip: in a seeded order of the clips, the next one.

    A clip with several rows gives the one of the same class where it has it, else its first.

    Returns
    -------
    Tensor (B,), int64

    Raises
    ------
    NotApplicableError
        All rows are of one clip.
    """
    order = sorted(set(clip_ids), key=lambda clip_id: stream_seed(seed, clip_id, "shuffle"))
    if len(order) < 2:
        raise NotApplicableError("a chunk of one clip has no other clip to take a map from")
    following = dict(zip(order, order[1:] + order[:1], strict=True))
    targets = prepared.target.tolist()
    rows = []
    for clip_id, target in zip(clip_ids, targets, strict=True):
        candidates = [row for row, other in enumerate(clip_ids) if other == following[clip_id]]
        rows.append(next((row for row in candidates if targets[row] == target), candidates[0]))
    return torch.tensor(rows)


def _failure(error: BaseException) -> dict[str, Any]:
    transient = {"transient": True} if isinstance(error, _TRANSIENT) else {}
    return {"error": _describe(error), "traceback": "".join(traceback.format_exception(error)), **transient}


def _describe(error: BaseException) -> str:
    return str(error) if isinstance(error, EarwitnessError) else f"{type(error).__name__}: {error}"


def _peak_memory_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
