"""Cascading randomisation as a metric: SSIM worked out a second time, and who stays the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.protocols import Curve
from earwitness.random import Random
from earwitness.registry import registry
from earwitness_bench.cascade import cascade
from earwitness_bench.chunks import others
from earwitness_bench.metrics.randomisation import CascadingRandomisation, comparable, ssim
from networks import WaveCNN, batch_of, classifier_of, wave_classifier_of


def pictures(n_rows: int = 2, rows: int = 14, columns: int = 17, seed: int = 0) -> Tensor:
    return torch.rand(n_rows, rows, columns, generator=torch.Generator().manual_seed(seed)) ** 2


def ssim_by_hand(one: Tensor, other: Tensor) -> float:
    """Wang et al. 2004, equation 13, window by window."""
    offsets = np.arange(-5, 6)
    bell = np.exp(-(offsets**2) / (2 * 1.5**2))
    window = np.outer(bell, bell) / bell.sum() ** 2
    a, b = one.double().numpy(), other.double().numpy()
    values = []
    for row in range(5, a.shape[0] - 5):
        for column in range(5, a.shape[1] - 5):
            x, y = (map_[row - 5 : row + 6, column - 5 : column + 6] for map_ in (a, b))
            mean_x, mean_y = (window * x).sum(), (window * y).sum()
            var_x, var_y = (window * (x - mean_x) ** 2).sum(), (window * (y - mean_y) ** 2).sum()
            covariance = (window * (x - mean_x) * (y - mean_y)).sum()
            luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
            values.append(luminance * (2 * covariance + 9e-4) / (var_x + var_y + 9e-4))
    return float(np.mean(values))


def test_ssim_is_that_of_the_paper_window_by_window() -> None:
    one, other = pictures(), 0.6 * pictures() + 0.4 * pictures(seed=1)
    for row, value in enumerate(ssim(one, other).tolist()):
        assert value == pytest.approx(ssim_by_hand(one[row], other[row]), abs=1e-6)
        assert 0.2 < value < 0.95
    assert torch.equal(ssim(one, one), torch.ones(2))
    assert float(ssim(one, 1 - one).max()) < 0
    with pytest.raises(NotApplicableError, match="11 x 11 cells, and these maps have"):
        ssim(pictures(rows=10), pictures(rows=10))


# --- the metric


def gradient(classifier: AudioClassifier, batch: Batch, target: Tensor) -> Explanation:
    features = classifier.features(batch.waveforms).detach().requires_grad_()
    picked = classifier.logits_of_features(features).gather(1, target[:, None]).sum()
    return Explanation(target, relevance=Relevance(torch.autograd.grad(picked, features)[0][:, 0].abs(), "features"))


def loudness(classifier: AudioClassifier, batch: Batch, target: Tensor) -> Explanation:
    return Explanation(target, relevance=Relevance(classifier.features(batch.waveforms)[:, 0].detach(), "features"))


def flat_when_random(classifier: AudioClassifier, batch: Batch, target: Tensor) -> Explanation:
    """A map of the clip, and a constant mask once the last layer is another."""
    found = loudness(classifier, batch, target)
    own = classifier.network.state_dict()["head.bias"]
    same = torch.equal(own, classifier_of().network.state_dict()["head.bias"])
    assert found.relevance is not None
    shape = found.relevance.values.shape
    return found if same else Explanation(target, mask=Mask(torch.full(shape, 0.5), "features"))


def scored(method, classifier: AudioClassifier | None = None, *, n_rows: int = 3, **parameters):  # type: ignore[no-untyped-def]
    classifier = classifier or classifier_of()
    batch = batch_of(n_rows)
    target = torch.tensor([0, 2, 1, 0])[:n_rows]

    def again(
        other: AudioClassifier, batch: Batch, *, target: Tensor | None, rows: Sequence[int] | None
    ) -> Explanation:
        assert rows is None
        return method(other, batch, own if target is None else target)

    own = target
    explanation = method(classifier, batch, target)
    context = Context(classifier, batch, explanation, random=Random(0, batch.clip_ids), explain=again)
    return CascadingRandomisation(**parameters).score(explanation, context), context


def test_the_curve_is_the_similarity_at_each_stage_of_the_cascade() -> None:
    found, context = scored(gradient)
    curve = found.columns["SSIM_randomised"]
    assert isinstance(curve, Curve)
    assert curve.x.tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1])
    original = comparable(context.scene, context.explanation)
    features = context.classifier.features(context.batch.waveforms[:1])
    for number, stage in enumerate(cascade(context.classifier, features, seed=0, most=8), start=1):
        maps = gradient(stage.classifier, context.batch, context.target).relevance
        assert maps is not None
        for row in range(3):
            shown = maps.values[row].clamp_min(0) / maps.values[row].max()
            assert float(curve.y[row, number]) == pytest.approx(ssim_by_hand(original[row], shown), abs=1e-5)
    assert torch.equal(found.columns["SSIM_all_random"], curve.y[:, -1])
    assert float(curve.y[:, -1].mean()) < 0.9
    giver = others(0, context.batch.clip_ids, context.target).tolist()
    assert sorted(giver) == [0, 1, 2]
    for row, other in enumerate(giver):
        by_hand = ssim_by_hand(original[row], original[other])
        assert found.columns["SSIM_other_clip"][row] == pytest.approx(by_hand, abs=1e-5)


def test_a_method_that_ignores_the_weights_stays_at_one() -> None:
    found, _ = scored(loudness)
    assert torch.equal(found.columns["SSIM_randomised"].y, torch.ones(3, 4))
    assert found.columns["degenerate_randomised"].y.tolist() == [[0] * 4] * 3
    assert float(found.columns["SSIM_other_clip"].max()) < 1


def test_stages_with_a_constant_map_are_counted() -> None:
    found, _ = scored(flat_when_random, max_stages=3)
    assert found.columns["degenerate_randomised"].y.tolist() == [[0, 1, 1, 1]] * 3
    assert float(found.columns["SSIM_all_random"].max()) < 0.9


def test_a_constant_original_has_no_score_and_says_so() -> None:
    def constant(classifier: AudioClassifier, batch: Batch, target: Tensor) -> Explanation:
        values = loudness(classifier, batch, target).relevance
        assert values is not None
        masks = values.values.clone()
        masks[1] = 0.3
        return Explanation(target, relevance=Relevance(masks, "features"))

    found, context = scored(constant)
    assert found.reasons == ("", "the map is constant", "")
    assert found.columns["SSIM_all_random"].isnan().tolist() == [False, True, False]
    assert found.columns["SSIM_randomised"].y.isnan().all(1).tolist() == [False, True, False]
    giver = others(0, context.batch.clip_ids, context.target).tolist()
    assert found.columns["SSIM_other_clip"].isnan().tolist() == [
        row == 1 or other == 1 for row, other in enumerate(giver)
    ]


def test_networks_that_eat_samples_are_compared_on_the_listening_stft() -> None:
    def envelope(classifier: AudioClassifier, batch: Batch, target: Tensor) -> Explanation:
        return Explanation(target, relevance=Relevance(batch.waveforms.abs(), "waveform"))

    found, context = scored(envelope, wave_classifier_of(WaveCNN()))
    assert comparable(context.scene, context.explanation).shape == context.scene.magnitude.shape
    assert torch.equal(found.columns["SSIM_all_random"], torch.ones(3))


def test_a_single_clip_has_no_other_one() -> None:
    found, _ = scored(loudness, n_rows=1)
    assert found.columns["SSIM_other_clip"].isnan().all()


def test_another_clip_is_not_another_class_of_the_same_one() -> None:
    assert others(0, ["a", "a", "b", "b"], torch.tensor([0, 1, 1, 0])).tolist() == [3, 2, 1, 0]


def test_its_columns_are_those_of_its_spec_and_its_stages_a_whole_number() -> None:
    spec = registry().metric("cascading-randomisation").spec
    assert set(scored(loudness)[0].columns) == {column.name for column in spec.columns}
    assert not any(column.headline for column in spec.columns)
    with pytest.raises(ConfigurationError, match="max_stages"):
        CascadingRandomisation(max_stages=0)
