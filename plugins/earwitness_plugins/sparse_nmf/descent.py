"""The alternation of Sparse-NMF over blocks of frames, in memory or elsewhere, with momentum where that helps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, Self

import torch
from torch import Tensor

from earwitness_plugins.sparse_nmf.updates import Method, Sums, normalised, project, rescale

BLOCK_FRAMES = 8192
"""Frames at a time: activations of 100 patterns then stay in a processor's cache while they are swept over."""

_PLAIN_ITERATIONS = 1
_FIRST_MOMENTUM, _GROWTH, _CUT, _CAP_GROWTH = 0.5, 1.05, 1.5, 1.01
"""Momentum grows while the objective falls, and is cut when it rises: Ang and Gillis, "Accelerating nonnegative matrix
factorization algorithms using extrapolation", Neural Computation 2019, algorithm 3."""

SLOTS = 3
"""Versions of the activations that a shelf holds: the previous, the current and the next ones."""


class Shelf(Protocol):
    """Where activations are between two passes: for each block of frames, ``SLOTS`` versions of (R, K, n)."""

    def read(self, number: int, slots: Tensor) -> Tensor:
        """Activations (R, K, n) of a block, in the version that ``slots`` (R,) says for each restart."""
        ...

    def write(self, number: int, slots: Tensor, activations: Tensor) -> None:
        """Put (R, K, n) there."""
        ...


class MemoryShelf:
    """A :class:`Shelf` in memory, with the start of each block in the first slot."""

    def __init__(self, start: Iterable[Tensor]) -> None:
        self.blocks = [torch.stack([block] + [torch.zeros_like(block)] * (SLOTS - 1)) for block in start]

    def read(self, number: int, slots: Tensor) -> Tensor:
        block = self.blocks[number]
        return block[slots, torch.arange(len(slots), device=slots.device)]

    def write(self, number: int, slots: Tensor, activations: Tensor) -> None:
        self.blocks[number][slots, torch.arange(len(slots), device=slots.device)] = activations


@dataclass(frozen=True, eq=False)
class State:
    """Where a descent of R restarts stands: all that the next iteration depends on, but for the shelf.

    Attributes
    ----------
    patterns, before : Tensor (R, K, F)
        Wᵀ, and that of one iteration ago.
    objectives : Tensor (R, iterations), float64
        After each iteration.
    watched : Tensor (R, iterations), float64
        What ends the descent; see :meth:`Method.watched`.
    momentum, cap : Tensor (R,), float64
        Of the next iteration that has any; and its bound, 1 at first.
    undone : Tensor (R, iterations), bool
        Whether an iteration was undone because the objective rose. The one after it has no momentum.
    slots : Tensor (R, 3), int64
        Where on the shelf the previous, the current and the next activations are.
    """

    patterns: Tensor
    before: Tensor
    objectives: Tensor
    watched: Tensor
    momentum: Tensor
    cap: Tensor
    undone: Tensor
    slots: Tensor

    @classmethod
    def start(cls, patterns: Tensor) -> Self:
        """Before the first iteration; the activations are in slot 0."""
        ones = torch.ones(len(patterns), dtype=torch.float64, device=patterns.device)
        nothing = ones[:, None][:, :0]
        slots = torch.tensor([2, 0, 1], device=patterns.device).repeat(len(patterns), 1)
        return cls(patterns, patterns, nothing, nothing, _FIRST_MOMENTUM * ones, ones, nothing > 0, slots)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], device: torch.device | str) -> Self:
        """The inverse of :meth:`tensors`; KeyError where one is missing."""
        return cls(*(tensors[field.name].to(device) for field in fields(cls)))

    def tensors(self) -> dict[str, Tensor]:
        """By name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def iterations(self) -> int:
        """Done so far, those undone included."""
        return self.objectives.shape[1]

    @property
    def best(self) -> int:
        """The restart with the lowest objective."""
        return int(self.objectives[:, -1].argmin())

    def settled(self, method: Method, tolerance: float) -> bool:
        """Whether an iteration changed what is watched of a restart by less than this share of it; so for each restart.

        With momentum, two in a row: the objective stands still for a moment before it rises from too much of it.
        """
        before, now = self.watched[:, :-1], self.watched[:, 1:]
        still = ((now - before).abs() < tolerance * before) & ~self.undone[:, 1:]
        if method.extrapolates:
            still = still[:, 1:] & still[:, :-1]
        return bool(still.any(1).all())

    def push(self, method: Method) -> Tensor:
        """Momentum of the next iteration: Tensor (R,), float64."""
        if not method.extrapolates or self.iterations < _PLAIN_ITERATIONS:
            return torch.zeros_like(self.momentum)
        return torch.where(self.undone[:, -1], 0, self.momentum)

    def after(self, patterns: Tensor, objective: Tensor, watched: Tensor, push: Tensor) -> State:
        """One iteration later: taken where the objective fell or there was no momentum to blame, else undone."""
        undone = torch.zeros_like(push, dtype=torch.bool)
        if self.iterations:
            undone = (objective > self.objectives[:, -1]) & (push > 0)
            objective = torch.where(undone, self.objectives[:, -1], objective)
            watched = torch.where(undone, self.watched[:, -1], watched)
        previous, current, following = self.slots.unbind(1)
        pushed = push > 0
        grown, raised = torch.minimum(self.momentum * _GROWTH, self.cap), (self.cap * _CAP_GROWTH).clamp_max(1)
        return State(
            patterns=torch.where(undone[:, None, None], self.patterns, patterns),
            before=torch.where(undone[:, None, None], self.before, self.patterns),
            objectives=torch.cat([self.objectives, objective[:, None]], dim=1),
            watched=torch.cat([self.watched, watched[:, None]], dim=1),
            momentum=torch.where(undone, self.momentum / _CUT, torch.where(pushed, grown, self.momentum)),
            cap=torch.where(undone, self.momentum, torch.where(pushed, raised, self.cap)),
            undone=torch.cat([self.undone, undone[:, None]], dim=1),
            slots=torch.where(undone[:, None], self.slots, torch.stack([current, following, previous], dim=1)),
        )


@dataclass(frozen=True)
class Rules:
    """How a descent goes, and when it ends.

    Attributes
    ----------
    method : Method
    sparsity : float
        mu.
    free : Tensor (K,), bool
        Patterns that may change.
    max_iterations : int
    tolerance : float
        See :meth:`State.settled`; 0 goes on to the last iteration.
    """

    method: Method
    sparsity: float
    free: Tensor
    max_iterations: int
    tolerance: float


def descend(
    blocks: Iterable[Tensor],
    energy: float,
    shelf: Shelf,
    state: State,
    rules: Rules,
    keep: Callable[[State], None] = lambda state: None,
) -> State:
    """Alternate until the objective settles.

    Parameters
    ----------
    blocks : iterable of Tensor (F, n)
        Iterated over once each iteration, in the same order.
    energy : float
        ½‖X‖² of all frames, those left out as inaudible too.
    shelf : Shelf
    state : State
        The start, or where an earlier descent was left.
    rules : Rules
    keep : callable
        Told each new state, before the shelf's previous activations are overwritten.
    """
    while state.iterations < rules.max_iterations and not state.settled(rules.method, rules.tolerance):
        push = state.push(rules.method)
        patterns = state.patterns
        if bool(push.any()):
            moved = _pushed(patterns, state.before, push)
            patterns = torch.where(rules.free[:, None], normalised(moved), patterns)
        sums = _pass(blocks, shelf, state, patterns, push, rules)
        patterns = rules.method.patterns(patterns, sums, rules.free)
        objective = sums.objective(patterns, energy, rules.sparsity)
        state = state.after(patterns, objective, rules.method.watched(objective, sums, rules.sparsity), push)
        keep(state)
    return state


def _pass(blocks: Iterable[Tensor], shelf: Shelf, state: State, patterns: Tensor, push: Tensor, rules: Rules) -> Sums:
    """One step of all activations, and what the step of the patterns needs of them."""
    previous, current, following = state.slots.unbind(1)
    pushes, scales = bool(push.any()), rules.method.screens and not state.iterations
    gram, sums = patterns @ patterns.mT, None
    for number, block in enumerate(blocks):
        projected, activations = project(patterns, block), shelf.read(number, current)
        if scales:
            activations = rescale(activations, projected, gram, rules.sparsity)
        if pushes:
            activations = _pushed(activations, shelf.read(number, previous), push)
        activations = rules.method.activations(activations, projected, gram, rules.sparsity)
        shelf.write(number, following, activations)
        own = Sums.of(block, activations)
        sums = own if sums is None else sums + own
    if sums is None:
        raise ValueError("There is no block of frames.")
    return sums


def _pushed(now: Tensor, before: Tensor, push: Tensor) -> Tensor:
    """Further along the last change: (R, ...), not negative."""
    return torch.lerp(before, now, (1 + push.to(now))[:, None, None]).clamp_min_(0)
