"""The reasoning about whole recordings: the windows of a classifier's segmenter, put together again.

B rows, P windows of a recording, M prototypes, K classes, F' bands and T' frames of the latent map, F bands and N
frames of the features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.errors import NotApplicableError
from earwitness.pooling import logit_of_mean_probability
from earwitness_plugins.apnet.front_end import PaddedLogMel, Windows
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.reasoning import on_features, reason

_GAP = 1e-2
"""Log probabilities in float32 differ by a thousandth of this."""


@dataclass(frozen=True, eq=False)
class Reasoned:
    """The reasoning about whole recordings: their windows, each weighted by its share of the evidence.

    Attributes
    ----------
    logits : Tensor (B, P, K)
        Of each window.
    cells : Tensor (B, P, M, F', T')
        Relevance to the target.
    similarities, contributions : Tensor (B, M, F')
    weighted : Tensor (B, M)
        Ŝ.
    closest : Tensor (B,)
    """

    logits: Tensor
    cells: Tensor
    similarities: Tensor
    contributions: Tensor
    weighted: Tensor
    closest: Tensor


@dataclass(frozen=True, eq=False)
class PrototypeClassifier:
    """A classifier that is an audio prototype network, and its stages.

    Attributes
    ----------
    classifier : AudioClassifier
    network : AudioPrototypeNetwork
    front_end : PaddedLogMel
    windows : Windows
    """

    classifier: AudioClassifier
    network: AudioPrototypeNetwork
    front_end: PaddedLogMel
    windows: Windows

    @classmethod
    def of(cls, classifier: AudioClassifier) -> PrototypeClassifier:
        """Look at a classifier.

        Raises
        ------
        NotApplicableError
            It is another network, or its labels are regrouped.
        """
        network, front_end, windows = classifier.network, classifier.front_end, classifier.segmenter
        if not (
            isinstance(network, AudioPrototypeNetwork)
            and isinstance(front_end, PaddedLogMel)
            and isinstance(windows, Windows)
        ):
            raise NotApplicableError(
                f"apnet explains itself and no other classifier; {classifier.name} is a {type(network).__name__}. "
                "Train one with `earwitness fit apnet --dataset … --out DIR` and give --checkpoint DIR."
            )
        if network.sizes.n_classes != len(classifier.labels):
            raise NotApplicableError(
                f"The labels of {classifier.name} are regrouped: {network.sizes.n_classes} outputs make "
                f"{len(classifier.labels)} labels. Explain the original classifier."
            )
        return cls(classifier, network, front_end, windows)

    def reason(self, features: Tensor, target: Tensor) -> Reasoned:
        """Take the decision for one class of each recording apart.

        Parameters
        ----------
        features : Tensor (B, 1, F, N)
        target : Tensor (B,), int64

        Returns
        -------
        Reasoned
        """
        pieces = self.windows(features)
        n_rows, n_windows = pieces.shape[:2]
        silence = self.front_end.floor(features)[:, None].expand_as(pieces)
        found = reason(self.network, pieces.flatten(0, 1), silence.flatten(0, 1))
        targets = target.repeat_interleave(n_windows)

        def by_row(values: Tensor) -> Tensor:
            return values.reshape(n_rows, n_windows, *values.shape[1:])

        logits = by_row(found.contributions().sum((1, 2)))
        # p_w / Σ p_w, from logarithms: a probability may underflow in every window.
        log_p = torch.log_softmax(logits, 2)[torch.arange(n_rows, device=target.device), :, target]
        shares = torch.softmax(log_p, 1)

        def over_windows(values: Tensor) -> Tensor:
            return torch.einsum("bp...,bp->b...", by_row(values), shares)

        cells = by_row(found.relevance_of(targets))
        return Reasoned(
            logits=logits,
            cells=cells * shares[:, :, None, None, None],
            similarities=over_windows(found.similarities),
            contributions=over_windows(found.contributions_to(targets)),
            weighted=over_windows(found.weighted),
            closest=by_row(found.closest).amax(1),
        )

    def map_of(self, cells: Tensor, features: Tensor) -> Tensor:
        """Cells (B, P, F', T') of the windows on the features (B, M, N); the sum stays what it is."""
        return self.windows.overlap_add(on_features(cells), features.shape[-1])

    def gap(self, reasoned: Reasoned, features: Tensor) -> Tensor:
        """How far the log probabilities that the contributions sum to are from the classifier's: (B,).

        Raises
        ------
        NotApplicableError
            Too far: the classifier pools its windows otherwise, or its labels are others than the network's.
        """
        summed = logit_of_mean_probability(reasoned.logits, multilabel=False)
        said = torch.log_softmax(self.classifier.logits_of_features(features), 1)
        gap = (summed - said).abs().amax(1)
        if self.classifier.precision == "float32" and bool((gap > _GAP).any()):
            raise NotApplicableError(
                f"{self.classifier.name} does not say what its prototypes sum to (log probabilities differ by "
                f"{float(gap.max()):.2g}). Are its labels regrouped, or its windows pooled otherwise?"
            )
        return gap

    def band_frequencies(self, n_samples: int) -> Tensor:
        """Middle of each latent band, which stands for four mel bands: (F',), float64, in Hz."""
        return self.front_end.grid(n_samples).frequencies_hz.reshape(-1, 4).mean(1)
