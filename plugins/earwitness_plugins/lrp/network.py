"""A network made ready for relevance propagation: a copy with batch norm folded, a rule for every weighted layer."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Composite as ZennitComposite

from earwitness.errors import ClassifierError, NotApplicableError, nearest
from earwitness.folding import TOLERANCE, prepared
from earwitness_plugins.lrp.composites import WEIGHTED, Composite
from earwitness_plugins.lrp.folding import fold_by_order_of_execution
from earwitness_plugins.lrp.hook import RuleHook, used_twice
from earwitness_plugins.lrp.ledger import Ledger
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.operations import Operation, Operations
from earwitness_plugins.lrp.rules import Rule


@dataclass(frozen=True, eq=False)
class RuledNetwork:
    """A copy of a network and the rule of each of its weighted layers.

    Attributes
    ----------
    network : nn.Module
    rules : dict of str to Rule
        By dotted name, in the order in which the layers run.
    operations : tuple of Operation
        See :class:`Inspection`.
    numerics : Numerics
    last_bias : Tensor (C,) or None
        That of the layer whose outputs are the logits; None if there is none, or they are not a layer's outputs.
    shortcuts : bool
        Whether rules take their shortcut where it is valid; the result is the same.
    """

    network: nn.Module
    rules: Mapping[str, Rule]
    operations: tuple[Operation, ...]
    numerics: Numerics
    last_bias: Tensor | None = None
    shortcuts: bool = True

    @classmethod
    def of(
        cls, network: nn.Module, probe: Tensor, composite: Composite, numerics: Numerics, *, name: str = "the network"
    ) -> RuledNetwork:
        """Copy, unwrap, fold, look (see :class:`Inspection`) and assign the rules.

        Parameters
        ----------
        network : nn.Module
            In evaluation mode; left as it is.
        probe : Tensor (N, ...)
            An input, to see what runs.
        composite : Composite
        numerics : Numerics
        name : str
            For errors.

        Raises
        ------
        NotApplicableError
            The network does something that LRP has no rule for: all of it is named.
        ConfigurationError
            The composite names a layer that does not exist, or leaves one without a rule.
        """
        found = Inspection.of(network, probe, name=name)
        if found.refusals:
            listed = "; ".join(found.refusals)
            raise NotApplicableError(f"LRP does not handle {name}: {listed}. Use another method for this classifier.")
        return cls(found.network, composite.assign(found.weighted), found.operations, numerics, found.last_bias)

    @contextmanager
    def run(self, inputs: Tensor, *, layer: str | None = None, ledger: Ledger | None = None) -> Iterator[Run]:
        """One forward pass under the rules; gradients taken while the context is open are relevances.

        Parameters
        ----------
        inputs : Tensor (N, ...)
            A signal: requires a gradient, or depends on what does.
        layer : str, optional
            Dotted name of a module whose output is wanted, too.
        ledger : Ledger, optional

        Yields
        ------
        Run

        Raises
        ------
        NotApplicableError
            The network does something here that it did not do on the probe, and that has no rule.
        ClassifierError
            There is no such layer, it does not run, runs twice, or returns something else than a tensor.
        """
        hooks = {
            name: RuleHook(
                name, rule, self.numerics, ledger=ledger, shortcuts=self.shortcuts, repeated=layer is not None
            )
            for name, rule in self.rules.items()
        }
        composite = ZennitComposite(module_map=lambda _context, name, _module: hooks.get(name))
        tap = _Tap(self.network, layer)
        with composite.context(self.network), _Places(self.network) as places:
            operations = Operations(self.numerics, places.outside_of(hooks), ledger)
            with torch.inference_mode(False), torch.enable_grad(), tap, operations:
                outputs = self.network(inputs)
            if operations.refused:
                listed = "; ".join(dict.fromkeys(map(str, operations.refused)))
                raise NotApplicableError(f"LRP does not handle what the network does with this clip: {listed}.")
            yield Run(outputs, tap.output)


@dataclass(frozen=True, eq=False)
class Run:
    """A forward pass under the rules.

    Attributes
    ----------
    outputs : Tensor (N, C)
    hidden : Tensor (N, ...) or None
        The output of the layer that was asked for.
    """

    outputs: Tensor
    hidden: Tensor | None


@dataclass(frozen=True, eq=False)
class Inspection:
    """What a forward pass shows.

    Attributes
    ----------
    network : nn.Module
        A copy, unwrapped, with batch norm folded where that changes nothing, and channels last in memory.
    operations : tuple of Operation
        What happens to a signal, in order, the weighted layers included.
    refusals : tuple of str
        All that LRP does not handle, each with its reason.
    last_bias : Tensor (C,) or None
        See :class:`RuledNetwork`.
    """

    network: nn.Module
    operations: tuple[Operation, ...]
    refusals: tuple[str, ...]
    last_bias: Tensor | None

    @property
    def weighted(self) -> dict[str, nn.Module]:
        """The layers that need a rule, by name, in the order in which they run."""
        names = dict.fromkeys(operation.name for operation in self.operations if operation.treatment == "rule")
        return {name: self.network.get_submodule(name) for name in names}

    @classmethod
    def of(cls, network: nn.Module, probe: Tensor, *, name: str = "the network") -> Inspection:
        """Copy, unwrap, fold and look.

        Parameters
        ----------
        network : nn.Module
            In evaluation mode; left as it is.
        probe : Tensor (N, ...)
            An input, to see what runs.
        name : str
            For errors.

        Raises
        ------
        NotApplicableError
            The network has scripted modules.
        """
        copied = _own_copy(network, name)
        with torch.no_grad():
            expected = copied(probe.clone())
        folded = _channels_last(fold_by_order_of_execution(prepared(copied, probe), probe), probe)
        layers = {layer: module for layer, module in folded.named_modules() if isinstance(module, WEIGHTED)}
        seen, outputs, last = _watched(folded, probe, layers)
        runs = Counter(operation.name for operation in seen if operation.treatment == "rule")
        refusals = [used_twice(layer, layers[layer]) for layer, count in runs.items() if count > 1]
        refusals += [reason for layer in runs if (reason := _unusable(layer, layers[layer]))]
        refusals += [f"{what}: {what.treatment[9:]}" for what in seen if what.is_refused]
        refusals += _custom_functions(outputs)
        if not runs:
            refusals.append("no layer with weights depends on the input")
        if not _alike(outputs.detach(), expected):
            refusals.append("it changes tensors in place and goes on with another name for them")
        return cls(folded, tuple(seen), tuple(dict.fromkeys(refusals)), getattr(last, "bias", None))


def _watched(
    network: nn.Module, probe: Tensor, layers: Mapping[str, nn.Module]
) -> tuple[list[Operation], Tensor, nn.Module | None]:
    """What happens in a pass; the logits; and the layer whose output they are, if there is one."""
    made: list[tuple[Tensor, nn.Module]] = []
    handles = []
    with torch.inference_mode(False), torch.enable_grad(), _Places(network) as places:
        operations = Operations(Numerics(1e-6, False), places.outside_of(layers))

        def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].requires_grad:
                operations.seen.append(Operation(f"{name} ({type(module).__name__})", name, "rule"))

        for name, layer in layers.items():
            handles.append(layer.register_forward_pre_hook(partial(note, name)))
            handles.append(layer.register_forward_hook(lambda module, _inputs, output: made.append((output, module))))
        try:
            with operations:
                outputs = network(probe.detach().clone().requires_grad_())
        finally:
            for handle in handles:
                handle.remove()
    return operations.seen, outputs, next((module for output, module in made if output is outputs), None)


class _Places:
    """Knows which module runs, while it is entered."""

    def __init__(self, network: nn.Module) -> None:
        self._modules = dict(network.named_modules())
        self._stack: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> _Places:
        for name, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(lambda *_, name=name: self._stack.append(name)))
            self._handles.append(module.register_forward_hook(lambda *_: self._leave()))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _leave(self) -> None:
        self._stack.pop()

    def outside_of(self, layers: Mapping[str, object]) -> Callable[[], str | None]:
        """Name and type of the module that runs, or None in one of these layers."""

        def where() -> str | None:
            name = self._stack[-1] if self._stack else ""
            if name in layers:
                return None
            kind = type(self._modules[name]).__name__
            return f"{name} ({kind})" if name else kind

        return where


class _Tap:
    """Keeps the output of one layer, or of none, while it is entered; what follows cannot change it in place."""

    def __init__(self, network: nn.Module, layer: str | None) -> None:
        self.output: Tensor | None = None
        self._layer = layer
        modules = dict(network.named_modules(remove_duplicate=False))
        if layer is not None and (layer not in modules or not layer):
            raise ClassifierError(f"There is no layer {layer!r}. {nearest(layer, [name for name in modules if name])}")
        self._module = None if layer is None else modules[layer]
        self._handle: Any = None

    def __enter__(self) -> _Tap:
        if self._module is not None:
            self._handle = self._module.register_forward_hook(self._keep)
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()
        if kind is None and self._module is not None and self.output is None:
            raise ClassifierError(f"The layer {self._layer!r} does not run in a forward pass. Name another.")

    def _keep(self, _module: nn.Module, _inputs: object, output: object) -> Tensor:
        if not isinstance(output, Tensor) or not output.requires_grad:
            given = "does not depend on the input" if isinstance(output, Tensor) else f"is a {type(output).__name__}"
            raise ClassifierError(f"The output of layer {self._layer!r} {given}. Name another layer.")
        if self.output is not None:
            raise ClassifierError(f"The layer {self._layer!r} runs more than once in a forward pass. Name another.")
        self.output = output.clone()
        return self.output


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile`` and of data-parallel wrappers.

    Their layers have other names, so that rules by name would meet nothing and the result be the plain gradient.
    """
    while True:
        inner = getattr(network, "_orig_mod", None)
        if inner is None and isinstance(network, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = network.module
        if not isinstance(inner, nn.Module):
            return network
        network = inner


def _own_copy(network: nn.Module, name: str) -> nn.Module:
    inside = unwrapped(network)
    scripted = [n or type(m).__name__ for n, m in inside.named_modules() if isinstance(m, torch.jit.ScriptModule)]
    if scripted:
        raise NotApplicableError(f"LRP cannot look into the scripted modules of {name}: {', '.join(scripted[:5])}.")
    copied = copy.deepcopy(inside).eval().requires_grad_(False)
    for parent in list(copied.modules()):
        parent._compiled_call_impl = None  # `module.compile()`
        for child_name, child in list(parent.named_children()):
            setattr(parent, child_name, unwrapped(child))
    return copied


def _channels_last(network: nn.Module, probe: Tensor) -> nn.Module:
    """The same network, its own copy, with its channels last in memory where it runs like that: on a CPU, max pooling
    takes a fifth of the time, and convolutions three quarters."""
    if any(parameter.ndim > 4 for parameter in network.parameters()):  # of three dimensions and more
        return network
    several = torch.cat([probe, probe])  # some views are possible for a single row only
    try:
        with torch.no_grad():
            expected = network(several.clone())
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            same = _alike(network(several.clone()), expected)
    except RuntimeError:  # `.view` wants contiguous maps
        same = False
    return network if same else network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _unusable(name: str, module: nn.Module) -> str:
    """Why a weighted layer cannot have a rule, or an empty text."""
    kind = next(kind for kind in WEIGHTED if isinstance(module, kind))
    if type(module).forward is not kind.forward or "forward" in vars(module):
        return f"{name!r} ({type(module).__name__}) computes something else than {kind.__name__}"
    if "weight" not in module._parameters:
        return (
            f"the weight of {name!r} ({type(module).__name__}) is no plain parameter; if it is computed in each pass, "
            "torch.nn.utils.parametrize.remove_parametrizations leaves the result in its place"
        )
    return ""


def _custom_functions(outputs: Tensor) -> list[str]:
    """Functions with a gradient of their own, which torch does not let us see."""
    waiting: list[Any] = [outputs.grad_fn]
    known: set[Any] = set()
    found = []
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        name = str(node.name())
        if isinstance(node, torch.autograd.function.BackwardCFunction) and name != "_PassBackward":
            found.append(f"{name.removesuffix('Backward')}, an autograd function of its own")
        waiting += [function for function, _ in node.next_functions]
    return found


def _alike(outputs: Tensor, expected: Tensor) -> bool:
    if outputs.shape != expected.shape:
        return False
    return bool((outputs - expected).abs().max() <= 2 * TOLERANCE * expected.abs().max())
