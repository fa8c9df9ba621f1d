"""How well a surrogate's scores agree with a multilabel classifier's decisions.

Conventions
-----------
* ``scores`` are the surrogate's, on any monotone scale; ``decisions`` are the classifier's, 0 or 1. Along the last axis
  lie the cases that are ranked against each other: the clips, for a class; the classes, for a clip; or all pairs.
* Equal scores are one threshold: their order, which nothing decides, cannot change a number.
* NaN means undefined: where nothing is decided positive, there is no recall.

Functions
---------
:func:`average_precision`
    Area under the precision-recall curve (AUPRC).
:func:`max_f1`
    The best F1 over thresholds.
:func:`macro`, :func:`micro`
    Of clips (n, C): the mean over classes of either function, and the function of all pairs at once.

References
----------
J. Parekh et al., "Listen to Interpret" (L2I), NeurIPS 2022, section 4.1. Their code makes the area of eleven
thresholds; here every score is one.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from earwitness.errors import ClassifierError


def average_precision(scores: Tensor, decisions: Tensor) -> Tensor:
    """Sum over thresholds of precision times the recall that is gained at it.

    Parameters
    ----------
    scores : Tensor (..., n), float
    decisions : Tensor (..., n), bool

    Returns
    -------
    Tensor (...), float64, in [0, 1]
        1 where every positive scores above every negative; NaN without a positive, or with a score that is NaN.

    Raises
    ------
    ClassifierError
        The shapes differ, or the decisions are not bool.
    """
    precision, recall, defined = _curve(scores, decisions)
    gained = recall - torch.cat([torch.zeros_like(recall[..., :1]), recall[..., :-1]], dim=-1)
    return torch.where(defined, (gained * precision).sum(-1), torch.nan)


def max_f1(scores: Tensor, decisions: Tensor) -> Tensor:
    """The largest 2 P R / (P + R) over thresholds; see :func:`average_precision` for shapes."""
    precision, recall, defined = _curve(scores, decisions)
    total = precision + recall
    f1 = 2 * precision * recall / torch.where(total > 0, total, 1)
    return torch.where(defined, f1.amax(-1), torch.nan)


def macro(formula: Callable[[Tensor, Tensor], Tensor], scores: Tensor, decisions: Tensor) -> Tensor:
    """Mean over the classes that are decided at least once, of clips (n, C): Tensor ()."""
    return formula(scores.T, decisions.T).nanmean()


def micro(formula: Callable[[Tensor, Tensor], Tensor], scores: Tensor, decisions: Tensor) -> Tensor:
    """Over all pairs of clips and classes (n, C) at once: Tensor ()."""
    return formula(scores.flatten(), decisions.flatten())


def _curve(scores: Tensor, decisions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Precision and recall (..., n) from the highest score down, and where they are defined (...)."""
    if scores.shape != decisions.shape or decisions.dtype != torch.bool or scores.ndim == 0:
        raise ClassifierError(
            f"Scores and decisions (bool) must have one shape, got {tuple(scores.shape)} and {decisions.dtype} "
            f"{tuple(decisions.shape)}. Compare the classifier's probabilities with 0.5 first."
        )
    descending, order = scores.double().sort(dim=-1, descending=True, stable=True)
    hits = decisions.gather(-1, order).double().cumsum(-1)
    # Within equal scores only the last place is a threshold: the places before it read what stands there.
    n = scores.shape[-1]
    places = torch.arange(n, device=scores.device).expand(scores.shape)
    ends = torch.ones_like(decisions)
    ends[..., :-1] = descending[..., 1:] != descending[..., :-1]
    last = torch.where(ends, places, n - 1).flip(-1).cummin(-1).values.flip(-1)
    hits = hits.gather(-1, last)
    positives = hits[..., -1:]
    precision = hits / (last + 1)
    recall = hits / positives.clamp_min(1)
    return precision, recall, (positives[..., 0] > 0) & ~scores.isnan().any(-1)
