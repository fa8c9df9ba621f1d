"""Between feature maps, samples and the listening STFT: averages stay averages, mass stays mass."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from earwitness.audio import dialects
from earwitness.audio.front_end import LogMel
from earwitness.audio.lifting import (
    frame_mask,
    frame_relevance,
    lift_mask,
    lift_relevance,
    lower_mask,
    lower_relevance,
    share_out,
)
from earwitness.audio.mel import Compression, MelBands, Stft
from earwitness.audio.stft import ListeningSTFT
from earwitness.errors import ExplanationError
from earwitness.grid import Grid

N_SAMPLES = 16000
FRONT_ENDS = {"toy": dialects.drsa_toy, "yamnet": dialects.yamnet}
LISTENING = [(512, 128), (480, 240), (2048, 512), (2048, 1024), (256, 64)]  # finer and coarser than both
EVERY_PAIR = [(name, *sizes) for name in FRONT_ENDS for sizes in LISTENING]
every_pair = pytest.mark.parametrize(("name", "n_fft", "hop_length"), EVERY_PAIR)


def grids(name: str, n_fft: int, hop_length: int, n_samples: int = N_SAMPLES) -> tuple[Grid, Grid]:
    """The feature map's, and the listening STFT's."""
    return FRONT_ENDS[name]().grid(n_samples), ListeningSTFT(16000, n_fft, hop_length).grid(n_samples)


def signed(shape: tuple[int, int], seed: int = 0, n_rows: int = 2) -> Tensor:
    return torch.randn(n_rows, *shape, generator=torch.Generator().manual_seed(seed))


def loud(shape: tuple[int, int], n_rows: int = 2) -> Tensor:
    """Magnitudes over six decades, with digital silence."""
    generator = torch.Generator().manual_seed(9)
    magnitude = 10 ** (6 * torch.rand(n_rows, *shape, generator=generator) - 4)
    return magnitude * (torch.rand(n_rows, *shape, generator=generator) > 0.2)


def triangle_response(grid: Grid, frequency_hz: float) -> Tensor:
    """Response of each filter at a frequency, by linear interpolation between its own bins."""
    assert grid.filters is not None
    assert grid.filter_frequencies_hz is not None
    place = frequency_hz / float(grid.filter_frequencies_hz[1])
    left = min(int(place), grid.filters.shape[1] - 2)
    return (1 - place + left) * grid.filters[:, left] + (place - left) * grid.filters[:, left + 1]


# -- masks ------------------------------------------------------------------------------------------------------------


@every_pair
def test_lifting_keeps_a_constant_where_the_features_hear_and_nothing_elsewhere(
    name: str, n_fft: int, hop_length: int
) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    lifted = lift_mask(torch.full((2, *coarse.shape), 0.7), coarse, fine)
    assert lifted.shape == (2, *fine.shape)
    heard = coarse.response(fine.frequencies_hz).sum(0) > 0
    assert torch.allclose(lifted[:, heard], torch.tensor(0.7), atol=1e-6)  # from the first frame to the last
    assert not lifted[:, ~heard].any()
    if name == "yamnet":  # 125 to 7500 Hz, give or take a bin
        spacing = max(16000 / n_fft, 16000 / 512)
        outside = (fine.frequencies_hz < 125 - spacing) | (fine.frequencies_hz > 7500 + spacing)
        assert outside.any()
        assert not heard[outside].any()
        assert heard[(fine.frequencies_hz > 125 + spacing) & (fine.frequencies_hz < 7500 - spacing)].all()


@every_pair
def test_a_lifted_mask_stays_in_range(name: str, n_fft: int, hop_length: int) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    mask = torch.rand(2, *coarse.shape, generator=torch.Generator().manual_seed(0)).round()
    lifted = lift_mask(mask, coarse, fine)
    assert float(lifted.min()) > -1e-6
    assert 0.9 < float(lifted.max()) < 1 + 1e-6


def test_a_lifted_mask_is_the_average_by_filter_weight_and_by_time() -> None:
    coarse, fine = grids("yamnet", 512, 128)  # 8 ms, finer than 10 ms: interpolation in time
    mask = torch.rand(1, *coarse.shape, generator=torch.Generator().manual_seed(1))
    lifted = lift_mask(mask, coarse, fine)
    for row, column in [(5, 3), (20, 40), (100, 77), (230, 90), (130, 1)]:
        weights = triangle_response(coarse, float(fine.frequencies_hz[row]))
        place = (float(fine.times_s[column]) - 0.0125) / 0.010
        left, share = (0, 0.0) if place < 0 else (int(place), place - int(place))
        frame = (1 - share) * mask[0, :, left] + share * mask[0, :, left + 1]
        wanted = float((weights * frame).sum() / weights.sum())
        assert float(lifted[0, row, column]) == pytest.approx(wanted, abs=1e-6)


@every_pair
def test_lowering_keeps_a_constant_even_in_silence(name: str, n_fft: int, hop_length: int) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    for magnitude in (loud(fine.shape), torch.zeros(2, *fine.shape), 1e-30 * loud(fine.shape)):
        lowered = lower_mask(torch.full((2, *fine.shape), 0.7), fine, coarse, magnitude)
        assert lowered.shape == (2, *coarse.shape)
        assert torch.allclose(lowered, torch.tensor(0.7), atol=1e-6)


def test_a_lowered_mask_is_the_average_by_what_is_heard() -> None:
    coarse, fine = grids("toy", 480, 240)  # the same frames, but for one past the end
    mask, magnitude = torch.rand(1, *fine.shape, generator=torch.Generator().manual_seed(2)), 1 + loud(fine.shape, 1)
    lowered = lower_mask(mask, fine, coarse, magnitude)
    for band, frame in [(0, 0), (10, 20), (40, 33), (63, 65)]:
        top = bottom = 0.0
        for row, frequency_hz in enumerate(fine.frequencies_hz.tolist()):
            weight = float(triangle_response(coarse, frequency_hz)[band]) * float(magnitude[0, row, frame])
            top, bottom = top + weight * float(mask[0, row, frame]), bottom + weight
        assert bottom > 0  # silence is for the trace of uniform weight to decide
        assert float(lowered[0, band, frame]) == pytest.approx(top / bottom, abs=1e-3)


def test_a_smooth_mask_survives_the_way_up_and_down() -> None:
    coarse, fine = grids("yamnet", 512, 128)
    time, frequency = coarse.times_s, coarse.frequencies_hz
    mask = (0.5 + 0.4 * torch.sin(6 * time)[None] * torch.cos(frequency / 1000)[:, None]).float()[None]
    back = lower_mask(lift_mask(mask, coarse, fine), fine, coarse, torch.ones(1, *fine.shape))
    assert float((back - mask).abs().max()) < 0.05


# -- relevance --------------------------------------------------------------------------------------------------------


@every_pair
def test_lifting_preserves_the_mass_of_relevance_also_in_silence(name: str, n_fft: int, hop_length: int) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    relevance = signed(coarse.shape)
    for magnitude in (loud(fine.shape), torch.zeros(2, *fine.shape), 1e-30 * loud(fine.shape)):
        lifted = lift_relevance(relevance, coarse, fine, magnitude)
        assert lifted.shape == (2, *fine.shape)
        assert torch.isfinite(lifted).all()
        gap = (lifted.double().sum((1, 2)) - relevance.double().sum((1, 2))).abs()
        assert (gap <= 1e-5 * relevance.abs().sum((1, 2))).all()
        positive = lift_relevance(relevance.clamp_min(0), coarse, fine, magnitude)
        assert float(positive.min()) >= 0
        assert torch.allclose(positive.sum((1, 2)), relevance.clamp_min(0).sum((1, 2)), rtol=1e-5)


def test_a_cell_is_shared_out_by_filter_weight_times_magnitude() -> None:
    coarse, fine = grids("toy", 480, 240)
    magnitude = loud(fine.shape, 1)
    relevance = torch.zeros(1, *coarse.shape)
    relevance[0, 30, 12] = -2.0
    lifted = lift_relevance(relevance, coarse, fine, magnitude)
    weights = torch.stack([triangle_response(coarse, f)[30] for f in fine.frequencies_hz.tolist()])
    wanted = weights * magnitude[0, :, 12].double()
    assert torch.allclose(lifted[0, :, 12].double(), -2.0 * wanted / wanted.sum(), atol=1e-5)
    lifted[0, :, 12] = 0
    assert not lifted.any()


def test_relevance_goes_where_the_sound_is() -> None:
    coarse, fine = grids("yamnet", 512, 128)
    relevance, magnitude = torch.zeros(1, *coarse.shape), torch.full((1, *fine.shape), 1e-9)
    band = int((coarse.frequencies_hz - 3000).abs().argmin())
    relevance[0, band, 50] = 1.0
    bin_ = int((fine.frequencies_hz - coarse.frequencies_hz[band]).abs().argmin())
    magnitude[0, bin_] = 1.0
    assert float(lift_relevance(relevance, coarse, fine, magnitude)[0, bin_].sum()) > 0.999


@every_pair
def test_a_cell_lands_around_its_own_hz_and_seconds(name: str, n_fft: int, hop_length: int) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    magnitude = torch.ones(1, *fine.shape)
    for band in (5, 30, coarse.shape[0] - 2):
        for frame in (0, coarse.shape[1] // 3, coarse.shape[1] - 1):
            relevance = torch.zeros(1, *coarse.shape)
            relevance[0, band, frame] = 1
            assert coarse.filters is not None
            assert coarse.filter_frequencies_hz is not None
            own = coarse.filters[band] / coarse.filters[band].sum()
            for lifted in (
                lift_relevance(relevance, coarse, fine, magnitude),
                lift_mask(relevance, coarse, fine),
            ):
                cell = lifted[0].double() / lifted.double().sum()
                centre_hz = float(cell.sum(1) @ fine.frequencies_hz)
                centre_s = float(cell.sum(0) @ fine.times_s)
                # to within the wider of the two spacings; filters lean, a mask's edges are held
                assert abs(centre_hz - float(own @ coarse.filter_frequencies_hz)) < max(16000 / n_fft, 60)
                assert abs(centre_s - float(coarse.times_s[frame])) < max(hop_length / 16000, 0.016)


@every_pair
def test_lowering_collects_the_mass_that_the_features_hear(name: str, n_fft: int, hop_length: int) -> None:
    coarse, fine = grids(name, n_fft, hop_length)
    relevance = signed(fine.shape)
    heard = coarse.response(fine.frequencies_hz).sum(0) > 0
    lowered = lower_relevance(relevance, fine, coarse)
    assert lowered.shape == (2, *coarse.shape)
    gap = (lowered.double().sum((1, 2)) - relevance[:, heard].double().sum((1, 2))).abs()
    assert (gap <= 1e-5 * relevance.abs().sum((1, 2))).all()


def test_relevance_that_went_up_comes_down_about_where_it_was() -> None:
    coarse, fine = grids("yamnet", 512, 128)
    relevance = torch.zeros(1, *coarse.shape)
    relevance[0, 40, 50], relevance[0, 20, 20] = 1.0, -1.0
    back = lower_relevance(lift_relevance(relevance, coarse, fine, torch.ones(1, *fine.shape)), fine, coarse)
    assert float(back[0, 38:43, 48:53].sum()) == pytest.approx(1, abs=0.02)
    assert float(back[0, 18:23, 18:23].sum()) == pytest.approx(-1, abs=0.02)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_a_band_that_hears_nothing_keeps_its_relevance_and_disturbs_no_mask() -> None:
    front_end = LogMel(  # 128 bands over 129 bins: many of the low ones are empty
        rate=16000, stft=Stft(256, 128), bands=MelBands(128), compression=Compression("ln", 1e-3), power=1
    )
    coarse, fine = front_end.grid(N_SAMPLES), ListeningSTFT(16000, 512, 128).grid(N_SAMPLES)
    assert coarse.filters is not None
    empty = coarse.filters.sum(1) == 0
    assert empty.any()
    relevance, mask = torch.zeros(1, *coarse.shape), torch.zeros(1, *coarse.shape)
    relevance[:, empty], mask[:, empty] = 1.0, 1.0
    lifted = lift_relevance(relevance, coarse, fine, loud(fine.shape, 1))
    assert float(lifted.sum()) == pytest.approx(float(relevance.sum()), rel=1e-5)
    assert not lift_mask(mask, coarse, fine).any()


def test_frames_past_the_end_of_the_other_map_are_not_lost() -> None:
    coarse = Grid(torch.tensor([0.0, 4000, 8000]), torch.arange(120, dtype=torch.float64) * 0.010)
    fine = ListeningSTFT(16000, 512, 256).grid(16000)  # ends at 1 s
    relevance = signed(coarse.shape)
    lifted = lift_relevance(relevance, coarse, fine, loud(fine.shape))
    assert torch.allclose(lifted.sum((1, 2)), relevance.sum((1, 2)), atol=1e-4)


# -- samples ----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(hop_length=st.integers(1, 40), n_samples=st.integers(1, 400), seed=st.integers(0, 99))
def test_samples_are_shared_between_their_two_nearest_frames(hop_length: int, n_samples: int, seed: int) -> None:
    n_frames = 1 + n_samples // hop_length
    relevance = torch.randn(2, n_samples, generator=torch.Generator().manual_seed(seed))
    wanted = torch.zeros(2, n_frames, dtype=torch.float64)
    for sample in range(n_samples):
        left, share = sample // hop_length, (sample % hop_length) / hop_length
        wanted[:, left] += (1 - share) * relevance[:, sample].double()
        wanted[:, min(left + 1, n_frames - 1)] += share * relevance[:, sample].double()  # the tail stays in
    frames = frame_relevance(relevance, hop_length, n_frames)
    assert torch.allclose(frames.double(), wanted, atol=1e-4)
    assert torch.allclose(frames.sum(1), relevance.sum(1), atol=1e-4 * n_samples)


@settings(max_examples=40, deadline=None)
@given(hop_length=st.integers(1, 40), n_samples=st.integers(1, 400), extra=st.integers(0, 1))
def test_a_constant_mask_over_samples_stays_that_constant(hop_length: int, n_samples: int, extra: int) -> None:
    whole, beyond = divmod(n_samples, hop_length)
    frames = frame_mask(torch.full((2, n_samples), 0.3), hop_length, 1 + whole + (extra and beyond > 1))
    assert torch.allclose(frames, torch.tensor(0.3), atol=1e-5)


def test_a_mask_over_samples_is_averaged_around_each_frame() -> None:
    mask = torch.zeros(1, 100)
    mask[0, 45:56] = 1  # around frame 5 of hop 10
    frames = frame_mask(mask, 10, 11)[0].tolist()
    weights = {n: 1 - abs(n - 50) / 10 for n in range(41, 60)}
    wanted = sum(weight for n, weight in weights.items() if 45 <= n <= 55) / sum(weights.values())
    assert frames[5] == pytest.approx(wanted, rel=1e-5)
    assert frames[3] == frames[7] == 0
    assert 0 < frames[4] < frames[5]


def test_frames_are_shared_out_by_magnitude_and_in_silence_alike() -> None:
    magnitude = torch.tensor([[[1.0, 0.0], [3.0, 0.0]]])
    shared = share_out(torch.tensor([[2.0, -1.0]]), magnitude)
    assert torch.allclose(shared, torch.tensor([[[0.5, -0.5], [1.5, -0.5]]]), atol=1e-5)
    assert torch.allclose(share_out(torch.tensor([[2.0, -1.0]]), torch.zeros(1, 2, 2)).sum(1), torch.tensor([2.0, -1]))


# -- errors -----------------------------------------------------------------------------------------------------------


def test_swapped_axes_are_refused_with_a_question() -> None:
    coarse, fine = grids("yamnet", 512, 128)
    down, up, magnitude = torch.ones(1, *fine.shape), torch.ones(1, *coarse.shape), torch.ones(1, *fine.shape)
    for call in (
        lambda: lift_mask(up.mT, coarse, fine),
        lambda: lift_relevance(up.mT, coarse, fine, magnitude),
        lambda: lift_relevance(up, coarse, fine, magnitude.mT),
        lambda: lower_mask(down.mT, fine, coarse, magnitude),
        lambda: lower_mask(down, fine, coarse, magnitude.mT),
        lambda: lower_relevance(down.mT, fine, coarse),
        lambda: lift_mask(up[0], coarse, fine),
    ):
        with pytest.raises(ExplanationError, match="Frequency comes before time"):
            call()


def test_grids_that_share_no_moment_are_refused() -> None:
    coarse, fine = grids("yamnet", 512, 128)
    milliseconds = Grid(coarse.frequencies_hz, 1000 * coarse.times_s)
    with pytest.raises(ExplanationError, match=r"from 12\.5 s .*seconds\?"):
        lift_mask(torch.ones(1, *coarse.shape), milliseconds, fine)
