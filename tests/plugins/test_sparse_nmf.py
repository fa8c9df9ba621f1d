"""Sparse-NMF: its steps against slow re-derivations, the reference runs, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError, SilentAudioError
from earwitness_plugins.sparse_nmf import factorisation
from earwitness_plugins.sparse_nmf.descent import State
from earwitness_plugins.sparse_nmf.factorisation import Factorisation, Start, encode, factorise
from earwitness_plugins.sparse_nmf.updates import METHODS, Sums, descend_activations, descend_patterns, on_sphere

SPARSITY = 0.8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spectrogram(n_bins: int = 20, n_frames: int = 60, n_patterns: int = 4, seed: int = 0) -> Tensor:
    """Sparse mixtures of smooth patterns, with noise; some frames are quiet, some are zero."""
    draws = generator(seed)
    patterns = torch.rand(n_bins, n_patterns, generator=draws, dtype=torch.float64).pow(4)
    strengths = 3 * torch.rand(n_patterns, n_frames, generator=draws, dtype=torch.float64).pow(3)
    noisy = patterns @ strengths + 0.05 * torch.rand(n_bins, n_frames, generator=draws, dtype=torch.float64)
    noisy[:, 5:9] *= 0.01
    noisy[:, 20] = 0
    return noisy


def unit(matrix: Tensor) -> Tensor:
    return matrix / matrix.norm(dim=0)


def objective(x: Tensor, w: Tensor, h: Tensor, sparsity: float = SPARSITY) -> float:
    return float(0.5 * (x - w @ h).square().sum() + sparsity * h.sum())


def nnls_encoding(x: Tensor, w: Tensor, sparsity: float) -> Tensor:
    """½‖x - Wh‖² + mu Σh over h >= 0, as non-negative least squares with the Cholesky factor of WᵀW; frame by frame."""
    factor = np.linalg.cholesky((w.T @ w).numpy())
    columns = [nnls(factor.T, np.linalg.solve(factor, (w.T @ frame - sparsity).numpy()))[0] for frame in x.T]
    return torch.from_numpy(np.stack(columns, axis=1))


# --- the steps


def test_a_sweep_of_the_activations_visits_one_coordinate_after_the_other() -> None:
    x, w = spectrogram(), unit(torch.rand(20, 37, generator=generator(1), dtype=torch.float64))
    start = torch.rand(37, 60, generator=generator(2), dtype=torch.float64)
    slow = start.clone()
    for _ in range(2):
        for k in range(37):
            residual = x - w @ slow
            slow[k] = (slow[k] + w[:, k] @ residual - SPARSITY).clamp_min(0)
    fast = descend_activations(start[None], (w.T @ x)[None], (w.T @ w)[None], SPARSITY, sweeps=2)[0]
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def test_no_non_negative_unit_vector_beats_the_one_on_the_sphere() -> None:
    pulls = torch.randn(50, 6, generator=generator(), dtype=torch.float64)
    pulls[:10] = -pulls[:10].abs() - 0.1  # all negative: the best is a corner
    pulls[10] *= 1e-200  # whose squares vanish
    best = on_sphere(pulls)
    torch.testing.assert_close(best.norm(dim=1), torch.ones(50, dtype=torch.float64))
    assert (best >= 0).all()
    others = torch.rand(2000, 6, generator=generator(1), dtype=torch.float64).pow(3)
    others = torch.cat([others / others.norm(dim=1, keepdim=True), torch.eye(6, dtype=torch.float64)])
    scale = pulls.abs().amax(1)
    assert ((best * pulls).sum(1) / scale >= (pulls @ others.T).amax(1) / scale - 1e-12).all()


def test_a_step_of_the_patterns_is_the_best_of_each_given_the_others() -> None:
    x, start = spectrogram(), unit(torch.rand(20, 5, generator=generator(1), dtype=torch.float64))
    h = torch.rand(5, 60, generator=generator(2), dtype=torch.float64)
    h[3] = 0  # a pattern that never sounds keeps its place
    slow = start.clone()
    for _ in range(2):
        for k in (0, 1, 2, 4):
            pull = (x - w_without(slow, k) @ h) @ h[k]
            slow[:, k] = pull.clamp_min(0) / pull.clamp_min(0).norm()
    fast = descend_patterns(start.T[None], Sums.of(x, h[None]), torch.ones(5, dtype=torch.bool))[0].T
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)


def w_without(w: Tensor, k: int) -> Tensor:
    return torch.cat([w[:, :k], torch.zeros_like(w[:, k : k + 1]), w[:, k + 1 :]], dim=1)


def published_iterations(x: Tensor, w: Tensor, h: Tensor, frozen: int, count: int) -> tuple[Tensor, Tensor]:
    """The rules of the report with the whole model WH in memory, one pattern after the other."""
    w, h = w / w.norm(dim=0), h * w.norm(dim=0)[:, None]
    for _ in range(count):
        h = h * (w.T @ x) / (w.T @ (w @ h) + SPARSITY)
        model, moved = w @ h, w.clone()
        for k in range(frozen, w.shape[1]):
            attract = x @ h[k] + w[:, k] * ((model @ h[k]) * w[:, k]).sum()
            repel = model @ h[k] + w[:, k] * ((x @ h[k]) * w[:, k]).sum()
            moved[:, k] = w[:, k] * attract / repel
        w = moved / moved.norm(dim=0)
    return w, h


@pytest.mark.parametrize("frozen", [0, 2])
def test_the_multiplicative_method_is_the_published_one(frozen: int) -> None:
    x = spectrogram()
    w = torch.rand(20, 5, generator=generator(1), dtype=torch.float64)
    h = torch.rand(5, 60, generator=generator(2), dtype=torch.float64)
    found = factorise(
        x, 5, method="multiplicative", patterns=w, activations=h, frozen=frozen, max_iterations=7, tolerance=0
    )
    expected_w, expected_h = published_iterations(x, w, h, frozen, 7)
    torch.testing.assert_close(found.patterns, expected_w, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.activations, expected_h, rtol=1e-6, atol=1e-9)


# --- the whole


@pytest.mark.parametrize("method", ["hals", "multiplicative"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_objective_is_that_of_the_result_and_never_rises(method: Any, dtype: torch.dtype) -> None:
    x = spectrogram().to(dtype)
    found = factorise(x, 4, method=method, max_iterations=80, tolerance=0)
    assert found.patterns.dtype == found.activations.dtype == dtype
    assert found.objective.dtype == torch.float64
    assert len(found.objective) == 80
    said = objective(x.double(), found.patterns.double(), found.activations.double())
    precision = 1e-12 if dtype == torch.float64 else 2e-6
    assert float(found.objective[-1]) == pytest.approx(said, rel=precision)
    assert (found.objective.diff() <= precision * found.objective[:-1]).all()
    torch.testing.assert_close(found.patterns.norm(dim=0), torch.ones(4, dtype=dtype))
    assert (found.patterns >= 0).all()
    assert (found.activations >= 0).all()


def test_momentum_is_undone_where_the_objective_rises() -> None:
    """On data where it overshoots: some iterations repeat the objective before them, and none rises."""
    found = factorise(spectrogram(30, 200, 6), 6, max_iterations=150, tolerance=0)
    repeated = found.objective.diff() == 0
    assert 0 < int(repeated.sum()) < 75
    assert (found.objective.diff() <= 1e-12 * found.objective[:-1]).all()


def test_quiet_frames_have_exact_zeros_and_that_is_their_minimum() -> None:
    x = spectrogram()
    found = factorise(x, 4)
    quiet = x.norm(dim=0) <= SPARSITY
    assert quiet.sum() >= 5
    assert (found.activations[:, quiet] == 0).all()
    assert (nnls_encoding(x[:, quiet], found.patterns, SPARSITY) == 0).all()
    assert (encode(x, found.patterns, sparsity=SPARSITY)[:, quiet] == 0).all()


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 2.0])
def test_encoding_finds_the_minimum_that_non_negative_least_squares_finds(sparsity: float) -> None:
    x, w = spectrogram(), unit(torch.rand(20, 12, generator=generator(3), dtype=torch.float64))
    found = encode(x, w, sparsity=sparsity)
    expected = nnls_encoding(x, w, sparsity)
    gained = 0.5 * float(x.square().sum()) - objective(x, w, expected, sparsity)
    assert objective(x, w, found, sparsity) - objective(x, w, expected, sparsity) <= 1e-5 * gained
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02 * float(expected.max()))


def test_encoding_a_batch_is_encoding_each_spectrogram() -> None:
    x, w = spectrogram(), unit(torch.rand(20, 5, generator=generator(3), dtype=torch.float64))
    together = encode(x.reshape(20, 3, 20).movedim(1, 0), w, sparsity=SPARSITY)
    assert together.shape == (3, 5, 20)
    alone = encode(x, w, sparsity=SPARSITY)
    torch.testing.assert_close(together.movedim(0, 1).reshape(5, 60), alone, atol=1e-2, rtol=0)


def test_the_cut_into_blocks_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x = spectrogram()
    whole = factorise(x, 4, max_iterations=20, tolerance=0)
    monkeypatch.setattr(factorisation, "BLOCK_FRAMES", 7)
    pieces = factorise(x, 4, max_iterations=20, tolerance=0)
    torch.testing.assert_close(pieces.patterns, whole.patterns, rtol=0, atol=1e-9)
    torch.testing.assert_close(pieces.activations, whole.activations, rtol=0, atol=1e-8)


def test_restarts_side_by_side_are_those_one_after_the_other_and_the_best_is_kept() -> None:
    x, count = spectrogram(), 5
    kept = x[:, x.norm(dim=0) > SPARSITY]
    draws = Start(4, restarts=count, generator=generator(9))
    starts = draws.patterns_for(x)[0]
    activations = torch.zeros(count, 4, x.shape[1], dtype=torch.float64)
    activations[:, :, x.norm(dim=0) > SPARSITY] = draws.activations_for(kept)
    alone = [
        factorise(x, 4, patterns=starts[r].T, activations=activations[r], max_iterations=15, tolerance=0)
        for r in range(count)
    ]
    together = factorise(x, 4, restarts=count, generator=generator(9), max_iterations=15, tolerance=0)
    best = min(alone, key=lambda one: float(one.objective[-1]))
    assert max(float(one.objective[-1]) for one in alone) > float(best.objective[-1]) * (1 + 1e-6)
    torch.testing.assert_close(together.objective, best.objective, rtol=1e-9, atol=0)
    torch.testing.assert_close(together.patterns, best.patterns, rtol=0, atol=1e-7)


@pytest.mark.parametrize("method", ["hals", "multiplicative"])
@pytest.mark.parametrize("frozen", [2, torch.tensor([0, 1])])
def test_frozen_patterns_stay_and_go_on_sounding(method: Any, frozen: int | Tensor) -> None:
    x = spectrogram()
    given = unit(x[:, [0, 30]])
    found = factorise(x, 5, method=method, patterns=given, frozen=frozen, max_iterations=15)
    torch.testing.assert_close(found.patterns[:, :2], given, rtol=0, atol=1e-15)
    assert (found.activations[:2] > 0).any()
    assert not torch.allclose(found.patterns[:, 2:], Start(5, given, 2).patterns_for(x)[0][0].T[:, 2:])


def test_the_same_seed_gives_the_same_patterns_and_another_one_others() -> None:
    x = spectrogram()
    first, again = (factorise(x, 4, generator=generator(3)) for _ in range(2))
    assert torch.equal(first.patterns, again.patterns)
    assert not torch.allclose(first.patterns, factorise(x, 4, generator=generator(4)).patterns)


def test_a_descent_ends_when_the_objective_settles() -> None:
    found = factorise(spectrogram(), 4, tolerance=1e-3)
    changes = -found.objective.diff() / found.objective[:-1]
    small = (changes > 0) & (changes < 1e-3)
    assert small[-2:].all()
    assert not (small[:-2] & small[1:-1]).any()


def test_progress_tells_each_iteration_and_its_objective() -> None:
    said: list[tuple[int, float]] = []
    found = factorise(spectrogram(), 4, max_iterations=6, tolerance=0, report=lambda *step: said.append(step))
    assert [number for number, _ in said] == [1, 2, 3, 4, 5, 6]
    assert [value for _, value in said] == found.objective.tolist()


def test_a_state_is_the_same_after_being_stored() -> None:
    state = State.start(torch.rand(2, 3, 5)).after(torch.rand(2, 3, 5), torch.ones(2), torch.ones(2), torch.zeros(2))
    again = State.of(state.tensors(), "cpu")
    assert all(torch.equal(getattr(state, name), value) for name, value in again.tensors().items())


# --- the reference runs


@pytest.fixture(scope="module")
def reference(golden: Path) -> dict[str, Tensor]:
    with np.load(golden / "sparse_nmf.npz") as arrays:
        return {name: torch.from_numpy(np.asarray(arrays[name])) for name in arrays}


def from_the_stored_start(reference: dict[str, Tensor], frozen: int = 0, **settings: Any) -> Factorisation:
    """In ``fixed3``, the three frozen columns are the first ones of ``main``'s result."""
    patterns = torch.cat([reference["main_W"][:, :frozen], reference["W0"][:, frozen:]], dim=1)
    return factorise(
        reference["X"], int(reference["K"]), patterns=patterns, activations=reference["H0"], frozen=frozen, **settings
    )


@pytest.mark.golden
@pytest.mark.parametrize(
    ("run", "settings"),
    [
        ("main", {"max_iterations": 1000, "tolerance": 0}),
        ("it100", {"max_iterations": 100, "tolerance": 0}),
        ("conv1e4", {"max_iterations": 1000, "tolerance": 1e-4}),
        ("half", {"max_iterations": 1000, "tolerance": 0, "sparsity": 0.4}),
        ("fixed3", {"max_iterations": 500, "tolerance": 0, "frozen": 3}),
    ],
)
def test_the_multiplicative_method_repeats_the_reference_runs(
    reference: dict[str, Tensor], run: str, settings: dict[str, Any]
) -> None:
    found = from_the_stored_start(reference, method="multiplicative", **settings)
    torch.testing.assert_close(found.objective, reference[f"{run}_objective"], rtol=1e-8, atol=0)
    torch.testing.assert_close(found.patterns, reference[f"{run}_W"], rtol=0, atol=1e-8)


@pytest.mark.golden
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_coordinate_descent_ends_lower_than_the_reference(reference: dict[str, Tensor], dtype: torch.dtype) -> None:
    found = from_the_stored_start({**reference, "X": reference["X"].to(dtype)}, max_iterations=40, tolerance=0)
    assert float(found.objective[-1]) == pytest.approx(423.3932, rel=1e-6)
    assert float(found.objective[12]) < 423.407 < float(reference["main_objective"][500])
    assert (found.objective.diff() <= 5e-7 * found.objective[:-1]).all()


@pytest.mark.golden
def test_the_best_of_twenty_starts_is_the_minimum(reference: dict[str, Tensor]) -> None:
    assert float(factorise(reference["X"], 8, restarts=20).objective[-1]) == pytest.approx(423.3932, rel=1e-6)


# --- bad input


def with_value(value: float) -> Tensor:
    x = spectrogram()
    x[3, 4] = value
    return x


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda: factorise(torch.zeros(20, 0), 4), AudioError, "Expected a float spectrogram"),
    (lambda: factorise(spectrogram()[None], 4), AudioError, r"\(1, 20, 60\)"),
    (lambda: factorise(with_value(torch.nan), 4), AudioError, "NaN or infinite"),
    (lambda: factorise(with_value(torch.inf), 4), AudioError, "NaN or infinite"),
    (lambda: factorise(with_value(-0.1), 4), AudioError, "not decibels"),
    (lambda: factorise(torch.zeros(20, 60), 4), SilentAudioError, "nothing to learn"),
    (lambda: factorise(spectrogram(), 4, sparsity=1e6), SilentAudioError, "smaller sparsity"),
    (lambda: factorise(spectrogram(), 58), ConfigurationError, "58 patterns cannot be learnt from"),
    (lambda: factorise(spectrogram(), 0), ConfigurationError, "n_patterns=0"),
    (lambda: factorise(spectrogram(), 4, restarts=0), ConfigurationError, "restarts=0"),
    (lambda: factorise(spectrogram(), 4, sparsity=-1), ConfigurationError, "must be a number >= 0"),
    (lambda: factorise(spectrogram(), 4, sparsity=float("nan")), ConfigurationError, "must be a number >= 0"),
    (lambda: factorise(spectrogram(), 4, method="hal"), ConfigurationError, "'hals'"),  # type: ignore[arg-type]
    (lambda: factorise(spectrogram(), 4, max_iterations=0), ConfigurationError, "max_iterations"),
    (lambda: factorise(spectrogram(), 4, tolerance=-1), ConfigurationError, "tolerance"),
    (lambda: factorise(spectrogram(), 4, patterns=torch.rand(19, 4)), ConfigurationError, r"\(20, K\)"),
    (lambda: factorise(spectrogram(), 4, patterns=-torch.rand(20, 4)), ConfigurationError, "not negative"),
    (lambda: factorise(spectrogram(), 4, patterns=torch.eye(20)[:, :4] * 0), ConfigurationError, "all zeros"),
    (lambda: factorise(spectrogram(), 4, patterns=torch.rand(20, 5)), ConfigurationError, "do not fit"),
    (lambda: factorise(spectrogram(), 4, frozen=1), ConfigurationError, "Frozen columns"),
    (
        lambda: factorise(spectrogram(), 4, patterns=torch.rand(20, 2), frozen=torch.tensor([2])),
        ConfigurationError,
        "Frozen columns",
    ),
    (lambda: factorise(spectrogram(), 4, activations=torch.rand(4, 60)), ConfigurationError, "go with all 4"),
    (
        lambda: factorise(spectrogram(), 4, patterns=torch.rand(20, 4), activations=torch.rand(4, 59)),
        ConfigurationError,
        r"\(4, 60\), got \(4, 59\)",
    ),
    (
        lambda: factorise(spectrogram(), 4, patterns=torch.rand(20, 4), activations=-torch.rand(4, 60)),
        ConfigurationError,
        "Activations must be finite and not negative",
    ),
    (lambda: encode(spectrogram(), torch.rand(20, 4), sparsity=0.8), ConfigurationError, "unit L2 norm"),
    (lambda: encode(spectrogram(), unit(torch.rand(21, 4)), sparsity=0.8), ConfigurationError, r"\(20, K\)"),
    (lambda: encode(with_value(-1), unit(torch.rand(20, 4)), sparsity=0.8), AudioError, "not negative"),
]


@pytest.mark.parametrize(("call", "error", "said"), REFUSED, ids=[str(number) for number in range(len(REFUSED))])
def test_what_cannot_be_factorised_is_refused_by_name(call: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        call()


def test_silence_is_encoded_as_silence() -> None:
    found = encode(torch.zeros(2, 20, 3), unit(torch.rand(20, 4)), sparsity=0.0)
    assert torch.equal(found, torch.zeros(2, 4, 3))


def test_every_method_is_tried_above() -> None:
    assert set(METHODS) == {"hals", "multiplicative"}
