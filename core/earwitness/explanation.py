"""What an explainer answers with.

An :class:`Explanation` holds, for a batch of B rows, at least one of a *relevance* map (signed, unbounded), a *mask*
(in [0, 1], the method's own) or *heard* waveforms (for methods that answer in sound).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from earwitness.errors import ExplanationError

Domain = Literal["stft", "features", "waveform"]
Scale = Literal["magnitude", "log1p"]
Route = Literal["waveform", "spectrogram"]

DOMAINS: tuple[Domain, ...] = ("stft", "features", "waveform")
SCALES: tuple[Scale, ...] = ("magnitude", "log1p")
ROUTES: tuple[Route, ...] = ("waveform", "spectrogram")


def _check_map(values: Tensor, domain: str, what: str) -> None:
    if domain not in DOMAINS:
        raise ExplanationError(f"A {what}'s domain must be one of {DOMAINS}, got {domain!r}.")
    expected = 2 if domain == "waveform" else 3
    if values.ndim != expected:
        axes = "(B, T)" if domain == "waveform" else "(B, rows, columns), frequency before time"
        raise ExplanationError(f"A {what} in domain {domain!r} must have axes {axes}, got shape {tuple(values.shape)}.")
    if not bool(torch.isfinite(values).all()):
        bad = (~torch.isfinite(values)).flatten(1).any(1).nonzero().flatten().tolist()
        raise ExplanationError(f"The {what} has NaN or infinite values in rows {bad} of the batch.")


@dataclass(frozen=True, eq=False)
class Relevance:
    """How much each cell speaks for the target; signed, in the method's own unit.

    Attributes
    ----------
    values : Tensor (B, F, N), (B, M, N') or (B, T), float32
    domain : {"stft", "features", "waveform"}
        The grid of ``values``: the listening STFT, the classifier's feature map, or samples.
    """

    values: Tensor
    domain: Domain

    def __post_init__(self) -> None:
        _check_map(self.values, self.domain, "relevance map")


@dataclass(frozen=True, eq=False)
class Mask:
    """How much of each cell is kept: 0 none, 1 all.

    Attributes
    ----------
    values : Tensor (B, F, N), (B, M, N') or (B, T), float32, in [0, 1]
    domain : {"stft", "features", "waveform"}
    scale : {"magnitude", "log1p"}
        At ``magnitude`` a mask is a gain; at ``log1p`` it multiplies log(1 + |S|), so it is an exponent.
    """

    values: Tensor
    domain: Domain
    scale: Scale = "magnitude"

    def __post_init__(self) -> None:
        _check_map(self.values, self.domain, "mask")
        if self.scale not in SCALES:
            raise ExplanationError(f"A mask's scale must be one of {SCALES}, got {self.scale!r}.")
        if self.scale == "log1p" and self.domain == "waveform":
            raise ExplanationError("A mask over samples has no log1p scale; use 'magnitude'.")
        low, high = float(self.values.min()), float(self.values.max())
        if low < -1e-6 or high > 1 + 1e-6:
            raise ExplanationError(
                f"A mask must lie in [0, 1], got values from {low:.4g} to {high:.4g}. "
                "Return signed or unbounded maps as `relevance`."
            )


@dataclass(frozen=True, eq=False)
class Parts:
    """Components of an explanation; maps are computed when asked for (dense they would take gigabytes).

    Attributes
    ----------
    names : tuple of str, length K
    weights : Tensor (B, K), float32
        Contribution of each part to the target.
    selected : Tensor (B, K), bool
        The parts that make up the explanation.
    map : callable int -> Relevance or Mask
        The map of part k for the whole batch.

    Raises
    ------
    ExplanationError
        ``weights`` or ``selected`` is not of shape (B, K).
    """

    names: tuple[str, ...]
    weights: Tensor
    selected: Tensor
    map: Callable[[int], Relevance | Mask]

    def __post_init__(self) -> None:
        shape = tuple(self.weights.shape)
        if shape[1:] != (len(self.names),) or tuple(self.selected.shape) != shape:
            raise ExplanationError(
                f"{len(self.names)} parts need weights and selected of shape (B, {len(self.names)}), got {shape} and "
                f"{tuple(self.selected.shape)}."
            )


@dataclass(frozen=True, eq=False)
class ExampleBands:
    """What an example has in common with a clip, over frequency.

    Attributes
    ----------
    frequencies_hz : Tensor (K,), float64
        Middle of each band, ascending.
    similarity, contribution : Tensor (K,), float32
        In each band; contributions sum to that of the example.
    """

    frequencies_hz: Tensor
    similarity: Tensor
    contribution: Tensor


@dataclass(frozen=True, eq=False)
class Example:
    """A stored sound that the decision is compared with (a prototype).

    Attributes
    ----------
    name : str
    similarity, contribution : float
        To this clip; to the target's logit.
    waveform : Tensor (T',), float32
    rate : int
        In Hz.
    bands : ExampleBands, optional
        For methods that compare band by band.
    """

    name: str
    similarity: float
    contribution: float
    waveform: Tensor
    rate: int
    bands: ExampleBands | None = None


@dataclass(frozen=True, eq=False)
class Explanation:
    """An answer for a batch of B rows.

    Attributes
    ----------
    target : Tensor (B,), int64
        The explained class of each row.
    relevance : Relevance, optional
    mask : Mask, optional
        The method's own mask; where there is one, no rule is applied to the relevance.
    heard : Tensor (B, T), float32, optional
        What is kept, as sound.
    parts : Parts, optional
    examples : tuple (length B) of tuples of Example
        Of each row, the nearest first; none for a row that is like none of them.
    surrogate_logits : Tensor (B, C), optional
        The method's own prediction, for fidelity.
    diagnostics : dict of str to Tensor (B,)
        Such as a completeness gap.

    Raises
    ------
    ExplanationError
        There is neither relevance, mask nor sound, their first axes differ, the target is no vector of class indices,
        or the sound is not finite.
    """

    target: Tensor
    relevance: Relevance | None = None
    mask: Mask | None = None
    heard: Tensor | None = None
    parts: Parts | None = None
    examples: tuple[tuple[Example, ...], ...] = ()
    surrogate_logits: Tensor | None = None
    diagnostics: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.relevance is None and self.mask is None and self.heard is None:
            raise ExplanationError("An explanation needs at least one of `relevance`, `mask` and `heard`.")
        if self.target.ndim != 1 or self.target.dtype != torch.int64:
            raise ExplanationError(
                f"The target must be one class index a row, int64 of shape (B,), got {self.target.dtype} of shape "
                f"{tuple(self.target.shape)}."
            )
        n_rows = self.target.shape[0]
        named: dict[str, Tensor | None] = {
            "relevance": self.relevance.values if self.relevance else None,
            "mask": self.mask.values if self.mask else None,
            "heard": self.heard,
            "surrogate_logits": self.surrogate_logits,
            "parts.weights": self.parts.weights if self.parts else None,
            **{f"diagnostics[{name!r}]": values for name, values in self.diagnostics.items()},
        }
        for name, values in named.items():
            if values is not None and tuple(values.shape[:1]) != (n_rows,):
                raise ExplanationError(f"{name} has shape {tuple(values.shape)}, but the target has {n_rows} rows.")
        if self.examples and len(self.examples) != n_rows:
            raise ExplanationError(f"There are examples for {len(self.examples)} rows, but the target has {n_rows}.")
        if self.heard is not None:
            _check_map(self.heard, "waveform", "heard sound")
