"""The objective of DRSA, its gradient, and the two ways to climb it: against the authors' arrays, and slowly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from earwitness.errors import ConfigurationError, ExplanationError
from earwitness_plugins.drsa.baselines import choose_subspaces, principal_components
from earwitness_plugins.drsa.objective import Vectors, block_sizes, subspace_relevance, value_and_gradient
from earwitness_plugins.drsa.subspaces import (
    Subspaces,
    adaptive_ascent,
    fit_subspaces,
    orthogonality_gap,
    paper_ascent,
    polar,
    random_starts,
)

KINDS = ("drsa", "dsa", "prca", "pca", "random")


def starts(dimensions: int, count: int = 3, seed: int = 0) -> Tensor:
    return random_starts(dimensions, count, torch.Generator().manual_seed(seed))


def vectors(n_rows: int = 300, dimensions: int = 10, seed: int = 0, dtype: torch.dtype = torch.float64) -> Vectors:
    """Two groups of channels that are active, and relevant, in different rows."""
    generator = torch.Generator().manual_seed(seed)
    half = dimensions // 2
    a = torch.rand(n_rows, dimensions, generator=generator, dtype=dtype)
    c = torch.randn(n_rows, dimensions, generator=generator, dtype=dtype)
    a[: n_rows // 2, :half] *= 5
    c[: n_rows // 2, :half] += 2
    a[n_rows // 2 :, half:] *= 3
    c[n_rows // 2 :, half:] += 1
    return Vectors.normalised(a, c)


def slow_objective(basis: Tensor, data: Vectors, sizes: tuple[int, ...]) -> Tensor:
    """J by the formula, one vector and one subspace at a time."""
    roots, first = [], 0
    for size in sizes:
        block = basis[:, first : first + size]
        first += size
        squares = [
            ((block.T @ a) @ (block.T @ c)).clamp(min=0) ** 2
            for a, c in zip(data.activations, data.contexts, strict=True)
        ]
        roots.append((sum(squares) / data.n_rows) ** 0.25)
    return (sum(roots) / len(roots)) ** 2  # type: ignore[return-value]


# --- the authors' arrays


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, NDArray[np.float64]]:
    with np.load(golden / "drsa.npz") as file:
        return dict(file)


def of(arrays: dict[str, NDArray[np.float64]], name: str) -> Tensor:
    return torch.from_numpy(arrays[name])


@pytest.mark.golden
def test_vectors_are_normalised_as_the_authors_do(arrays: dict[str, NDArray[np.float64]]) -> None:
    found = Vectors.normalised(of(arrays, "act"), of(arrays, "ctx"))
    assert found.n_rows == len(found.activations) == 500
    assert torch.allclose(found.activations, of(arrays, "act_normalised"), rtol=1e-6, atol=0)
    assert torch.allclose(found.contexts, of(arrays, "ctx_normalised"), rtol=1e-6, atol=0)


@pytest.mark.golden
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 2e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", ["drsa", "dsa"])
def test_all_restarts_climb_as_the_authors_do(
    arrays: dict[str, NDArray[np.float64]], name: str, dtype: torch.dtype, tolerance: float
) -> None:
    a, c = (of(arrays, f"{which}_normalised").to(dtype) for which in ("act", "ctx" if name == "drsa" else "act"))
    begin = torch.stack([of(arrays, f"U0_{r}").to(dtype) for r in range(3)])
    basis, curves = paper_ascent(Vectors(a, c, len(a)), block_sizes(16, 4), begin, int(arrays["steps"]))
    for r in range(3):
        assert torch.allclose(curves[r, :-1].double(), of(arrays, f"{name}_J_{r}"), rtol=0, atol=3e-6)
        assert float(curves[r, -1]) == pytest.approx(float(arrays[f"{name}_Jfinal_{r}"]), abs=3e-6)
        assert float((basis[r] - of(arrays, f"{name}_U50_{r}")).abs().max()) < tolerance


@pytest.mark.golden
def test_the_first_step_and_the_relevance_of_the_subspaces_are_the_authors(
    arrays: dict[str, NDArray[np.float64]],
) -> None:
    a, c = (of(arrays, f"{which}_normalised") for which in ("act", "ctx"))
    once, _ = paper_ascent(Vectors(a, c, 500), block_sizes(16, 4), of(arrays, "U0_0")[None], 1)
    assert float((once[0] - of(arrays, "drsa_U1_0")).abs().max()) < 1e-6
    relevance = subspace_relevance(of(arrays, "drsa_U50_0")[None], a, c, block_sizes(16, 4))[0]
    assert float((relevance - of(arrays, "drsa_R_nk_0")).abs().max()) < 2e-6
    assert float((relevance.sum(1) - of(arrays, "total_relevance")).abs().max()) < 5e-6


@pytest.mark.golden
def test_principal_components_are_the_authors(arrays: dict[str, NDArray[np.float64]]) -> None:
    a, c = (of(arrays, f"{which}_normalised") for which in ("act", "ctx"))
    values, axes = principal_components(a, c)
    assert np.allclose(values / 500, arrays["prca_eigvals"], atol=1e-6)
    assert np.allclose(axes[:, :4].abs(), arrays["prca_absproj_top"], atol=1e-5)
    assert np.allclose(principal_components(a, a)[0] / 1000, arrays["pca_eigvals"], atol=1e-6)


@pytest.mark.golden
def test_the_adaptive_fit_is_at_least_as_good_as_a_thousand_steps_of_one(
    arrays: dict[str, NDArray[np.float64]],
) -> None:
    data = Vectors.normalised(of(arrays, "act"), of(arrays, "ctx"))
    begin = torch.stack([of(arrays, f"U0_{r}") for r in range(3)])
    ours = fit_subspaces(data, block_sizes(16, 4), begin)
    theirs = fit_subspaces(data, block_sizes(16, 4), begin, method="paper", steps=1000)
    assert ours.objective > 0.9995 * theirs.objective
    assert ours.curves.shape[1] < 1000


# --- objective


@pytest.mark.parametrize("sizes", [(10,), (5, 5), (4, 3, 3), (1,) * 10])
def test_value_and_gradient_are_those_of_the_formula(sizes: tuple[int, ...]) -> None:
    data = vectors(40)
    basis = starts(10, 2).requires_grad_()
    slow = torch.stack([slow_objective(one, data, sizes) for one in basis])
    (wanted,) = torch.autograd.grad(slow.sum(), basis)
    value, gradient = value_and_gradient(basis.detach(), data, sizes)
    assert torch.allclose(value, slow, rtol=1e-12)
    assert torch.allclose(gradient, wanted, rtol=0, atol=1e-12)
    assert float(wanted.abs().max()) > 0.01


def test_more_vectors_than_fit_into_one_product_make_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    data, basis = vectors(300), starts(10)
    whole = value_and_gradient(basis, data, (4, 3, 3))
    monkeypatch.setattr("earwitness_plugins.drsa.objective._ROWS_AT_ONCE", 7)
    for one, other in zip(whole, value_and_gradient(basis, data, (4, 3, 3)), strict=True):
        assert torch.allclose(one, other, rtol=1e-12)


def test_dead_rows_are_left_out_and_still_count_in_the_mean() -> None:
    generator = torch.Generator().manual_seed(2)
    a, c = torch.rand(50, 6, generator=generator), torch.randn(50, 6, generator=generator)
    a[3], c[7] = 0, 0
    found = Vectors.normalised(a, c)
    assert (len(found.activations), found.n_rows) == (48, 50)
    scaled = [values / values.square().mean().sqrt() / 6**0.25 for values in (a, c)]
    for one, other in zip(
        value_and_gradient(starts(6).float(), found, (3, 3)),
        value_and_gradient(starts(6).float(), Vectors(scaled[0], scaled[1], 50), (3, 3)),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-5, atol=1e-6)


def test_a_subspace_without_relevance_has_no_gradient_and_no_nan() -> None:
    a = torch.zeros(20, 4, dtype=torch.float64)
    a[:, :2] = torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = Vectors(a, a, 20)
    value, gradient = value_and_gradient(torch.eye(4, dtype=torch.float64)[None], data, (2, 2))
    assert bool(torch.isfinite(value).all())
    assert not gradient[0, :, 2:].any()
    assert bool(gradient[0, :, :2].any())


def test_rotating_inside_a_block_changes_nothing_and_permuting_blocks_permutes() -> None:
    data, basis = vectors(), starts(10, 1)[0]
    turned = basis @ torch.block_diag(*starts(5, 2, seed=4))
    relevance = [subspace_relevance(one[None], data.activations, data.contexts, (5, 5))[0] for one in (basis, turned)]
    assert torch.allclose(*relevance, rtol=1e-9, atol=1e-12)
    swapped = torch.cat([basis[:, 5:], basis[:, :5]], dim=1)[None]
    other = subspace_relevance(swapped, data.activations, data.contexts, (5, 5))[0]
    assert torch.allclose(other.flip(1), relevance[0], rtol=1e-9, atol=1e-12)


def test_one_subspace_has_all_the_relevance() -> None:
    data = vectors()
    relevance = subspace_relevance(starts(10), data.activations, data.contexts, (10,))
    wanted = (data.activations * data.contexts).sum(1, keepdim=True)
    assert torch.allclose(relevance, wanted.expand_as(relevance), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("dimensions", "k", "sizes"), [(8, 4, (2,) * 4), (10, 4, (3, 3, 2, 2)), (5, 5, (1,) * 5)])
def test_blocks_are_as_even_as_they_can_be(dimensions: int, k: int, sizes: tuple[int, ...]) -> None:
    assert block_sizes(dimensions, k) == sizes


# --- fitting


def test_starts_are_orthogonal_different_and_the_same_for_the_same_seed() -> None:
    found = starts(12, 3)
    assert orthogonality_gap(found) < 1e-12
    assert float((found[0] - found[1]).abs().max()) > 0.1
    assert torch.equal(found, starts(12, 3))


def test_polar_is_the_nearest_orthogonal_matrix() -> None:
    matrix = torch.randn(1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    nearest = polar(matrix)
    assert orthogonality_gap(nearest) < 1e-12
    gram = nearest[0].T @ matrix[0]  # symmetric and positive: that is what makes it the nearest
    assert torch.allclose(gram, gram.T, atol=1e-12)
    assert bool((torch.linalg.eigvalsh(gram) > 0).all())


def test_polar_goes_through_double_precision_where_single_precision_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    svd = torch.linalg.svd

    def fastidious(matrices: torch.Tensor) -> object:
        if matrices.dtype == torch.float32:
            raise torch.linalg.LinAlgError("did not converge")
        return svd(matrices)

    matrix = torch.randn(2, 6, 6, generator=torch.Generator().manual_seed(0))
    expected = polar(matrix)
    monkeypatch.setattr(torch.linalg, "svd", fastidious)
    torch.testing.assert_close(polar(matrix), expected)
    with pytest.raises(torch.linalg.LinAlgError):
        polar(torch.full((1, 3, 3), torch.nan).double())


def test_polar_survives_a_matrix_whose_gram_matrix_would_be_singular() -> None:
    left, right = starts(8, 2)
    singular_values = torch.logspace(-9, 4, 8, dtype=torch.float64)
    assert orthogonality_gap(polar((left * singular_values @ right)[None])) < 1e-12


def test_the_adaptive_objective_never_falls_and_each_restart_ends_by_itself() -> None:
    _, curves = adaptive_ascent(vectors(), (5, 5), starts(10, 5), 5000)
    for curve in curves:
        reached = curve[~curve.isnan()]
        assert bool((reached.diff() >= 0).all())
        assert float(reached[-1] - reached[-41]) < 1e-5 * float(reached[-1])
    assert int(curves.isnan().sum()) > 0
    assert curves.shape[1] < 5000


def test_the_best_restart_is_kept() -> None:
    data, begin = vectors(), starts(10, 4)
    found = fit_subspaces(data, (4, 3, 3), begin)
    ends = [float(curve[~curve.isnan()][-1]) for curve in found.curves]
    assert found.objective == pytest.approx(max(ends), rel=1e-6)
    assert found.objective > max(float(v) for v in value_and_gradient(begin, data, (4, 3, 3))[0])
    assert float(value_and_gradient(found.subspaces.basis[None], data, (4, 3, 3))[0]) == pytest.approx(found.objective)


def test_two_groups_of_channels_are_found() -> None:
    """Each row's relevance lies in channels of one group: so must each subspace."""
    generator = torch.Generator().manual_seed(1)
    a = torch.zeros(400, 8, dtype=torch.float64)
    a[:200, :4] = torch.rand(200, 4, generator=generator, dtype=torch.float64)
    a[200:, 4:] = torch.rand(200, 4, generator=generator, dtype=torch.float64)
    found = fit_subspaces(Vectors(a, 2 * a, 400), (4, 4), starts(8))
    share = found.subspaces.basis[:4, :4].square().sum() / 4
    assert min(float(share), 1 - float(share)) < 1e-3


def test_subspaces_are_ordered_by_signed_mean_relevance() -> None:
    data = vectors(dtype=torch.float32)
    subspaces = Subspaces(starts(10, 1)[0], (4, 3, 3))
    ordered, mean = subspaces.ordered(data)
    basis = ordered.basis
    wanted = []
    for size, block in zip(ordered.sizes, torch.split(basis, list(ordered.sizes), dim=1), strict=True):
        assert block.shape == (10, size)
        pairs = zip(data.activations.double(), data.contexts.double(), strict=True)
        wanted.append(sum(float((block.T @ a) @ (block.T @ c)) for a, c in pairs) / data.n_rows)
    assert mean.tolist() == pytest.approx(wanted, rel=1e-4)
    assert wanted == sorted(wanted, reverse=True)
    assert sorted(ordered.sizes) == [3, 3, 4]
    assert [int(row.sum()) for row in ordered.members] == list(ordered.sizes)


def test_a_basis_that_is_not_orthogonal_is_refused() -> None:
    with pytest.raises(ExplanationError, match="not orthogonal"):
        Subspaces(1.001 * torch.eye(4, dtype=torch.float64), (2, 2))


# --- baselines


def choose(kind: str, data: Vectors, sizes: tuple[int, ...]) -> tuple[Subspaces, float]:
    generator = torch.Generator().manual_seed(0)
    found = choose_subspaces(kind, data, sizes, generator=generator)  # type: ignore[arg-type]
    return found.subspaces, found.objective


def test_drsa_beats_every_baseline_on_its_own_objective() -> None:
    data = vectors(dtype=torch.float32)
    objectives = {kind: choose(kind, data, (5, 5))[1] for kind in KINDS}
    assert max(objectives, key=lambda kind: objectives[kind]) == "drsa"
    assert len(set(objectives.values())) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_a_seeded_orthogonal_basis_judged_by_the_same_objective(kind: str) -> None:
    data = vectors()
    subspaces, objective = choose(kind, data, (4, 3, 3))
    assert torch.equal(subspaces.basis, choose(kind, data, (4, 3, 3))[0].basis)
    assert orthogonality_gap(subspaces.basis) < 1e-12
    assert objective == pytest.approx(float(slow_objective(subspaces.basis, data, (4, 3, 3))), rel=1e-6)


def test_the_first_block_of_prca_has_the_most_relevance_and_that_of_pca_the_most_energy() -> None:
    data = vectors()
    prca, pca = (choose(kind, data, (2, 8))[0] for kind in ("prca", "pca"))
    relevance = [float(one.relevance(data)[:, 0].sum()) for one in (prca, pca)]
    energy = [float((data.activations @ one.basis[:, :2]).square().sum()) for one in (prca, pca)]
    assert relevance[0] > relevance[1]
    assert energy[1] > energy[0]


# --- bad input


@pytest.mark.parametrize("k", [0, 11])
def test_more_subspaces_than_dimensions_are_refused(k: int) -> None:
    with pytest.raises(ConfigurationError, match=f"between 1 and the 10 dimensions of the layer, got {k}"):
        block_sizes(10, k)


def test_dead_vectors_only_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="all 9 vectors are dead"):
        Vectors.normalised(torch.zeros(9, 4), torch.ones(9, 4))


def test_fewer_live_vectors_than_dimensions_are_refused() -> None:
    activations = torch.ones(9, 4)
    activations[:6] = 0
    with pytest.raises(ConfigurationError, match=r"3 vectors \(6 more are dead\) are too few for 4 dimensions"):
        Vectors.normalised(activations, torch.ones(9, 4))
