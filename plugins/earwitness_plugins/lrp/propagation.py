"""From features to relevance: the whole map at once, or in two steps with a hidden layer in between."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.errors import AudioError, ClassifierError, ConfigurationError, NotApplicableError
from earwitness_plugins.lrp.composites import DEFAULT, composite_of
from earwitness_plugins.lrp.ledger import Ledger
from earwitness_plugins.lrp.network import RuledNetwork, Run
from earwitness_plugins.lrp.numerics import Numerics
from earwitness_plugins.lrp.start import Start, check_start, starting_relevance

STABILISER = 1e-7
"""The thesis' stabiliser, of every rule."""


@dataclass(frozen=True, eq=False)
class Attribution:
    """Relevance of the features.

    Attributes
    ----------
    relevance : Tensor (B, 1, M, N') or (B, 1, T)
        Of the shape of the features.
    explained : Tensor (B,)
        What was there to be shared out: the sum of the starting relevance.
    """

    relevance: Tensor
    explained: Tensor


@dataclass(frozen=True, eq=False)
class HiddenRelevance:
    """Relevance at a hidden layer, and the way down from there. Of use only inside :meth:`Propagation.hidden`.

    Attributes
    ----------
    activation : Tensor (B·P, D, ...)
        The layer's output: for each clip (of P patches, if the classifier has a segmenter) D channels.
    relevance : Tensor (B·P, D, ...)
        Of the shape of ``activation``.
    explained : Tensor (B,)
        See :class:`Attribution`.
    """

    activation: Tensor
    relevance: Tensor
    explained: Tensor
    _run: Run
    _features: Tensor
    _start: Tensor

    def lower(self, relevance: Tensor) -> Tensor:
        """Relevance at the layer -> relevance of the features, (B, 1, M, N'); as often as wanted.

        It is linear: maps of parts sum to the map of their sum.
        """
        assert self._run.hidden is not None
        found: Tensor = torch.autograd.grad(self._run.hidden, self._features, relevance, retain_graph=True)[0]
        return found

    def whole(self) -> Tensor:
        """The map from the logit down, (B, 1, M, N').

        It is ``lower(relevance)`` where all signals go through the layer, and more where some pass it by, as in the
        block of a residual network.
        """
        found: Tensor = torch.autograd.grad(self._run.outputs, self._features, self._start, retain_graph=True)[0]
        return found


class Propagation:
    """Layer-wise relevance propagation with fixed settings; keeps what it prepared for the classifiers it has met.

    Parameters
    ----------
    composite : str or dict
        See :func:`~earwitness_plugins.lrp.composites.composite_of`.
    zero_bias : bool
        Whether biases get no share.
    start : {"evidence", "logit", "one"}
        See :data:`~earwitness_plugins.lrp.start.Start`.
    stabiliser : float, > 0

    Raises
    ------
    ConfigurationError
        A setting is not valid.
    """

    def __init__(
        self,
        composite: str | Mapping[str, object] = DEFAULT,
        *,
        zero_bias: bool = True,
        start: Start = "evidence",
        stabiliser: float = STABILISER,
    ) -> None:
        self.composite = composite_of(composite)
        if isinstance(stabiliser, bool) or not 0 < stabiliser < float("inf"):
            raise ConfigurationError(f"LRP needs a stabiliser > 0, got {stabiliser!r}.")
        self.numerics = Numerics(stabiliser, bool(zero_bias))
        self.start = check_start(start)
        self._known: weakref.WeakKeyDictionary[nn.Module, tuple[object, RuledNetwork]] = weakref.WeakKeyDictionary()

    def network(self, classifier: AudioClassifier, features: Tensor) -> RuledNetwork:
        """The classifier's network, made ready: once, unless its weights change.

        Raises
        ------
        NotApplicableError, ConfigurationError
            See :meth:`RuledNetwork.of`.
        """
        state = [(tensor.data_ptr(), tensor._version) for tensor in classifier.network.state_dict().values()]
        known = self._known.get(classifier.network)
        if known is None or known[0] != state:
            probe = network_inputs(classifier, features[:1].detach())[:2]
            ruled = RuledNetwork.of(classifier.network, probe, self.composite, self.numerics, name=classifier.name)
            known = self._known[classifier.network] = (state, ruled)
        return known[1]

    def attribute(
        self, classifier: AudioClassifier, features: Tensor, target: Tensor, *, ledger: Ledger | None = None
    ) -> Attribution:
        """The relevance of all features, in one pass.

        Parameters
        ----------
        classifier : AudioClassifier
        features : Tensor (B, 1, M, N') or (B, 1, T)
        target : Tensor (B,), int64
        ledger : Ledger, optional
            Where to note what each layer does.

        Raises
        ------
        NotApplicableError, ConfigurationError, ClassifierError, AudioError
            See :meth:`RuledNetwork.of`; a target is no index of a label; features are not finite.
        """
        with self._run(classifier, features, target, ledger=ledger) as (run, leaf, start):
            relevance = torch.autograd.grad(run.outputs, leaf, start)[0]
        return Attribution(relevance, _explained(start, target))

    @contextmanager
    def hidden(
        self, classifier: AudioClassifier, features: Tensor, target: Tensor, layer: str
    ) -> Iterator[HiddenRelevance]:
        """Relevance at a hidden layer, and any number of passes down from there through the same graph.

        Parameters
        ----------
        classifier : AudioClassifier
        features : Tensor (B, 1, M, N') or (B, 1, T)
        target : Tensor (B,), int64
        layer : str
            Dotted name of a module of the network, such as that of a ReLU.

        Yields
        ------
        HiddenRelevance

        Raises
        ------
        NotApplicableError, ConfigurationError, ClassifierError, AudioError
            See :meth:`attribute`; or there is no such layer, it runs twice, or the logits do not depend on it.
        """
        with self._run(classifier, features, target, layer=layer) as (run, leaf, start):
            assert run.hidden is not None  # the layer was asked for
            found = torch.autograd.grad(run.outputs, run.hidden, start, retain_graph=True, allow_unused=True)[0]
            if found is None:
                raise ClassifierError(f"No relevance reaches layer {layer!r} of {classifier.name}. Name another.")
            explained = _explained(start, target)
            yield HiddenRelevance(run.hidden.detach(), found, explained, run, leaf, start)

    @contextmanager
    def _run(
        self,
        classifier: AudioClassifier,
        features: Tensor,
        target: Tensor,
        *,
        layer: str | None = None,
        ledger: Ledger | None = None,
    ) -> Iterator[tuple[Run, Tensor, Tensor]]:
        if not all(bool(torch.isfinite(end)) for end in torch.aminmax(features)):
            bad = (~torch.isfinite(features)).flatten(1).any(1).nonzero().flatten().tolist()
            raise AudioError(f"The features have NaN or infinite values in rows {bad} of the batch.")
        ruled = self.network(classifier, features)
        with torch.inference_mode(False), torch.enable_grad():
            leaf = features.detach().clone().requires_grad_(True)
            inputs = network_inputs(classifier, leaf)
            with ruled.run(inputs, layer=layer, ledger=ledger) as run:
                if not run.outputs.requires_grad:
                    raise NotApplicableError(f"The logits of {classifier.name} do not depend on its features.")
                bias = ruled.last_bias if self.numerics.zero_bias else None
                yield run, leaf, starting_relevance(classifier, run.outputs, target, self.start, bias=bias)


def network_inputs(classifier: AudioClassifier, features: Tensor) -> Tensor:
    """What the network eats: the features, or the patches of all clips, (B·P, ...). Patches that overlap hand their
    relevance back to the same features, where it adds up."""
    if classifier.segmenter is None:
        return features
    return classifier.segmenter(features).flatten(0, 1)


def _explained(start: Tensor, target: Tensor) -> Tensor:
    return start.reshape(len(target), -1).sum(1)
