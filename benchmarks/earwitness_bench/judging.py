"""Asks metrics: about private copies, within a time, and in smaller batches where memory is short."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from earwitness.audio.rules import parse_rule
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import NotApplicableError
from earwitness.explanation import Explanation
from earwitness.parameters import build
from earwitness.protocols import Metric
from earwitness.random import Random, stream_seed
from earwitness_bench.chunks import ContractError, Prepared, check_needs, on_cpu
from earwitness_bench.dividing import free_memory, is_out_of_memory
from earwitness_bench.explaining import Asked, Asker
from earwitness_bench.isolation import Seal, isolated
from earwitness_bench.packing import moved, taken
from earwitness_bench.plan import Judge, Unit
from earwitness_bench.suite import Suite
from earwitness_bench.tabulation import tabulate


class Bench:
    """An explanation of some rows and all that metrics may ask about it, shared by the metrics of a unit.

    Parameters
    ----------
    suite : Suite
    unit : Unit
    prepared : Prepared
        Of the rows that are explained.
    explanation : Explanation
        Of the same rows.
    asker : Asker
    """

    def __init__(self, suite: Suite, unit: Unit, prepared: Prepared, explanation: Explanation, asker: Asker) -> None:
        self._suite = suite
        self._unit = unit
        self._prepared = prepared
        self._explanation = explanation
        self._asker = asker

    @functools.cached_property
    def _context(self) -> Context:
        return self._context_of(self._prepared, self._explanation)

    @functools.cached_property
    def _on_cpu(self) -> Bench:
        """The same for metrics that look at attributions only: their numbers are those of the CPU on every machine."""
        if self._prepared.target.device.type == "cpu":
            return self
        return Bench(self._suite, self._unit, on_cpu(self._prepared), moved(self._explanation, "cpu"), self._asker)

    def judge(self, judge: Judge) -> tuple[dict[str, Any], int]:
        """What one metric says: columns, outcomes and curves of all rows, and how many rows it was asked for at a time.

        Raises
        ------
        NotApplicableError
            It has nothing to say about these.
        ContractError
            It wrote to what it was shown. Nothing of it may be used any more: this bench neither.
        Exception
            Whatever else went wrong.
        """
        if judge.spec.attribution_only and self._on_cpu is not self:
            return self._on_cpu.judge(judge)
        check_needs(judge.spec.needs, self._prepared)
        if "parts" in judge.spec.needs and not (self._explanation.parts and self._explanation.parts.names):
            raise NotApplicableError("the method has no parts")
        size = len(self._prepared.rows)
        while True:
            try:
                return self._in_batches(judge, size), size
            except Exception as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
            free_memory()
            size = (size + 1) // 2

    def _in_batches(self, judge: Judge, size: int) -> dict[str, Any]:
        rows = self._prepared.rows
        if size == len(rows):
            return self._ask(judge, self._prepared, self._context)
        said = []
        for start in range(0, len(rows), size):
            prepared = self._prepared.select(rows[start : start + size])
            places = torch.arange(start, start + len(prepared.rows))
            said.append(self._ask(judge, prepared, self._context_of(prepared, taken(self._explanation, places))))
        return _together(said)

    def _ask(self, judge: Judge, prepared: Prepared, context: Context) -> dict[str, Any]:
        names = [column.name for column in judge.spec.columns]
        seed = stream_seed(self._suite.seed, judge.identity["name"], *prepared.row_ids)
        metric: Metric = build(judge.spec, judge.reference.parameters)
        seal, state = Seal(_shown(context)), _state_of(context.classifier)
        with isolated(seed, context.classifier.device):
            said = tabulate(metric.score(context.explanation, context), names, len(prepared.rows))
        spoilt = seal.broken() + ([] if state == _state_of(context.classifier) else ["the classifier's mode or hooks"])
        if spoilt:
            raise SpoiltError(f"The metric changed what it was shown: {', '.join(spoilt[:4])}. It may only read it.")
        return said

    def _context_of(self, prepared: Prepared, explanation: Explanation) -> Context:
        def explain_again(
            classifier: AudioClassifier, batch: Batch, *, target: Tensor | None, rows: Sequence[int] | None
        ) -> Explanation:
            return self._asker.again(self._unit, prepared, Asked(classifier, batch, target, rows))

        suite = self._suite
        return Context(
            prepared.scene.classifier,
            prepared.scene.batch,
            explanation,
            random=Random(suite.seed, prepared.row_ids),
            rule=parse_rule(suite.rule),
            scale=suite.scale,
            route=suite.route,
            explain=explain_again,
            scene=prepared.scene,
        )


class SpoiltError(ContractError):
    """A metric wrote to what it was shown."""


def _shown(context: Context) -> dict[str, Tensor]:
    """What a metric is shown, by what it is called."""
    explanation, batch = context.explanation, context.batch
    found: dict[str, Any] = {
        "the recordings": batch.waveforms,
        "the explained classes": explanation.target,
        "the relevance": explanation.relevance and explanation.relevance.values,
        "the mask": explanation.mask and explanation.mask.values,
        "what is heard": explanation.heard,
        **{f"the sources of {clip.clip_id}": s.waveform for clip in batch.clips for s in clip.sources.values()},
        **{f"the samples of {clip.clip_id}": clip.waveform for clip in batch.clips},
        **{f"the classifier's {name}": value for name, value in context.classifier.network.state_dict().items()},
        **{f"the context's {name}": value for name, value in vars(context).items()},
        **{f"the scene's {name}": value for name, value in vars(context.scene).items()},
    }
    return {name: value for name, value in found.items() if isinstance(value, Tensor)}


def _state_of(classifier: AudioClassifier) -> list[tuple[bool, int]]:
    """Of each layer, its mode and how many hooks it has."""
    return [
        (layer.training, len(layer._forward_hooks) + len(layer._forward_pre_hooks) + len(layer._backward_hooks))
        for layer in classifier.network.modules()
    ]


def _together(said: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rows of several answers as one."""
    names = said[0]["columns"]
    whole = {
        "columns": {name: [value for part in said for value in part["columns"][name]] for name in names},
        "outcomes": [outcome for part in said for outcome in part["outcomes"]],
    }
    if "curves" in said[0]:
        whole["curves"] = {
            name: {"x": curve["x"], "y": [row for part in said for row in part["curves"][name]["y"]]}
            for name, curve in said[0]["curves"].items()
        }
    return whole
