"""Everything a network does besides its weighted layers: what relevance does there, and what is refused by name.

Modules and functions alike end in calls of torch functions, and :class:`Operations` sees every one of them, so that a
residual ``+``, a ``mean`` over axes or an activation in ``forward`` is treated like its module.

============ ======================================================================== ==================================
treatment    of                                                                       relevance
============ ======================================================================== ==================================
moves        reshaping, indexing, padding, concatenation, dropout in evaluation mode  goes where the values come from
winner       max pooling, maxima                                                      goes to the largest value
passes       activations; batch norm that could not be folded; products with          is handed on unchanged
             constants
proportional sums of branches, average pooling, means, interpolation                  is split by share in the sum
gate         a product with the output of a sigmoid, as in squeeze-excite             goes to the gated signal alone
refused      everything else
============ ======================================================================== ==================================

A signal is a tensor that depends on the network's input, that is one that requires a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from earwitness_plugins.lrp.ledger import Ledger, Line, total
from earwitness_plugins.lrp.numerics import Numerics

_NAMES = {
    "moves": "view reshape view_as reshape_as flatten unflatten ravel permute transpose swapaxes movedim moveaxis t "
    "squeeze unsqueeze expand expand_as broadcast_to repeat tile split chunk tensor_split unbind __getitem__ "
    "select narrow index_select take_along_dim gather roll flip unfold contiguous clone to float double type type_as "
    "pixel_shuffle pixel_unshuffle channel_shuffle alias T mT",
    "dropout": "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout",
    "joins": "pad constant_pad_nd cat concat concatenate stack",
    "winner": "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices amax max maximum",
    "passes": "relu relu6 leaky_relu prelu elu selu celu gelu silu mish softplus hardtanh hardswish tanh clamp "
    "clamp_min clamp_max batch_norm",
    "squashes": "sigmoid hardsigmoid",
    "proportional": "mean sum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d "
    "adaptive_avg_pool3d interpolate",
    "adds": "add sub subtract rsub __rsub__ __radd__",
    "multiplies": "mul multiply div divide true_divide neg negative",
}
_KINDS = {name: kind for kind, names in _NAMES.items() for name in names.split()}


_Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Operation:
    """A torch function that met a signal outside of the weighted layers, or such a layer.

    Attributes
    ----------
    where : str
        Dotted name and type of the module that called it.
    name : str
        Of the function, or of the layer.
    treatment : str
        See the table above, and ``"rule"`` for a weighted layer; for ``"refused"`` with the reason.
    """

    where: str
    name: str
    treatment: str

    @property
    def is_refused(self) -> bool:
        """Whether there is no treatment for it."""
        return self.treatment.startswith("refused")

    def __str__(self) -> str:
        return f"{self.name} in {self.where}"


@dataclass(frozen=True)
class _Call:
    """A call of a torch function; ``key`` is its bare name. What works in place works on a copy instead, because the
    rules of other layers keep tensors that it would change."""

    function: Callable[..., Any]
    key: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    in_place: bool

    @classmethod
    def of(cls, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Call:
        name = _bare_name(function)
        underscored = name.endswith("_") and not name.endswith("__")
        in_place = underscored or bool(kwargs.get("inplace")) or any(value is True for value in args)
        return cls(function, name.rstrip("_") if underscored else name, args, kwargs, in_place)

    def __call__(self) -> Any:
        first, *others = self.args or (None,)
        if self.in_place and isinstance(first, Tensor):
            return self.function(first.clone(), *others, **self.kwargs)
        return self.function(*self.args, **self.kwargs)

    def detached(self) -> Any:
        with torch.no_grad():
            return self()

    def replacing(self, signals: _Change, constants: _Change = lambda constant: constant) -> _Call:
        """The same call with other tensors."""

        def change(tensor: Tensor) -> Tensor:
            return signals(tensor) if tensor.requires_grad else constants(tensor)

        args = tuple(_replaced(value, change) for value in self.args)
        return replace(self, args=args, kwargs={k: _replaced(v, change) for k, v in self.kwargs.items()})

    @property
    def signals(self) -> list[Tensor]:
        return list(_signals((self.args, self.kwargs)))


class Operations(TorchFunctionMode):
    """While it is entered, every torch function outside of the weighted layers is treated as in the table above.

    Parameters
    ----------
    numerics : Numerics
    where : callable
        Says which module runs: its name and type. None in a weighted layer, whose rule sees to everything.
    ledger : Ledger, optional

    Attributes
    ----------
    seen : list of Operation
        Every call with a signal, in order. The refused ones ran as they are, so the relevance behind them is wrong:
        look at :attr:`refused` before using it.
    """

    def __init__(self, numerics: Numerics, where: Callable[[], str | None], ledger: Ledger | None = None) -> None:
        super().__init__()
        self._numerics, self._where, self._ledger = numerics, where, ledger
        self.seen: list[Operation] = []

    @property
    def refused(self) -> list[Operation]:
        """The calls that have no treatment."""
        return [operation for operation in self.seen if operation.is_refused]

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch in place of ``func``."""
        where = self._where()
        if where is None:
            return func(*args, **(kwargs or {}))
        call = _Call.of(func, args, kwargs or {})
        signals = call.signals
        if not signals:
            return func(*args, **(kwargs or {}))
        result, treatment = self._treated(call, signals, where)
        if treatment:
            self.seen.append(Operation(where, call.key, treatment))
        return result

    def _treated(self, call: _Call, signals: list[Tensor], where: str) -> tuple[Any, str]:
        """The result, and what was done; an empty text for what does not concern the relevance."""
        reason, kind = _reason_against(call), _KINDS.get(call.key)
        if reason:
            return call(), f"refused: {reason}"
        match kind:
            case "moves" | "dropout":
                found = _marked_alike(call(), signals), "moves"
            case "joins":
                found = self._joined(call, where), "moves"
            case "winner" if not _has_constant(call, signals):
                found = call(), "winner"
            case "passes" | "winner":
                found = _pass(signals[0], call.detached()), "passes"
            case "squashes":
                found = _mark(_pass(signals[0], call.detached())), "passes"
            case "proportional":
                found = self._proportional(call, where), "proportional"
            case "adds":
                found = self._sum(call, signals, where)
            case "multiplies":
                found = _product(call, signals)
            case _:
                result = call()
                found = result, "refused: LRP has no rule for it" if next(_signals(result), None) is not None else ""
        return found

    def _joined(self, call: _Call, where: str) -> Tensor:
        """Signals together, perhaps with constants such as padding, whose relevance stays there, as a bias' share."""
        result: Tensor = call()
        origin = _origin(call)
        if origin is None:
            return result
        if bool((result.detach()[origin == 0] == 0).all()):
            # A rule that looks at the weights alone must not count padding as an input; see `cells_of_signals`.
            result._lrp_origin = origin  # type: ignore[attr-defined]
        if self._ledger is not None:
            lines, name = self._ledger.lines, f"{where}: {call.key}"

            def note(relevance: Tensor) -> None:
                inside, outside = total(relevance * origin), total(relevance * (1 - origin))
                lines.append(Line(name, "moves", total(relevance), inside, outside, torch.zeros_like(inside)))

            result.register_hook(note)  # type: ignore[no-untyped-call]
        return result

    def _sum(self, call: _Call, signals: list[Tensor], where: str) -> tuple[Any, str]:
        if len(signals) == 1 and self._numerics.zero_bias:
            return _pass(signals[0], call.detached()), "passes"
        return self._proportional(call, where), "proportional"

    def _proportional(self, call: _Call, where: str) -> Tensor:
        """Input times gradient over output: exact shares, because the function is linear in its signals."""
        numerics, ledger = self._numerics, self._ledger
        collected: list[Tensor] = []
        arrived: list[tuple[Tensor, Tensor]] = []

        def enter(signal: Tensor) -> Tensor:
            entered = signal.view_as(signal)
            entered.register_hook(lambda gradient: note(gradient * signal.detach()))  # type: ignore[no-untyped-call]
            return entered

        def note(relevance: Tensor) -> Tensor:
            if ledger is not None:
                collected.append(total(relevance))
                if len(collected) == n_signals:
                    ledger.lines.append(self._line(f"{where}: {call.key}", arrived[0], collected, constant))
            return relevance

        n_signals = len(call.signals)
        result: Tensor = call.replacing(enter)()
        constant = call.replacing(torch.zeros_like).detached() if ledger is not None else None
        denominator = numerics.stabilised(result.detach())

        def leave(relevance: Tensor) -> Tensor:
            if ledger is not None:
                collected.clear()
                arrived[:] = [(relevance, denominator)]
            return relevance / denominator

        left = result.view_as(result)
        left.register_hook(leave)  # type: ignore[no-untyped-call]
        return left

    def _line(
        self, name: str, arrived: tuple[Tensor, Tensor], collected: Sequence[Tensor], constant: Tensor | None
    ) -> Line:
        relevance, denominator = arrived
        share = relevance / denominator
        bias = total(share * constant) if constant is not None else torch.zeros_like(total(relevance))
        # Stabilising moves away from 0, so the sign of the sum is that of the denominator.
        stabiliser = total(share * denominator.sign() * self._numerics.stabiliser)
        return Line(name, "proportional", total(relevance), torch.stack(list(collected)).sum(0), bias, stabiliser)


class _Pass(torch.autograd.Function):
    """Has the values of its second argument, and hands relevance to its first."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, values: Tensor) -> Tensor:
        return values.view_as(values)

    @staticmethod
    def backward(ctx: Any, *relevance: Tensor) -> tuple[Tensor, None]:
        return relevance[0], None


def _pass(signal: Tensor, values: Tensor) -> Tensor:
    passed: Tensor = _Pass.apply(signal.broadcast_to(values.shape), values)  # type: ignore[no-untyped-call]
    return passed


def _product(call: _Call, signals: list[Tensor]) -> tuple[Any, str]:
    if len(signals) == 1:
        if call.key in ("div", "divide", "true_divide") and call.args[0] is not signals[0]:
            return call(), "refused: LRP has no rule for a quotient by a signal"
        return _pass(signals[0], call.detached()), "passes"
    gates = [_is_gate(signal) for signal in signals]
    if len(signals) != 2 or sum(gates) != 1 or call.key not in ("mul", "multiply"):
        return call(), (
            "refused: LRP has a rule for a product of two signals only where one of them is a gate, the output of a "
            "sigmoid"
        )
    return _pass(signals[gates.index(False)], call.detached()), "gate"


def _reason_against(call: _Call) -> str:
    """Why a call is refused although its function has a treatment; empty if it is not."""
    if _KINDS.get(call.key) == "dropout" and bool((call.replacing(torch.ones_like).detached() != 1).any()):
        return "dropout that is not switched off is random"
    if call.key == "batch_norm" and (call.args[5:6] == (True,) or call.kwargs.get("training")):
        return "batch norm without running statistics mixes the clips of a batch"
    if call.key == "__setitem__":
        return "an assignment into a tensor hides where its values come from"
    return ""


def cells_of_signals(values: Tensor) -> Tensor | None:
    """1 where a layer's input comes from signals and 0 where it was padded with zeros; None where nothing was."""
    return getattr(values, "_lrp_origin", None)


def _origin(call: _Call) -> Tensor | None:
    """1 where a result comes from signals and 0 where it comes from constants; None if all of it does from signals."""
    # Pads with zeros here, whatever the call pads with.
    n_args = {"pad": 3, "constant_pad_nd": 2}.get(call.key, len(call.args))
    kwargs = {key: value for key, value in call.kwargs.items() if key != "value"}
    marked = replace(call, args=call.args[:n_args], kwargs=kwargs).replacing(torch.ones_like, torch.zeros_like)
    origin: Tensor = marked.detached()
    return None if bool((origin == 1).all()) else origin


def _has_constant(call: _Call, signals: list[Tensor]) -> bool:
    """Whether a maximum is taken over a signal and a constant tensor, as in a ReLU by hand."""
    return sum(isinstance(value, Tensor) for value in call.args) > len(signals)


def _mark(values: Tensor) -> Tensor:
    values._is_lrp_gate = True  # type: ignore[attr-defined]
    return values


def _is_gate(values: Tensor) -> bool:
    return getattr(values, "_is_lrp_gate", False)


def _marked_alike(result: Any, signals: list[Tensor]) -> Any:
    """A gate that is reshaped is still a gate."""
    if all(_is_gate(signal) for signal in signals):
        for part in _signals(result):
            _mark(part)
    return result


def _signals(values: Any) -> Iterator[Tensor]:
    """Signals among arguments, also in lists and tuples of them."""
    if isinstance(values, Tensor):
        if values.requires_grad:
            yield values
    elif isinstance(values, dict):
        for value in values.values():
            yield from _signals(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _signals(value)


def _replaced(value: Any, change: _Change) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(_replaced(item, change) for item in value)
    return value


def _bare_name(function: Callable[..., Any]) -> str:
    """``add`` for ``torch.add``, ``Tensor.add`` and ``+``; ``T`` for the getter of ``Tensor.T``."""
    name = getattr(function, "__name__", type(function).__name__)
    return getattr(getattr(function, "__self__", None), "__name__", name) if name == "__get__" else name
