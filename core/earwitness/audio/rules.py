"""From relevance to a mask: named, recorded rules.

A rule is applied in the explanation's own domain, then lifted to the listening STFT. The one exception is
:class:`Energy`: signal energy lives on the listening STFT, so a map is normalised where it is, lifted, and brought to
its budget there.

A rule is written as text, in suites and on the command line: ``normalise``, ``quantile(0.9)``,
``relevance_share(0.5)``, ``energy(0.3)``, ``energy(0.3,hard)``, ``percentile_blur(90)``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import MISSING, astuple, dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.budget import WarpForm
from earwitness.errors import ConfigurationError, nearest


class _Named:
    """A rule as text: its name and its parameters, as :func:`parse_rule` reads them."""

    name: ClassVar[str]

    def __str__(self) -> str:
        arguments = ",".join(_text(value) for value in astuple(self))  # type: ignore[call-overload]
        return f"{self.name}({arguments})" if arguments else self.name


@dataclass(frozen=True)
class Normalise(_Named):
    """Positive part divided by its maximum. A map without positive values gives an empty mask."""

    name: ClassVar[str] = "normalise"

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> mask (B, ...), in [0, 1]."""
        positive = relevance.clamp_min(0)
        highest = positive.flatten(1).amax(1).reshape(-1, *[1] * (relevance.ndim - 1))
        return positive / torch.where(highest > 0, highest, 1)


@dataclass(frozen=True)
class Quantile(_Named):
    """Keep the cells above quantile ``q`` of the map (and only positive ones).

    The quantile is that of ``numpy.quantile``; cells equal to it are left out, so a constant map gives an empty mask.
    """

    q: float

    name: ClassVar[str] = "quantile"

    def __post_init__(self) -> None:
        _check_share(self.name, self.q)

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> binary mask (B, ...)."""
        flat = relevance.flatten(1)
        # Above the quantile, which lies between two neighbours in rank, is above the lower one of them.
        below = math.floor(self.q * (flat.shape[1] - 1) + 1e-9)
        threshold = flat.kthvalue(below + 1, dim=1, keepdim=True).values
        return ((flat > threshold) & (flat > 0)).to(relevance.dtype).reshape(relevance.shape)


@dataclass(frozen=True)
class RelevanceShare(_Named):
    """Keep the smallest set of cells that holds share ``p`` of the positive relevance.

    Of equal cells at the edge, those of lower frequency, then of earlier time, are taken first.
    """

    p: float

    name: ClassVar[str] = "relevance_share"

    def __post_init__(self) -> None:
        _check_share(self.name, self.p)

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> binary mask (B, ...)."""
        flat = relevance.flatten(1).clamp_min(0)
        values, order = flat.double().sort(dim=1, descending=True, stable=True)
        held = values.cumsum(1)
        before = functional.pad(held[:, :-1], (1, 0))
        # A hair's breadth, so that 0.07 of 100 equal cells are 7 of them, though 0.07 * 100 > 7 in floating point.
        kept = before < self.p * held[:, -1:] * (1 - 1e-12)
        mask = torch.zeros_like(flat).scatter_(1, order, kept.to(flat.dtype))
        return mask.reshape(relevance.shape)


@dataclass(frozen=True)
class PercentileBlur(_Named):
    """The DRSA thesis' rule (§3.4.2): keep positive values above a percentile, blur with a 5 x 5 Gaussian, normalise.

    As in its code, the percentile is that of the positive part, the Gaussian has a standard deviation of one cell, and
    the map is mirrored at its edges. The thesis matches the loudness afterwards and leaves the scale open; we divide
    by the maximum. A map over samples is blurred along its one axis.
    """

    percentile: float = 90.0

    name: ClassVar[str] = "percentile_blur"

    def __post_init__(self) -> None:
        if not _is_number(self.percentile) or not 0 < self.percentile < 100:
            raise ConfigurationError(
                f"{self.name} takes a percentile between 0 and 100 (both excluded), got {self.percentile!r}."
            )

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, F, N) or (B, T) -> mask of the same shape, in [0, 1]."""
        positive = relevance.clamp_min(0)
        blurred = positive * Quantile(self.percentile / 100)(positive)
        for axis in range(1, relevance.ndim):
            blurred = _blurred(blurred, axis)
        return Normalise()(blurred)


@dataclass(frozen=True)
class Energy(_Named):
    """Keep share ``p`` of the *signal* energy, the same budget for every method.

    ``soft`` warps a map M in [0, 1] by a power, M ** g, until the gain keeps exactly p; ``hard`` keeps the top bins
    (the one at the edge partly). They rank methods differently. Of a map that points at nothing, nothing is kept.
    """

    p: float
    form: WarpForm = "soft"

    name: ClassVar[str] = "energy"

    def __post_init__(self) -> None:
        _check_share(self.name, self.p)
        if self.form not in ("soft", "hard"):
            raise ConfigurationError(f"{self.name} takes 'soft' or 'hard', got {self.form!r}.")


Rule = Normalise | Quantile | RelevanceShare | PercentileBlur | Energy

_RULES: dict[str, type[Rule]] = {
    rule.name: rule for rule in (Normalise, Quantile, RelevanceShare, PercentileBlur, Energy)
}


def parse_rule(text: str) -> Rule:
    """Read a rule from text such as ``"energy(0.3,hard)"``; ``str(rule)`` is the inverse.

    Raises
    ------
    ConfigurationError
        Unknown rule or wrong arguments.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^()]*)\))?\s*", text)
    if not match:
        raise ConfigurationError(
            f"{text!r} is not a rule. Write for example 'normalise', 'quantile(0.9)' or 'energy(0.3,hard)'."
        )
    if match[1] not in _RULES:
        raise ConfigurationError(f"There is no rule {text!r}. {nearest(match[1], _RULES)}")
    rule = _RULES[match[1]]
    words = [word.strip() for word in match[2].split(",")] if (match[2] or "").strip() else []
    parameters = fields(rule)
    n_required = sum(parameter.default is MISSING for parameter in parameters)
    if not n_required <= len(words) <= len(parameters):
        signature = ", ".join(p.name if p.default is MISSING else f"{p.name}={p.default}" for p in parameters)
        raise ConfigurationError(
            f"The rule {text!r} has {len(words)} arguments; it is written {rule.name}"
            + (f"({signature})." if signature else ", without any.")
        )
    make: Callable[..., Rule] = rule
    return make(*map(_value, words))


def _value(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _text(value: float | str) -> str:
    """The shortest text that is read as the same value."""
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_share(name: str, value: float) -> None:
    if not _is_number(value) or not 0 < value < 1:
        raise ConfigurationError(f"{name} takes a share between 0 and 1 (both excluded), got {value!r}.")


def _blurred(maps: Tensor, axis: int) -> Tensor:
    """Convolve along an axis with a Gaussian of 5 taps and a standard deviation of 1; mirrored at the edges."""
    length = maps.shape[axis]
    period = max(1, 2 * (length - 1))
    places = torch.arange(-2, length + 2, device=maps.device) % period
    mirrored = maps.index_select(axis, torch.minimum(places, period - places))
    taps = torch.exp(-torch.arange(-2, 3, dtype=maps.dtype, device=maps.device).square() / 2)
    return mirrored.unfold(axis, 5, 1) @ (taps / taps.sum())
