"""Half precision: what survives it, and what does not matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness_bench.packing import degenerate_rows, pack, shuffled, unpack

TARGET = torch.tensor([0, 1, 0])


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def through(explanation: Explanation) -> Explanation:
    return unpack(*pack(explanation))


def relevance_of(explanation: Explanation) -> Tensor:
    assert explanation.relevance is not None
    return explanation.relevance.values


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e-12, 1e30, 1e37])
def test_relevance_of_any_size_comes_back_to_half_precision_of_its_own_peak(scale: float) -> None:
    values = noise(3, 5, 7) * torch.tensor([1.0, 1e-3, 10.0])[:, None, None] * scale
    back = relevance_of(through(Explanation(TARGET, relevance=Relevance(values, "features"))))
    assert back.dtype == torch.float32
    error = (back.double() - values.double()).abs().flatten(1).amax(1) / values.double().abs().flatten(1).amax(1)
    assert float(error.max()) < 5e-4


def test_denormal_relevance_keeps_its_order() -> None:
    values = torch.tensor([[[1e-42, 5e-41, 1e-40]]])
    back = relevance_of(through(Explanation(TARGET[:1], relevance=Relevance(values, "stft"))))
    assert torch.allclose(back / back.max(), values / values.max(), atol=1e-3)


def test_relevance_in_double_precision_beyond_single_precision_stays_finite() -> None:
    values = torch.tensor([[[1e300, -1e299]]], dtype=torch.float64)
    back = relevance_of(through(Explanation(TARGET[:1], relevance=Relevance(values, "stft"))))
    assert back[0, 0, 0] > 0 > back[0, 0, 1]


def test_a_map_of_zeros_stays_one_beside_others() -> None:
    values = noise(3, 4, 4)
    values[1] = 0
    back = relevance_of(through(Explanation(TARGET, relevance=Relevance(values, "stft"))))
    assert torch.equal(back[1], torch.zeros(4, 4))
    assert float(back[0].abs().max()) == pytest.approx(float(values[0].abs().max()), rel=1e-6)


def test_packing_twice_changes_nothing_more() -> None:
    once = through(Explanation(TARGET, relevance=Relevance(noise(3, 20, 20) * 0.37, "stft")))
    assert torch.equal(relevance_of(through(once)), relevance_of(once))


def test_a_mask_keeps_its_domain_and_scale_and_its_values_to_half_precision() -> None:
    mask = Mask(torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1)), "stft", "log1p")
    back = through(Explanation(TARGET, mask=mask)).mask
    assert back is not None
    assert (back.domain, back.scale) == ("stft", "log1p")
    assert torch.allclose(back.values, mask.values, atol=5e-4)


def test_a_mask_that_rounding_put_outside_is_put_back() -> None:
    back = through(Explanation(TARGET, mask=Mask(torch.full((3, 2, 2), 1 + 5e-7), "stft"))).mask
    assert back is not None
    assert float(back.values.max()) == 1


def test_sound_logits_target_and_diagnostics_come_back_exactly() -> None:
    given = Explanation(
        TARGET,
        heard=noise(3, 50),
        surrogate_logits=noise(3, 2),
        diagnostics={"gap": torch.tensor([0.1, float("nan"), -3.0]), "a.b": torch.tensor([1, 2, 3])},
    )
    back = through(given)
    assert torch.equal(back.target, TARGET)
    assert torch.equal(back.heard, given.heard)  # type: ignore[arg-type]
    assert torch.equal(back.surrogate_logits, given.surrogate_logits)  # type: ignore[arg-type]
    assert torch.allclose(back.diagnostics["gap"], given.diagnostics["gap"], equal_nan=True)
    assert back.diagnostics["a.b"].tolist() == [1, 2, 3]
    assert back.relevance is None
    assert back.mask is None


def test_gradients_and_parts_are_left_behind() -> None:
    values = noise(3, 2, 2).requires_grad_()
    parts = Parts(("a",), torch.ones(3, 1), torch.ones(3, 1, dtype=torch.bool), lambda k: Relevance(values, "stft"))
    tensors, _ = pack(Explanation(TARGET, relevance=Relevance(values, "stft"), parts=parts))
    assert sorted(tensors) == ["relevance", "relevance_peak", "target"]
    assert not any(tensor.requires_grad for tensor in tensors.values())


def test_maps_take_two_bytes_a_cell() -> None:
    mask = Mask(noise(3, 8, 8).abs().clamp(0, 1), "stft")
    tensors, _ = pack(Explanation(TARGET, relevance=Relevance(noise(3, 8, 8), "stft"), mask=mask))
    assert tensors["relevance"].nbytes == tensors["mask"].nbytes == 3 * 8 * 8 * 2


def test_shuffled_rows_bring_their_maps_and_sound_but_not_their_target_or_diagnostics() -> None:
    rows = torch.tensor([1, 2, 0])
    given = Explanation(
        TARGET,
        relevance=Relevance(noise(3, 2, 2), "features"),
        mask=Mask(noise(3, 4, 4).abs().clamp(0, 1), "stft", "log1p"),
        heard=noise(3, 9),
        diagnostics={"gap": torch.zeros(3)},
    )
    found = shuffled(given, rows)
    assert torch.equal(found.target, TARGET)
    assert torch.equal(relevance_of(found)[0], relevance_of(given)[1])
    assert torch.equal(found.mask.values[1], given.mask.values[2])  # type: ignore[union-attr]
    assert (found.mask.scale, found.relevance.domain) == ("log1p", "features")  # type: ignore[union-attr]
    assert torch.equal(found.heard[2], given.heard[0])  # type: ignore[index]
    assert found.diagnostics == {}


def test_a_map_that_points_nowhere_is_degenerate() -> None:
    pointing = noise(4, 4).abs()
    rows = torch.stack([pointing, torch.full((4, 4), 0.3), -pointing, torch.zeros(4, 4), pointing * 1e-30])
    target = torch.zeros(5, dtype=torch.int64)
    assert degenerate_rows(Explanation(target, relevance=Relevance(rows, "stft"))) == [False, True, True, True, False]


def test_a_constant_mask_is_degenerate_whatever_the_relevance_beside_it() -> None:
    masks = torch.stack([torch.full((2, 2), 0.97), torch.eye(2), torch.zeros(2, 2)])
    explanation = Explanation(TARGET, relevance=Relevance(noise(3, 2, 2), "stft"), mask=Mask(masks, "stft"))
    assert degenerate_rows(explanation) == [True, False, True]


def test_silence_is_degenerate() -> None:
    heard = torch.stack([torch.zeros(5), torch.ones(5), noise(5)])
    assert degenerate_rows(Explanation(TARGET, heard=heard)) == [True, False, False]
