"""Explanations as tensors in float16: what is kept, and what is scored.

Fresh and cached explanations take the same way through half precision, so a score never depends on whether a map came
from the cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from earwitness.explanation import Explanation, Mask, Relevance


def pack(explanation: Explanation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (maps in float16, scaled to their row's peak) and what else is needed to rebuild the explanation.

    Parts and examples are not kept: they are made again when a metric asks for them.
    """
    tensors = {"target": explanation.target.cpu()}
    document: dict[str, Any] = {}
    if explanation.relevance is not None:
        values = explanation.relevance.values.detach().double().cpu()
        peak = values.abs().flatten(1).amax(1)
        divisor = torch.where(peak > 0, peak, 1.0)
        tensors["relevance"] = (values / _per_row(divisor, values)).half()
        tensors["relevance_peak"] = peak
        document["relevance"] = {"domain": explanation.relevance.domain}
    if explanation.mask is not None:
        tensors["mask"] = explanation.mask.values.detach().clamp(0, 1).half().cpu()
        document["mask"] = {"domain": explanation.mask.domain, "scale": explanation.mask.scale}
    if explanation.heard is not None:
        tensors["heard"] = explanation.heard.detach().float().cpu()
    if explanation.surrogate_logits is not None:
        tensors["surrogate_logits"] = explanation.surrogate_logits.detach().float().cpu()
    for name, values in explanation.diagnostics.items():
        tensors[f"diagnostics.{name}"] = values.detach().float().cpu()
    return tensors, document


def unpack(
    tensors: Mapping[str, Tensor], document: Mapping[str, Any], device: torch.device | str = "cpu"
) -> Explanation:
    """The inverse of :func:`pack`, up to half precision."""
    held = {name: tensor.to(device) for name, tensor in tensors.items()}
    relevance = mask = None
    if "relevance" in held:
        values = held["relevance"].double()
        scaled = values * _per_row(held["relevance_peak"], values)
        highest = torch.finfo(torch.float32).max
        relevance = Relevance(scaled.clamp(-highest, highest).float(), **document["relevance"])
    if "mask" in held:
        mask = Mask(held["mask"].float(), **document["mask"])
    prefix = "diagnostics."
    return Explanation(
        held["target"],
        relevance=relevance,
        mask=mask,
        heard=held.get("heard"),
        surrogate_logits=held.get("surrogate_logits"),
        diagnostics={name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)},
    )


def shuffled(explanation: Explanation, rows: Tensor) -> Explanation:
    """Each row with the maps of another one: a control that keeps a method's shapes and loses its point.

    Parameters
    ----------
    explanation : Explanation
        B rows.
    rows : Tensor (B,), int64
        Whose maps each row gets. Targets stay; diagnostics, which belong to the maps' own clips, are dropped.
    """
    relevance, mask, heard = explanation.relevance, explanation.mask, explanation.heard
    return Explanation(
        explanation.target,
        relevance=None if relevance is None else Relevance(relevance.values[rows], relevance.domain),
        mask=None if mask is None else Mask(mask.values[rows], mask.domain, mask.scale),
        heard=None if heard is None else heard[rows],
    )


def degenerate_rows(explanation: Explanation) -> list[bool]:
    """Which rows point nowhere: a constant mask, relevance that is constant or nowhere positive, or silence."""
    if explanation.mask is not None:
        flat = explanation.mask.values.flatten(1)
        return (flat.amax(1) - flat.amin(1) < 1e-6).tolist()
    if explanation.relevance is not None:
        flat = explanation.relevance.values.flatten(1)
        constant = flat.amax(1) - flat.amin(1) <= 1e-6 * flat.abs().amax(1)
        return (constant | (flat.amax(1) <= 0)).tolist()
    assert explanation.heard is not None
    return (explanation.heard.abs().amax(1) == 0).tolist()


def _per_row(values: Tensor, like: Tensor) -> Tensor:
    """(B,) in a shape that broadcasts against (B, ...)."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
