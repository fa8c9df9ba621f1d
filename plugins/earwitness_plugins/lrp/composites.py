"""Composites: which layer has which rule. By name, as in the papers, or one's own.

A composite is asked once, with the weighted layers in the order in which they run, so "the first layer" is the first
that runs and not the first that was defined.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from earwitness.errors import ConfigurationError, nearest
from earwitness_plugins.lrp.rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, WSquare, ZBox, ZPlus, parse_rule

WEIGHTED: tuple[type[nn.Module], ...] = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""What rules are for. A subclass counts if it computes the same."""

Assignment = Callable[[Mapping[str, nn.Module]], dict[str, Rule]]
"""Weighted layers by name, in the order in which they run -> the rule of each."""

DEFAULT = "epsilon-plus-flat-depthwise"


@dataclass(frozen=True)
class Composite:
    """A named way to give every weighted layer a rule.

    Attributes
    ----------
    name : str
    source : str
        Where it comes from.
    assign : callable
        See :data:`Assignment`.
    """

    name: str
    source: str
    assign: Assignment


def _by_kind(*, convolution: Rule, first: Rule | None = None, linear: Rule | None = None) -> Assignment:
    """One rule for convolutions, one for linear layers (epsilon), and one for the first layer of all."""

    def assign(layers: Mapping[str, nn.Module]) -> dict[str, Rule]:
        rules: dict[str, Rule] = {}
        for name, layer in layers.items():
            by_kind = (linear or Epsilon()) if isinstance(layer, nn.Linear) else convolution
            rules[name] = first if first is not None and not rules else by_kind
        return rules

    return assign


def _thesis_music(layers: Mapping[str, nn.Module]) -> dict[str, Rule]:
    """WSquare; Gamma .4, .4, .2, .1; Epsilon: for five convolutions. With more, those in between have .4, too."""
    convolutions = [name for name, layer in layers.items() if not isinstance(layer, nn.Linear)]
    last = {name: Gamma(gamma) for name, gamma in zip(convolutions[:0:-1], (0.1, 0.2), strict=False)}
    rules = _by_kind(convolution=Gamma(0.4))(layers)
    return {**rules, **last, **({convolutions[0]: WSquare()} if convolutions else {})}


def _thesis_toy(layers: Mapping[str, nn.Module]) -> dict[str, Rule]:
    rules = _by_kind(convolution=Gamma(0.8))(layers)
    first = next((name for name, layer in layers.items() if not isinstance(layer, nn.Linear)), None)
    return {**rules, **({first: Flat()} if first else {})}


def _epsilon_plus_flat_depthwise(layers: Mapping[str, nn.Module]) -> dict[str, Rule]:
    """ZPlus loses the relevance of a channel whose few weights are all negative: it is active by its bias alone."""
    rules = _by_kind(convolution=ZPlus(), first=Flat())(layers)
    depthwise = {name for name, layer in layers.items() if is_depthwise(layer)}
    return {name: WSquare() if name in depthwise and rule == ZPlus() else rule for name, rule in rules.items()}


def is_depthwise(layer: nn.Module) -> bool:
    """Whether each channel of a convolution is filtered by itself."""
    n_in = getattr(layer, "in_channels", 1)
    return n_in > 1 and getattr(layer, "groups", 1) == n_in


_THESIS = "the DRSA thesis"
COMPOSITES = {
    composite.name: composite
    for composite in (
        Composite("thesis-toy", _THESIS, _thesis_toy),
        Composite("thesis-music", _THESIS, _thesis_music),
        Composite("epsilon-plus", "Zennit", _by_kind(convolution=ZPlus())),
        Composite("epsilon-plus-flat", "Zennit", _by_kind(convolution=ZPlus(), first=Flat())),
        Composite(
            "epsilon-plus-flat-depthwise",
            "Zennit's epsilon-plus-flat, with WSquare where each channel is filtered by itself",
            _epsilon_plus_flat_depthwise,
        ),
        Composite("epsilon-alpha2-beta1", "Zennit", _by_kind(convolution=AlphaBeta(2, 1))),
        Composite("epsilon-alpha2-beta1-flat", "Zennit", _by_kind(convolution=AlphaBeta(2, 1), first=Flat())),
        Composite("epsilon-gamma-box", "Zennit", _by_kind(convolution=Gamma(0.25), first=ZBox())),
        Composite("excitation-backprop", "Zennit", _by_kind(convolution=ZPlus(), linear=ZPlus())),
        Composite("epsilon", "Bach et al., 2015", _by_kind(convolution=Epsilon())),
    )
}


def composite_of(given: str | Mapping[str, object]) -> Composite:
    """A composite by name, or one's own.

    Parameters
    ----------
    given : str or dict
        A name of :data:`COMPOSITES`; or a table from layer names, layer types and ``"first"`` to rules (see
        :func:`~earwitness_plugins.lrp.rules.parse_rule`). A name goes before ``"first"``, and that before a type.

    Raises
    ------
    ConfigurationError
        There is no such composite or rule.
    """
    if isinstance(given, str):
        if given not in COMPOSITES:
            raise ConfigurationError(f"There is no LRP composite {given!r}. {nearest(given, COMPOSITES)}")
        return COMPOSITES[given]
    if not isinstance(given, Mapping) or not given:
        raise ConfigurationError(
            "An LRP composite is a name, or a table from layers or types of layers to rules such as "
            f'{{first = "flat", Conv2d = "zplus", Linear = "epsilon"}}; got {given!r}.'
        )
    rules = {str(key): parse_rule(rule) for key, rule in given.items()}
    return Composite("own", "parameters", lambda layers: _own_rules(rules, layers))


def _own_rules(rules: Mapping[str, Rule], layers: Mapping[str, nn.Module]) -> dict[str, Rule]:
    types = {type(layer).__name__ for layer in layers.values()} | {kind.__name__ for kind in WEIGHTED}
    matched: set[str] = set()
    assigned: dict[str, Rule] = {}
    for name, layer in layers.items():
        keys = (name, *(["first"] if not assigned else []), type(layer).__name__)
        key = next((key for key in keys if key in rules), None)
        if key is None:
            raise ConfigurationError(
                f"The composite has no rule for layer {name!r} ({type(layer).__name__}). Add one by its name, or by "
                f'its type, for example {type(layer).__name__} = "epsilon".'
            )
        assigned[name] = rules[key]
        matched.add(key)
    for key in rules:
        if key not in matched and key not in types and key != "first":
            raise ConfigurationError(
                f"The composite has a rule for {key!r}, but no layer with weights has that name or type. "
                f"{nearest(key, [*layers, *types, 'first'])}"
            )
    return assigned
