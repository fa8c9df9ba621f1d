"""Where a gradient is taken: the classifier's feature map, or the waveform itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal
from weakref import WeakKeyDictionary

import torch
from captum.attr import Saliency
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation, Relevance
from earwitness.random import Random

InputDomain = Literal["features", "waveform"]

MEMORY_MB = 256.0
"""Default for what an explainer may hold of a network's hidden maps at once, in megabytes."""

_MOST_ROWS = 16
"""Rows of one pass at most: beyond, a CPU leaves its caches (chunks of 8-16 clips beat 64-200 by up to 2x)."""

_BYTES_OF_A_ROW: WeakKeyDictionary[AudioClassifier, dict[tuple[object, ...], int]] = WeakKeyDictionary()
"""By classifier, and by the domain, shape and dtype of its input: measured once, not with each batch."""


@dataclass(frozen=True, eq=False)
class AttributionInput:
    """What Captum is given for a batch of B rows: a function to logits, where it is evaluated, and which class counts.

    Attributes
    ----------
    forward : nn.Module
        Input -> logits (B, C). A module, because Captum's layer methods ask for one.
    values : Tensor (B, 1, M, N') or (B, T)
    silence : Tensor (1, 1, M, N') or (1, T)
        The same of digital silence: a log-mel's floor, or zeros.
    domain : {"features", "waveform"}
    target : Tensor (B,), int64
    random : Random
    rows_at_once : int
        The most rows that one pass through ``forward`` may have.
    """

    forward: nn.Module
    values: Tensor
    silence: Tensor
    domain: InputDomain
    target: Tensor
    random: Random
    rows_at_once: int = 1

    @classmethod
    def of(
        cls,
        classifier: AudioClassifier,
        batch: Batch,
        domain: InputDomain,
        *,
        target: Tensor,
        random: Random,
        memory_mb: float,
    ) -> AttributionInput:
        """Prepare a batch; a network that eats samples is always explained over them.

        ``memory_mb`` is what the hidden maps of one pass may take.
        """
        nothing = torch.zeros_like(batch.waveforms[:1])
        if domain == "waveform" or classifier.feature_grid(batch.waveforms.shape[1]) is None:
            forward = _Forward(classifier, classifier.logits)
            given = cls(forward, batch.waveforms, nothing, "waveform", target, random)
        else:
            with torch.no_grad():
                features, silence = classifier.features(batch.waveforms), classifier.features(nothing)
            forward = _Forward(classifier, classifier.logits_of_features)
            given = cls(forward, features, silence, "features", target, random)
        key = (given.domain, given.values.shape[1:], given.values.dtype)
        measured = _BYTES_OF_A_ROW.setdefault(classifier, {})
        if key not in measured:
            measured[key] = _bytes_of_a_row(given)
        rows = int(memory_mb * 1e6 / max(1, measured[key]))
        return replace(given, rows_at_once=max(1, min(_MOST_ROWS, rows)))

    @property
    def leaf(self) -> Tensor:
        """A copy of ``values`` that asks for its gradient."""
        return self.values.detach().clone().requires_grad_(True)

    @property
    def copies_at_once(self) -> int:
        """How many times all rows fit into one pass, at least once."""
        return max(1, self.rows_at_once // len(self.values))

    def pieces(self, n_rows: int | None = None) -> Iterator[AttributionInput]:
        """The batch cut into inputs of at most ``n_rows`` rows (default: ``rows_at_once``)."""
        step = n_rows or self.rows_at_once
        for start in range(0, len(self.values), step):
            rows = slice(start, start + step)
            yield replace(
                self,
                values=self.values[rows],
                target=self.target[rows],
                random=Random(self.random.seed, self.random.clip_ids[rows]),
            )

    def relevance(self, values: Tensor) -> Relevance:
        """Wrap an attribution of the shape of ``values``, without its channel axis."""
        flat = values.detach().float()
        return Relevance(flat[:, 0] if self.domain == "features" else flat, self.domain)

    def target_logits(self, values: Tensor) -> Tensor:
        """The explained class' logit (B,) at ``values`` (B or 1 rows), without gradient."""
        with torch.no_grad():
            logits: Tensor = self.forward(values)
        return logits.expand(len(self.target), -1).gather(1, self.target[:, None])[:, 0]


def explained(
    given: AttributionInput,
    attribute: Callable[[AttributionInput], Tensor],
    *,
    baseline: Tensor | None = None,
) -> Explanation:
    """Ask a method piece by piece, within the memory.

    Parameters
    ----------
    given : AttributionInput
    attribute : callable
        A piece -> its attribution, of the shape of the piece's ``values``.
    baseline : Tensor (1, ...), optional
        For methods that share out the change of the logit from a baseline: then the diagnostic ``completeness_gap``,
        (B,), is |sum of relevance - (logit(x) - logit(baseline))|.

    Returns
    -------
    Explanation
    """
    attributions, gaps = [], []
    with _no_notice_of_hooks():
        for piece in given.pieces():
            found = attribute(piece).detach()
            attributions.append(found)
            if baseline is not None:
                change = piece.target_logits(piece.values) - piece.target_logits(baseline)
                gaps.append((found.flatten(1).sum(1) - change).abs().float())
    diagnostics = {"completeness_gap": torch.cat(gaps)} if gaps else {}
    return Explanation(given.target, relevance=given.relevance(torch.cat(attributions)), diagnostics=diagnostics)


def gradient_at(given: AttributionInput, points: Tensor) -> Tensor:
    """Gradient of the target's logit at some copies of the rows.

    Captum's own sampling (``NoiseTunnel``, ``GradientShap``) draws for the whole batch at once, so that a clip's draws
    would depend on its neighbours; here the points come from each clip's own stream, and Captum differentiates.

    Parameters
    ----------
    given : AttributionInput
    points : Tensor (K, B, ...)
        K points for each row.

    Returns
    -------
    Tensor (K, B, ...)
    """
    leaf = points.flatten(0, 1).requires_grad_(True)
    gradient: Tensor = Saliency(given.forward).attribute(leaf, target=given.target.repeat(len(points)), abs=False)
    return gradient.detach().reshape(points.shape)


def _bytes_of_a_row(given: AttributionInput) -> int:
    """What all hidden maps of one row take together, which depends on nothing but the network and its input's shape.

    What a gradient keeps is a part of these maps. Methods without a gradient hold only a few of them at a time, and are
    safe all the more; the measure asks for no gradient, which a black box would not have.
    """
    with torch.no_grad():
        given.forward(given.values[:1])  # ahead, because the first call of all makes a pass of its own
        with _HiddenMaps() as maps:
            given.forward(given.values[:1])
    return int(maps.n_bytes)


def pulled_back(function: Callable[[Tensor], Tensor], at: Tensor, *cotangents: Tensor) -> list[Tensor]:
    """J^T v for each of the cotangents v, of the shape of ``function(at)``; J is the function's Jacobian at a point.

    Unlike ``torch.func.vjp`` it may be called where saved tensors are hooked.
    """
    with torch.enable_grad():
        leaf = at.detach().requires_grad_()
        values = function(leaf)
    return [torch.autograd.grad(values, leaf, cotangent, retain_graph=True)[0] for cotangent in cotangents]


class _HiddenMaps(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that are made while this is entered; views and in-place results count once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Held, so that no address is given out twice; with what each adds, which for weights is nothing.
        self._storages: dict[int, tuple[torch.UntypedStorage, int]] = {}

    @property
    def n_bytes(self) -> int:
        return sum(n_bytes for _, n_bytes in self._storages.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for storage in _storages_of((args, kwargs)):
            self._storages.setdefault(storage.data_ptr(), (storage, 0))
        result = function(*args, **(kwargs or {}))
        for storage in _storages_of(result):
            self._storages.setdefault(storage.data_ptr(), (storage, storage.nbytes()))
        return result


def _storages_of(tree: object) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and leaf.layout == torch.strided:  # a sparse tensor has none
            yield leaf.untyped_storage()


class _Forward(nn.Module):
    def __init__(self, classifier: AudioClassifier, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.network = classifier.network
        self._name = classifier.name
        self._function = function

    def forward(self, values: Tensor) -> Tensor:
        logits = self._function(values)
        if values.requires_grad and torch.is_grad_enabled() and not logits.requires_grad:
            raise NotApplicableError(
                f"{self._name} has no gradient from its logits to its input: a step in between is not differentiable. "
                "Use a method that needs none."
            )
        return logits


def own_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook that gives an activation an input which nobody else uses.

    Captum hooks the gradient of an activation's input. In a residual network the sum reads that input too, and its
    share of the gradient would be overwritten along with the activation's.

    Raises
    ------
    NotApplicableError
        There is no gradient to hook.
    """
    if not torch.is_grad_enabled() or not all(given.requires_grad for given in inputs):
        raise NotApplicableError(
            f"A {type(module).__name__} of the network has no gradient to its input: it runs under torch.no_grad, or "
            "on what does not depend on the sound. Use a method that needs none."
        )
    return tuple(given.clone() for given in inputs)


@contextmanager
def _no_notice_of_hooks() -> Iterator[None]:
    """Captum announces each time that it hooks a copy of the network; nobody needs to act on it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"\s*Setting (forward, )?backward hooks")
        yield


def check_domain(domain: str) -> InputDomain:
    """The domain itself, or a ConfigurationError."""
    if domain not in ("features", "waveform"):
        raise ConfigurationError(f"domain must be 'features' or 'waveform', got {domain!r}.")
    return domain  # type: ignore[return-value]


def check_memory(memory_mb: float) -> float:
    """The memory itself, or a ConfigurationError."""
    if not memory_mb > 0:
        raise ConfigurationError(f"memory_mb must be positive (megabytes), got {memory_mb!r}.")
    return float(memory_mb)


def check_count(method: str, name: str, count: int, least: int) -> int:
    """The count itself, or a ConfigurationError."""
    if isinstance(count, bool) or not isinstance(count, int) or count < least:
        raise ConfigurationError(f"{method} needs {name} >= {least}, got {count!r}.")
    return count
