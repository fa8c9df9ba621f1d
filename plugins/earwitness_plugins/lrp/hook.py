"""A rule at work on one layer: Zennit's hook, its shortcut where that is valid, and the layer's line in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook, ParamMod

from earwitness.errors import NotApplicableError
from earwitness_plugins.lrp.ledger import Ledger, Line, total
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.operations import cells_of_signals
from earwitness_plugins.lrp.rules import Rule, describe
from earwitness_plugins.lrp.shortcuts import Branches, Shortcut


class RuleHook(Hook):  # type: ignore[misc]
    """Passes relevance through one layer by a rule, in one forward pass and any number of backward passes.

    Parameters
    ----------
    name : str
        Of the layer.
    rule : Rule
    numerics : Numerics
    ledger : Ledger, optional
        Where to note what happened to the relevance, in each backward pass.
    shortcuts : bool
        Whether to use the rule's shortcut where it is valid.
    repeated : bool
        Whether relevance will come down more than once: then more of the first pass is kept.
    """

    def __init__(
        self,
        name: str,
        rule: Rule,
        numerics: Numerics,
        *,
        ledger: Ledger | None = None,
        shortcuts: bool = True,
        repeated: bool = False,
    ) -> None:
        super().__init__()
        self._name, self._rule, self._numerics = name, rule, numerics
        self._ledger = ledger
        self._full = rule.hook(numerics)
        # A rule that puts something in the place of the input may do so only where there is an input.
        self._full.input_modifiers = [self._kept_to_signals(modify) for modify in self._full.input_modifiers]
        self._shortcut = rule.shortcut(numerics) if shortcuts else None
        if self._shortcut is not None and isinstance(self._shortcut.hook, Branches):
            self._shortcut.hook.repeated = repeated
        self._shortened = False

    def copy(self) -> RuleHook:
        """Itself: it belongs to one layer already."""
        return self

    def pre_forward(self, module: nn.Module, input: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take the layer out of the graph: its own gradient, which nobody needs, would cost as much as a rule."""
        signal = input[0]
        if not signal.requires_grad:
            return input
        self.stored_tensors["signal"] = signal
        origin = cells_of_signals(signal)
        if origin is not None:
            self.stored_tensors["origin"] = origin
        return (signal.detach(), *input[1:])

    def post_forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Put the rule in its place."""
        signal = self.stored_tensors.pop("signal", None)
        if signal is None:
            return output

        def rule(relevance: Tensor) -> Tensor:
            return self.backward(module, (signal,), (relevance,))[0]  # type: ignore[no-any-return]

        ruled: Tensor = _Ruled.apply(signal, output, rule)  # type: ignore[no-untyped-call]
        return ruled

    def forward(self, module: nn.Module, input: tuple[Tensor, ...], output: Tensor) -> None:
        """Keep what the backward pass needs.

        Raises
        ------
        NotApplicableError
            The layer runs for a second time in this pass.
        """
        if "input" in self.stored_tensors:
            raise NotApplicableError(used_twice(self._name, module))
        self.stored_tensors["input"] = input
        self._shortened = self._shortcut is not None and self._holds(self._shortcut, input[0])
        if self._shortened and self._shortcut is not None and self._shortcut.positive_outputs:
            self.stored_tensors["not_positive"] = output.detach() <= 0

    def backward(self, module: nn.Module, grad_input: tuple[Any, ...], grad_output: tuple[Tensor, ...]) -> Any:
        """Relevance of the output -> relevance of the input."""
        relevance = grad_output[0]
        hook = self._full
        if self._shortcut is not None and self._shortened and not self._comes_from_below(relevance):
            hook = self._shortcut.hook
        hook.stored_tensors["input"] = self.stored_tensors["input"]
        passed = hook.backward(module, grad_input, grad_output)
        origin = self.stored_tensors.get("origin")
        if origin is not None:
            passed = tuple(None if part is None else part * origin for part in passed)
        if self._ledger is not None:
            self._ledger.lines.append(self._line(module, relevance, passed[0]))
        return passed

    def remove(self) -> None:
        """Forget the layer's input."""
        super().remove()
        self._full.stored_tensors.clear()
        if self._shortcut is not None:
            self._shortcut.hook.stored_tensors.clear()

    def _kept_to_signals(self, modify: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def modified(x: Tensor) -> Tensor:
            origin = self.stored_tensors.get("origin")
            return modify(x) if origin is None else modify(x) * origin

        return modified

    def _holds(self, shortcut: Shortcut, x: Tensor) -> bool:
        if shortcut.unpadded and "origin" in self.stored_tensors:
            return False
        return not shortcut.non_negative or bool(x.amin() >= 0)

    def _comes_from_below(self, relevance: Tensor) -> bool:
        """Whether relevance arrives at an output <= 0."""
        not_positive = self.stored_tensors.get("not_positive")
        return not_positive is not None and bool((relevance != 0).logical_and_(not_positive).any())

    def _line(self, module: nn.Module, relevance: Tensor, passed: Tensor) -> Line:
        x = self.stored_tensors["input"][0].detach()
        outputs = _branch_outputs(self._full, module, x)
        at_zero = _branch_outputs(self._full, module, x, zero_input=True)
        found = self._full.gradient_mapper(relevance, outputs)
        weighted = [found] if isinstance(found, Tensor) else found
        # A bias is the weight of an input that is always 1.
        ones = [torch.ones((), dtype=relevance.dtype, device=relevance.device) for _ in outputs]
        bias = self._full.reducer(ones, [total(z * g) for z, g in zip(at_zero, weighted, strict=True)])
        stabiliser, covered = torch.zeros_like(relevance), torch.zeros_like(relevance)
        numerics = self._rule_numerics()
        for coefficient, numerator in self._rule.shares(outputs):
            offset = numerics.offset(numerator)
            stabiliser = stabiliser + coefficient * relevance * offset / (numerator + offset)
            covered = covered + coefficient
        # Where a rule has no branch for an output (gamma at exactly 0), relevance ends as it would in a division by 0.
        stabiliser = stabiliser + relevance * (1 - covered)
        return Line(self._name, describe(self._rule), total(relevance), total(passed), bias, total(stabiliser))

    def _rule_numerics(self) -> Numerics:
        own = getattr(self._rule, "epsilon", None)
        return self._numerics if own is None else Numerics(own, self._numerics.zero_bias)


class _Ruled(torch.autograd.Function):
    """Has the layer's output; its backward pass is the rule."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, output: Tensor, rule: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.rule = rule
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None, None]:
        return ctx.rule(relevance[0]), None, None


def used_twice(name: str, module: nn.Module) -> str:
    """Why a weighted layer that runs more than once is refused."""
    return (
        f"{name!r} ({type(module).__name__}) runs more than once in a forward pass; LRP needs a layer of its own for "
        "each place (the weights may be shared)."
    )


def _branch_outputs(hook: BasicHook, module: nn.Module, x: Tensor, *, zero_input: bool = False) -> list[Tensor]:
    outputs = []
    with torch.no_grad():
        branches = zip(hook.input_modifiers, hook.param_modifiers, hook.output_modifiers, strict=True)
        for modify_input, modify_parameters, modify_output in branches:
            given = modify_input(x.clone())
            with ParamMod.ensure(modify_parameters)(module) as modified:
                outputs.append(modify_output(modified.forward(torch.zeros_like(given) if zero_input else given)))
    return outputs
