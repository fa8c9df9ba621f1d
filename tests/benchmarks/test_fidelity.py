"""Fidelity and pattern faithfulness on a classifier whose probabilities can be worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import bench_stubs
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation, Mask, Parts, Relevance, Scale
from earwitness.protocols import Scores
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.metrics import fidelity_formulas
from earwitness_bench.metrics.fidelity import THRESHOLDS, MultilabelFidelity, PatternFaithfulness, TopKFidelity
from earwitness_bench.tabulation import tabulate
from networks import classifier_of

TARGET = torch.tensor([0, 1, 0, 1])
WEIGHTS = torch.tensor([[0.95, 0.6, 0.2, -1.0]] * 2 + [[0.0, 1.0, 0.0, -0.4], [-1.0, -0.8, -0.5, 0.05]])
"""Of four patterns, which cover 0-1, 1-2, 2-3 and 3-4 kHz."""


def batch_of_tones(**options: Any) -> tuple[Any, Batch]:
    clips = bench_stubs.tones(clips=4, **options)
    return bench_stubs.bands(sharpness=6.0), Batch.of([clips[n] for n in range(4)])


def tones_of(n_clips: int) -> Batch:
    clips = bench_stubs.tones(clips=n_clips)
    return Batch.of([clips[n] for n in range(n_clips)])


def band(number: int, height: float = 1.0) -> Tensor:
    classifier, batch = batch_of_tones()
    grid = classifier.listening.grid(batch.waveforms.shape[1])
    inside = (grid.frequencies_hz >= 1000 * number) & (grid.frequencies_hz < 1000 * (number + 1))
    return (height * inside)[None, :, None].float().expand(len(batch), *grid.shape)


def patterns(weights: Tensor = WEIGHTS, *, scale: Scale = "magnitude", height: float = 1.0) -> Explanation:
    parts = Parts(
        names=("a", "b", "c", "d"),
        weights=weights,
        selected=weights > 0.5,
        map=lambda number: Mask(band(number, height), "stft", scale),
    )
    return Explanation(TARGET, mask=Mask(torch.zeros_like(band(0)), "stft"), parts=parts)


def context_of(explanation: Explanation, *, seed: int = 0, **options: Any) -> Context:
    classifier, batch = batch_of_tones(**options)
    return Context(classifier, batch, explanation, random=Random(seed, batch.clip_ids))


def p_target(waveforms: Tensor) -> Tensor:
    classifier = batch_of_tones()[0]
    return classifier.probabilities(waveforms).gather(1, TARGET[:, None])[:, 0]


def surrogate(logits: Tensor, **fields: Any) -> Explanation:
    return replace(patterns(), surrogate_logits=logits, target=torch.zeros(len(logits), dtype=torch.int64), **fields)


# --- what is taken out of the sound


def test_what_is_removed_is_removed_from_the_sound() -> None:
    explanation = patterns()
    context = context_of(explanation)
    found = PatternFaithfulness().score(explanation, context)
    stft, waveforms = context.scene.listening, context.batch.waveforms
    spectrum = stft.forward(waveforms)
    for threshold in THRESHOLDS:
        keep = torch.ones_like(band(0))
        for row in range(4):
            for number in range(4):
                if WEIGHTS[row, number] > threshold:
                    keep[row] -= band(number)[row]
        wanted = p_target(waveforms) - p_target(stft.inverse(keep * spectrum, waveforms.shape[1]))
        assert torch.allclose(found[f"FF@{threshold}"], wanted, atol=1e-4)
    assert float(found["FF@0.5"][0]) > 0.5  # the low tone of a low clip
    assert found["FF@0.9"][3] == 0  # nothing is above 0.05


def test_at_log1p_scale_the_rest_is_what_is_left_of_the_log_spectrum() -> None:
    explanation = patterns(scale="log1p", height=0.6)
    context = context_of(explanation)
    found = PatternFaithfulness().score(explanation, context)
    stft, waveforms = context.scene.listening, context.batch.waveforms
    spectrum = stft.forward(waveforms)
    logarithm = torch.log1p(spectrum.abs())
    covered = sum(((WEIGHTS[:, k] > 0.1)[:, None, None] * band(k, 0.6) for k in range(4)), torch.zeros(1))
    magnitude = torch.expm1(logarithm - covered * logarithm)
    rest = stft.inverse(torch.polar(magnitude, spectrum.angle()), waveforms.shape[1])
    assert torch.allclose(found["FF@0.1"], p_target(waveforms) - p_target(rest), atol=1e-3)


def test_an_empty_selection_removes_nothing_and_a_silent_recording_has_no_score() -> None:
    explanation = patterns(-WEIGHTS.abs())
    found = PatternFaithfulness().score(explanation, context_of(explanation, silent=True))
    for threshold in THRESHOLDS:
        for kind in ("FF", "random"):
            assert found[f"{kind}@{threshold}"][[0, 2, 3]].tolist() == [0.0, 0.0, 0.0]
            assert math.isnan(float(found[f"{kind}@{threshold}"][1]))


def test_the_baseline_removes_as_many_patterns_drawn_for_each_clip_from_all() -> None:
    removed: dict[int, set[tuple[int, ...]]] = {row: set() for row in range(4)}
    weights = torch.tensor([[0.2, -1.0, -1.0, -1.0]] * 3 + [[0.2, 0.2, -1.0, -1.0]])
    explanation = patterns(weights)
    alone = {}
    stft = context_of(explanation).scene.listening
    waveforms = context_of(explanation).batch.waveforms
    spectrum = stft.forward(waveforms)
    pairs = [(k,) for k in range(4)] + [(a, b) for a in range(4) for b in range(a + 1, 4)]
    for chosen in pairs:
        keep = 1 - sum((band(k) for k in chosen), torch.zeros(1))
        alone[chosen] = p_target(waveforms) - p_target(stft.inverse(keep * spectrum, waveforms.shape[1]))
    for seed in range(12):
        found = PatternFaithfulness().score(explanation, context_of(explanation, seed=seed))["random@0.1"]
        for row in range(4):
            wanted = [c for c in pairs if len(c) == (2 if row == 3 else 1)]
            near = [c for c in wanted if abs(float(alone[c][row] - found[row])) < 1e-5]
            assert near, (seed, row)
            removed[row].update(near)
    assert all(len(sets) >= 3 for sets in removed.values())


def test_the_baseline_does_not_depend_on_the_rest_of_the_batch() -> None:
    explanation = patterns()
    found = PatternFaithfulness().score(explanation, context_of(explanation))
    classifier, batch = batch_of_tones()
    one = Explanation(
        TARGET[2:3],
        mask=Mask(torch.zeros_like(band(0)[2:3]), "stft"),
        parts=Parts(("a", "b", "c", "d"), WEIGHTS[2:3], WEIGHTS[2:3] > 0.5, lambda k: Mask(band(k)[2:3], "stft")),
    )
    context = Context(classifier, batch.select([2]), one, random=Random(0, batch.clip_ids[2:3]))
    for name, values in PatternFaithfulness().score(one, context).items():
        assert float(values[0]) == pytest.approx(float(found[name][2]), abs=1e-5)


def test_the_sound_is_masked_whatever_the_run_s_route() -> None:
    classifier = classifier_of()
    batch = tones_of(2)
    grid = classifier.listening.grid(batch.waveforms.shape[1])
    maps = torch.rand(4, 2, *grid.shape, generator=torch.Generator().manual_seed(0))
    parts = Parts(("a", "b", "c", "d"), WEIGHTS[:2], WEIGHTS[:2] > 0.5, lambda k: Mask(maps[k] / 4, "stft"))
    explanation = Explanation(TARGET[:2], mask=Mask(maps[0], "stft"), parts=parts)
    found = [
        PatternFaithfulness().score(
            explanation, Context(classifier, batch, explanation, random=Random(0, batch.clip_ids), route=route)
        )
        for route in ("waveform", "spectrogram")
    ]
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-5) for name in found[0])
    assert float(found[0]["FF@0.1"].abs().max()) > 0


def test_faithfulness_of_patterns_needs_patterns() -> None:
    without = replace(patterns(), parts=None)
    with pytest.raises(NotApplicableError, match="no parts"):
        PatternFaithfulness().score(without, context_of(without))
    signed = replace(
        patterns(), parts=Parts(("a",), WEIGHTS[:, :1], WEIGHTS[:, :1] > 0, lambda k: Relevance(band(k), "stft"))
    )
    with pytest.raises(NotApplicableError, match="masks on the listening STFT"):
        PatternFaithfulness().score(signed, context_of(signed))
    with pytest.raises(ConfigurationError, match=r"5 numbers in \[0, 1\), got \[0\.5, 1\.0\]"):
        PatternFaithfulness(thresholds=(0.5, 1.0))


# --- fidelity


def test_the_decision_among_the_first_classes_counts_for_every_k() -> None:
    classifier = classifier_of(labels=tuple("abcdefg"), network=Fixed(torch.tensor([0.0, 3.0, 1, 1, 1, 1, 1])))
    logits = torch.tensor([[0.0, 9, 1, 2, 3, 4, 5], [5.0, 4, 6, 0, 0, 0, 0], [5.0, 0.5, 6, 7, 8, 0, 0], [1.0] * 7])
    batch = tones_of(4)
    explanation = surrogate(logits)
    found = TopKFidelity().score(explanation, Context(classifier, batch, explanation, random=Random(0, batch.clip_ids)))
    assert {name: values.tolist() for name, values in found.columns.items()} == {
        "top-1": [1.0, 0.0, 0.0, 0.0],
        "top-3": [1.0, 1.0, 0.0, 1.0],
        "top-5": [1.0, 1.0, 1.0, 1.0],
    }


def test_with_two_classes_only_the_first_one_is_a_question() -> None:
    explanation = surrogate(torch.tensor([[1.0, 0.0]] * 4))
    found = TopKFidelity().score(explanation, context_of(explanation))
    table = tabulate(found, ["top-1", "top-3", "top-5"], 4)
    assert table["columns"]["top-1"] == [1.0, 0.0, 1.0, 0.0]
    assert table["columns"]["top-5"] == [None] * 4
    assert table["outcomes"] == ["skipped: there are only 2 classes"] * 4


class Fixed(torch.nn.Module):
    """The same logits for every recording."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(logits)

    def forward(self, features: Tensor) -> Tensor:
        return self.logits.expand(len(features), -1)


def test_multilabel_fidelity_ranks_the_classes_of_each_clip() -> None:
    classifier = classifier_of(network=Fixed(torch.tensor([2.0, -1.0, 0.5])), multilabel=True)
    logits = torch.tensor([[3.0, 1.0, 2.0], [1.0, 3.0, 2.0]])
    explanation = Explanation(TARGET[:2], mask=Mask(torch.zeros(2, 129, 33), "stft"), surrogate_logits=logits)
    batch = tones_of(2)
    found = MultilabelFidelity().score(
        explanation, Context(classifier, batch, explanation, random=Random(0, batch.clip_ids))
    )
    assert isinstance(found, Scores)
    decided = torch.tensor([True, False, True])
    for name, formula in (
        ("average_precision", fidelity_formulas.average_precision),
        ("max_F1", fidelity_formulas.max_f1),
    ):
        assert torch.equal(found.columns[name], torch.stack([formula(row, decided) for row in logits]))
    assert found.columns["average_precision"].tolist() == pytest.approx([1.0, 0.5 * (1 / 2 + 2 / 3)])


def test_a_method_that_does_not_predict_has_no_fidelity() -> None:
    for metric in (TopKFidelity(), MultilabelFidelity()):
        with pytest.raises(NotApplicableError, match="does not predict"):
            metric.score(patterns(), context_of(patterns()))
    explanation = surrogate(torch.zeros(4, 2))
    with pytest.raises(NotApplicableError, match="decides for one class"):
        MultilabelFidelity().score(explanation, context_of(explanation))


def test_the_columns_are_those_of_the_specs() -> None:
    explanation = surrogate(torch.rand(4, 2))
    for name in ("fidelity", "l2i-faithfulness"):
        spec = registry().metric(name).spec
        found = spec.load()().score(explanation, context_of(explanation))
        columns = found.columns if isinstance(found, Scores) else found
        assert list(columns) == [column.name for column in spec.columns]
    assert [column.aggregate for column in registry().metric("l2i-faithfulness").spec.columns] == ["median"] * 10
