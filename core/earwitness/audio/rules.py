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
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.errors import ConfigurationError, nearest

WarpForm = Literal["soft", "hard"]


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


def warp_to_energy(masks: Tensor, magnitude: Tensor, budget: float | Tensor, form: WarpForm) -> Tensor:
    """Bring maps to a budget of signal energy (rule ``energy``).

    Parameters
    ----------
    masks : Tensor (B, F, N), float32, in [0, 1]
        Normalised maps on the listening STFT.
    magnitude : Tensor (B, F, N), float32
        |S| of the recording.
    budget : float or Tensor (B,)
        Share of energy to keep, in [0, 1]; one for all rows, or one for each.
    form : {"soft", "hard"}

    Returns
    -------
    Tensor (B, F, N), float32
        Gains whose kept energy is the budget to 1e-4. Where a warp alone cannot reach it, the map says nothing about
        the order of the cells concerned, and they are treated alike: if the map's support holds too little, the cells
        outside it get one common gain; if its maximum alone holds too much, the map is scaled down. A silent row has
        no energy to keep: its gains are without meaning.
    """
    energy = magnitude.square()
    energy = energy / energy.sum((1, 2), keepdim=True).clamp_min(1e-30)
    wanted = torch.as_tensor(budget, dtype=torch.float64, device=masks.device).expand(len(masks))[:, None]
    return _soft_warp(masks, energy, wanted) if form == "soft" else _hard_cut(masks, energy, wanted)


def _soft_warp(masks: Tensor, energy: Tensor, budget: Tensor) -> Tensor:
    """M ** g with g found by bisection on the exponent, on a histogram of log M (4096 bins, energy weighted)."""
    log_map = masks.clamp_min(1e-30).log()
    levels, weights = _energy_histogram(log_map, masks, energy)
    low = torch.full((len(masks), 1), -16.0, dtype=torch.float64, device=masks.device)  # exponents 2**low .. 2**high
    high = -low
    for _ in range(48):
        middle = (low + high) / 2
        kept = (weights * torch.exp(2 * torch.exp2(middle) * levels)).sum(1, keepdim=True)
        low, high = torch.where(kept > budget, middle, low), torch.where(kept > budget, high, middle)
    exponent = torch.exp2((low + high) / 2).to(masks.dtype)[:, :, None]
    warped = torch.where(masks > 0, torch.exp(exponent * log_map), 0.0)
    return _meet_budget(warped, masks > 0, energy, budget[:, :, None].to(masks.dtype))


def _energy_histogram(log_map: Tensor, masks: Tensor, energy: Tensor, n_bins: int = 4096) -> tuple[Tensor, Tensor]:
    """Energy-weighted mean log level and energy of each histogram bin: two Tensors (B, n_bins), float64.

    The bins are equal in rank, not in level, so every map is resolved alike whatever its dynamic range.
    """
    n_rows = len(masks)
    flat, mass = log_map.flatten(1), (energy * (masks > 0)).flatten(1).double()
    sample = flat[:, :: max(1, flat.shape[1] // 65536)]
    edges = sample.sort(1).values
    edges = edges[:, torch.linspace(0, edges.shape[1] - 1, n_bins - 1, device=flat.device).long()].contiguous()
    index = torch.searchsorted(edges, flat.contiguous())
    weights = torch.zeros(n_rows, n_bins, dtype=torch.float64, device=flat.device).scatter_add_(1, index, mass)
    total = torch.zeros_like(weights).scatter_add_(1, index, mass * flat.double())
    return total / weights.clamp_min(1e-30), weights


def _hard_cut(masks: Tensor, energy: Tensor, budget: Tensor) -> Tensor:
    """Gain 1 for the top bins while their energy fits, a part of the one at the edge; cells tied there share alike."""
    flat, mass = masks.flatten(1), energy.flatten(1).double()
    values, order = flat.sort(dim=1, descending=True, stable=True)
    cumulated = mass.gather(1, order).cumsum(1)
    edge = (cumulated < budget).sum(1, keepdim=True).clamp_max(flat.shape[1] - 1)
    threshold = values.gather(1, edge)
    above, tied = flat > threshold, flat == threshold
    missing = budget - (mass * above).sum(1, keepdim=True)
    tie_gain = (missing / (mass * tied).sum(1, keepdim=True).clamp_min(1e-30)).clamp(0, 1).sqrt()
    gain = torch.where(above, 1.0, torch.where(tied, tie_gain, 0.0))
    return gain.to(masks.dtype).reshape(masks.shape)


def _meet_budget(gain: Tensor, support: Tensor, energy: Tensor, budget: Tensor) -> Tensor:
    """Close what the warp left open; see :func:`warp_to_energy`."""
    kept = (gain.square() * energy).sum((1, 2), keepdim=True)
    outside = (energy * ~support).sum((1, 2), keepdim=True)
    fill = ((budget - kept) / outside.clamp_min(1e-30)).clamp(0, 1).sqrt()
    filled = torch.where(support, gain, fill.expand_as(gain))
    scale = (budget / kept.clamp_min(1e-30)).sqrt()
    return torch.where(kept > budget, gain * scale, torch.where(outside > 1e-9, filled, (gain * scale).clamp_max(1.0)))


def _check_share(name: str, value: object) -> None:
    if not isinstance(value, int | float) or not 0 < value < 1:
        raise ConfigurationError(f"{name} takes a share between 0 and 1 (both excluded), got {value!r}.")
