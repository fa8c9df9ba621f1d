"""The metrics on a classifier whose probabilities can be worked out by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

import bench_stubs
from earwitness.audio.budget import EnergyBudget
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ConfigurationError, ExplanationError
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.protocols import Curve
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.metrics.faithfulness import MatchedBudget, OwnMask, matched_budget_hard, matched_budget_soft
from earwitness_bench.metrics.localisation import Localisation, Resemblance
from earwitness_bench.metrics.localisation_formulas import ideal_ratio_mask, si_sdr

SHARPNESS = 6.0
TARGET = torch.tensor([0, 1, 0, 1])


def scene(**options: Any) -> tuple[Any, Batch]:
    clips = bench_stubs.tones(clips=4, **options)
    return bench_stubs.bands(sharpness=SHARPNESS), Batch.of([clips[n] for n in range(4)])


def context_of(explanation: Explanation, **options: Any) -> Context:
    classifier, batch = scene(**options)
    return Context(classifier, batch, explanation, random=Random(0, batch.clip_ids))


def masked(value: float | Tensor) -> Explanation:
    classifier, batch = scene()
    ones = torch.ones_like(classifier.listening.forward(batch.waveforms).abs())
    return Explanation(TARGET, mask=Mask(ones * value, "stft"))


def low_half() -> Tensor:
    classifier, batch = scene()
    return bench_stubs.low_half(classifier, batch)


def probability_by_hand(waveforms: Tensor) -> Tensor:
    """p(target) from the energy below 1.5 kHz, with NumPy's transform and a logistic function."""
    import numpy as np

    energy = np.abs(np.fft.rfft(waveforms.double().numpy())) ** 2
    low = energy[:, np.fft.rfftfreq(waveforms.shape[1], 1 / bench_stubs.RATE) < 1500].sum(1) / energy.sum(1)
    p_low = 1 / (1 + np.exp(-SHARPNESS * (2 * low - 1)))
    return torch.tensor(np.where(TARGET.numpy() == 0, p_low, 1 - p_low))


def close(found: Tensor, wanted: Tensor, tolerance: float = 1e-4) -> bool:
    return torch.allclose(found.double(), wanted.double(), atol=tolerance)


# --- own mask


def test_own_mask_scores_are_those_worked_out_from_the_sounds() -> None:
    context = context_of(masked(0.9 * low_half()))
    stft, waveforms = context.scene.listening, context.batch.waveforms
    spectrum = stft.forward(waveforms)
    heard = stft.inverse(0.9 * low_half() * spectrum, waveforms.shape[1])
    p, p_heard, p_rest = (probability_by_hand(w) for w in (waveforms, heard, waveforms - heard))
    found = OwnMask().score(context.explanation, context)
    assert close(found["FF"], p - p_rest)
    assert torch.equal(found["FF"], found["FF_median"])
    assert close(found["AD"], 100 * (p - p_heard).clamp_min(0) / p, 1e-2)
    assert close(found["AG"], 100 * (p_heard - p).clamp_min(0) / (1 - p), 1e-2)
    assert found["AI"].tolist() == [100.0, 0.0, 100.0, 0.0]  # low clips are purer below 1.5 kHz, high ones are lost
    assert found["Fid-In"].tolist() == [1.0, 0.0, 1.0, 0.0]
    energy = spectrum.abs().double().square()
    assert close(found["kept_energy"], 0.81 * (energy * low_half()).sum((1, 2)) / energy.sum((1, 2)))
    assert close(found["mean_mask"], 0.9 * low_half().mean((1, 2)))


def test_keeping_everything_loses_nothing() -> None:
    explanation = masked(1.0)
    found = OwnMask().score(explanation, context_of(explanation))
    for name, wanted in {"AD": 0.0, "AI": 0.0, "Fid-In": 1.0, "mean_mask": 1.0, "kept_energy": 1.0}.items():
        assert close(found[name], torch.full((4,), wanted), 1e-3)


def test_keeping_nothing_leaves_the_whole_recording_as_rest() -> None:
    explanation = masked(0.0)
    found = OwnMask().score(explanation, context_of(explanation))
    assert close(found["FF"], torch.zeros(4))
    assert found["kept_energy"].tolist() == [0.0] * 4


def test_the_columns_of_every_metric_are_those_of_its_spec() -> None:
    explanation = masked(low_half())
    for name in ("own-mask", "matched-budget-soft", "matched-budget-hard", "localisation"):
        spec = registry().metric(name).spec
        found = spec.load()().score(explanation, context_of(explanation))
        assert set(found) == {column.name for column in spec.columns}


# --- matched budget


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_each_point_of_a_curve_is_the_score_at_that_share_of_energy(form: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    explanation = masked(torch.rand(low_half().shape, generator=generator) * (0.2 + 0.8 * low_half()))
    context = context_of(explanation)
    budgets = (0.2, 0.5, 0.8)
    curves = MatchedBudget(form, budgets).score(explanation, context)
    stft, waveforms = context.scene.listening, context.batch.waveforms
    spectrum = stft.forward(waveforms)
    p = probability_by_hand(waveforms)
    for index, budget in enumerate(budgets):
        gain = EnergyBudget(context.importance, spectrum.abs()).gain(budget, form)
        energy = spectrum.abs().double().square()
        kept = (gain.double().square() * energy).sum((1, 2)) / energy.sum((1, 2))
        assert close(kept, torch.full((4,), budget), 1e-3)
        heard = stft.inverse(gain * spectrum, waveforms.shape[1])
        p_heard = probability_by_hand(heard)
        assert close(curves[f"FF@{form}"].y[:, index], p - probability_by_hand(waveforms - heard), 1e-3)
        assert close(curves[f"AD@{form}"].y[:, index], 100 * (p - p_heard).clamp_min(0) / p, 0.1)
        agrees = (p_heard > 0.5) == (p > 0.5)
        assert curves[f"Fid-In@{form}"].y[:, index].tolist() == agrees.float().tolist()


def test_an_area_is_the_trapezoid_divided_by_the_range() -> None:
    x = [0.1, 0.2, 0.6, 0.9]
    y = [[3.0, 1.0, 2.0, 5.0], [7.0, 7.0, 7.0, 7.0]]
    wanted = [
        sum((b - a) * (row[i] + row[i + 1]) / 2 for i, (a, b) in enumerate(pairwise(x))) / (x[-1] - x[0]) for row in y
    ]
    assert Curve(torch.tensor(x), torch.tensor(y)).area().tolist() == pytest.approx(wanted)
    assert wanted[1] == pytest.approx(7.0)


def test_at_matched_budgets_the_scale_of_a_map_does_not_matter() -> None:
    half = masked(0.2 + 0.8 * low_half())
    quarter = masked(0.5 * (0.2 + 0.8 * low_half()))
    areas = [matched_budget_hard().score(e, context_of(e))["FF@hard"].area() for e in (half, quarter)]
    assert close(areas[0], areas[1], 1e-3)


def test_a_map_that_points_at_the_evidence_beats_its_opposite() -> None:
    own = torch.where(TARGET[:, None, None] == 0, low_half(), 1 - low_half())
    good, bad = masked(0.01 + 0.99 * own), masked(1 - 0.99 * own)
    metric = matched_budget_soft(budgets=(0.1, 0.3, 0.9))
    better, worse = (metric.score(e, context_of(e)) for e in (good, bad))
    assert bool((better["FF@soft"].area() > worse["FF@soft"].area() + 0.1).all())
    assert bool((better["AD@soft"].area() < worse["AD@soft"].area() - 10).all())


@pytest.mark.parametrize("budgets", [(0.5,), (), (0.5, 0.5), (0.8, 0.2), (0.0, 0.5), (0.5, 1.0)])
def test_budgets_that_make_no_curve_are_refused(budgets: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="budgets must"):
        matched_budget_soft(budgets=budgets)


# --- silence


@pytest.mark.parametrize("metric", [OwnMask(), matched_budget_soft(budgets=(0.2, 0.6)), Localisation()])
def test_a_silent_clip_has_no_scores_and_the_others_are_as_without_it(metric: Any) -> None:
    explanation = masked(low_half())
    found = metric.score(explanation, context_of(explanation, silent=True))
    alone = metric.score(explanation, context_of(explanation))
    for name, value in found.items():
        values, others = (v.area() if isinstance(v, Curve) else v for v in (value, alone[name]))
        assert bool(values[1].isnan())
        assert close(values[[0, 2, 3]], others[[0, 2, 3]], 1e-3)


# --- localisation


def test_the_ideal_mask_points_at_the_target_and_nowhere_else() -> None:
    classifier, batch = scene()
    source = torch.stack(
        [clip.sources[("low", "high")[int(t)]].waveform for clip, t in zip(batch.clips, TARGET, strict=True)]
    )
    stft = classifier.listening
    ideal = ideal_ratio_mask(stft.forward(source).abs(), stft.forward(batch.waveforms - source).abs())
    binary = Explanation(TARGET, relevance=Relevance((ideal > 0.5).float() * stft.forward(source).abs(), "stft"))
    found = Localisation().score(binary, context_of(binary))
    assert bool((found["relevance_rank"] > 0.999).all())
    assert bool((found["relevance_mass"] > 0.97).all())
    soft = Explanation(TARGET, mask=Mask(ideal, "stft"))
    context = context_of(soft)
    improvement = Localisation().score(soft, context)["SI-SDR_improvement"]
    wanted = si_sdr(context.rendering.heard, source) - si_sdr(batch.waveforms, source)
    assert close(improvement, wanted, 1e-3)
    assert bool((improvement > 10).all())


def test_the_opposite_of_the_ideal_mask_points_nowhere_near() -> None:
    own = torch.where(TARGET[:, None, None] == 0, low_half(), 1 - low_half())
    right, wrong = (Localisation().score(e, context_of(e)) for e in (masked(own), masked(1 - own)))
    for name in ("relevance_mass", "relevance_rank", "SI-SDR_improvement"):
        assert bool((right[name] > wrong[name]).all())
    assert bool((wrong["SI-SDR_improvement"] < 0).all())


def test_negative_relevance_does_not_point_anywhere() -> None:
    own = torch.where(TARGET[:, None, None] == 0, low_half(), 1 - low_half())
    signed = Explanation(TARGET, relevance=Relevance(own - 5 * (1 - own), "stft"))
    clipped = Explanation(TARGET, relevance=Relevance(own, "stft"))
    masses = [Localisation().score(e, context_of(e))["relevance_mass"] for e in (signed, clipped)]
    assert torch.equal(masses[0], masses[1])


@pytest.mark.parametrize("metric", [Localisation(), Resemblance()])
def test_a_target_that_does_not_sound_in_a_clip_has_no_localisation(metric: Localisation | Resemblance) -> None:
    classifier, batch = scene()
    sources = {name: source for name, source in batch.clips[0].sources.items() if name != "low"}
    clips = (type(batch.clips[0])(batch.clips[0].waveform, bench_stubs.RATE, "x", sources=sources), *batch.clips[1:])
    explanation = masked(low_half())
    context = Context(classifier, Batch(batch.waveforms, batch.rate, clips), explanation, random=Random(0, "abcd"))
    for values in metric.score(explanation, context).values():
        assert values.isnan().tolist() == [True, False, False, False]


def test_what_is_heard_resembles_the_target_or_the_corruption() -> None:
    own = torch.where(TARGET[:, None, None] == 0, low_half(), 1 - low_half())
    right, wrong, silent = (Resemblance().score(e, context_of(e)) for e in (masked(own), masked(1 - own), masked(0.0)))
    assert right["resembles_target"].tolist() == [1.0] * 4
    assert wrong["resembles_target"].tolist() == silent["resembles_target"].tolist() == [0.0] * 4
    context = context_of(masked(own))
    source = context.batch.target_sources(context.target_labels)
    assert source is not None
    assert close(right["SI-SDR_target"], si_sdr(context.rendering.heard, source), 1e-3)
    assert close(right["SI-SDR_corruption"], si_sdr(context.rendering.heard, context.batch.waveforms - source), 1e-3)


@pytest.mark.parametrize("metric", [Localisation(), Resemblance()])
def test_localisation_refuses_clips_without_sources(metric: Localisation | Resemblance) -> None:
    explanation = masked(1.0)
    with pytest.raises(ExplanationError, match="clean sources"):
        metric.score(explanation, context_of(explanation, sources=False))
