"""From relevance to a mask: named, recorded rules.

A rule is applied in the explanation's own domain, then lifted to the listening STFT. The one exception is
:class:`Energy`: signal energy lives on the listening STFT, so a map is normalised where it is, lifted, and brought to
its budget there.

A rule is written as text, in suites and on the command line: ``normalise``, ``quantile(0.9)``,
``relevance_share(0.5)``, ``energy(0.3)``, ``energy(0.3,hard)``, ``percentile_blur(90)``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.budget import WarpForm
from earwitness.errors import ConfigurationError, nearest


@dataclass(frozen=True)
class Normalise:
    """Positive part divided by its maximum. A map without positive values gives an empty mask."""

    def __str__(self) -> str:
        return "normalise"

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> mask (B, ...) in [0, 1]."""
        positive = relevance.clamp_min(0)
        highest = positive.flatten(1).amax(1).reshape(-1, *[1] * (relevance.ndim - 1))
        return torch.where(highest > 0, positive / highest.clamp_min(torch.finfo(positive.dtype).tiny), 0.0)


@dataclass(frozen=True)
class Quantile:
    """Keep the cells above quantile ``q`` of the map (and only positive ones)."""

    q: float

    def __post_init__(self) -> None:
        _check_share("quantile", self.q)

    def __str__(self) -> str:
        return f"quantile({self.q:g})"

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> binary mask (B, ...)."""
        flat = relevance.flatten(1)
        rank = max(1, round(self.q * flat.shape[1]))
        threshold = flat.kthvalue(rank, dim=1, keepdim=True).values
        return ((flat > threshold) & (flat > 0)).to(relevance.dtype).reshape(relevance.shape)


@dataclass(frozen=True)
class RelevanceShare:
    """Keep the smallest set of cells that holds share ``p`` of the positive relevance."""

    p: float

    def __post_init__(self) -> None:
        _check_share("relevance_share", self.p)

    def __str__(self) -> str:
        return f"relevance_share({self.p:g})"

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, ...) -> binary mask (B, ...)."""
        flat = relevance.flatten(1).clamp_min(0)
        values, order = flat.double().sort(dim=1, descending=True, stable=True)
        before = values.cumsum(1) - values
        kept = (before < self.p * values.sum(1, keepdim=True)) & (values > 0)
        mask = torch.zeros_like(flat).scatter_(1, order, kept.to(flat.dtype))
        return mask.reshape(relevance.shape)


@dataclass(frozen=True)
class PercentileBlur:
    """The DRSA thesis' rule (§3.4.2): keep positive values above a percentile, blur with a 5 x 5 Gaussian, normalise.

    The thesis matches the loudness afterwards and leaves the scale open; we divide by the maximum.
    """

    percentile: float = 90.0

    def __post_init__(self) -> None:
        _check_share("percentile_blur", self.percentile / 100)

    def __str__(self) -> str:
        return f"percentile_blur({self.percentile:g})"

    def __call__(self, relevance: Tensor) -> Tensor:
        """Tensor (B, F, N) or (B, T) -> mask of the same shape, in [0, 1]."""
        positive = relevance.clamp_min(0)
        kept = positive * Quantile(self.percentile / 100)(positive)
        taps = torch.exp(-(torch.arange(-2, 3, device=relevance.device, dtype=relevance.dtype) ** 2) / 2)
        taps = taps / taps.sum()
        if relevance.ndim == 2:
            kept = functional.conv1d(functional.pad(kept[:, None], (2, 2), "replicate"), taps[None, None])[:, 0]
        else:
            kernel = torch.outer(taps, taps)[None, None]
            kept = functional.conv2d(functional.pad(kept[:, None], (2, 2, 2, 2), "replicate"), kernel)[:, 0]
        return Normalise()(kept)


@dataclass(frozen=True)
class Energy:
    """Keep share ``p`` of the *signal* energy, the same budget for every method.

    ``soft`` warps a map M in [0, 1] by a power, M ** g, until the gain keeps exactly p; ``hard`` keeps the top bins
    (the one at the edge partly). They rank methods differently.
    """

    p: float
    form: WarpForm = "soft"

    def __post_init__(self) -> None:
        _check_share("energy", self.p)
        if self.form not in ("soft", "hard"):
            raise ConfigurationError(f"energy takes 'soft' or 'hard', got {self.form!r}.")

    def __str__(self) -> str:
        return f"energy({self.p:g},{self.form})"


Rule = Normalise | Quantile | RelevanceShare | PercentileBlur | Energy

_RULES: dict[str, type[Rule]] = {
    "normalise": Normalise,
    "quantile": Quantile,
    "relevance_share": RelevanceShare,
    "percentile_blur": PercentileBlur,
    "energy": Energy,
}


def parse_rule(text: str) -> Rule:
    """Read a rule from text such as ``"energy(0.3,hard)"``; ``str(rule)`` is the inverse.

    Raises
    ------
    ConfigurationError
        Unknown rule or wrong arguments.
    """
    match = re.fullmatch(r"\s*(\w+)\s*(?:\(([^)]*)\))?\s*", text)
    if not match or match[1] not in _RULES:
        raise ConfigurationError(f"There is no rule {text!r}. {nearest(match[1] if match else text, _RULES)}")
    words = [word.strip() for word in (match[2] or "").split(",") if word.strip()]
    try:
        arguments: list[Any] = [float(word) if word.replace(".", "", 1).isdigit() else word for word in words]
        return _RULES[match[1]](*arguments)
    except TypeError as error:
        raise ConfigurationError(f"The rule {text!r} has the wrong arguments: {error}.") from error


def _check_share(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigurationError(f"{name} takes a share between 0 and 1 (both excluded), got {value!r}.")
