"""LRP through whole networks: reference arrays, Zennit's composites, every kind of operation, what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zennit.composites
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations
from zennit.core import Composite as ZennitComposite

from earwitness.errors import ClassifierError, ConfigurationError, NotApplicableError
from earwitness.folding import Folded
from earwitness_plugins.lrp.composites import COMPOSITES, DEFAULT, WEIGHTED, composite_of
from earwitness_plugins.lrp.ledger import Ledger
from earwitness_plugins.lrp.network import Inspection, RuledNetwork
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.rules import describe
from networks import Lambda, SmallCNN, randomise

torch.set_num_threads(1)

KEPT, ZEROED = Numerics(1e-7, False), Numerics(1e-7, True)


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(network: nn.Module, seed: int = 0) -> nn.Module:
    randomise(network, seed)
    return network.double().eval().requires_grad_(False)


def attributed(
    network: nn.Module,
    x: Tensor,
    composite: Any = DEFAULT,
    numerics: Numerics = ZEROED,
    *,
    start: Tensor | None = None,
) -> tuple[Tensor, Tensor, Ledger]:
    """Relevance of the input, what was shared out, and the ledger."""
    ruled, ledger = RuledNetwork.of(network, x, composite_of(composite), numerics), Ledger()
    leaf = x.clone().requires_grad_()
    with ruled.run(leaf, ledger=ledger) as run:
        if start is None:
            start = torch.zeros_like(run.outputs)
            start[:, 0] = run.outputs[:, 0].detach()
        found = torch.autograd.grad(run.outputs, leaf, start)[0]
    return found, start, ledger


# --- the reference arrays


class GoldenNetwork(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Linear(96, 10), nn.ReLU(), nn.Linear(10, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def thesis_like(first: str) -> dict[str, Any]:
    return {"first": first, "Conv2d": {"rule": "gamma", "gamma": 0.4}, "Linear": "epsilon"}


VARIANTS: dict[str, tuple[Any, Numerics]] = {
    "wsquare": (thesis_like("wsquare"), KEPT),
    "flat": (thesis_like("flat"), KEPT),
    "wsquare_zerobias": (thesis_like("wsquare"), ZEROED),
    "flat_zerobias": (thesis_like("flat"), ZEROED),
    "epsilon_only": ("epsilon", KEPT),
    "wsquare_onehot": (thesis_like("wsquare"), KEPT),
}


def golden_network(arrays: Any) -> nn.Module:
    network = GoldenNetwork()
    network.load_state_dict({key[2:]: torch.tensor(arrays[key]) for key in arrays.files if key.startswith("w:")})
    return network.eval().requires_grad_(False)


@pytest.mark.golden
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_maps_are_those_of_the_reference(golden: Path, variant: str) -> None:
    arrays = np.load(golden / "lrp.npz")
    network, x, target = golden_network(arrays), torch.tensor(arrays["x"]), torch.tensor(arrays["target"]).long()
    composite, numerics = VARIANTS[variant]
    ruled = RuledNetwork.of(network, x, composite_of(composite), numerics)
    leaf = x.clone().requires_grad_()
    with ruled.run(leaf, layer="features.4") as run:
        torch.testing.assert_close(run.outputs.detach(), torch.tensor(arrays["logits"]))
        start = functional.one_hot(target, 3).float()
        start = start if variant.endswith("onehot") else start * run.outputs.detach()
        found = torch.autograd.grad(run.outputs, leaf, start, retain_graph=True)[0]
        hidden = torch.autograd.grad(run.outputs, run.hidden, start)[0]
    expected = torch.tensor(arrays[f"R:{variant}"]).reshape(found.shape)
    # In float32, where another layout in memory already changes the last bits of a sum.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6 * float(expected.abs().max()))
    if variant.endswith("zerobias"):
        torch.testing.assert_close(found.sum((1, 2, 3)), start.sum(1), rtol=1e-4, atol=1e-5)
    if f"relu2_R:{variant}" in arrays.files:
        expected = torch.tensor(arrays[f"relu2_R:{variant}"])
        torch.testing.assert_close(hidden, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))
        torch.testing.assert_close(run.hidden.detach(), torch.tensor(arrays[f"relu2_act:{variant}"]))


@pytest.mark.golden
def test_relevance_on_the_reference_network_sums_to_the_logit(golden: Path) -> None:
    arrays = np.load(golden / "lrp.npz")
    network, x = golden_network(arrays).double(), torch.tensor(arrays["x"]).double()
    start = functional.one_hot(torch.tensor(arrays["target"]).long(), 3) * network(x)
    for name in ("thesis-toy", "thesis-music"):
        found, _, _ = attributed(network, x, name, start=start)
        gap = (found.sum((1, 2, 3)) - start.sum(1)).abs() / start.sum(1).abs()
        assert float(gap.max()) < 1e-4


# --- Zennit's own composites, on a network of modules alone


def plain_network() -> nn.Module:
    return made(
        nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16, 5),
            nn.ReLU(),
            nn.Linear(5, 2),
        )
    )


@pytest.mark.parametrize("zero_bias", [False, True])
@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("epsilon-plus", zennit.composites.EpsilonPlus),
        ("epsilon-plus-flat", zennit.composites.EpsilonPlusFlat),
        ("epsilon-plus-flat-depthwise", zennit.composites.EpsilonPlusFlat),
        ("epsilon-alpha2-beta1", zennit.composites.EpsilonAlpha2Beta1),
        ("epsilon-alpha2-beta1-flat", zennit.composites.EpsilonAlpha2Beta1Flat),
        ("excitation-backprop", zennit.composites.ExcitationBackprop),
        (
            {"first": {"rule": "zbox", "low": -3.0, "high": 4.0}, "Conv2d": "gamma", "Linear": "epsilon"},
            lambda **options: zennit.composites.EpsilonGammaBox(-3.0, 4.0, **options),
        ),
    ],
)
def test_a_composite_of_zennit_by_name_gives_zennits_map(
    name: Any, theirs: Callable[..., ZennitComposite], zero_bias: bool
) -> None:
    network, x = plain_network(), seeded(3, 1, 12, 10)
    start = seeded(3, 2, seed=1)
    found, _, _ = attributed(network, x, name, Numerics(1e-6, zero_bias), start=start)
    with theirs(zero_params=["bias"] if zero_bias else None).context(network):
        leaf = x.clone().requires_grad_()
        expected = torch.autograd.grad(network(leaf), leaf, start)[0]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * float(expected.abs().max()))


def test_the_thesis_composites_are_by_the_order_of_execution() -> None:
    network = made(
        nn.Sequential(
            *[nn.Sequential(nn.Conv2d(n, 2, 3, padding=1), nn.ReLU()) for n in (1, 2, 2, 2, 2)],
            nn.Flatten(),
            nn.Linear(2 * 36, 2),
        )
    )
    for name, expected in (
        ("thesis-toy", ["flat", *["gamma(gamma=0.8)"] * 4, "epsilon"]),
        ("thesis-music", ["wsquare", *[f"gamma(gamma={gamma})" for gamma in (0.4, 0.4, 0.2, 0.1)], "epsilon"]),
    ):
        ruled = RuledNetwork.of(network, seeded(1, 1, 6, 6), composite_of(name), KEPT)
        assert [describe(rule) for rule in ruled.rules.values()] == expected


def test_the_first_layer_is_the_first_that_runs() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 2)
            self.first = nn.Linear(6, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x).relu())

    ruled = RuledNetwork.of(made(Backwards()), seeded(2, 6), composite_of("epsilon-plus-flat"), KEPT)
    assert {name: describe(rule) for name, rule in ruled.rules.items()} == {"first": "flat", "last": "epsilon"}


# --- everything that networks do


class Residual(nn.Module):
    """A block with batch norm as attributes, a functional ReLU and a plain ``+``."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += x
        return self.relu(y)


class SqueezeExcite(nn.Module):
    def __init__(self, gate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Conv2d(3, 2, 1), nn.Conv2d(2, 3, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        scale = functional.adaptive_avg_pool2d(x, 1)
        return self.gate(self.fc2(functional.relu(self.fc1(scale)))) * x


class WithHead(nn.Module):
    """A stem, something in the middle, a mean over axes, and a linear layer."""

    def __init__(self, middle: nn.Module, n_channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 3, 3, padding=1)
        self.middle = middle
        self.head = nn.Linear(n_channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(functional.relu(self.stem(x))).mean((2, 3)))


HANDLED: dict[str, Callable[[], nn.Module]] = {
    "residual": lambda: WithHead(Residual()),
    "gate": lambda: WithHead(SqueezeExcite(torch.sigmoid)),
    "hard gate": lambda: WithHead(SqueezeExcite(nn.Hardsigmoid())),
    "hardswish": lambda: WithHead(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Hardswish())),
    "hardswish in place": lambda: WithHead(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Hardswish(inplace=True))),
    "x times hardsigmoid(x)": lambda: WithHead(Lambda(lambda x: x * functional.hardsigmoid(x))),
    "average pool": lambda: WithHead(nn.AvgPool2d(3, stride=2, padding=1)),
    "adaptive average pool": lambda: WithHead(nn.AdaptiveAvgPool2d((1, 3))),
    "max pool": lambda: WithHead(nn.MaxPool2d(2, ceil_mode=True)),
    "adaptive max pool": lambda: WithHead(nn.AdaptiveMaxPool2d(2)),
    "maximum over an axis": lambda: WithHead(Lambda(lambda x: x.max(3, keepdim=True).values)),
    "mean of two branches": lambda: WithHead(Lambda(lambda x: (x + x.flip(3)) / 2)),
    "sum": lambda: WithHead(Lambda(lambda x: x.sum(2, keepdim=True))),
    "difference": lambda: WithHead(Lambda(lambda x: x - 0.3 * x.roll(1, 3))),
    "concatenation": lambda: WithHead(Lambda(lambda x: torch.cat([x, x.flip(2)], dim=1)), 6),
    "reshaping": lambda: WithHead(Lambda(lambda x: x.transpose(2, 3).reshape(len(x), 3, -1, 2)[:, :, ::2].mT)),
    "reflected padding": lambda: WithHead(nn.ReflectionPad2d(1)),
    "zeros beside": lambda: WithHead(nn.Sequential(nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(3, 3, 3), nn.ReLU())),
    "dropout": lambda: WithHead(nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5))),
    "upsampling": lambda: WithHead(nn.Upsample(scale_factor=2, mode="bilinear")),
    "identity": lambda: WithHead(nn.Identity()),
    "constant scale": lambda: WithHead(Lambda(lambda x: -2 * (x / 3))),
    "constant added": lambda: WithHead(Lambda(lambda x: 1.5 - x)),
    "maximum with a constant": lambda: WithHead(Lambda(lambda x: torch.maximum(x, x.new_full((), 0.1)))),
    "batch norm ahead": lambda: WithHead(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 1), nn.ReLU())),
    "other activations": lambda: WithHead(nn.Sequential(nn.ELU(), nn.LeakyReLU(0.1), nn.GELU(), nn.SiLU(), nn.Tanh())),
    "parametric relu": lambda: WithHead(nn.PReLU(3)),
    "depthwise": lambda: WithHead(nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.ReLU(), nn.Conv2d(3, 3, 1))),
    "transposed": lambda: WithHead(nn.Sequential(nn.ConvTranspose2d(3, 3, 3, stride=2), nn.ReLU())),
    "relu in place, used twice": SmallCNN,
    "relu_": lambda: WithHead(Lambda(lambda x: functional.relu_(x - 0.1))),
}  # fmt: skip


@pytest.mark.parametrize("numerics", [KEPT, ZEROED], ids=["bias", "zero bias"])
@pytest.mark.parametrize("kind", HANDLED)
def test_relevance_is_conserved_and_every_line_of_the_ledger_closes(kind: str, numerics: Numerics) -> None:
    network, x = made(HANDLED[kind]()), seeded(2, 1, 8, 8)
    # Wsquare always finds somebody to blame, so that all relevance reaches the input.
    composite = {**{kind.__name__: "wsquare" for kind in WEIGHTED}, "Linear": "epsilon"}
    found, start, ledger = attributed(network, x, composite, numerics)
    assert all(float(line.imbalance.max()) < 1e-6 for line in ledger.lines)
    kept = sum(line.bias_share + line.stabiliser_share for line in ledger.lines)
    scale = start.abs().sum(1)
    torch.testing.assert_close((found.sum((1, 2, 3)) + kept) / scale, start.sum(1) / scale, rtol=0, atol=1e-6)
    if numerics.zero_bias:
        torch.testing.assert_close(found.sum((1, 2, 3)) / scale, start.sum(1) / scale, rtol=0, atol=1e-4)
    assert float(found.abs().amax((1, 2, 3)).min()) > 0


@pytest.mark.parametrize("kind", HANDLED)
def test_all_relevance_of_the_default_composite_is_accounted_for(kind: str) -> None:
    network, x = made(HANDLED[kind]()), seeded(2, 1, 8, 8)
    found, start, ledger = attributed(network, x)
    kept = sum(line.bias_share + line.stabiliser_share for line in ledger.lines)
    scale = max(float(line.relevance_out.abs().max()) for line in ledger.lines)
    torch.testing.assert_close(found.sum((1, 2, 3)) + kept, start.sum(1), rtol=0, atol=1e-6 * scale)


def test_two_branches_have_relevance_in_proportion_to_what_they_add() -> None:
    network = made(WithHead(Lambda(lambda x: torch.stack([x[:, 0] + x[:, 1], x[:, 0] - x[:, 2]], dim=1)), 2))
    x = seeded(2, 1, 6, 6)
    ruled = RuledNetwork.of(network, x, composite_of("epsilon"), ZEROED)
    with ruled.run(x.clone().requires_grad_(), layer="stem") as run:
        start = torch.zeros_like(run.outputs)
        start[:, 0] = run.outputs[:, 0].detach()
        found = torch.autograd.grad(run.outputs, run.hidden, start)[0]
    maps = functional.relu(network.stem(x))
    weights = network.head.weight[0]
    sums = torch.stack([maps[:, 0] + maps[:, 1], maps[:, 0] - maps[:, 2]], dim=1)
    pooled = sums.mean((2, 3))
    upper = pooled * weights / (pooled @ weights)[:, None] * start[:, :1]  # of each pooled channel
    cells = sums / sums.sum((2, 3), keepdim=True) * upper[:, :, None, None]  # of each cell of the two sums
    share = cells / sums.where(sums != 0, 1.0)
    expected = torch.stack(
        [maps[:, 0] * share[:, 0] + maps[:, 0] * share[:, 1], maps[:, 1] * share[:, 0], -maps[:, 2] * share[:, 1]],
        dim=1,
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


def test_a_gate_is_a_constant_for_relevance() -> None:
    """Relevance takes the way of the gated signal, and none goes into the branch that makes the gate."""
    network, x = made(WithHead(SqueezeExcite(torch.sigmoid))), seeded(2, 1, 8, 8)
    found, start, ledger = attributed(network, x, "epsilon")
    assert {line.name for line in ledger.lines} == {"head", "WithHead: mean", "stem"}
    gates = torch.sigmoid(
        network.middle.fc2(network.middle.fc1(functional.relu(network.stem(x)).mean((2, 3), keepdim=True)).relu())
    )

    class Constant(nn.Module):
        def forward(self, maps: Tensor) -> Tensor:
            return maps * gates[: len(maps)]

    alike = copy.deepcopy(network)
    alike.middle = Constant()
    expected, _, _ = attributed(alike, x, "epsilon", start=start)
    torch.testing.assert_close(found, expected)


def test_batch_norm_is_folded_by_the_order_of_execution() -> None:
    network, x = made(WithHead(Residual())), seeded(2, 1, 8, 8)
    ruled = RuledNetwork.of(network, x, composite_of(DEFAULT), ZEROED)
    assert isinstance(ruled.network.middle.bn1, Folded)
    assert isinstance(ruled.network.middle.bn2, Folded)
    assert isinstance(network.middle.bn1, nn.BatchNorm2d)
    torch.testing.assert_close(ruled.network(x), network(x))


def test_functions_and_modules_give_one_map() -> None:
    class Functional(WithHead):
        def forward(self, x: Tensor) -> Tensor:
            y = functional.max_pool2d(functional.relu(self.stem(x), inplace=True), 2)
            return self.head(functional.adaptive_avg_pool2d(functional.hardswish(self.middle(y)), 1).flatten(1))

    class Modules(WithHead):
        def __init__(self, middle: nn.Module) -> None:
            super().__init__(middle)
            self.rest = nn.Sequential(nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
            self.start = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rest(self.middle(self.start(self.stem(x)))))

    x = seeded(2, 1, 8, 8)
    maps = [attributed(made(kind(nn.Conv2d(3, 3, 3, padding=1))), x, "thesis-toy")[0] for kind in (Functional, Modules)]
    torch.testing.assert_close(maps[0], maps[1], rtol=0, atol=0)


# --- what is refused, by name


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(self.shared(x).relu()).relu()


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x**2

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return gradient[0]


class Standardised(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.weight / self.weight.std(), self.bias)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(3, 3, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.kernel, padding=1)


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.cells = kind(3, 3, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x.mean(2).mT)[0].mT[:, :, None]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.mean(2).mT
        return self.heads(sequence, sequence, sequence)[0].mT[:, :, None]


def hidden_in_place(x: Tensor) -> Tensor:
    y = x - 0.2
    y.clamp_(min=0)
    return y


def assigned(x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    y[:, :, 1:] = x[:, :, 1:]
    return y


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "shared layer": (Twice, r"'middle.shared' \(Conv2d\) runs more than once"),
    "LSTM": (lambda: Recurrent(nn.LSTM), r"middle.cells \(LSTM\)"),
    "GRU": (lambda: Recurrent(nn.GRU), r"middle.cells \(GRU\)"),
    "attention": (Attention, r"middle.heads \(MultiheadAttention\)"),
    "layer norm": (lambda: nn.LayerNorm([8, 8]), r"layer_norm in middle \(LayerNorm\)"),
    "group norm": (lambda: nn.GroupNorm(3, 3), r"group_norm in middle \(GroupNorm\)"),
    "instance norm": (lambda: nn.InstanceNorm2d(3), r"instance_norm in middle \(InstanceNorm2d\)"),
    "batch statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), "mixes the clips of a batch"),
    "power": (lambda: Lambda(lambda x: x**2), "pow in middle"),
    "square": (lambda: Lambda(lambda x: x * x.flip(3)), r"mul in middle \(Lambda\).*only where one of them is a gate"),
    "quotient": (lambda: Lambda(lambda x: 1 / (x + 1)), "in middle"),
    "softmax": (lambda: nn.Softmax(dim=1), r"softmax in middle \(Softmax\)"),
    "matrix product": (lambda: Lambda(lambda x: x @ x.mT), "matmul in middle"),
    "logarithm": (lambda: Lambda(lambda x: (x + 1).log()), "log in middle"),
    "functional convolution": (Functional, r"conv2d in middle \(Functional\)"),
    "changed convolution": (lambda: Standardised(3, 3, 3), r"'middle' \(Standardised\) computes something else"),
    "parametrised weight": (
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
        r"weight of 'middle' \(ParametrizedConv2d\) is no plain parameter",
    ),
    "random dropout": (lambda: Lambda(lambda x: functional.dropout(x, 0.5)), "dropout in middle.*random"),
    "function of its own": (lambda: Lambda(Squared.apply), "Squared, an autograd function of its own"),
    "in place by another name": (lambda: Lambda(hidden_in_place), "changes tensors in place"),
    "assignment": (lambda: Lambda(assigned), "__setitem__ in middle.*hides where its values come from"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_rule_is_refused_by_name(kind: str) -> None:
    build, message = REFUSED[kind]
    network = made(WithHead(build()))
    with pytest.raises(NotApplicableError, match=rf"LRP does not handle small: .*{message}"):
        RuledNetwork.of(network, seeded(2, 1, 8, 8), composite_of(DEFAULT), ZEROED, name="small")


def test_all_that_is_refused_is_named_at_once() -> None:
    network = made(WithHead(nn.Sequential(nn.LayerNorm([8, 8]), Twice(), nn.Softmax(1))))
    found = Inspection.of(network, seeded(2, 1, 8, 8))
    assert len(found.refusals) == 3
    assert list(found.weighted) == ["stem", "middle.1.shared", "head"]


def test_scripted_modules_are_refused() -> None:
    scripted = torch.jit.trace(nn.Conv2d(3, 3, 1).double(), seeded(1, 3, 8, 8))
    network = WithHead(nn.Identity()).double()
    network.middle = scripted
    with pytest.raises(NotApplicableError, match="scripted modules of small: middle"):
        RuledNetwork.of(network, seeded(2, 1, 8, 8), composite_of(DEFAULT), ZEROED, name="small")


def test_what_happens_only_with_some_clips_is_refused_when_it_happens() -> None:
    network = made(WithHead(Lambda(lambda x: x.exp() if x.shape[3] > 8 else x)))
    ruled = RuledNetwork.of(network, seeded(1, 1, 8, 8), composite_of(DEFAULT), ZEROED)
    with (
        pytest.raises(NotApplicableError, match=r"exp in middle \(Lambda\)"),
        ruled.run(seeded(1, 1, 8, 9).requires_grad_()),
    ):
        pass


# --- one's own network stays as it is


def state_of(network: nn.Module) -> tuple[Any, ...]:
    hooks = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in network.modules()]
    tensors = [
        (id(tensor), tensor._version, tensor.requires_grad) for tensor in network.state_dict(keep_vars=True).values()
    ]
    return hooks, tensors, [module.training for module in network.modules()], [*map(type, network.modules())]


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_left_as_it_was_also_after_an_exception(fails: bool) -> None:
    network, x = SmallCNN().double().eval(), seeded(2, 1, 8, 8)
    before, logits = state_of(network), network(x)
    ruled = RuledNetwork.of(network, x, composite_of("thesis-toy"), ZEROED)
    prepared = state_of(ruled.network)
    try:
        with ruled.run(x.clone().requires_grad_()) as run:
            run.outputs.sum().backward()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert state_of(network) == before
    assert state_of(ruled.network) == prepared
    torch.testing.assert_close(network(x), logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda network: torch.compile(network, backend="eager")], ids=["parallel", "compiled"]
)
def test_wrappers_are_taken_off(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Their layers have other names: rules by name would meet nothing, and the map be the plain gradient."""
    network, x = made(WithHead(nn.Identity())), seeded(2, 1, 8, 8)
    composite = {"stem": "flat", "head": "epsilon"}
    expected, _, _ = attributed(network, x, composite)
    torch.testing.assert_close(attributed(wrap(network), x, composite)[0], expected)


# --- composites of one's own


@pytest.mark.parametrize(
    ("composite", "message"),
    [
        ("thesis-tøy", "Did you mean 'thesis-toy'"),
        ({}, "a name, or a table"),
        ("", "There is no LRP composite"),
        ({"stem": "flat", "hed": "epsilon"}, "no rule for layer 'head'"),
        ({"stem": "flat", "Linear": "epsilon", "hed": "epsilon"}, "a rule for 'hed'.*Did you mean 'head'"),
        ({"Conv2d": "flat"}, r"no rule for layer 'head' \(Linear\)"),
        ({"Conv2d": "flatt", "Linear": "epsilon"}, "Did you mean 'flat'"),
    ],
)
def test_a_composite_that_does_not_fit_is_refused(composite: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        attributed(made(WithHead(nn.Identity())), seeded(2, 1, 8, 8), composite)


def test_a_name_goes_before_first_and_that_before_a_type() -> None:
    network = made(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3)))
    network.append(nn.Flatten())
    composite = {"Conv2d": "zplus", "first": "flat", "2": {"rule": "gamma", "gamma": 0.4}}
    ruled = RuledNetwork.of(network, seeded(1, 1, 8, 8), composite_of(composite), KEPT)
    assert {name: describe(rule) for name, rule in ruled.rules.items()} == {
        "0": "flat",
        "2": "gamma(gamma=0.4)",
        "4": "zplus",
    }


def test_composites_are_called_by_their_own_names() -> None:
    assert all(name == composite.name and composite.source for name, composite in COMPOSITES.items())
    assert DEFAULT in COMPOSITES


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("steem", "Did you mean 'stem'"),
        ("", "There is no layer ''"),
        ("unused", "does not run"),
        ("relu", "runs more than once"),
    ],
)
def test_a_hidden_layer_that_cannot_be_had_is_refused(layer: str, message: str) -> None:
    class Odd(WithHead):
        def __init__(self) -> None:
            super().__init__(nn.Identity())
            self.relu, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.head(self.relu(self.stem(x)).mean((2, 3)))) + 0

    x = seeded(1, 1, 8, 8)
    ruled = RuledNetwork.of(made(Odd()), x, composite_of(DEFAULT), ZEROED)
    with pytest.raises(ClassifierError, match=message), ruled.run(x.clone().requires_grad_(), layer=layer):
        pass


def test_a_network_that_wants_contiguous_maps_gets_them() -> None:
    class Viewing(GoldenNetwork):
        def forward(self, x: Tensor) -> Tensor:
            maps = self.features(x)
            return self.classifier(maps.view(len(maps), -1))

    network, other = made(Viewing()), made(GoldenNetwork())
    x = seeded(1, 1, 16, 16)
    found, _, _ = attributed(network, x)
    torch.testing.assert_close(found, attributed(other, x)[0], rtol=1e-9, atol=1e-12)
    laid_out = [RuledNetwork.of(own, x, composite_of(DEFAULT), ZEROED).network for own in (network, other)]
    last = [own.features[3].weight.is_contiguous(memory_format=torch.channels_last) for own in laid_out]
    assert last == [False, True]
