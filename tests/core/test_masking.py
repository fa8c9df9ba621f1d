"""Masks at two scales, what they keep, and how loud they sound."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.audio.masking import gain_to_mask, kept_energy, mask_to_gain, match_loudness, rest_gain
from earwitness.explanation import SCALES, Scale


def tensor(*values: float) -> Tensor:
    return torch.tensor(values)[None, :, None]


def random_maps(seed: int = 0, n_rows: int = 3) -> tuple[Tensor, Tensor]:
    """A mask, and magnitudes over fourteen decades."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_rows, 6, 7, generator=generator)
    return mask, 10 ** (14 * torch.rand(n_rows, 6, 7, generator=generator) - 9)


@pytest.mark.parametrize(("magnitude", "gain"), [(0.1, 0.49), (10.0, 0.23), (100.0, 0.09)])
def test_half_a_mask_at_log1p_is_the_published_gain(magnitude: float, gain: float) -> None:
    assert float(mask_to_gain(tensor(0.5), tensor(magnitude), "log1p")) == pytest.approx(gain, abs=0.005)


@settings(max_examples=200, deadline=None)
@given(mask=st.floats(0, 1, width=32), magnitude=st.floats(0, 1e5, width=32))
def test_a_log1p_mask_multiplies_the_log_magnitude(mask: float, magnitude: float) -> None:
    gain = float(mask_to_gain(tensor(mask), tensor(magnitude), "log1p"))
    wanted = math.expm1(mask * math.log1p(magnitude))  # of the magnitude that is heard
    assert gain * magnitude == pytest.approx(wanted, rel=1e-5, abs=1e-30)
    assert 0 <= gain <= 1


@settings(max_examples=200, deadline=None)
@given(mask=st.floats(0, 1, width=32), magnitude=st.floats(0, 1e5, width=32))
def test_conversion_there_and_back_changes_nothing(mask: float, magnitude: float) -> None:
    gain = mask_to_gain(tensor(mask), tensor(magnitude), "log1p")
    assert float(gain_to_mask(gain, tensor(magnitude), "log1p")) == pytest.approx(mask, abs=1e-5)


def test_in_silence_a_mask_is_its_own_gain() -> None:
    mask = tensor(0.0, 0.3, 1.0)
    for magnitude in (0.0, 1e-30, 1e-12, 1e-9):
        assert torch.allclose(mask_to_gain(mask, torch.full_like(mask, magnitude), "log1p"), mask, atol=1e-6)
        assert torch.allclose(gain_to_mask(mask, torch.full_like(mask, magnitude), "log1p"), mask, atol=1e-6)


def test_the_scales_agree_for_nothing_and_for_everything_and_only_there() -> None:
    binary, magnitude = tensor(0.0, 1.0, 0.5), tensor(3.0, 3.0, 3.0)
    difference = (mask_to_gain(binary, magnitude, "log1p") - mask_to_gain(binary, magnitude, "magnitude")).abs()
    assert (difference.flatten() > 1e-6).tolist() == [False, False, True]


def test_at_magnitude_scale_a_mask_is_a_gain() -> None:
    mask, magnitude = random_maps()
    assert torch.equal(mask_to_gain(mask, magnitude, "magnitude"), mask)
    assert torch.equal(gain_to_mask(mask, magnitude, "magnitude"), mask)


@pytest.mark.parametrize("scale", SCALES)
def test_the_rest_has_the_gain_of_one_minus_the_mask(scale: Scale) -> None:
    mask, magnitude = random_maps()
    rest = rest_gain(mask_to_gain(mask, magnitude, scale), magnitude, scale)
    for m, a, got in zip(mask.flatten().tolist(), magnitude.flatten().tolist(), rest.flatten().tolist(), strict=True):
        wanted = 1 - m if scale == "magnitude" else math.expm1((1 - m) * math.log1p(a)) / a
        assert got == pytest.approx(wanted, abs=2e-6)


def test_gradients_of_the_gain_are_finite_in_silence() -> None:
    mask = torch.full((1, 2, 1), 0.5, requires_grad=True)
    mask_to_gain(mask, tensor(0.0, 10.0), "log1p").sum().backward()
    assert mask.grad is not None
    assert mask.grad[0, 0, 0] == 1
    assert float(mask.grad[0, 1, 0]) == pytest.approx(math.log1p(10) * math.sqrt(11) / 10, rel=1e-5)


def test_kept_energy_is_the_share_of_squared_magnitudes() -> None:
    gain, magnitude = random_maps()
    kept = kept_energy(gain, magnitude)
    for row in range(3):
        total = heard = 0.0
        for g, a in zip(gain[row].flatten().tolist(), magnitude[row].flatten().tolist(), strict=True):
            total += a * a
            heard += (g * a) ** 2
        assert float(kept[row]) == pytest.approx(heard / total, rel=1e-6)
    assert kept_energy(torch.ones_like(gain), magnitude).tolist() == [1, 1, 1]
    assert kept_energy(torch.zeros_like(gain), magnitude).tolist() == [0, 0, 0]


def test_half_a_gain_keeps_a_quarter_of_the_energy_at_any_level() -> None:
    _, magnitude = random_maps()
    for level in (1e-15, 1.0, 1e10):
        kept = kept_energy(torch.full_like(magnitude, 0.5), level * magnitude)
        assert torch.allclose(kept, torch.full((3,), 0.25))


def test_a_silent_row_keeps_an_undefined_share_and_leaves_the_others_alone() -> None:
    kept = kept_energy(torch.ones(2, 3, 4), torch.stack([torch.zeros(3, 4), torch.ones(3, 4)]))
    assert math.isnan(kept[0])
    assert kept[1] == 1


# -- loudness ---------------------------------------------------------------------------------------------------------


def rms(waveform: Tensor) -> float:
    return math.sqrt(sum(x * x for x in waveform.tolist()) / len(waveform))


def test_loudness_is_matched_row_by_row() -> None:
    generator = torch.Generator().manual_seed(0)
    reference = 0.1 * torch.randn(3, 500, generator=generator)
    quiet = torch.randn(3, 500, generator=generator) * torch.tensor([[1e-4], [0.01], [0.3]])
    loud = match_loudness(quiet, reference)
    for row in range(3):
        assert rms(loud[row]) == pytest.approx(rms(reference[row]), rel=1e-4)
        ratio = loud[row] / quiet[row]
        assert torch.allclose(ratio, ratio[:1].expand_as(ratio), rtol=1e-4)  # scaled, nothing else


def test_a_peak_is_never_clipped_but_scaled_down() -> None:
    click = torch.zeros(1, 1000)
    click[0, 3] = 0.01
    reference = torch.full((1, 1000), 0.5)
    assert float(match_loudness(click, reference).max()) == pytest.approx(1.0)
    assert float(match_loudness(click, reference, peak=0.25).max()) == pytest.approx(0.25)


def test_silence_stays_silent_and_finite() -> None:
    reference = torch.full((3, 100), 0.5)
    waveforms = torch.stack([torch.zeros(100), torch.full((100,), 1e-20), torch.full((100,), 0.1)])
    matched = match_loudness(waveforms, reference)
    assert torch.equal(matched[:2], waveforms[:2])
    assert torch.allclose(matched[2], reference[2])


def test_a_sound_matched_to_silence_is_silent() -> None:
    assert not match_loudness(torch.ones(1, 10), torch.zeros(1, 10)).any()
