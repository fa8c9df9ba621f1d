"""The rules that pass relevance down through one weighted layer: what each is, and Zennit's hook for it.

Notation: x input, w weight, b bias, z output, R relevance that arrives at the output, eps the stabiliser, which has the
sign of what it is added to; + and - behind a letter are its positive and negative part.

========== ===================================================================================== ======================
epsilon    x w R / (z + eps), summed over outputs                                                Bach et al., 2015
gamma      where z > 0, x+ meets w + gamma w+, x- meets w + gamma w-; where z < 0, the reverse   Andéol et al., 2021
zplus      x+ w+ and x- w- only: contributions that speak for the output                         Montavon et al., 2017
alpha-beta alpha · share in positive contributions - beta · share in negative ones               Bach et al., 2015
zbox       x w - low w+ - high w-, for inputs known to lie between low and high                  Montavon et al., 2017
wsquare    w squared: what the weights are, not what the input is                                Montavon et al., 2017
flat       the same share for every input                                                        Lapuschkin et al., 2019
========== ===================================================================================== ======================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from torch import Tensor
from zennit import rules as zennit_rules
from zennit.core import BasicHook

from earwitness.errors import ConfigurationError, nearest
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.shortcuts import Branch, Branches, SharedWSquare, Shortcut, SummedFlat

Share = tuple[Tensor | float, Tensor]
"""A part of a rule: its coefficient (or one for each output), and the numerator that relevance is divided by."""


class Rule(Protocol):
    """How relevance passes one weighted layer."""

    def hook(self, numerics: Numerics) -> BasicHook:
        """Zennit's hook."""
        ...

    def shortcut(self, numerics: Numerics) -> Shortcut | None:
        """A faster hook with the same result where it is valid; None if there is none."""
        ...

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """The rule's parts, from the outputs of the branches of :meth:`hook`: relevance R at the output leaves the
        coefficient times R · numerator / stabilised numerator for each part."""
        ...


@dataclass(frozen=True)
class Epsilon:
    """``epsilon`` : float, > 0. Default: the stabiliser."""

    epsilon: float | None = None

    def __post_init__(self) -> None:
        if self.epsilon is not None and not self.epsilon > 0:
            raise ConfigurationError(f"The epsilon rule needs epsilon > 0, got {self.epsilon!r}.")

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        own = self._numerics(numerics)
        return zennit_rules.Epsilon(epsilon=own.stabiliser, zero_params=own.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """No copy of the input."""
        return Shortcut(
            Branches(self._numerics(numerics), Branch(zennit_rules.NoMod(zero_params=numerics.zero_params)))
        )

    def _numerics(self, numerics: Numerics) -> Numerics:
        return numerics if self.epsilon is None else Numerics(self.epsilon, numerics.zero_bias)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1.0, outputs[0])]


@dataclass(frozen=True)
class Gamma:
    """``gamma`` : float, >= 0. How much positive contributions (to a positive output) are preferred."""

    gamma: float = 0.25

    def __post_init__(self) -> None:
        if not self.gamma >= 0:
            raise ConfigurationError(f"The gamma rule needs gamma >= 0, got {self.gamma!r}.")

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        return zennit_rules.Gamma(self.gamma, numerics.stabiliser, numerics.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """One branch of five, bit by bit the same."""
        modifier = zennit_rules.GammaMod(self.gamma, min=0.0, zero_params=numerics.zero_params)
        return Shortcut(Branches(numerics, Branch(modifier)), non_negative=True, positive_outputs=True)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        positive, negative = outputs[0] + outputs[1], outputs[2] + outputs[3]
        return [((outputs[4] > 0).to(positive), positive), ((outputs[4] < 0).to(negative), negative)]


@dataclass(frozen=True)
class ZPlus:
    """No parameters."""

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        return zennit_rules.ZPlus(numerics.stabiliser, numerics.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """One branch of two."""
        positive = zennit_rules.ClampMod(min=0.0, zero_params=numerics.zero_params)
        return Shortcut(Branches(numerics, Branch(positive, sign=1)), non_negative=True)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1.0, outputs[0] + outputs[1])]


@dataclass(frozen=True)
class AlphaBeta:
    """``alpha`` and ``beta`` : float, >= 0, with alpha - beta = 1."""

    alpha: float = 2.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (self.alpha >= 0 and self.beta >= 0 and abs(self.alpha - self.beta - 1) < 1e-9):
            raise ConfigurationError(
                f"The alpha-beta rule needs alpha - beta = 1 and both >= 0, got {self.alpha!r} and {self.beta!r}."
            )

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        # Zennit compares alpha - beta with 1 exactly.
        return zennit_rules.AlphaBeta(1 + self.beta, self.beta, numerics.stabiliser, numerics.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """Two branches of four."""
        positive = zennit_rules.ClampMod(min=0.0, zero_params=numerics.zero_params)
        negative = zennit_rules.ClampMod(max=0.0, zero_params=numerics.zero_params)
        both = Branch(positive, 1 + self.beta, sign=1), Branch(negative, -self.beta, sign=-1)
        return Shortcut(Branches(numerics, *both), non_negative=True)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1 + self.beta, outputs[0] + outputs[1]), (-self.beta, outputs[2] + outputs[3])]


@dataclass(frozen=True)
class ZBox:
    """``low`` and ``high`` : float. Bounds of the layer's input. Default: the least and the largest of each clip."""

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ConfigurationError(f"The zbox rule needs low < high, got {self.low!r} and {self.high!r}.")

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        found = zennit_rules.ZBox(self.low or 0.0, self.high or 0.0, numerics.stabiliser, numerics.zero_params)
        # Of each row by itself: a neighbour in the batch may not change an explanation.
        if self.low is None:
            found.input_modifiers[1] = lambda x: _extreme(x, "amin")
        if self.high is None:
            found.input_modifiers[2] = lambda x: _extreme(x, "amax")
        return found

    def shortcut(self, numerics: Numerics) -> None:
        """See :class:`Rule`."""

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1.0, outputs[0] - outputs[1] - outputs[2])]


def _extreme(x: Tensor, which: str) -> Tensor:
    found: Tensor = getattr(x, which)(tuple(range(1, x.ndim)), keepdim=True)
    return found.expand_as(x).clone()


@dataclass(frozen=True)
class WSquare:
    """No parameters."""

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        return zennit_rules.WSquare(numerics.stabiliser, numerics.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """One denominator for all rows."""
        return Shortcut(SharedWSquare(numerics.stabiliser, numerics.zero_params), unpadded=True)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1.0, outputs[0])]


@dataclass(frozen=True)
class Flat:
    """No parameters. The bias never has a share."""

    def hook(self, numerics: Numerics) -> BasicHook:
        """See :class:`Rule`."""
        return zennit_rules.Flat(numerics.stabiliser, numerics.zero_params)

    def shortcut(self, numerics: Numerics) -> Shortcut:
        """One denominator for all rows, one channel for all."""
        return Shortcut(SummedFlat(numerics.stabiliser, numerics.zero_params), unpadded=True)

    def shares(self, outputs: Sequence[Tensor]) -> list[Share]:
        """See :class:`Rule`."""
        return [(1.0, outputs[0])]


RULES: dict[str, type] = {
    "epsilon": Epsilon,
    "gamma": Gamma,
    "zplus": ZPlus,
    "alpha-beta": AlphaBeta,
    "zbox": ZBox,
    "wsquare": WSquare,
    "flat": Flat,
}


def parse_rule(given: object) -> Rule:
    """A rule from a suite file: its name, or a table with the name as ``rule`` and the rule's parameters.

    Parameters
    ----------
    given : str or dict
        ``"zplus"``, or ``{"rule": "gamma", "gamma": 0.4}``.

    Raises
    ------
    ConfigurationError
        There is no such rule or parameter (the nearest is named), or a value is out of range.
    """
    table = {"rule": given} if isinstance(given, str) else given
    if not isinstance(table, Mapping) or not isinstance(table.get("rule"), str):
        raise ConfigurationError(
            f'An LRP rule is a name or a table such as {{rule = "gamma", gamma = 0.4}}, got {given!r}. '
            f"Rules are {', '.join(sorted(RULES))}."
        )
    name = table["rule"]
    if name not in RULES:
        raise ConfigurationError(f"There is no LRP rule {name!r}. {nearest(name, RULES)}")
    known = [field.name for field in fields(RULES[name])]
    parameters = {str(key): value for key, value in table.items() if key != "rule"}
    for key, value in parameters.items():
        if key not in known:
            hint = nearest(key, known) if known else "It takes none."
            raise ConfigurationError(f"The LRP rule {name!r} has no parameter {key!r}. {hint}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigurationError(f"The parameter {key!r} of the LRP rule {name!r} must be a number, got {value!r}.")
    rule: Rule = RULES[name](**parameters)
    return rule


def describe(rule: Rule) -> str:
    """``"gamma(gamma=0.4)"``."""
    name = next(name for name, kind in RULES.items() if isinstance(rule, kind))
    values = {field.name: getattr(rule, field.name) for field in fields(rule)}  # type: ignore[arg-type]
    shown = ", ".join(f"{key}={value:g}" for key, value in values.items() if value is not None)
    return f"{name}({shown})" if shown else name
