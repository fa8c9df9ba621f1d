"""Every rule of LRP against its slow derivation, in float64; shortcuts; the ledger; rules by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from earwitness.errors import ConfigurationError
from earwitness_plugins.lrp.composites import Composite
from earwitness_plugins.lrp.hook import RuleHook
from earwitness_plugins.lrp.ledger import Ledger
from earwitness_plugins.lrp.network import RuledNetwork
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.rules import RULES, AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus, parse_rule
from earwitness_plugins.lrp.rules import describe as rule_text
from lrp_by_hand import average_by_hand, largest_by_hand, layer_by_hand
from networks import randomise

torch.set_num_threads(1)

STABILISER = 1e-4  # large enough to be seen
RULE_OF: dict[str, Rule] = {
    "epsilon": Epsilon(),
    "gamma": Gamma(0.4),
    "zplus": ZPlus(),
    "alpha-beta": AlphaBeta(),
    "zbox": ZBox(-3.0, 3.0),
    "wsquare": WSquare(),
    "flat": Flat(),
}
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "convolution": (nn.Conv2d(2, 3, 3, padding=1), (2, 5, 4)),
    "strided": (nn.Conv2d(2, 4, (3, 2), stride=2, padding=(0, 1)), (2, 6, 5)),
    "dilated": (nn.Conv2d(1, 3, 3, dilation=2, padding=2), (1, 6, 5)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2, padding="same"), (4, 4, 4)),
    "depthwise": (nn.Conv2d(3, 3, 3, groups=3, padding=1), (3, 4, 4)),
    "over time": (nn.Conv1d(2, 3, 4, stride=2), (2, 10)),
    "without bias": (nn.Conv2d(2, 3, 3, bias=False), (2, 5, 5)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2), (2, 3, 3)),
    "linear": (nn.Linear(7, 5), (7,)),
}


def seeded(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def layer_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    layer, shape = LAYERS[name]
    layer = layer.double().requires_grad_(False)
    randomise(layer, seed=3)
    return layer, shape


def passed_down(
    layer: nn.Module, rule: Rule, numerics: Numerics, x: Tensor, relevance: Tensor, *, shortcuts: bool = True
) -> tuple[Tensor, Ledger]:
    """What a hook on the bare layer makes of the relevance."""
    ledger = Ledger()
    hook = RuleHook("layer", rule, numerics, ledger=ledger, shortcuts=shortcuts)
    handles = hook.register(layer)
    try:
        leaf = x.clone().requires_grad_()
        return torch.autograd.grad(layer(leaf), leaf, relevance)[0], ledger
    finally:
        handles.remove()


@pytest.mark.parametrize("zero_bias", [False, True], ids=["bias", "zero bias"])
@pytest.mark.parametrize("signs", ["mixed", "non-negative", "behind a ReLU"])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("rule", RULE_OF)
def test_a_rule_is_its_slow_derivation_and_its_ledger_closes(rule: str, kind: str, signs: str, zero_bias: bool) -> None:
    layer, shape = layer_of(kind)
    x = seeded(2, *shape)
    x = x if signs == "mixed" else x.relu()
    outputs = layer(x)
    relevance = seeded(*outputs.shape, seed=1) * (outputs > 0 if signs == "behind a ReLU" else 1)
    found, ledger = passed_down(layer, RULE_OF[rule], Numerics(STABILISER, zero_bias), x, relevance)
    expected, bias, stabiliser = layer_by_hand(
        rule, layer, x, relevance, stabiliser=STABILISER, zero_bias=zero_bias, gamma=0.4
    )
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-10)
    (line,) = ledger.lines
    sums = [line.relevance_out, line.relevance_in, line.bias_share, line.stabiliser_share]
    for side, by_hand in zip(
        sums, [relevance.flatten(1).sum(1), expected.flatten(1).sum(1), bias, stabiliser], strict=True
    ):
        torch.testing.assert_close(side / scale, by_hand / scale, rtol=0, atol=1e-8)
    assert float(line.imbalance.max()) < 1e-6
    if zero_bias:
        assert float(line.bias_share.abs().max()) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_one_branch_gamma_is_bit_identical_behind_a_relu(kind: str, dtype: torch.dtype) -> None:
    layer, shape = layer_of(kind)
    layer, x = layer.to(dtype), seeded(3, *shape).to(dtype).relu()
    outputs = layer(x)
    relevance = seeded(*outputs.shape, seed=1).to(dtype) * (outputs > 0)
    for zero_bias in (False, True):
        numerics = Numerics(1e-7, zero_bias)
        found, _ = passed_down(layer, Gamma(0.4), numerics, x, relevance)
        full, _ = passed_down(layer, Gamma(0.4), numerics, x, relevance, shortcuts=False)
        assert torch.equal(found, full)
        assert float(found.abs().max()) > 0
    layer.double()


@pytest.mark.parametrize("rule", RULE_OF)
def test_relevance_that_comes_down_again_is_shared_out_as_the_first_time(rule: str) -> None:
    layer, shape = layer_of("convolution")
    numerics = Numerics(1e-7, True)
    x = seeded(2, *shape).relu()
    relevances = [seeded(*layer(x).shape, seed=seed) for seed in (1, 2, 1)]
    once = [passed_down(layer, RULE_OF[rule], numerics, x, relevance)[0] for relevance in relevances]
    handles = RuleHook("layer", RULE_OF[rule], numerics, repeated=True).register(layer)
    leaf = x.clone().requires_grad_()
    outputs = layer(leaf)
    for relevance, expected in zip(relevances, once, strict=True):
        assert torch.equal(torch.autograd.grad(outputs, leaf, relevance, retain_graph=True)[0], expected)
    handles.remove()


@pytest.mark.parametrize("rule", RULE_OF)
def test_shortcuts_change_nothing(rule: str) -> None:
    layer, shape = layer_of("convolution")
    for x in (seeded(2, *shape), seeded(2, *shape).relu()):
        relevance = seeded(*layer(x).shape, seed=1)
        numerics = Numerics(1e-7, False)
        found, _ = passed_down(layer, RULE_OF[rule], numerics, x, relevance)
        full, _ = passed_down(layer, RULE_OF[rule], numerics, x, relevance, shortcuts=False)
        torch.testing.assert_close(found, full, rtol=1e-9, atol=1e-12)


class Counting:
    """Counts the forward passes of a layer that a backward pass takes: one a branch."""

    def __init__(self, layer: nn.Module) -> None:
        self.count = 0
        original = layer.forward

        def forward(x: Tensor) -> Tensor:
            self.count += 1
            return original(x)  # type: ignore[no-any-return]

        layer.forward = forward  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("inputs", "arriving", "branches"),
    [("non-negative", "above", 1), ("non-negative", "anywhere", 5), ("mixed", "above", 5)],
)
def test_gamma_takes_one_branch_only_where_that_is_valid(inputs: str, arriving: str, branches: int) -> None:
    layer = nn.Conv2d(2, 3, 3, padding=1).double().requires_grad_(False)
    randomise(layer, seed=3)
    counting = Counting(layer)
    x = seeded(2, 2, 5, 4)
    x = x.relu() if inputs == "non-negative" else x
    outputs = layer(x)
    relevance = seeded(*outputs.shape, seed=1) * (outputs > 0 if arriving == "above" else 1)
    hook = RuleHook("layer", Gamma(0.4), Numerics(1e-7, False))
    handles = hook.register(layer)
    leaf = x.clone().requires_grad_()
    y = layer(leaf)
    counting.count = 0
    torch.autograd.grad(y, leaf, relevance)
    handles.remove()
    assert counting.count == branches


def test_the_box_of_a_clip_does_not_depend_on_its_neighbours() -> None:
    layer, shape = layer_of("convolution")
    x, relevance = seeded(3, *shape), seeded(*layer(seeded(3, *shape)).shape, seed=1)
    numerics = Numerics(1e-7, True)
    together, _ = passed_down(layer, ZBox(), numerics, x, relevance)
    for n in range(3):
        alone, _ = passed_down(layer, ZBox(), numerics, x[n : n + 1], relevance[n : n + 1])
        torch.testing.assert_close(alone, together[n : n + 1], rtol=1e-9, atol=1e-12)
        bounds = (float(x[n].min()), float(x[n].max()))
        expected, _, _ = layer_by_hand(
            "zbox", layer, x[n : n + 1], relevance[n : n + 1], stabiliser=1e-7, zero_bias=True, bounds=bounds
        )
        torch.testing.assert_close(alone, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("rule", ["flat", "wsquare", "zbox"])
def test_padding_by_a_module_of_its_own_has_no_share(rule: str) -> None:
    """As padding by the convolution itself has none: the two networks are one."""
    inside = nn.Conv2d(1, 3, 3, padding=1).double()
    randomise(inside, seed=3)
    outside = nn.Conv2d(1, 3, 3).double()
    outside.load_state_dict(inside.state_dict())
    x, maps = seeded(2, 1, 5, 4), []
    for network in (nn.Sequential(inside), nn.Sequential(nn.ZeroPad2d(1), outside)):
        with_head = nn.Sequential(*network, nn.ReLU(), nn.Flatten(), nn.Linear(60, 2).double())
        randomise(with_head[-1], seed=4)
        composite = Composite("test", "", lambda layers: dict.fromkeys(layers, RULE_OF[rule]))
        ruled = RuledNetwork.of(with_head.eval(), x, composite, Numerics(1e-7, True))
        leaf, ledger = x.clone().requires_grad_(), Ledger()
        with ruled.run(leaf, ledger=ledger) as run:
            maps.append(torch.autograd.grad(run.outputs, leaf, run.outputs.detach())[0])
        assert all(float(line.imbalance.max()) < 1e-6 for line in ledger.lines)
    torch.testing.assert_close(maps[1], maps[0], rtol=1e-9, atol=1e-12)


def test_a_whole_network_is_its_slow_derivation() -> None:
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).double()
    randomise(network, seed=5)
    network.eval().requires_grad_(False)
    x = seeded(2, 1, 8, 4)
    activations = [x]
    for module in network:
        activations.append(module(activations[-1].clone()))
    rules = {"0": Flat(), "3": Gamma(0.8), "7": Epsilon()}
    composite = Composite("test", "", lambda layers: {name: rules[name] for name in layers})
    ruled = RuledNetwork.of(network, x, composite, Numerics(1e-7, False))
    leaf = x.clone().requires_grad_()
    with ruled.run(leaf) as run:
        found = torch.autograd.grad(run.outputs, leaf, run.outputs.detach())[0]

    numerics: dict[str, Any] = {"stabiliser": 1e-7, "zero_bias": False, "gamma": 0.8}
    r = layer_by_hand("epsilon", network[7], activations[7], activations[8], **numerics)[0]
    r = average_by_hand(network[5], activations[5], r.reshape(activations[6].shape), 1e-7)
    r = layer_by_hand("gamma", network[3], activations[3], r, **numerics)[0]
    r = largest_by_hand(activations[2], r, 2)
    r = layer_by_hand("flat", network[0], activations[0], r, **numerics)[0]
    torch.testing.assert_close(found, r, rtol=1e-9, atol=1e-12)


def test_every_rule_is_derived_a_second_time() -> None:
    assert set(RULE_OF) == set(RULES)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("zplus", "zplus"),
        ({"rule": "gamma", "gamma": 0.4}, "gamma(gamma=0.4)"),
        ({"rule": "alpha-beta", "alpha": 1.5, "beta": 0.5}, "alpha-beta(alpha=1.5, beta=0.5)"),
        ({"rule": "zbox", "low": -1}, "zbox(low=-1)"),
    ],
)
def test_a_rule_is_a_name_or_a_table(given: object, text: str) -> None:
    assert rule_text(parse_rule(given)) == text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gama", "Did you mean 'gamma'"),
        ({"rule": "gamma", "gama": 1}, "Did you mean 'gamma'"),
        ({"rule": "zplus", "gamma": 1}, "It takes none"),
        ({"rule": "gamma", "gamma": "much"}, "must be a number, got 'much'"),
        ({"rule": "gamma", "gamma": -1}, "gamma >= 0, got -1"),
        ({"rule": "gamma", "gamma": float("nan")}, "gamma >= 0"),
        ({"rule": "epsilon", "epsilon": 0}, "epsilon > 0, got 0"),
        ({"rule": "alpha-beta", "alpha": 2, "beta": 2}, "alpha - beta = 1"),
        ({"rule": "zbox", "low": 1, "high": 0}, "low < high, got 1 and 0"),
        ({"gamma": 1}, "a name or a table"),
        (3, "a name or a table"),
    ],
)
def test_a_rule_that_is_not_valid_is_refused(given: object, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_rule(given)
