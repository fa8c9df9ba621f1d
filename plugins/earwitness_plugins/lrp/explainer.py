"""Layer-wise relevance propagation (Bach et al., PLoS ONE 2015) as an explainer."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.explanation import Explanation, Relevance
from earwitness.random import Random
from earwitness_plugins.lrp.composites import DEFAULT
from earwitness_plugins.lrp.propagation import STABILISER, Propagation
from earwitness_plugins.lrp.start import Start

_ROWS_AT_ONCE = 16
"""Network inputs in one pass: more leave a CPU's caches."""

_UNSTABLE = 10.0
"""Times as much relevance as there was to be shared out is more noise than explanation."""


class LRP:
    """The decision, shared out layer by layer down to the features.

    Parameters
    ----------
    composite : str or dict
        Which layer has which rule: a name such as ``"thesis-toy"``, or a table from layers to rules; see
        :mod:`earwitness_plugins.lrp.composites`.
    zero_bias : bool
        Biases get no share, so that all relevance reaches the features. False: they keep theirs, as in the thesis.
    start : {"evidence", "logit", "one"}
        From the logit less the last layer's bias, if biases have no share; from the logit; or from 1 in its place. The
        last two turn all signs where what the last layer's inputs add up to is of the other sign.
    stabiliser : float, > 0
        Added to all denominators.

    Raises
    ------
    ConfigurationError
        There is no such composite, rule or start, or a number is out of range.

    Notes
    -----
    Diagnostics: ``conservation_gap`` is |sum of relevance - start| / |start|, and ``unstable`` is 1 where the sum of
    |relevance| is more than ten times |start|: there the map is what is left of large numbers that cancel out. Start is
    the logit, the evidence or 1; for the patches of a clip, see
    :func:`~earwitness_plugins.lrp.start.starting_relevance`.
    """

    def __init__(
        self,
        *,
        composite: str | Mapping[str, object] = DEFAULT,
        zero_bias: bool = True,
        start: Start = "evidence",
        stabiliser: float = STABILISER,
    ) -> None:
        self.propagation = Propagation(composite, zero_bias=zero_bias, start=start, stabiliser=stabiliser)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            The network does something that LRP has no rule for.
        ConfigurationError
            The composite names a layer that does not exist, or leaves one without a rule.
        """
        with torch.no_grad():
            features = classifier.features(batch.waveforms)
        step = max(1, _ROWS_AT_ONCE // _inputs_per_clip(classifier, features))
        found = [
            self.propagation.attribute(classifier, rows, targets)
            for rows, targets in zip(torch.split(features, step), torch.split(target, step), strict=True)
        ]
        relevance = torch.cat([piece.relevance for piece in found])
        explained = torch.cat([piece.explained for piece in found])
        on_a_grid = classifier.feature_grid(batch.waveforms.shape[1]) is not None
        return Explanation(
            target,
            relevance=Relevance(relevance[:, 0].float(), "features" if on_a_grid else "waveform"),
            diagnostics={
                "conservation_gap": conservation_gap(relevance, explained).float(),
                "unstable": is_unstable(relevance, explained).float(),
            },
        )


def conservation_gap(relevance: Tensor, explained: Tensor) -> Tensor:
    """|sum of relevance - explained| / |explained|: (B, ...) and (B,) -> (B,), >= 0."""
    missing = (relevance.double().flatten(1).sum(1) - explained.double()).abs()
    return missing / explained.double().abs().clamp(min=1e-12)


def is_unstable(relevance: Tensor, explained: Tensor) -> Tensor:
    """Whether the sum of |relevance| exceeds ten times what was shared out: (B, ...) and (B,) -> (B,), bool."""
    stable = relevance.double().abs().flatten(1).sum(1) <= _UNSTABLE * explained.double().abs()
    return ~stable  # NaN is not stable


def _inputs_per_clip(classifier: AudioClassifier, features: Tensor) -> int:
    return 1 if classifier.segmenter is None else int(classifier.segmenter(features[:1]).shape[1])
