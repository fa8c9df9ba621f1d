"""Explanations as tensors in float16: what is kept, and what is scored.

Fresh and cached explanations take the same way through half precision, so a score never depends on whether a map came
from the cache. Of parts, whose maps would take gigabytes, names, weights and selection are kept; their maps come from
the method at work, now or again, and take that way too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Mask, Parts, Relevance

PartMap = Callable[[int], Relevance | Mask]
"""The map of part k for the whole batch; see :class:`earwitness.explanation.Parts`."""


def pack(explanation: Explanation) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors (maps in float16, scaled to their row's peak) and what else is needed to rebuild the explanation.

    The maps of parts, and examples, are not kept: they are made again when a metric asks for them.
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
    if explanation.parts is not None:
        tensors["parts.weights"] = explanation.parts.weights.detach().float().cpu()
        tensors["parts.selected"] = explanation.parts.selected.cpu()
        document["parts"] = {"names": list(explanation.parts.names)}
    for name, values in explanation.diagnostics.items():
        tensors[f"diagnostics.{name}"] = values.detach().float().cpu()
    # As they are read from a file: sums over another layout in memory have other last bits.
    return {name: values.contiguous() for name, values in tensors.items()}, document


def unpack(
    tensors: Mapping[str, Tensor],
    document: Mapping[str, Any],
    device: torch.device | str = "cpu",
    *,
    part: PartMap | None = None,
) -> Explanation:
    """The inverse of :func:`pack`, up to half precision. Without ``part``, which makes their maps, no parts."""
    held = {name: tensor.to(device) for name, tensor in tensors.items()}
    relevance = mask = parts = None
    if "relevance" in held:
        values = held["relevance"].double()
        scaled = values * _per_row(held["relevance_peak"], values)
        highest = torch.finfo(torch.float32).max
        relevance = Relevance(scaled.clamp(-highest, highest).float(), **document["relevance"])
    if "mask" in held:
        mask = Mask(held["mask"].float(), **document["mask"])
    if "parts" in document and part is not None:
        names = tuple(document["parts"]["names"])
        parts = Parts(names, held["parts.weights"], held["parts.selected"], lambda number: _halved_map(part(number)))
    prefix = "diagnostics."
    return Explanation(
        held["target"],
        relevance=relevance,
        mask=mask,
        heard=held.get("heard"),
        parts=parts,
        surrogate_logits=held.get("surrogate_logits"),
        diagnostics={name.removeprefix(prefix): held[name] for name in held if name.startswith(prefix)},
    )


def halved(explanation: Explanation, device: torch.device | str = "cpu") -> Explanation:
    """An explanation as it will be read from the cache, with its parts at work."""
    part = None if explanation.parts is None else explanation.parts.map
    return unpack(*pack(explanation), device, part=part)


def _halved_map(one: Relevance | Mask) -> Relevance | Mask:
    """A map as it will be read from the cache: a single part is the whole, to the last bit."""
    target = torch.zeros(len(one.values), dtype=torch.int64)
    if isinstance(one, Mask):
        found = unpack(*pack(Explanation(target, mask=one)), one.values.device)
        assert found.mask is not None
        return found.mask
    found = unpack(*pack(Explanation(target, relevance=one)), one.values.device)
    assert found.relevance is not None
    return found.relevance


def shuffled(explanation: Explanation, rows: Tensor) -> Explanation:
    """Each row with the maps of another one: a control that keeps a method's shapes and loses its point.

    Parameters
    ----------
    explanation : Explanation
        B rows.
    rows : Tensor (B,), int64
        Whose maps and parts each row gets. Targets stay; diagnostics, which belong to the maps' own clips, are dropped.
    """
    others = taken(explanation, rows)
    return replace(others, target=explanation.target, surrogate_logits=None, diagnostics={})


def taken(explanation: Explanation, rows: Tensor) -> Explanation:
    """Copies of some rows of an explanation, with all that is theirs but examples: ``rows`` (R,), int64."""
    return _each(explanation, lambda values: values[rows])


def moved(explanation: Explanation, device: torch.device | str) -> Explanation:
    """An explanation on another device, but for examples."""
    return _each(explanation, lambda values: values.to(device))


def _each(explanation: Explanation, change: Callable[[Tensor], Tensor]) -> Explanation:
    """An explanation with all its tensors changed, those of its parts when they are asked for."""
    relevance, mask, heard, parts = explanation.relevance, explanation.mask, explanation.heard, explanation.parts
    surrogate_logits = explanation.surrogate_logits
    return Explanation(
        change(explanation.target),
        relevance=None if relevance is None else replace(relevance, values=change(relevance.values)),
        mask=None if mask is None else replace(mask, values=change(mask.values)),
        heard=None if heard is None else change(heard),
        parts=None if parts is None else _each_part(parts, change),
        surrogate_logits=None if surrogate_logits is None else change(surrogate_logits),
        diagnostics={name: change(values) for name, values in explanation.diagnostics.items()},
    )


def _each_part(parts: Parts, change: Callable[[Tensor], Tensor]) -> Parts:
    def part(number: int) -> Relevance | Mask:
        one = parts.map(number)
        return replace(one, values=change(one.values))

    return Parts(parts.names, change(parts.weights), change(parts.selected), part)


def joined(explanations: Sequence[Explanation]) -> Explanation:
    """The rows of several explanations by one method as one; what is not in all of them is left out.

    Raises
    ------
    ExplanationError
        Their maps, or their parts, are of different kinds.
    """
    if len(explanations) == 1:
        return explanations[0]
    first = explanations[0]

    def together(get: Callable[[Explanation], Tensor | None]) -> Tensor | None:
        values = [value for one in explanations if (value := get(one)) is not None]
        return torch.cat(values) if len(values) == len(explanations) else None

    names = [name for name in first.diagnostics if all(name in one.diagnostics for one in explanations)]
    return Explanation(
        torch.cat([one.target for one in explanations]),
        relevance=_joined_maps([one.relevance for one in explanations]),
        mask=_joined_maps([one.mask for one in explanations]),
        heard=together(lambda one: one.heard),
        parts=_joined_parts([one.parts for one in explanations]),
        surrogate_logits=together(lambda one: one.surrogate_logits),
        diagnostics={name: torch.cat([one.diagnostics[name] for one in explanations]) for name in names},
    )


def _joined_maps(maps: Sequence[Any]) -> Any:
    """Maps of one kind, one after another; None where one is missing."""
    there = [one for one in maps if one is not None]
    if len(there) < len(maps):
        return None
    kinds = {(type(one), *((f.name, getattr(one, f.name)) for f in fields(one) if f.name != "values")) for one in there}
    if len(kinds) > 1 or len({one.values.shape[1:] for one in there}) > 1:
        raise ExplanationError("explain() answers with other kinds of maps when it is asked for fewer rows.")
    return replace(there[0], values=torch.cat([one.values for one in there]))


def _joined_parts(parts: Sequence[Parts | None]) -> Parts | None:
    there = [one for one in parts if one is not None]
    if len(there) < len(parts):
        return None
    if len({one.names for one in there}) > 1:
        raise ExplanationError("explain() answers with other parts when it is asked for fewer rows.")

    def part(number: int) -> Relevance | Mask:
        whole: Relevance | Mask = _joined_maps([one.map(number) for one in there])
        return whole

    weights, selected = (torch.cat(values) for values in zip(*((p.weights, p.selected) for p in there), strict=True))
    return Parts(there[0].names, weights, selected, part)


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
