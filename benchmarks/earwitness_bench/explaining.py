"""Asks explainers: on private copies, within a time, for a chunk or for what can be had of it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ExplanationError, NotApplicableError
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.loading import load_explainer
from earwitness.protocols import Explainer
from earwitness.random import Random, stream_seed
from earwitness.registry import Registry
from earwitness.render import Scene
from earwitness_bench.chunks import ContractError, Prepared, check_needs, others, private_batch
from earwitness_bench.dividing import Explained, explain_rows
from earwitness_bench.isolation import isolated
from earwitness_bench.packing import PartMap, halved, shuffled, unpack
from earwitness_bench.plan import Unit
from earwitness_bench.store import Store


@dataclass(frozen=True)
class Asked:
    """What an explainer is asked for, where it is not a row's own class in the recording as it is.

    Attributes
    ----------
    classifier : AudioClassifier
    batch : Batch
        R rows.
    target : Tensor (R,), int64, optional
        Default: the classes that are explained.
    rows : sequence of int, length R, optional
        Which of the prepared rows they stand for. Default: all.
    """

    classifier: AudioClassifier
    batch: Batch
    target: Tensor | None = None
    rows: Sequence[int] | None = None


class Asker:
    """Calls explainers; keeps them warm.

    Parameters
    ----------
    seed : int
        Of the suite.
    store : Store
    registry : Registry
    """

    def __init__(self, seed: int, store: Store, registry: Registry) -> None:
        self._seed = seed
        self._store = store
        self._registry = registry
        self._explainers: dict[tuple[str, str], Explainer] = {}

    def explain(self, unit: Unit, prepared: Prepared) -> Explained:
        """The explanation of a chunk, or of those of its rows that can be explained, in half precision.

        Raises
        ------
        NotApplicableError
            The method has nothing to say about this chunk.
        Exception
            Whatever went wrong, if no row can be explained.
        """
        check_needs(unit.contestant.spec.needs, prepared)
        if unit.contestant.shuffle_of is None:
            return self._whole(unit, prepared)
        base = self._base(unit, prepared)
        chosen = prepared.select(base.rows)
        return replace(
            base, explanation=shuffled(base.explanation, others(self._seed, chosen.scene.batch.clip_ids, chosen.target))
        )

    def again(self, unit: Unit, prepared: Prepared, asked: Asked) -> Explanation:
        """The same method on something else; see :meth:`earwitness.context.Context.explain`."""
        if unit.contestant.shuffle_of is None:
            return self.ask(unit, prepared, asked)
        giver = others(self._seed, prepared.scene.batch.clip_ids, prepared.target)
        if asked.target is None and asked.rows is None:
            return shuffled(self.ask(unit, prepared, asked), giver)
        # The map is of another recording, whatever was done to this one.
        own = torch.arange(len(giver)) if asked.rows is None else torch.tensor(asked.rows)
        chosen = giver[own.to(giver.device)].tolist()
        batch = prepared.scene.batch.select(chosen)
        found = self.ask(unit, prepared, Asked(asked.classifier, batch, asked.target, chosen))
        target = prepared.target[own.to(prepared.target.device)] if asked.target is None else asked.target
        return replace(found, target=target, diagnostics={})

    def kept(self, unit: Unit, key: str, prepared: Prepared, explain: Callable[[], Explanation]) -> Explanation | None:
        """Maps that were kept, their parts made by ``explain`` when somebody asks for them; None if there are none."""
        found = self._store.read_maps(key)
        if found is None:
            return None
        return unpack(*found, device=unit.stage.classifier.device, part=_parts_of(explain))

    def _whole(self, unit: Unit, prepared: Prepared) -> Explained:
        def some(rows: Sequence[int]) -> Explanation:
            chosen = prepared.select(rows)
            scene = chosen.scene
            explanation = self.ask(unit, chosen, Asked(unit.stage.classifier, scene.batch))
            _check_shapes(explanation, scene)
            return explanation

        divisible = "several-clips" not in unit.contestant.spec.needs
        return explain_rows(some, prepared.rows, divisible=divisible)

    def _base(self, unit: Unit, prepared: Prepared) -> Explained:
        """The explanation that a shuffled control is made of: its unit came before this one."""
        assert unit.base_key is not None
        cell = self._store.read_cell("explain", unit.base_key)
        if cell is not None and cell["status"] == "failed":
            raise (_TransientError if cell.get("transient") else ContractError)(cell["error"])
        if cell is not None and cell["status"] == "skipped":
            raise NotApplicableError(cell["reason"])
        if cell is not None:
            rows = explained_rows(cell)
            chosen = prepared.select(rows)
            kept = self.kept(unit, unit.base_key, chosen, lambda: self._whole(unit, chosen).explanation)
            if kept is not None:
                outcomes = enumerate(row["outcome"] for row in cell["rows"])
                errors: dict[int, Exception] = {i: ExplanationError(o) for i, o in outcomes if i not in rows}
                return Explained(kept, rows, errors, cell["rows_per_call"])
        return self._whole(unit, prepared)

    def ask(self, unit: Unit, prepared: Prepared, asked: Asked) -> Explanation:
        """Call an explainer on private copies of classifier and samples; its maps go through half precision."""
        row_ids, target = prepared.row_ids, asked.target
        if asked.rows is not None:
            row_ids = tuple(row_ids[row] for row in asked.rows)
        if target is None:
            target = prepared.target if asked.rows is None else prepared.target[list(asked.rows)]
        device = asked.classifier.device
        explainer = self._explainer(unit)
        try:
            with isolated(stream_seed(self._seed, "explain", *row_ids), device):
                explanation = explainer.explain(
                    asked.classifier.to(device),
                    private_batch(asked.batch),
                    target=target.clone(),
                    random=Random(self._seed, row_ids),
                )
        except BaseException:
            self._explainers.clear()  # an explainer that broke off may be left in any state
            raise
        _check_answer(explanation, target)
        return halved(explanation, device)

    def _explainer(self, unit: Unit) -> Explainer:
        entry, fitted, classifier = unit.contestant.entry, unit.contestant.fitted, unit.stage.classifier
        if isinstance(fitted, str):
            raise ContractError(f"It could not be fitted: {fitted}")
        key = (entry.title, classifier.checksum)
        if key not in self._explainers:
            self._explainers[key] = load_explainer(
                entry.name,
                parameters=None if fitted else unit.contestant.parameters,
                checkpoint=fitted,
                classifier=classifier,
                plugins=self._registry,
            )
        return self._explainers[key]


class _TransientError(ContractError):
    """A base that may be explained next time, and then this control too."""

    transient = True


def explained_rows(cell: dict[str, Any]) -> tuple[int, ...]:
    """The places of the rows that an explanation has."""
    return tuple(place for place, row in enumerate(cell["rows"]) if row["outcome"] == "explained")


def _parts_of(explain: Callable[[], Explanation]) -> PartMap:
    """The maps of the parts of an explanation that is made once more, when the first of them is asked for."""
    explained = functools.cache(explain)

    def part(number: int) -> Relevance | Mask:
        parts = explained().parts
        assert parts is not None
        return parts.map(number)

    return part


def _check_answer(explanation: object, target: Tensor) -> None:
    if not isinstance(explanation, Explanation):
        raise ContractError(f"explain() must return an Explanation, got {type(explanation).__name__}.")
    if not torch.equal(explanation.target.cpu(), target.cpu()):
        raise ContractError(
            f"explain() was asked for the classes {target.tolist()}, but explained {explanation.target.tolist()}."
        )


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
            raise ContractError(
                f"A map in the domain {domain!r} must have shape {expected[domain]} here, got {tuple(values.shape)}."
            )
