"""The decoder's answer as a mask: at its own level, binary, or warped to a share of the recording's energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.lifting import lift_mask
from earwitness.classifier import AudioClassifier
from earwitness.errors import CheckpointError
from earwitness.explanation import Scale
from earwitness_plugins.lmac.budget import warped
from earwitness_plugins.lmac.decoder import MaskDecoder
from earwitness_plugins.lmac.objective import binarised
from earwitness_plugins.lmac.passages import MaskDomain, Passage, coarse_grid, passage_of


@dataclass(frozen=True, kw_only=True)
class MaskKind:
    """What a mask is.

    Attributes
    ----------
    domain : {"stft", "features"}
    scale : {"magnitude", "log1p"}
    binarize : bool
    budgets : bool
        Whether it is ever warped to a budget.
    """

    domain: MaskDomain
    scale: Scale
    binarize: bool = False
    budgets: bool = False

    def passage(self, classifier: AudioClassifier, n_samples: int) -> Passage:
        """See :func:`~earwitness_plugins.lmac.passages.passage_of`."""
        return passage_of(classifier, n_samples, **asdict(self))

    def mask(
        self, logits: Tensor, passage: Passage, clips: Tensor | None = None, budget: Tensor | None = None
    ) -> Tensor:
        """The mask where the passage uses it.

        Parameters
        ----------
        logits : Tensor (B, M, N')
            Of the decoder.
        passage : Passage
        clips : Tensor (B, …), optional
            As the passage analysed them; what a budget is a share of.
        budget : Tensor (B,), optional
            Shares of energy to keep; NaN leaves a row at its own level.

        Returns
        -------
        Tensor (B, …), in [0, 1]
        """
        mask = passage.spread(torch.sigmoid(logits))
        if self.binarize:
            return binarised(mask)
        if budget is None or clips is None or bool(budget.isnan().all()):
            return mask
        if mask.shape == logits.shape:
            log_mask = functional.logsigmoid(logits)  # exact also where a sigmoid has become 0 or 1
        else:
            log_mask = mask.clamp(torch.finfo(mask.dtype).tiny, 1 - 1e-6).log()
        own = budget.isnan()
        warp = warped(log_mask, passage.energy(clips), torch.where(own, 0.5, budget)).exp()
        return torch.where(own[:, None, None], mask, warp)


def answer(
    decoder: MaskDecoder, maps: Sequence[Tensor], target: Tensor, classifier: AudioClassifier, n_samples: int
) -> Tensor:
    """The decoder's logits (B, M, N') on the coarse grid, from hidden maps of clips of a length.

    Raises
    ------
    CheckpointError
        The decoder is for maps of other channels, or is told another number of classes than the classifier has.
    """
    if decoder.classes not in (0, len(classifier.labels)):
        raise CheckpointError(
            f"The decoder is for {decoder.classes} classes, {classifier.name} has {len(classifier.labels)}. Fit again."
        )
    logits: Tensor = decoder(maps, coarse_grid(classifier, n_samples).shape, target)
    return logits


def on_stft(mask: Tensor, classifier: AudioClassifier, n_samples: int) -> Tensor:
    """A mask of any passage on the listening STFT: Tensor (B, F, N)."""
    fine = classifier.listening.grid(n_samples)
    if tuple(mask.shape[1:]) == fine.shape:
        return mask
    return lift_mask(mask, coarse_grid(classifier, n_samples), fine)
