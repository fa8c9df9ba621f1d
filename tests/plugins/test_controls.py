"""The controls: what they are, exactly, and that batching does not change them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from earwitness.clips import Batch
from earwitness.errors import ConfigurationError
from earwitness.explanation import Explanation, Mask
from earwitness.loading import load_explainer
from earwitness.protocols import Explainer
from earwitness.random import Random
from earwitness.registry import registry
from networks import N_SAMPLES, SmallCNN, batch_of, classifier_of, wave_classifier_of

CONTROLS = ("uniform-noise", "loudness", "constant-gain", "noise-parts", "all-ones", "all-zeros")
SHAPE = (4, 129, 1 + N_SAMPLES // 128)


def explain(control: Explainer | str, batch: Batch | None = None, *, seed: int = 0, **more: Any) -> Explanation:
    method = load_explainer(control) if isinstance(control, str) else control
    batch = batch or batch_of()
    given = {"target": torch.zeros(len(batch), dtype=torch.long), **more}
    classifier = given.pop("classifier", None) or classifier_of()
    return method.explain(classifier, batch, random=Random(seed, batch.clip_ids), **given)


def mask_of(explanation: Explanation) -> Mask:
    assert explanation.mask is not None
    assert explanation.relevance is None
    return explanation.mask


def test_every_control_on_offer_is_tested_here() -> None:
    offered = [o.spec.name for o in registry().offers("explainers") if getattr(o.spec, "scope", "") == "control"]
    assert set(offered) == set(CONTROLS)


@pytest.mark.parametrize(("name", "gain"), [("all-ones", 1.0), ("all-zeros", 0.0), ("constant-gain", 0.97)])
def test_a_constant_gain_is_the_same_everywhere(name: str, gain: float) -> None:
    mask = mask_of(explain(name))
    assert (mask.domain, mask.scale) == ("stft", "magnitude")
    assert torch.equal(mask.values, torch.full(SHAPE, gain))


def test_the_gain_is_a_parameter_in_its_range() -> None:
    half = load_explainer("constant-gain", parameters={"gain": 0.5})
    assert torch.equal(mask_of(explain(half)).values, torch.full(SHAPE, 0.5))
    for gain in (-0.01, 1.01, float("nan")):
        with pytest.raises(ConfigurationError, match=r"gain must lie in \[0, 1\]"):
            load_explainer("constant-gain", parameters={"gain": gain})


def test_loudness_is_the_recordings_own_magnitude() -> None:
    explanation, batch = explain("loudness"), batch_of()
    assert explanation.mask is None
    assert explanation.relevance is not None
    assert explanation.relevance.domain == "stft"
    # Frame 3, bin 5, by the definition of the DFT: centred frames of 256 samples, 128 apart.
    frame = batch.waveforms[:, 3 * 128 - 128 : 3 * 128 + 128].double()
    n = torch.arange(256, dtype=torch.float64)
    window = torch.sin(torch.pi * n / 256) ** 2
    real = (frame * window * torch.cos(2 * torch.pi * 5 * n / 256)).sum(1)
    imaginary = (frame * window * torch.sin(2 * torch.pi * 5 * n / 256)).sum(1)
    assert explanation.relevance.values.shape == SHAPE
    assert torch.allclose(explanation.relevance.values[:, 5, 3].double(), (real**2 + imaginary**2).sqrt(), atol=1e-4)


def test_uniform_noise_is_uniform_and_independent() -> None:
    values = mask_of(explain("uniform-noise")).values
    assert values.shape == SHAPE
    assert float(values.min()) >= 0
    assert float(values.max()) < 1
    histogram = torch.histc(values, 10, 0, 1) / values.numel()
    assert torch.allclose(histogram, torch.full((10,), 0.1), atol=0.01)
    assert float((torch.corrcoef(values.flatten(1)) - torch.eye(4)).abs().max()) < 0.06


def test_uniform_noise_belongs_to_the_clip_whatever_its_batch() -> None:
    batch = batch_of()
    together = mask_of(explain("uniform-noise", batch)).values
    for row in range(4):
        alone = mask_of(explain("uniform-noise", Batch.of(batch.clips[row : row + 1]))).values
        assert torch.equal(alone[0], together[row])
    backwards = mask_of(explain("uniform-noise", Batch.of(batch.clips[::-1]))).values
    assert torch.equal(backwards.flip(0), together)
    assert not torch.equal(mask_of(explain("uniform-noise", batch, seed=1)).values, together)


def noise_parts(k: int, batch: Batch | None = None, **more: Any) -> Explanation:
    return explain(load_explainer("noise-parts", parameters={"k": k}), batch, **more)


def test_parts_of_noise_are_white_independent_and_sum_to_the_whole() -> None:
    explanation = noise_parts(3)
    assert explanation.parts is not None
    assert explanation.relevance is not None
    grid = classifier_of().feature_grid(N_SAMPLES)
    assert grid is not None
    maps = torch.stack([explanation.parts.map(number).values for number in range(3)], 1)
    assert maps.shape == (4, 3, *grid.shape)
    assert explanation.relevance.domain == "features"
    assert torch.allclose(maps.sum(1), explanation.relevance.values, atol=1e-6)
    assert torch.allclose(maps.sum((2, 3)), explanation.parts.weights, atol=1e-4)
    cells = maps.flatten(0, 1).flatten(1)
    assert float((torch.corrcoef(cells) - torch.eye(12)).abs().max()) < 0.2  # 16 x 32 cells
    assert float(cells.mean()) == pytest.approx(0, abs=0.05)
    assert float(cells.std()) == pytest.approx(1, abs=0.05)


def test_parts_of_noise_belong_to_the_clip_and_the_first_ones_do_not_depend_on_how_many_there_are() -> None:
    batch = batch_of()
    sixteen, alone = noise_parts(16, batch), noise_parts(2, Batch.of(batch.clips[2:3]))
    assert sixteen.parts is not None
    assert alone.parts is not None
    assert sixteen.parts.names[-1] == "noise 16"
    for number in range(2):
        assert torch.equal(alone.parts.map(number).values[0], sixteen.parts.map(number).values[2])


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "4"])
def test_a_number_of_parts_that_is_none_is_refused(k: Any) -> None:
    with pytest.raises(ConfigurationError, match="number of parts"):
        load_explainer("noise-parts", parameters={"k": k})


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_knows_nothing_of_the_decision(name: str) -> None:
    def values(**changes: Any) -> torch.Tensor:
        explanation = explain(name, **changes)
        found = explanation.mask or explanation.relevance
        assert found is not None
        return found.values

    before = values()
    assert torch.equal(values(target=torch.full((4,), 2)), before)
    assert torch.equal(values(classifier=classifier_of(SmallCNN(seed=8))), before)
    assert torch.equal(values(), before)


@pytest.mark.parametrize("name", CONTROLS)
def test_a_control_serves_a_network_that_eats_samples(name: str) -> None:
    explanation = explain(name, classifier=wave_classifier_of())
    found = explanation.mask or explanation.relevance
    assert found is not None
    listening = wave_classifier_of().listening
    assert found.domain == "stft"
    assert found.values.shape == (4, listening.n_bins, listening.n_frames(N_SAMPLES))
