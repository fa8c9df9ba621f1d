"""Frames and spectra: PyTorch's values, and derivatives that hold up against differences."""

import pytest
import torch
from torch import Tensor

from earwitness.audio.frames import overlap_add, power_of, spectrum_of_frames


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("n_samples", "length", "hop"), [(64, 16, 4), (61, 16, 5), (16, 16, 8), (40, 8, 8), (50, 8, 11)]
)
def test_the_spectrum_of_frames_and_its_gradient_are_those_of_torch(n_samples: int, length: int, hop: int) -> None:
    signal, window = noise(3, n_samples).requires_grad_(), noise(length, seed=1)
    found = spectrum_of_frames(signal, window, hop)
    wanted = torch.stft(signal, length, hop, window=window, center=False, return_complex=True)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    direction = torch.complex(noise(*found.shape, seed=2), noise(*found.shape, seed=3))
    gradients = [torch.autograd.grad(each, signal, direction)[0] for each in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("length", "hop"), [(8, 2), (8, 3), (6, 6)])
def test_overlap_add_sums_frames_where_they_lie(length: int, hop: int) -> None:
    frames = noise(2, 5, length)
    wanted = torch.zeros(2, 4 * hop + length, dtype=torch.float64)
    for number in range(5):
        wanted[:, number * hop : number * hop + length] += frames[:, number]
    torch.testing.assert_close(overlap_add(frames, hop)[:, : wanted.shape[1]], wanted)


@pytest.mark.parametrize("hop", [2, 3, 8, 9])
def test_gradients_hold_up_against_differences_also_twice(hop: int) -> None:
    signal, window, frames = noise(2, 25).requires_grad_(), noise(8, seed=1), noise(2, 4, 8).requires_grad_()

    def heard(signal: Tensor) -> Tensor:
        return power_of(spectrum_of_frames(signal, window, hop))

    def added(frames: Tensor) -> Tensor:
        return overlap_add(frames, hop).square()

    for function, leaf in ((heard, signal), (added, frames)):
        assert torch.autograd.gradcheck(function, (leaf,))
        assert torch.autograd.gradgradcheck(function, (leaf,))


def test_the_gradient_of_silence_is_zero_and_finite() -> None:
    signal = torch.zeros(1, 32, requires_grad=True)
    (gradient,) = torch.autograd.grad(power_of(spectrum_of_frames(signal, torch.ones(8), 4)).sum(), signal)
    assert gradient.tolist() == [[0.0] * 32]


def test_what_is_returned_may_be_changed_in_place() -> None:
    signal, frames = noise(2, 24).requires_grad_(), noise(2, 4, 8).requires_grad_()
    for found, leaf in (
        (spectrum_of_frames(signal, torch.ones(8, dtype=torch.float64), 4), signal),
        (overlap_add(frames, 4), frames),
    ):
        wanted = torch.autograd.grad(3 * found.abs().square().sum(), leaf, retain_graph=True)[0]
        changed = found.mul_(torch.sqrt(torch.tensor(3.0, dtype=torch.float64))).abs().square().sum()
        torch.testing.assert_close(torch.autograd.grad(changed, leaf)[0], wanted)


def test_the_power_of_a_conjugate_has_the_gradient_of_the_power() -> None:
    spectrum = torch.complex(noise(2, 5), noise(2, 5, seed=1)).requires_grad_()
    gradients = [torch.autograd.grad(power_of(each).sum(), spectrum)[0] for each in (spectrum, spectrum.conj())]
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(gradients[0], 2 * spectrum.detach())
