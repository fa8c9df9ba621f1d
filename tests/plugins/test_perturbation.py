"""Occlusion, feature ablation and KernelSHAP against brute force, clip by clip, in float64."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attributions import CLASSIFIERS, TARGET, change, closeness, entrance, explain, relevance, row_by_row
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.random import Random
from earwitness_plugins.gradients.perturbation import FeatureAblation, KernelShap, Occlusion, draw_coalitions, segments
from networks import Lambda, batch_of, classifier_of, doubled, log_mel

torch.set_num_threads(1)

every_domain = pytest.mark.parametrize("domain", ["features", "waveform"])
Function = Callable[[Tensor], Tensor]


def blocks(x: Tensor, n_frequency: int, n_time: int) -> list[Tensor]:
    """Boolean maps of the segments: cell i of n lies in block floor(i * blocks / n)."""
    found = []
    n_time = min(n_time, x.shape[-1])
    n_frequency = min(n_frequency, x.shape[0]) if x.ndim == 2 else 1
    for band, stretch in itertools.product(range(n_frequency), range(n_time)):
        inside = torch.zeros(x.shape, dtype=torch.bool)
        for cell in itertools.product(*map(range, x.shape)):
            in_band = x.ndim == 1 or cell[0] * n_frequency // x.shape[0] == band
            inside[cell] = in_band and cell[-1] * n_time // x.shape[-1] == stretch
        found.append(inside)
    return found


# --- segments


@pytest.mark.parametrize("shape", [(1, 1, 16, 32), (2, 1, 7, 5), (1, 1, 1, 2), (3, 1, 3, 1), (2, 13)])
@pytest.mark.parametrize(("n_frequency", "n_time"), [(1, 1), (3, 4), (8, 10)])
def test_segments_are_numbered_without_a_gap_and_nearly_equal_in_size(
    shape: tuple[int, ...], n_frequency: int, n_time: int
) -> None:
    values = torch.zeros(shape)
    numbers = segments(values, n_frequency, n_time)
    assert numbers.shape == (1, *shape[1:])
    expected = torch.full_like(values[0], -1).squeeze(0).long()
    for number, inside in enumerate(blocks(values[0, 0] if len(shape) == 4 else values[0], n_frequency, n_time)):
        expected[inside.reshape(expected.shape)] = number
    assert torch.equal(numbers.reshape(expected.shape), expected)
    found, sizes = numbers.unique(return_counts=True)
    assert found.tolist() == list(range(len(found)))
    assert sizes.min() > 0


# --- feature ablation


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_domain
@pytest.mark.parametrize("memory_mb", [1e-6, 100])
def test_feature_ablation_is_the_drop_of_the_logit_when_a_segment_is_silenced(
    kind: str, domain: str, memory_mb: float
) -> None:
    def slow(x: Tensor, silence: Tensor, function: Function, target: int, _clip_id: str) -> Tensor:
        found = torch.zeros_like(x)
        for inside in blocks(x, 3, 5):
            found[inside] = function(x)[target] - function(torch.where(inside, silence, x))[target]
        return found

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of(n_samples=2000))
    method = FeatureAblation(domain=domain, frequency_segments=3, time_segments=5, memory_mb=memory_mb)  # type: ignore[arg-type]
    assert closeness(relevance(method, classifier, batch), row_by_row(slow, classifier, batch, domain)) < 1e-6


# --- occlusion


def sliding(size: int, n_segments: int) -> list[slice]:
    """Windows of a part of an axis that move by half their size, until the end is covered; the last may be cut."""
    window = math.ceil(size / n_segments)
    stride = math.ceil(window / 2)
    starts = [0]
    while starts[-1] + window < size:
        starts.append(starts[-1] + stride)
    return [slice(start, start + window) for start in starts]


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_domain
@pytest.mark.parametrize(("n_frequency", "n_time"), [(3, 5), (1, 2), (16, 3)])
def test_occlusion_is_the_mean_drop_under_the_windows_on_a_cell(
    kind: str, domain: str, n_frequency: int, n_time: int
) -> None:
    """Three windows do not divide sixteen bands, nor five the frames."""

    def slow(x: Tensor, silence: Tensor, function: Function, target: int, _clip_id: str) -> Tensor:
        drops, windows = torch.zeros_like(x), torch.zeros_like(x)
        per_axis = [sliding(x.shape[-1], n_time)]
        if x.ndim == 2:
            per_axis.insert(0, sliding(x.shape[0], n_frequency))
        for window in itertools.product(*per_axis):
            silenced = x.clone()
            silenced[window] = silence[window]
            drops[window] += function(x)[target] - function(silenced)[target]
            windows[window] += 1
        return drops / windows

    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of(n_samples=2000))
    method = Occlusion(domain=domain, frequency_segments=n_frequency, time_segments=n_time)  # type: ignore[arg-type]
    assert closeness(relevance(method, classifier, batch), row_by_row(slow, classifier, batch, domain)) < 1e-6


# --- KernelSHAP


def shapley(x: Tensor, silence: Tensor, function: Function, target: int, parts: list[Tensor]) -> Tensor:
    """Exact Shapley values (players,) by all coalitions: Eq. 4 of the paper."""
    n_players = len(parts)
    worth = {}
    for coalition in itertools.product([False, True], repeat=n_players):
        heard = torch.zeros(x.shape, dtype=torch.bool)
        for inside, takes_part in zip(parts, coalition, strict=True):
            heard |= inside & takes_part
        worth[coalition] = float(function(torch.where(heard, x, silence))[target])
    values = torch.zeros(n_players, dtype=torch.float64)
    for player in range(n_players):
        for without in (c for c in worth if not c[player]):
            size = sum(without)
            weight = math.factorial(size) * math.factorial(n_players - size - 1) / math.factorial(n_players)
            joined = (*without[:player], True, *without[player + 1 :])
            values[player] += weight * (worth[joined] - worth[without])
    return values


def slow_shapley(x: Tensor, silence: Tensor, function: Function, target: int, _clip_id: str) -> Tensor:
    """Six segments, or three of samples; each value spread over its cells."""
    parts = blocks(x, 2, 3)
    found = torch.zeros_like(x)
    for value, inside in zip(shapley(x, silence, function, target, parts), parts, strict=True):
        found[inside] = value / inside.sum()
    return found


@pytest.mark.parametrize("kind", CLASSIFIERS)
@every_domain
def test_with_all_coalitions_kernel_shap_gives_the_exact_shapley_values(kind: str, domain: str) -> None:
    classifier, batch = CLASSIFIERS[kind](), doubled(batch_of(n_samples=2000))
    exact = row_by_row(slow_shapley, classifier, batch, domain)
    method = KernelShap(domain=domain, frequency_segments=2, time_segments=3, n_samples=64)  # type: ignore[arg-type]
    assert closeness(relevance(method, classifier, batch), exact) < 2e-3  # the regression is in float32


def test_with_some_coalitions_it_comes_near() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of(n_samples=2000))
    exact = row_by_row(slow_shapley, classifier, batch, "features")
    errors = [
        closeness(relevance(KernelShap(frequency_segments=2, time_segments=3, n_samples=n), classifier, batch), exact)
        for n in (12, 60)
    ]
    assert 2e-3 < errors[1] < errors[0]
    assert errors[1] < 0.4


def test_coalitions_are_drawn_as_often_as_the_shapley_kernel_weighs_them() -> None:
    coalitions, weights = draw_coalitions(5, 31, torch.Generator().manual_seed(0))
    assert coalitions[0].tolist() == [1] * 5
    assert coalitions[1].tolist() == [0] * 5
    assert torch.equal(coalitions[2:30:2] + coalitions[3:31:2], torch.ones(14, 5, dtype=torch.int64))
    assert coalitions.shape == (31, 5)
    assert weights[2:].tolist() == [1.0] * 29

    every, exact = draw_coalitions(5, 32, torch.Generator())
    assert len(every.unique(dim=0)) == 32
    assert len(every) == 32
    for coalition, weight in zip(every.tolist()[2:], exact.tolist()[2:], strict=True):
        size = sum(coalition)
        assert weight == pytest.approx(4 / (math.comb(5, size) * size * (5 - size)))
    assert exact[:2].min() > 1e5 * exact[2:].max()

    many, _ = draw_coalitions(14, 12_002, torch.Generator().manual_seed(1))
    found = torch.bincount(many[2:].sum(1), minlength=14)[1:14] / 12_000
    wanted = torch.tensor([13 / (size * (14 - size)) for size in range(1, 14)])
    assert torch.allclose(found, wanted / wanted.sum(), atol=0.02)
    assert torch.allclose(many[2:].float().mean(0), torch.full((14,), 0.5))
    small = many[2:][many[2:].sum(1) <= 3].float().mean(0)
    assert torch.allclose(small, small.mean().expand(14), rtol=0.15, atol=0)  # no player is preferred


def test_of_an_additive_game_kernel_shap_is_exact_with_few_coalitions() -> None:
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    linear = Lambda(lambda x: torch.stack([(k + 1) * (x[:, 0] * weight).sum((1, 2)) for k in range(3)], dim=1))
    classifier, batch = classifier_of(linear, front_end=log_mel().double()), doubled(batch_of())
    found = relevance(KernelShap(frequency_segments=2, time_segments=3, n_samples=60), classifier, batch)

    def slow(x: Tensor, silence: Tensor, _function: Function, target: int, _clip_id: str) -> Tensor:
        exact = torch.zeros_like(x)
        for inside in blocks(x, 2, 3):
            exact[inside] = ((target + 1) * weight * (x - silence))[inside].mean()
        return exact

    assert closeness(found, row_by_row(slow, classifier, batch, "features")) < 1e-3  # the regression is in float32


@every_domain
def test_shapley_values_sum_to_the_change_of_the_logit(domain: str) -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    explanation = explain(KernelShap(domain=domain, n_samples=120), classifier, batch)  # type: ignore[arg-type]
    assert explanation.relevance is not None
    moved = change(classifier, batch)
    missing = (explanation.relevance.values.double().flatten(1).sum(1) - moved).abs()
    assert float((missing / moved.abs().max()).max()) < 1e-3
    assert torch.allclose(explanation.diagnostics["completeness_gap"].double(), missing, atol=1e-5)


def test_coalitions_come_from_the_seed_and_the_clip() -> None:
    classifier, batch = classifier_of(), batch_of()
    method = KernelShap(n_samples=100)
    maps = [
        method.explain(classifier, batch, target=TARGET, random=Random(seed, batch.clip_ids)).relevance
        for seed in (0, 1)
    ]
    assert maps[0] is not None
    assert maps[1] is not None
    assert closeness(maps[0].values, maps[1].values) > 1e-3
    order = [3, 1, 0, 2]
    moved = relevance(method, classifier, batch.select(order), TARGET[order])
    assert closeness(moved, maps[0].values[order]) < 1e-5


# --- odd sizes, and what is refused


class Mean(nn.Module):
    """Takes a map of any size."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.stack([(k + 1.0) * features.mean((1, 2, 3)) for k in range(3)], dim=1)


class Cut(nn.Module):
    """A front end of which only the first bands and frames are left."""

    def __init__(self, bands: int, frames: int) -> None:
        super().__init__()
        self.inner, self.bands, self.frames = log_mel(), bands, frames
        self.rate, self.min_samples, self.grid = self.inner.rate, self.inner.min_samples, self.inner.grid
        self.describe, self.shares_stft, self.from_stft = (
            self.inner.describe,
            self.inner.shares_stft,
            self.inner.from_stft,
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        features: Tensor = self.inner(waveforms)
        return features[:, :, : self.bands, : self.frames]


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (3, 2)])
@pytest.mark.parametrize("method", [Occlusion(), FeatureAblation(), KernelShap()], ids=lambda m: type(m).__name__)
def test_tiny_maps_have_as_many_segments_as_cells(shape: tuple[int, int], method: Any) -> None:
    classifier, batch = classifier_of(Mean(), front_end=Cut(*shape)), batch_of()
    found = relevance(method, classifier, batch)
    x, silence = classifier.features(batch.waveforms), classifier.features(torch.zeros_like(batch.waveforms))
    expected = ((x - silence)[:, 0] / (shape[0] * shape[1])) * (TARGET + 1)[:, None, None]
    assert closeness(found, expected) < 1e-3


def test_one_player_is_no_game() -> None:
    classifier = classifier_of(Mean(), front_end=Cut(1, 1))
    with pytest.raises(NotApplicableError, match=r"at least two players; an input of shape \(1, 1, 1\) makes one"):
        explain(KernelShap(), classifier, batch_of())
    assert relevance(FeatureAblation(), classifier, batch_of()).shape == (4, 1, 1)


def test_the_entrance_is_the_map_itself() -> None:
    classifier, batch = CLASSIFIERS["log-mel"](), doubled(batch_of())
    x, function = entrance(classifier, batch.waveforms[0], "features")
    assert torch.allclose(function(x), classifier.logits(batch.waveforms)[0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: FeatureAblation(frequency_segments=0), "feature-ablation needs frequency_segments >= 1, got 0"),
        (lambda: Occlusion(time_segments=0), "occlusion needs time_segments >= 1, got 0"),
        (lambda: Occlusion(time_segments=2.5), "got 2.5"),  # type: ignore[arg-type]
        (lambda: KernelShap(time_segments=1), "time_segments >= 2, got 1"),
        (lambda: KernelShap(frequency_segments=4, time_segments=5, n_samples=39), "n_samples >= 40, got 39"),
        (lambda: KernelShap(domain="waveform", time_segments=30, n_samples=20), "n_samples >= 60, got 20"),
    ],
)
def test_wrong_parameters_are_refused(build: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build()
