"""DeepLIFT's rescale rule against multipliers computed by hand, unit by unit, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from attributions import CLASSIFIERS, TARGET, change, closeness, explain, relevance, row_by_row
from earwitness.audio.front_end import Identity
from earwitness.classifier import AudioClassifier
from earwitness.errors import NotApplicableError
from earwitness_plugins.gradients.deeplift import DeepLift
from networks import RATE, OneEach, SmallCNN, WaveCNN, batch_of, classifier_of, doubled, log_mel, patches_of, randomise

torch.set_num_threads(1)

ACTIVATIONS = (
    *(nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.2), nn.PReLU(), nn.ELU(), nn.SELU(), nn.CELU()),
    *(nn.GELU(), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Softplus(), nn.Softsign()),
    *(nn.Hardtanh(-2, 2), nn.Hardswish(), nn.Hardsigmoid()),
)


def on_features(*layers: nn.Module, seed: int = 4) -> AudioClassifier:
    """A network of layers on 16 x 32 features, in float64."""
    network = nn.Sequential(*layers)
    randomise(network, seed)
    return classifier_of(network.double(), front_end=log_mel().double(), name="hand-made")


def gap(explanation: Any, classifier: AudioClassifier, batch: Any) -> float:
    """|sum of relevance - change of the logit|, largest over rows and relative to the largest change."""
    wanted = change(classifier, batch)
    return float((explanation.relevance.values.double().flatten(1).sum(1) - wanted).abs().max() / wanted.abs().max())


# --- activations


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: type(a).__name__ + str(getattr(a, "inplace", "")))
def test_a_multiplier_is_the_change_of_the_activation_over_the_change_of_its_input(activation: nn.Module) -> None:
    first, second, third = nn.Linear(8, 6), nn.Linear(6, 5), nn.Linear(5, 3)
    layers = (nn.AdaptiveAvgPool2d((2, 4)), nn.Flatten(), first, activation, second, nn.ReLU(), third)
    classifier, batch = on_features(*layers), doubled(batch_of())
    pool, _, first, activation, second, _, third = classifier.network

    def slow(x: Tensor, silence: Tensor, _function: object, target: int, _clip_id: str) -> Tensor:
        ours, theirs = (pool(at[None, None]).flatten() for at in (x, silence))
        before = [linear_of(first, at) for at in (ours, theirs)]
        hidden = [activation(at.clone()) for at in before]
        then = [linear_of(second, at) for at in hidden]
        multipliers = third.weight[target].clone()
        for unit in range(5):
            moved = then[0][unit] - then[1][unit]
            multipliers[unit] *= (then[0][unit].clamp_min(0) - then[1][unit].clamp_min(0)) / moved
        multipliers = torch.stack([sum(multipliers[i] * second.weight[i, j] for i in range(5)) for j in range(6)])
        for unit in range(6):
            multipliers[unit] *= (hidden[0][unit] - hidden[1][unit]) / (before[0][unit] - before[1][unit])
        multipliers = torch.stack([sum(multipliers[i] * first.weight[i, j] for i in range(6)) for j in range(8)])
        spread = multipliers.reshape(2, 4).repeat_interleave(8, 0).repeat_interleave(8, 1) / 64  # mean of 8 x 8 cells
        return spread * (x - silence)

    explanation = explain(DeepLift(), classifier, batch)
    assert explanation.relevance is not None
    assert closeness(explanation.relevance.values, row_by_row(slow, classifier, batch, "features")) < 1e-6
    assert gap(explanation, classifier, batch) < 1e-5


def linear_of(layer: nn.Linear, x: Tensor) -> Tensor:
    return (layer.weight * x).sum(1) + layer.bias


def test_where_nothing_changes_the_derivative_stands_for_the_ratio() -> None:
    classifier = on_features(nn.Flatten(), nn.Linear(512, 4), nn.Tanh(), nn.Linear(4, 3))
    with torch.no_grad():
        classifier.network[1].weight[:, 1:] = 0  # all that moves is the first cell, and that by nothing
        classifier.network[1].weight[:, 0] = 0
    explanation = explain(DeepLift(), classifier, doubled(batch_of()))
    assert explanation.relevance is not None
    assert float(explanation.relevance.values.abs().max()) == 0  # and not NaN


# --- max pooling


def windows(pool: Any, shape: tuple[int, ...]) -> list[list[tuple[int, ...]]]:
    """The cells of each window, in the order of the outputs."""
    per_axis = []
    for size in shape:
        if isinstance(pool, nn.AdaptiveMaxPool2d | nn.AdaptiveMaxPool1d):
            n_out = pool.output_size if isinstance(pool.output_size, int) else pool.output_size[len(per_axis)]
            per_axis.append([range(k * size // n_out, -(-(k + 1) * size // n_out)) for k in range(n_out)])
            continue
        span = pool.dilation * (pool.kernel_size - 1) + 1
        room = size + 2 * pool.padding - span
        n_out = (-(-room // pool.stride) if pool.ceil_mode else room // pool.stride) + 1
        starts = [k * pool.stride - pool.padding for k in range(n_out)]
        starts = [start for start in starts if start < size + (0 if pool.ceil_mode else pool.padding)]
        per_axis.append([[i for i in range(s, s + span, pool.dilation) if 0 <= i < size] for s in starts])
    return [list(itertools.product(*axes)) for axes in itertools.product(*per_axis)]


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, stride=1),
        nn.MaxPool2d(3, stride=2, padding=1),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.MaxPool2d(2, stride=3),
        nn.MaxPool2d(3, stride=2, dilation=2),
        nn.AdaptiveMaxPool2d((3, 5)),
        nn.AdaptiveMaxPool2d(1),
    ],
    ids=str,
)
def test_the_larger_maximum_takes_the_credit_of_its_window(pool: nn.Module) -> None:
    n_out = pool(torch.zeros(1, 1, 16, 32)).numel()
    classifier, batch = on_features(pool, nn.Flatten(), nn.Linear(n_out, 3)), doubled(batch_of())
    pool, _, head = classifier.network
    with torch.no_grad():  # features so high in silence that it is now the one, now the other that wins
        classifier.front_end = Raised(classifier.front_end)

    def slow(x: Tensor, silence: Tensor, _function: object, target: int, _clip_id: str) -> Tensor:
        found = torch.zeros_like(x)
        for weight, cells in zip(head.weight[target], windows(pool, (16, 32)), strict=True):
            ours = max(cells, key=lambda cell: float(x[cell]))
            theirs = max(cells, key=lambda cell: float(silence[cell]))
            winner = ours if x[ours] > silence[theirs] else theirs
            found[winner] += weight * (x[ours] - silence[theirs])
        return found

    explanation = explain(DeepLift(), classifier, batch)
    assert explanation.relevance is not None
    assert closeness(explanation.relevance.values, row_by_row(slow, classifier, batch, "features")) < 1e-6
    assert gap(explanation, classifier, batch) < 1e-5


class Raised(nn.Module):
    """A front end that adds a fixed pattern to silence, and takes it away from sound."""

    def __init__(self, front_end: Any) -> None:
        super().__init__()
        self.inner = front_end
        self.rate, self.min_samples, self.grid = front_end.rate, front_end.min_samples, front_end.grid

    def forward(self, waveforms: Tensor) -> Tensor:
        features = self.inner(waveforms)
        pattern = torch.randn(features.shape[2:], generator=torch.Generator().manual_seed(5), dtype=features.dtype)
        silent = (waveforms == 0).all(1)[:, None, None, None]
        return torch.where(silent, features + 9 + 3 * pattern, features)


@pytest.mark.parametrize("pool", [nn.MaxPool1d(4), nn.MaxPool1d(5, 3, 2, ceil_mode=True), nn.AdaptiveMaxPool1d(7)])
def test_pooling_over_samples_is_complete_too(pool: nn.Module) -> None:
    network = nn.Sequential(nn.Conv1d(1, 4, 9, stride=4), nn.ReLU(), pool, nn.Conv1d(4, 3, 3), nn.Tanh(), Mean())
    randomise(network, seed=2)
    classifier, batch = classifier_of(network.double(), front_end=Identity(rate=RATE)), doubled(batch_of())
    assert gap(explain(DeepLift(), classifier, batch), classifier, batch) < 1e-5


class Mean(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flatten(2).mean(2)


def test_rows_of_a_batch_do_not_leak_through_pooling_or_softmax() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Softmax(1), nn.Conv2d(4, 3, 3), Mean())
    randomise(network, seed=6)
    classifier, batch = classifier_of(network.double(), front_end=log_mel().double()), doubled(batch_of())
    together = relevance(DeepLift(), classifier, batch)
    for row in range(4):
        alone = relevance(DeepLift(), classifier, batch.select([row]), TARGET[row : row + 1])
        assert closeness(alone[0], together[row]) < 1e-6


# --- whole networks


class PreActivation(nn.Module):
    """A residual network whose sum reads what the ReLU, and the pooling, read."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.relu, self.norm, self.pool, self.last = nn.ReLU(), nn.BatchNorm2d(5), nn.MaxPool2d(3, 1, 1), nn.ReLU(True)
        self.head = nn.Linear(5, 3)
        randomise(self, seed=3)

    def forward(self, features: Tensor) -> Tensor:
        maps = self.stem(features)
        maps = maps + self.inner(self.relu(self.norm(maps)))
        return self.head(self.last(maps + self.pool(maps)).mean((2, 3)))


@pytest.mark.parametrize(
    "build",
    [
        CLASSIFIERS["log-mel"],
        CLASSIFIERS["samples"],
        lambda: CLASSIFIERS["log-mel"]().prepare(),
        lambda: classifier_of(PreActivation().double(), front_end=log_mel().double()),
        lambda: CLASSIFIERS["log-mel"](segmenter=patches_of, pool="mean"),
    ],
    ids=["batch norm", "samples", "batch norm folded", "residual", "mean of patches"],
)
def test_relevance_sums_to_the_change_of_the_logit(build: Callable[[], AudioClassifier]) -> None:
    classifier, batch = build(), doubled(batch_of())
    explanation = explain(DeepLift(), classifier, batch)
    assert gap(explanation, classifier, batch) < 1e-5
    assert float(explanation.diagnostics["completeness_gap"].max()) < 1e-4


@pytest.mark.parametrize("options", [{"domain": "waveform"}, {"pooled": True}])
def test_what_has_no_rule_leaves_a_gap_which_is_reported(options: dict[str, Any]) -> None:
    """The logarithm of the front end; the pool over patches."""
    classifier = CLASSIFIERS["log-mel"](segmenter=patches_of if options.pop("pooled", False) else None)
    batch = doubled(batch_of())
    explanation = explain(DeepLift(**options), classifier, batch)
    assert explanation.relevance is not None
    missing = (explanation.relevance.values.double().flatten(1).sum(1) - change(classifier, batch)).abs()
    assert float(missing.max()) > 1e-3
    assert torch.allclose(explanation.diagnostics["completeness_gap"].double(), missing, rtol=1e-4, atol=1e-4)


class Branching(OneEach):
    """One of its activations leads nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Tanh()

    def forward(self, features: Tensor) -> Tensor:
        self.aside(features)
        return super().forward(features)


def test_an_activation_that_leads_nowhere_does_not_matter_and_keeps_nothing() -> None:
    classifier, batch = classifier_of(Branching()), batch_of()
    assert torch.equal(relevance(DeepLift(), classifier, batch), relevance(DeepLift(), classifier_of(OneEach()), batch))
    assert not any({"input", "output"} & set(vars(part)) for part in classifier.network.modules())


def test_captums_own_table_of_rules_is_left_alone() -> None:
    from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR

    before = dict(SUPPORTED_NON_LINEAR)
    explain(DeepLift(), classifier_of(OneEach()), batch_of())
    assert before == SUPPORTED_NON_LINEAR


# --- refused


class PooledTwice(OneEach):
    def forward(self, features: Tensor) -> Tensor:
        return super().forward(self.features[3](features))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (SmallCNN(), r"small runs ReLU 'features.2' 2 times. Give each place its own ReLU\(\)"),
        (PooledTwice(), "small runs MaxPool2d 'features.3' 2 times"),
    ],
)
def test_a_module_with_a_rule_that_runs_twice_is_refused_by_name(network: nn.Module, message: str) -> None:
    classifier = classifier_of(network)
    with pytest.raises(NotApplicableError, match=message):
        explain(DeepLift(), classifier, batch_of())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in classifier.network.modules())


def test_an_error_in_the_network_leaves_no_hook_and_no_map_behind() -> None:
    class Fragile(WaveCNN):
        broken = False

        def forward(self, samples: Tensor) -> Tensor:
            found = super().forward(samples)
            if self.broken and torch.is_grad_enabled():
                raise ValueError("the cable came loose")
            return found

    classifier = classifier_of(Fragile(), front_end=Identity(rate=RATE))
    classifier.logits(batch_of().waveforms)
    classifier.network.broken = True
    with pytest.raises(ValueError, match="came loose"):
        explain(DeepLift(), classifier, batch_of())
    for part in classifier.network.modules():
        assert not any((part._forward_hooks, part._forward_pre_hooks, part._backward_hooks))
        assert not {"input", "output"} & set(vars(part))
