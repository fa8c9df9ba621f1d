"""L2I's building blocks: each re-derived slowly from the paper's formulas or the published sizes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from earwitness_plugins.l2i.interpreter import Interpreter, Sizes
from earwitness_plugins.l2i.losses import LossWeights, fidelity_loss, reconstruction_loss, sparsity_loss
from earwitness_plugins.l2i.psi import Psi, resized
from earwitness_plugins.l2i.relevance import SoftMasks, relevance
from earwitness_plugins.l2i.theta import Theta


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def hidden_maps(n_rows: int = 2, *, channels: tuple[int, int, int] = (6, 8, 10), seed: int = 0) -> list[Tensor]:
    sizes = ((16, 26), (8, 13), (4, 7))
    return [rand(n_rows, c, h, w, seed=seed + c) for c, (h, w) in zip(channels, sizes, strict=True)]


def small_psi(n_patterns: int = 5, width: int = 8) -> Psi:
    torch.manual_seed(0)
    return Psi((6, 8, 10), n_patterns, width=width).eval()


# --- Ψ


@pytest.mark.parametrize(("n_patterns", "n_parameters"), [(100, 2_866_200), (80, 2_822_560)])
def test_at_the_published_sizes_psi_has_the_published_parameters(n_patterns: int, n_parameters: int) -> None:
    psi = Psi((128, 256, 512), n_patterns)
    assert sum(parameter.numel() for parameter in psi.parameters()) == n_parameters


def test_at_the_published_sizes_psi_has_the_published_shapes() -> None:
    seen: dict[str, tuple[int, ...]] = {}
    psi = Psi((8, 12, 16), 10, width=16)
    for name, module in psi.named_children():
        module.register_forward_hook(lambda _m, _i, output, name=name: seen.update({name: tuple(output.shape[2:])}))
    # A VGG's maps of 431 frames of 128 bands; the published code crops 53, 26 and 13 columns to 52, 26 and 13.
    found = psi([rand(1, 8, 16, 53), rand(1, 12, 8, 26), rand(1, 16, 4, 13)], 431)
    assert found.shape == (1, 10, 431)
    assert {name: shape[0] for name, shape in seen.items() if len(shape) == 2} == {
        "early": 4,
        "middle": 8,
        "late": 4,
        "joint": 4,
        "over_frequency": 1,
    }
    assert [seen[name][1] for name in ("early", "middle", "late", "joint", "over_frequency")] == [53, 53, 26, 106, 212]


@pytest.mark.parametrize(
    "shapes",
    [
        ((16, 26), (8, 13), (4, 7)),
        ((1, 125), (1, 63), (1, 32)),  # a network on samples
        ((3, 2), (2, 2), (1, 2)),
        ((64, 900), (7, 5), (40, 300)),  # finer than the frames; out of order
    ],
)
@pytest.mark.parametrize("n_frames", [1, 9, 120])
def test_maps_of_any_size_give_non_negative_activations_on_any_number_of_frames(
    shapes: tuple[tuple[int, int], ...], n_frames: int
) -> None:
    maps = [rand(2, channels, *shape) for channels, shape in zip((6, 8, 10), shapes, strict=True)]
    found = small_psi()(maps, n_frames)
    assert found.shape == (2, 5, n_frames)
    assert float(found.detach().min()) >= 0
    assert bool(torch.isfinite(found).all())


def test_maps_are_averaged_where_they_shrink_and_interpolated_where_they_grow() -> None:
    ramp = torch.arange(8.0)[:, None].expand(8, 3)[None, None]
    assert resized(ramp, 4, 3)[0, 0, :, 0].tolist() == [0.5, 2.5, 4.5, 6.5]
    grown = resized(ramp, 8, 5)
    assert torch.equal(grown[..., 0], ramp[..., 0])
    ends = resized(torch.tensor([[[[1.0, 3.0]]]]), 1, 5)
    assert ends.flatten().tolist() == [1.0, 1.5, 2.0, 2.5, 3.0]  # first on first, last on last
    assert resized(ramp, 8, 3) is ramp


def test_rows_of_a_batch_do_not_touch_each_other() -> None:
    maps, psi = hidden_maps(3), small_psi()
    alone = psi([values[1:2] for values in maps], 40)
    assert torch.allclose(psi(maps, 40)[1:2], alone, atol=1e-6)


# --- Θ


def test_gated_attention_is_the_formula_frame_by_frame() -> None:
    torch.manual_seed(1)
    theta = Theta(4, 3, pooling="attention", hidden=6).eval()
    h = 3 * rand(2, 4, 7)
    for row in range(2):
        scores = []
        for n in range(7):
            h_n = h[row, :, n]
            v = torch.tanh(theta.content.weight @ h_n + theta.content.bias)
            u = (theta.gate.weight @ h_n + theta.gate.bias).clamp_min(0)
            scores.append(float((theta.score.weight[0] @ (v * u)).detach()))
        total = sum(math.exp(score) for score in scores)
        z = sum(math.exp(score) / total * h[row, :, n] for n, score in enumerate(scores))
        assert torch.allclose(theta.pooled(h)[row], torch.as_tensor(z), atol=1e-6)
        logits = torch.stack([(weights * z).sum() for weights in theta.linear.weight])
        assert torch.allclose(theta(theta.pooled(h))[row], logits, atol=1e-5)


def test_max_pooling_takes_each_pattern_at_its_loudest() -> None:
    theta = Theta(4, 3, pooling="max").eval()
    h = rand(2, 4, 7)
    assert torch.equal(theta.pooled(h), h.max(2).values)
    assert [name for name, _ in theta.named_parameters()] == ["linear.weight"]


def test_without_activations_there_is_no_evidence() -> None:
    for pooling in ("attention", "max"):
        theta = Theta(4, 3, pooling=pooling).eval()
        assert theta(theta.pooled(torch.zeros(1, 4, 5))).tolist() == [[0.0, 0.0, 0.0]]


@pytest.mark.parametrize("pooling", ["attention", "max"])
def test_the_logit_is_the_sum_of_the_patterns_contributions(pooling: Any) -> None:
    torch.manual_seed(0)
    interpreter = Interpreter(Sizes((6, 8, 10), 5, 3, pooling, 8)).eval()
    found = interpreter(hidden_maps(), 40)
    assert found.activations.shape == (2, 5, 40)
    contributions = found.pooled[:, None] * interpreter.theta.linear.weight
    assert torch.allclose(contributions.sum(2), found.logits, atol=1e-6)


# --- losses


def test_fidelity_is_the_cross_entropy_of_two_distributions() -> None:
    logits, other = 4 * rand(5, 3) - 2, 4 * rand(5, 3, seed=1)
    wanted = torch.softmax(other, 1)
    own = torch.softmax(logits, 1)
    by_hand = sum(-float(wanted[b, c]) * math.log(float(own[b, c])) for b in range(5) for c in range(3)) / 5
    assert float(fidelity_loss(logits, wanted, multilabel=False)) == pytest.approx(by_hand, rel=1e-5)


def test_multilabel_fidelity_is_binary_cross_entropy_summed_over_classes() -> None:
    logits, wanted = 4 * rand(5, 3) - 2, rand(5, 3, seed=1)
    own = torch.sigmoid(logits)
    by_hand = 0.0
    for p, q in zip(wanted.flatten().tolist(), own.flatten().tolist(), strict=True):
        by_hand -= (p * math.log(q) + (1 - p) * math.log(1 - q)) / 5
    assert float(fidelity_loss(logits, wanted, multilabel=True)) == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("multilabel", [False, True])
def test_fidelity_is_finite_where_both_are_certain_and_disagree(multilabel: bool) -> None:
    loss = fidelity_loss(torch.tensor([[200.0, -200.0]]), torch.tensor([[0.0, 1.0]]), multilabel=multilabel)
    assert math.isfinite(float(loss))
    assert float(loss) > 100


def test_reconstruction_is_the_mean_squared_error_over_bins_and_frames() -> None:
    patterns, h, x = rand(9, 4), rand(3, 4, 11, seed=1), 5 * rand(3, 9, 11, seed=2)
    h.requires_grad_()
    found = reconstruction_loss(h, patterns.T @ x, patterns.T @ patterns, x.square().sum((1, 2)), 9)
    wanted = torch.nn.functional.mse_loss(patterns @ h, x)
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    gradients = [torch.autograd.grad(loss, h)[0] for loss in (found, wanted)]
    assert torch.allclose(gradients[0], gradients[1], atol=1e-6)


def test_sparsity_is_the_mean_activation() -> None:
    h = rand(2, 3, 4)
    assert float(sparsity_loss(h)) == pytest.approx(float(h.abs().sum()) / 24, rel=1e-6)


@pytest.mark.parametrize(
    ("schedule", "epoch", "n_decisions", "weight"),
    [
        ("constant", 30, 1, 1),
        ("constant", 1, 8, 1),
        ("code", 19, 1, 1),
        ("code", 20, 1, 2),
        ("code", 19, 8, 1 / 8),
        ("code", 20, 8, 2 / 8),
    ],
)
def test_the_codes_schedule_doubles_fidelity_from_epoch_20_and_averages_over_labels(
    schedule: Any, epoch: int, n_decisions: int, weight: float
) -> None:
    losses = [torch.tensor(value) for value in (3.0, 0.5, 0.25)]
    found = LossWeights(schedule=schedule).total(*losses, epoch=epoch, n_decisions=n_decisions)
    assert float(found) == pytest.approx(weight * 3.0 + 10 * 0.5 + 0.8 * 0.25)


# --- relevance and masks


def test_relevance_is_the_contribution_over_the_largest_absolute_one() -> None:
    found = relevance(torch.tensor([[2.0, -4.0, 1.0], [-3.0, -1.5, 0.0], [0.0, 0.0, 0.0]]))
    assert found.tolist() == [[0.5, -1.0, 0.25], [-1.0, -0.5, 0.0], [0.0, 0.0, 0.0]]


def test_with_negative_contributions_alone_nothing_is_above_any_threshold() -> None:
    assert not bool((relevance(-rand(4, 6)) > 0).any())


def test_a_soft_mask_is_the_patterns_share_of_the_model() -> None:
    patterns, h = rand(6, 4), 3 * rand(2, 4, 5, seed=1)
    masks = SoftMasks(patterns, h)
    selected = torch.tensor([[True, False, True, False], [False, False, False, True]])
    for b in range(2):
        for f in range(6):
            for n in range(5):
                shares = [float(patterns[f, k] * h[b, k, n]) for k in range(4)]
                whole = sum(shares) + 1e-6
                for k in range(4):
                    assert float(masks.of_pattern(k)[b, f, n]) == pytest.approx(shares[k] / whole, rel=1e-5)
                wanted = sum(share for share, own in zip(shares, selected[b].tolist(), strict=True) if own) / whole
                assert float(masks.of(selected)[b, f, n]) == pytest.approx(wanted, rel=1e-5)


def test_the_masks_of_all_patterns_cover_every_bin_that_the_model_knows_and_no_other() -> None:
    h = rand(1, 4, 5)
    h[:, :, 2] = 0
    masks = SoftMasks(rand(6, 4), h)
    whole = masks.of(torch.ones(1, 4, dtype=torch.bool))
    assert torch.allclose(sum((masks.of_pattern(k) for k in range(4)), torch.zeros(1, 6, 5)), whole, atol=1e-6)
    assert float(whole[..., [0, 1, 3, 4]].min()) > 0.999
    assert float(whole[..., 2].max()) == 0
    assert float(masks.of(torch.zeros(1, 4, dtype=torch.bool)).max()) == 0
