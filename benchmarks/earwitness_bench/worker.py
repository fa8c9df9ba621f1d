"""Does one unit of work: explains a chunk, scores the explanation, keeps both."""

from __future__ import annotations

import resource
import time
import traceback
from dataclasses import replace
from typing import Any

import torch

from earwitness.classifier import AudioClassifier
from earwitness.errors import DatasetError, NotApplicableError, StoreError
from earwitness.explanation import Explanation
from earwitness.registry import Registry
from earwitness_bench.chunks import Prepared, describe, prepare, row_ids
from earwitness_bench.dividing import Explained
from earwitness_bench.explaining import Asker, explained_rows
from earwitness_bench.identity import machine
from earwitness_bench.judging import Bench, SpoiltError
from earwitness_bench.limits import TimeLimitExceeded, time_limit
from earwitness_bench.packing import degenerate_rows, pack, taken, unpack
from earwitness_bench.plan import Judge, Plan, Unit
from earwitness_bench.store import Kind, Store
from earwitness_bench.tabulation import json_number
from earwitness_bench.tasks import Outcome, Task

_TRANSIENT = (OSError, MemoryError, torch.OutOfMemoryError, DatasetError, TimeLimitExceeded)
"""What may be gone at the next run: such a failure is kept, shown, and tried again."""

_CAUGHT = (Exception, SystemExit, TimeLimitExceeded)

Cell = dict[str, Any]


class Worker:
    """Does one task after another; keeps the last chunk and the built explainers warm.

    Parameters
    ----------
    plan : Plan
    store : Store
    registry : Registry
    apart : bool
        Whether this runs in a process that may be ended and replaced.
    retry_failed : bool
        Compute again whatever has failed. Otherwise only what may have been bad luck.
    """

    def __init__(
        self, plan: Plan, store: Store, registry: Registry, *, apart: bool = False, retry_failed: bool = False
    ) -> None:
        self.plan = plan
        self.store = store
        self._registry = registry
        self._apart = apart
        self._retry_failed = retry_failed
        self._asker = Asker(plan.suite.seed, store, registry)
        self._chunk: tuple[Any, Prepared] | None = None
        self._classifier: tuple[str, AudioClassifier] | None = None

    def __call__(self, task: Task) -> Outcome:
        """Compute what is missing of a unit."""
        started = time.perf_counter()
        unit = self.plan[task.unit]
        outcome = Outcome(self.plan.title(task.unit))
        cell = self._found("explain", unit.explain_key, task)
        scores = [self._found("score", key, task) for key in unit.score_keys]
        if task.phase == "score":
            return self._score_later(unit, task, cell, scores, outcome, started)
        outcome.cached = sum(found is not None for found in (cell, *scores))
        explanation = None
        if cell is None:
            explanation, cell = self._explain_and_keep(unit, outcome)
        elif cell["status"] == "ok" and None in scores:
            explanation = self._explained_before(unit, cell, outcome)
        if explanation is not None and None in scores:
            later = task.phase == "explain" and self.store.maps_path(unit.explain_key).exists()
            now = [not (later and judge.spec.attribution_only) for judge in unit.judges]
            outcome.unscored = any(s is None and not mine for s, mine in zip(scores, now, strict=True))
            scores = self._score(unit, cell, explanation, scores, outcome, now)
        outcome.errors += _errors(outcome.title, unit, cell, scores)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def _score_later(
        self, unit: Unit, task: Task, cell: Cell | None, scores: list[Cell | None], outcome: Outcome, started: float
    ) -> Outcome:
        """The metrics that the phase ``explain`` has left, from the maps that it kept."""
        mine = [judge.spec.attribution_only for judge in unit.judges]
        if cell is not None and cell["status"] == "ok":
            explanation = self._explained_before(unit, cell, outcome)
            if explanation is not None:
                scores = self._score(unit, cell, explanation, scores, outcome, mine)
            own = [score if attribution_only else None for score, attribution_only in zip(scores, mine, strict=True)]
            outcome.errors += _errors(outcome.title, unit, {**cell, "rows": []}, own)
        outcome.seconds = time.perf_counter() - started
        return outcome

    def on_cpu(self) -> Worker:
        """The same for a machine without a GPU: it can score, and never explains."""
        lineups = tuple(
            replace(lineup, stage=replace(lineup.stage, classifier=lineup.stage.classifier.to("cpu")))
            for lineup in self.plan.lineups
        )
        plan = replace(self.plan, lineups=lineups)
        return Worker(plan, self.store, self._registry, apart=self._apart, retry_failed=self._retry_failed)

    def give_up(self, task: Task) -> Task:
        """Say of the cell at which workers ended that it failed; returns the rest of the task."""
        unit = self.plan[task.unit]
        error = "Its worker ended again and again while it was at work on this: killed, out of memory, or hanging."
        failure = {"error": error, "transient": True}
        if self._found("explain", unit.explain_key, task) is None:
            self._write_explained(unit, {"status": "failed", **failure}, None, None, 0.0)
            return replace(task, given_up=task.given_up | {unit.explain_key})
        for judge, key in zip(unit.judges, unit.score_keys, strict=True):
            mine = judge.spec.attribution_only or task.phase != "score"
            if mine and self._found("score", key, task) is None:
                said = {**_nothing(judge, [f"failed: {error}"] * len(unit.chunk)), **failure}
                self._write_score(unit, judge, key, said, 0.0)
                return replace(task, given_up=task.given_up | {key})
        return task

    def has_failed(self, number: int) -> bool:
        """Whether something of a unit was computed and has failed."""
        unit = self.plan[number]
        cell = self.store.read_cell("explain", unit.explain_key)
        return cell is not None and (
            _is_failure(cell) or any(_is_failure(self.store.read_cell("score", key)) for key in unit.score_keys)
        )

    def _found(self, kind: Kind, key: str, task: Task) -> Cell | None:
        """A cell from the store, unless it holds a failure that is worth another try."""
        cell = self.store.read_cell(kind, key)
        again = cell is not None and (cell.get("transient") or (self._retry_failed and _is_failure(cell)))
        return None if again and key not in task.given_up else cell

    # --- explaining

    def _explain_and_keep(self, unit: Unit, outcome: Outcome) -> tuple[Explanation | None, Cell]:
        """Explain a chunk, or say why not; the maps are written first, so that a cell never lacks them after a kill."""
        started = time.perf_counter()
        prepared = explained = None
        try:
            with self._limited():
                prepared = self._prepare(unit)
                explained = self._asker.explain(unit, prepared)
            said: Cell = {"status": "ok"}
        except StoreError:
            raise
        except NotApplicableError as reason:
            said = {"status": "skipped", "reason": str(reason)}
        except _CAUGHT as error:
            said = {"status": "failed", **_failure(error)}
            self._forget(error)
            outcome.broken += 1
        explanation = self._keep_maps(unit, explained.explanation) if explained else None
        cell = self._write_explained(unit, said, prepared, explained, time.perf_counter() - started)
        outcome.explained, outcome.clips = 1, len(unit.chunk)
        if explained is not None:
            outcome.notes += self._notes(unit, prepared, explained)
            outcome.broken += _is_failure(cell)
        return explanation, cell

    def _write_explained(
        self, unit: Unit, said: Cell, prepared: Prepared | None, explained: Explained | None, seconds: float
    ) -> Cell:
        rows = _rows(unit, said, prepared, explained)
        errors = [*(prepared.errors.values() if prepared else ()), *(explained.errors.values() if explained else ())]
        cell = {
            **said,
            **({"transient": True} if explained and any(map(_is_transient, errors)) else {}),
            "title": unit.contestant.title,
            "arena": unit.stage.arena.title,
            "rows": rows,
            "rows_per_call": explained.rows_per_call if explained else None,
            "seconds": round(seconds, 4),
            "peak_memory_mb": _peak_memory_mb(),
            "provenance": unit.provenance,
            "machine": machine(),
        }
        self.store.write_cell("explain", unit.explain_key, cell)
        return cell

    def _notes(self, unit: Unit, prepared: Prepared | None, explained: Explained) -> list[str]:
        if prepared is None or explained.rows_per_call >= len(prepared.rows):
            return []
        return [
            f"{self.plan.title(unit.number)}: a chunk of {len(unit.chunk)} was explained {explained.rows_per_call} at "
            "a time, because memory was short or a row failed"
        ]

    def _explained_before(self, unit: Unit, cell: Cell, outcome: Outcome) -> Explanation | None:
        """The explanation of a cell that is there already: its maps, or the same again where they were not kept."""
        try:
            with self._limited():
                prepared = self._as_explained(unit, cell)
                again = self._asker.kept(
                    unit, unit.explain_key, prepared, lambda: self._asker.explain(unit, prepared).explanation
                )
                return again or self._keep_maps(unit, self._asker.explain(unit, prepared).explanation)
        except StoreError:
            raise
        except _CAUGHT as error:
            self._forget(error)
            outcome.errors.append(f"{outcome.title}: it could not be explained again: {describe(error)}")
            outcome.broken += 1
            return None

    def _keep_maps(self, unit: Unit, explanation: Explanation) -> Explanation:
        """Keep the maps, if they are not too large; returns the explanation as it will be read again."""
        tensors, document = pack(explanation)
        if sum(tensor.nbytes for tensor in tensors.values()) <= self.plan.suite.map_cap_mb * 1e6:
            self.store.write_maps(unit.explain_key, tensors, document)
        part = None if explanation.parts is None else explanation.parts.map
        return unpack(tensors, document, unit.stage.classifier.device, part=part)

    def _prepare(self, unit: Unit) -> Prepared:
        """Read and analyse a chunk; the last one is kept, because its explainers come one after another."""
        key = self.plan.place(unit.number)[:2]
        if self._chunk is None or self._chunk[0] != key:
            self._chunk = (key, prepare(unit, self.plan.suite, self._private(unit.stage.classifier)))
        return self._chunk[1]

    def _as_explained(self, unit: Unit, cell: Cell) -> Prepared:
        """The rows that a cell explains, and the classes that it explains: another device may decide otherwise."""
        rows = explained_rows(cell)
        prepared = self._prepare(unit).select(rows)
        classes = [prepared.scene.classifier.target_of(cell["rows"][row]["target"]) for row in rows]
        return replace(prepared, target=torch.tensor(classes, device=prepared.target.device))

    def _private(self, classifier: AudioClassifier) -> AudioClassifier:
        """A copy for metrics, so that none of them can spoil the plan's own."""
        if self._classifier is None or self._classifier[0] != classifier.checksum:
            self._classifier = (classifier.checksum, classifier.to(classifier.device))
        return self._classifier[1]

    def _forget(self, error: BaseException) -> None:
        """Make everything anew that may have been left in any state."""
        if not isinstance(error, Exception) or isinstance(error, SpoiltError):
            self._chunk = self._classifier = None

    def _limited(self) -> Any:
        return time_limit(self.plan.suite.cell_timeout_s, may_exit=self._apart)

    # --- scoring

    def _score(
        self,
        unit: Unit,
        cell: Cell,
        explanation: Explanation,
        scores: list[Cell | None],
        outcome: Outcome,
        now: list[bool],
    ) -> list[Cell | None]:
        """Score an explanation by the metrics that have not seen it and whose turn it is."""
        rows = explained_rows(cell)

        def bench() -> Bench:
            private = taken(explanation, torch.arange(len(rows), device=explanation.target.device))
            return Bench(self.plan.suite, unit, self._as_explained(unit, cell), private, self._asker)

        held: Bench | None = None
        complete: list[Cell | None] = []
        for judge, key, found, is_due in zip(unit.judges, unit.score_keys, scores, now, strict=True):
            score = found
            if score is None and is_due:
                started = time.perf_counter()
                held = held or bench()
                said = self._judge(held, judge, cell)
                if self._chunk is None:  # a metric spoilt what it was shown
                    held = None
                score = self._write_score(unit, judge, key, said, time.perf_counter() - started)
                outcome.scored += 1
                outcome.broken += "error" in score
                if "rows_per_call" in score:
                    outcome.notes.append(
                        f"{outcome.title} · {judge.reference.name}: {score['rows_per_call']} rows of {len(rows)} were "
                        "scored at a time, because memory was short"
                    )
            complete.append(score)
        return complete

    def _judge(self, bench: Bench, judge: Judge, cell: Cell) -> Cell:
        """Values and outcomes of one metric on all rows of a chunk; one that fails says so."""
        outcomes, rows = [row["outcome"] for row in cell["rows"]], explained_rows(cell)
        try:
            with self._limited():
                said, rows_per_call = bench.judge(judge)
            divided = {} if rows_per_call == len(rows) else {"rows_per_call": rows_per_call}
            transient = {"transient": True} if cell.get("transient") else {}
            return {**_spread(said, rows, outcomes), **divided, **transient}
        except StoreError:
            raise
        except NotApplicableError as reason:
            return _nothing(judge, _filled(outcomes, rows, f"skipped: {reason}"))
        except _CAUGHT as error:
            self._forget(error)
            return {**_nothing(judge, _filled(outcomes, rows, f"failed: {describe(error)}")), **_failure(error)}

    def _write_score(self, unit: Unit, judge: Judge, key: str, said: Cell, seconds: float) -> Cell:
        suite = self.plan.suite
        cell = {
            "explain": unit.explain_key,
            "title": unit.contestant.title,
            "arena": unit.stage.arena.title,
            "metric": judge.identity,
            "provenance": {"route": suite.route, "scale": suite.scale, "rule": suite.rule, "seed": suite.seed},
            **said,
            "seconds": round(seconds, 4),
            "peak_memory_mb": _peak_memory_mb(),
            "machine": machine(),
        }
        self.store.write_cell("score", key, cell)
        return cell


def _rows(unit: Unit, said: Cell, prepared: Prepared | None, explained: Explained | None) -> list[Cell]:
    """What is known of each row, also where explaining failed or the chunk could not even be read."""
    read = dict(zip(prepared.rows, prepared.target_labels, strict=True)) if prepared else {}
    place = {row: number for number, row in enumerate(explained.rows)} if explained else {}
    degenerate = degenerate_rows(explained.explanation) if explained else []
    diagnostics = explained.explanation.diagnostics if explained else {}
    errors = {**(prepared.errors if prepared else {}), **(explained.errors if explained else {})}
    whole = f"skipped: {said['reason']}" if said["status"] == "skipped" else f"failed: {said.get('error')}"
    entries = [unit.stage.dataset.entries[index] for index, _ in unit.chunk]
    names = row_ids(unit.stage, unit.chunk)
    return [
        {
            "row": names[row],
            "clip_id": entry.clip_id,
            "group": entry.group,
            "labels": list(entry.labels),
            "fingerprint": entry.fingerprint,
            "target": read.get(row, unit.chunk[row][1]),
            "outcome": "explained" if row in place else _outcome(errors[row]) if row in errors else whole,
            "degenerate": degenerate[place[row]] if row in place else None,
            "diagnostics": {
                name: json_number(values[place[row]]) for name, values in diagnostics.items() if row in place
            },
        }
        for row, entry in enumerate(entries)
    ]


def _outcome(error: Exception) -> str:
    text = describe(error)
    if text.startswith(("failed: ", "skipped: ")):  # that of the row whose map a control takes
        return text
    return f"skipped: {text}" if isinstance(error, NotApplicableError) else f"failed: {text}"


def _spread(said: Cell, rows: tuple[int, ...], outcomes: list[str]) -> Cell:
    """A metric's answer for the explained rows as one for all rows of the chunk."""
    if len(rows) == len(outcomes):
        return said
    place = {row: number for number, row in enumerate(rows)}

    def over(values: list[Any], otherwise: list[Any]) -> list[Any]:
        return [values[place[row]] if row in place else otherwise[row] for row in range(len(outcomes))]

    nothing = [None] * len(outcomes)
    spread = {
        "columns": {name: over(values, nothing) for name, values in said["columns"].items()},
        "outcomes": over(said["outcomes"], outcomes),
    }
    if "curves" in said:
        spread["curves"] = {
            name: {"x": curve["x"], "y": over(curve["y"], [[None] * len(curve["x"])] * len(outcomes))}
            for name, curve in said["curves"].items()
        }
    return spread


def _filled(outcomes: list[str], rows: tuple[int, ...], text: str) -> list[str]:
    return [text if row in rows else outcome for row, outcome in enumerate(outcomes)]


def _nothing(judge: Judge, outcomes: list[str]) -> Cell:
    return {"columns": {c.name: [None] * len(outcomes) for c in judge.spec.columns}, "outcomes": outcomes}


def _errors(title: str, unit: Unit, cell: Cell, scores: list[Cell | None]) -> list[str]:
    """What failed of a unit, in words."""
    if cell["status"] == "failed":
        return [f"{title}: {cell['error']}"]
    rows = [f"{title} · {row['row']}: {row['outcome']}" for row in cell["rows"] if row["outcome"].startswith("failed")]
    return rows + [
        f"{title} · {judge.reference.name}: {score['error']}"
        for judge, score in zip(unit.judges, scores, strict=True)
        if score and "error" in score
    ]


def _is_failure(cell: Cell | None) -> bool:
    """Whether a cell, or the explanation of one of its rows, failed. A score that a metric denies a row is none."""
    if cell is None:
        return False
    return "error" in cell or any(row["outcome"].startswith("failed") for row in cell.get("rows", ()))


def _failure(error: BaseException) -> Cell:
    transient = {"transient": True} if _is_transient(error) else {}
    return {"error": describe(error), "traceback": "".join(traceback.format_exception(error)), **transient}


def _is_transient(error: BaseException) -> bool:
    return isinstance(error, _TRANSIENT) or getattr(error, "transient", False)


def _peak_memory_mb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
