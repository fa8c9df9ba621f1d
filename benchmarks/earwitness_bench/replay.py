"""Plays a run's explanations again: what they keep and what they leave, from the maps that the run has kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from earwitness.audio.rules import parse_rule
from earwitness.context import Context
from earwitness.errors import ExplanationError, StoreError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness.registry import Registry
from earwitness_bench.chunks import Prepared, prepare
from earwitness_bench.engines.process import cpu_threads
from earwitness_bench.explaining import Asker, explained_rows
from earwitness_bench.packing import unpack
from earwitness_bench.plan import Plan
from earwitness_bench.runner import make_plan
from earwitness_bench.store import Store
from earwitness_bench.suite import parse_suite


class CannotReplayError(ExplanationError):
    """An explanation cannot be made audible again; the message says why."""


@dataclass(frozen=True, eq=False)
class Replayed:
    """Some rows of a chunk, made audible.

    Attributes
    ----------
    rows : tuple of str, length B
        Their names in the results.
    gain : Tensor (B, F, N), float32, in [0, 1]
    heard, rest : Tensor (B, T), float32
    kept_energy : Tensor (B,)
    p_original, p_heard, p_rest : Tensor (B,)
        Probability of the explained class in the recording, in what is heard, and in the rest.
    """

    rows: tuple[str, ...]
    gain: Tensor
    heard: Tensor
    rest: Tensor
    kept_energy: Tensor
    p_original: Tensor
    p_heard: Tensor
    p_rest: Tensor


class Replay:
    """One arena of a results folder at work again.

    Parameters
    ----------
    store : Store
    arena : int
        Its number in the plan.
    registry : Registry
    device : torch.device or str

    Raises
    ------
    EarwitnessError
        The data or the classifier of that arena cannot be had here, or the classifier is another one now.
    """

    def __init__(self, store: Store, arena: int, *, registry: Registry, device: torch.device | str = "cpu") -> None:
        document = store.read_plan()
        if "suite" not in document:
            raise StoreError(f"The plan in {store.folder} does not say by what suite its results were made.")
        suite = parse_suite(document["suite"])
        suite = suite.model_copy(update={"arenas": (suite.arenas[arena],)})
        self._document: dict[str, Any] = document["arenas"][arena]
        self._store, self._suite = store, suite
        self._threads: int = document["environment"]["threads"]
        with cpu_threads(self._threads):  # their number is part of every key
            self._plan: Plan = make_plan(suite, store, registry=registry, device=device)[0]
        self._asker = Asker(suite.seed, store, registry)
        (self._lineup,) = self._plan.lineups
        self._stage = self._lineup.stage
        now, then = self._stage.classifier.checksum, self._document["classifier"]["checksum"]
        if now != then:
            raise StoreError(
                f"{self._document['title']}: the classifier is not the one that was explained (checksum {now[:12]}…, "
                f"then {then[:12]}…). Install the version that made these results, or run the suite again."
            )
        self._chunk: tuple[int, Prepared] | None = None

    def __len__(self) -> int:
        """How many chunks there are."""
        return len(self._stage.chunks)

    @property
    def rate(self) -> int:
        """Of everything that is played, in Hz."""
        return self._stage.classifier.rate

    @property
    def longest_s(self) -> float:
        """Duration of the longest clip, in seconds."""
        entries, rate = self._stage.dataset.entries, self._stage.dataset.rate
        return max((entries[i].n_samples / rate for chunk in self._stage.chunks for i, _ in chunk), default=0.0)

    @property
    def frequencies_hz(self) -> Tensor:
        """Of the bins of masks: Tensor (F,)."""
        stft = self._stage.classifier.listening
        return stft.grid(stft.n_fft).frequencies_hz

    def prepared(self, chunk: int) -> Prepared:
        """The recordings of a chunk, analysed; the last one is kept.

        Raises
        ------
        Exception
            What the data set raised, if no clip of the chunk can be read.
        """
        if self._chunk is None or self._chunk[0] != chunk:
            unit = self._plan[chunk * len(self._lineup.contestants)]
            self._chunk = chunk, prepare(unit, self._suite, self._stage.classifier)
        return self._chunk[1]

    def play(self, explainer: str, chunk: int, rows: Sequence[str] | None = None) -> Replayed:
        """What an explainer kept of a chunk, and what it left, under the run's rule.

        Parameters
        ----------
        explainer : str
            Title.
        chunk : int
        rows : sequence of str, optional
            Only these, of those that were explained. Default: all.

        Raises
        ------
        CannotReplayError
            The chunk was not explained, or its recordings are not those that were; or its maps were not kept, and what
            they depend on has changed, so that the method would give others now.
        """
        place = next(n for n, e in enumerate(self._document["explainers"]) if e["title"] == explainer)
        key = self._document["explainers"][place]["cells"][chunk]["explain"]
        cell = self._store.read_cell("explain", key)
        if cell is None:
            raise CannotReplayError("it was not explained yet")
        if cell["status"] != "ok":
            raise CannotReplayError(str(cell["reason"] if cell["status"] == "skipped" else cell["error"]))
        self._check_recordings(cell, chunk)
        places = explained_rows(cell)
        prepared = self.prepared(chunk).select(places)
        explanation = self._explanation(key, explainer, chunk, prepared)
        return self._rendered(prepared, explanation, rows)

    def _check_recordings(self, cell: dict[str, Any], chunk: int) -> None:
        entries = [self._stage.dataset.entries[index] for index, _ in self._stage.chunks[chunk]]
        then = [(row["clip_id"], row.get("fingerprint")) for row in cell["rows"]]
        now = [(entry.clip_id, entry.fingerprint) for entry in entries]
        same = len(now) == len(then) and all(
            a[0] == b[0] and b[1] in (None, a[1]) for a, b in zip(now, then, strict=True)
        )
        if not same:
            raise CannotReplayError("its recordings are not those that were explained: the data set has changed")

    def _explanation(self, key: str, explainer: str, chunk: int, prepared: Prepared) -> Explanation:
        kept = self._store.read_maps(key)
        if kept is not None:
            return unpack(*kept, device=self._stage.classifier.device)
        contestants = [contestant.title for contestant in self._lineup.contestants]
        unit = self._plan[chunk * len(contestants) + contestants.index(explainer)]
        if unit.explain_key != key:
            raise CannotReplayError("its maps were not kept, and what they depend on has changed since")
        with cpu_threads(self._threads):
            return self._asker.explain(unit, prepared).explanation

    def _rendered(self, prepared: Prepared, explanation: Explanation, rows: Sequence[str] | None) -> Replayed:
        suite, scene = self._suite, prepared.scene
        context = Context(
            scene.classifier,
            scene.batch,
            explanation,
            random=Random(suite.seed, prepared.row_ids),
            rule=parse_rule(suite.rule),
            scale=suite.scale,
            route=suite.route,
            scene=scene,
        )
        names = prepared.row_ids
        own = [n for n, name in enumerate(names) if rows is None or name in rows]
        rendering = context.rendering
        answers = (context.p_original, context.p_heard, context.p_rest)
        return Replayed(
            tuple(names[n] for n in own),
            rendering.gain[own],
            rendering.heard[own],
            rendering.rest[own],
            rendering.kept_energy[own],
            *(p[own].cpu() for p in answers),
        )
