"""The arithmetic of the scores: pure functions on batches, with no classifier and no explainer in sight.

Goal
----
An explanation splits a recording into what is *heard* (mask-in) and the *rest* (mask-out). If the explanation is
faithful, the classifier keeps its decision on what is heard and loses it on the rest. The functions here turn the
classifier's answers to the three signals into scores; two more describe the mask itself.

Conventions
-----------
* ``p``, ``p_heard``, ``p_rest`` are **probabilities** (0 to 1, after softmax or sigmoid, never logits) of the explained
  class c: f(X)_c, f(X ⊙ M)_c and f(X ⊙ (1 - M))_c. Values up to 1e-5 outside [0, 1] count as rounding and are clipped.
* ``p`` has shape (B,). ``p_heard`` and ``p_rest`` have shape (B,), or (B, S) where each row was rendered at S budgets;
  the result has their shape. Nothing else is broadcast.
* Every function returns one value per row (and budget) and aggregates nothing. A NaN probability gives a NaN score.
* Unit: AI, AD and AG are in **percent** (0 to 100), as published; FF is a difference of probabilities; Fid-In and
  top-k fidelity are 0 or 1.

Metrics
-------
:func:`faithfulness`
    FF, drop of probability when what was heard is taken away (higher is better).
:func:`average_increase`
    AI, whether what is heard alone convinces the classifier more than the recording does (higher).
:func:`average_drop`
    AD, share of the probability that is lost on what is heard (lower).
:func:`average_drop_recipe`
    AD as the SpeechBrain recipe of L-MAC computes it, with a second softmax (lower). Only for comparing with its
    tables.
:func:`average_gain`
    AG, share of the missing probability that is won on what is heard (higher).
:func:`input_fidelity`
    Fid-In, whether the decision on what is heard is the decision on the recording (higher).
:func:`top_k_fidelity`
    Whether the decision is among the first k of the explanation's own surrogate (higher).
:func:`sparseness`, :func:`complexity`
    SPS (Gini index) and COMP (entropy) of a mask.

One number from S budgets is the area of a :class:`earwitness.protocols.Curve`.

References
----------
.. [1] F. Paissan, M. Ravanelli, C. Subakan: "Listenable Maps for Audio Classifiers" (L-MAC), ICML 2024, section 3.1.
.. [2] J. Parekh, S. Parekh, P. Mozharovskyi, F. d'Alché-Buc, G. Richard: "Listen to Interpret" (L2I), NeurIPS 2022.
.. [3] A. Chattopadhay, A. Sarkar, P. Howlader, V. N. Balasubramanian: "Grad-CAM++", WACV 2018 (AI, AD).
.. [4] H. Zhang, F. Torres, R. Sicre, Y. Avrithis, S. Ayache: "Opti-CAM", 2023 (AG).
.. [5] P. Chalasani, J. Chen, A. R. Chowdhury, X. Wu, S. Jha: "Concise Explanations of Neural Networks using
   Adversarial Training", ICML 2020 (SPS).
.. [6] U. Bhatt, A. Weller, J. M. F. Moura: "Evaluating and Aggregating Feature-based Model Explanations", IJCAI 2020
   (COMP).
"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.errors import ClassifierError, ConfigurationError, ExplanationError

INCREASE_TOLERANCE = 1e-4
"""A rise of the probability up to this is rounding: with a strict comparison an all-ones mask, whose heard sound is the
recording itself, would reach AI 48 % through STFT and back."""

PROBABILITY_ROUNDING = 1e-5
"""How far outside [0, 1] a probability may lie before it is taken for something else, such as a logit."""

SPARSENESS_OFFSET = 1e-7
"""Added to each cell (maximum 1) before the Gini index, as Quantus does; a single spike among n cells loses n·1e-7."""


def faithfulness(p: Tensor, p_rest: Tensor) -> Tensor:
    """FF: drop of the probability when what was heard is taken away, f(X)_c - f(X ⊙ (1 - M))_c.

    L2I [2]_ eq. 6 and L-MAC [1]_ section 3.1, whose text says "logit" where its code takes probabilities, as here.
    L2I reports the median over clips, L-MAC the mean.

    Parameters
    ----------
    p : Tensor (B,), float, in [0, 1]
        Probability of the explained class on the recording.
    p_rest : Tensor (B,) or (B, S), float, in [0, 1]
        The same on the rest.

    Returns
    -------
    Tensor, shape of ``p_rest``, in [-1, 1]
        Negative where the rest convinces more than the recording.

    Raises
    ------
    ClassifierError
        Values are no probabilities, or shapes do not agree.
    """
    p, p_rest = _paired(p, p_rest, "p_rest")
    return p - p_rest


def average_increase(p: Tensor, p_heard: Tensor, *, tolerance: float = INCREASE_TOLERANCE) -> Tensor:
    """AI: 100 where what is heard convinces more than the recording does, 100 · 1[f(X ⊙ M)_c > f(X)_c + tolerance].

    Grad-CAM++ [3]_; L-MAC [1]_ section 3.1.

    Parameters
    ----------
    p : Tensor (B,), float, in [0, 1]
        Probability of the explained class on the recording.
    p_heard : Tensor (B,) or (B, S), float, in [0, 1]
        The same on what is heard.
    tolerance : float, >= 0
        A rise of at most this does not count; see :data:`INCREASE_TOLERANCE`. The papers' strict comparison is 0.

    Returns
    -------
    Tensor, shape of ``p_heard``, percent
        0 or 100.

    Raises
    ------
    ClassifierError
        Values are no probabilities, or shapes do not agree.
    ConfigurationError
        The tolerance is negative.
    """
    if not tolerance >= 0:
        raise ConfigurationError(f"The tolerance must be 0 or more, got {tolerance}. Pass 0 for the papers' form.")
    p, p_heard = _paired(p, p_heard, "p_heard")
    rise = p_heard - p
    return torch.where(rise.isnan(), rise, 100 * (rise > tolerance).to(rise.dtype))


def average_drop(p: Tensor, p_heard: Tensor) -> Tensor:
    """AD: share of the probability that is lost on what is heard, 100 · max(0, f(X)_c - f(X ⊙ M)_c) / f(X)_c.

    Grad-CAM++ [3]_; L-MAC [1]_ section 3.1. The values in L-MAC's tables are on another scale:
    :func:`average_drop_recipe`.

    Parameters
    ----------
    p : Tensor (B,), float, in [0, 1]
        Probability of the explained class on the recording.
    p_heard : Tensor (B,) or (B, S), float, in [0, 1]
        The same on what is heard.

    Returns
    -------
    Tensor, shape of ``p_heard``, percent in [0, 100]
        0 where ``p`` is 0: there was nothing to lose.

    Raises
    ------
    ClassifierError
        Values are no probabilities, or shapes do not agree.
    """
    p, p_heard = _paired(p, p_heard, "p_heard")
    return 100 * _share((p - p_heard).clamp_min(0), p)


def average_gain(p: Tensor, p_heard: Tensor) -> Tensor:
    """AG: share of the missing probability that is won, 100 · max(0, f(X ⊙ M)_c - f(X)_c) / (1 - f(X)_c).

    Opti-CAM [4]_; L-MAC [1]_ section 3.1.

    Parameters
    ----------
    p : Tensor (B,), float, in [0, 1]
        Probability of the explained class on the recording.
    p_heard : Tensor (B,) or (B, S), float, in [0, 1]
        The same on what is heard.

    Returns
    -------
    Tensor, shape of ``p_heard``, percent in [0, 100]
        0 where ``p`` is 1: there was nothing to gain.

    Raises
    ------
    ClassifierError
        Values are no probabilities, or shapes do not agree.
    """
    p, p_heard = _paired(p, p_heard, "p_heard")
    return 100 * _share((p_heard - p).clamp_min(0), 1 - p)


def average_drop_recipe(probabilities: Tensor, probabilities_heard: Tensor, target: Tensor) -> Tensor:
    """AD as the SpeechBrain recipe of L-MAC computes it: its code applies softmax to what already are probabilities.

    The second softmax flattens them: AD stays below 100 · (1 - 1/e) = 63.2 percent, even where the decision is lost
    altogether. Published AD values are on this scale; use :func:`average_drop` for anything but comparing with those
    tables.

    Parameters
    ----------
    probabilities : Tensor (B, C), float, in [0, 1]
        Of all classes on the recording.
    probabilities_heard : Tensor (B, C), float, in [0, 1]
        Of all classes on what is heard.
    target : Tensor (B,), int64
        The explained class.

    Returns
    -------
    Tensor (B,), percent in [0, 64]

    Raises
    ------
    ClassifierError
        Values are no probabilities, shapes do not agree, or a target is no class.
    """
    _check_probabilities(probabilities, "probabilities")
    _check_probabilities(probabilities_heard, "probabilities_heard")
    if probabilities.ndim != 2 or probabilities_heard.shape != probabilities.shape:
        raise ClassifierError(
            "AD_recipe needs the probabilities of all classes, (B, C), of recording and heard, got "
            f"{tuple(probabilities.shape)} and {tuple(probabilities_heard.shape)}. Pass whole rows, not one class."
        )
    _check_classes(target, probabilities.shape, "target")
    index = target.unsqueeze(1)
    flattened = torch.softmax(probabilities, dim=1).gather(1, index).squeeze(1)
    flattened_heard = torch.softmax(probabilities_heard, dim=1).gather(1, index).squeeze(1)
    return average_drop(flattened, flattened_heard)


def input_fidelity(predicted: Tensor, predicted_heard: Tensor) -> Tensor:
    """Fid-In: 1 where the decision on what is heard is the decision on the recording.

    L-MAC [1]_ section 3.1: 1[argmax f(X) = argmax f(X ⊙ M)].

    Parameters
    ----------
    predicted : Tensor (B,), int64
        Class with the highest logit on the recording.
    predicted_heard : Tensor (B,) or (B, S), int64
        The same on what is heard.

    Returns
    -------
    Tensor, shape of ``predicted_heard``, float32
        0 or 1.

    Raises
    ------
    ClassifierError
        An argument is not of integer type, or shapes do not agree.
    """
    for name, classes in (("predicted", predicted), ("predicted_heard", predicted_heard)):
        _check_integers(classes, name)
    return (_as_rows_of(predicted, predicted_heard, "predicted_heard") == predicted_heard).to(torch.float32)


def top_k_fidelity(surrogate_logits: Tensor, predicted: Tensor, k: int) -> Tensor:
    """Top-k fidelity: 1 where the classifier's decision is among the first k classes of the surrogate.

    L2I [2]_ section 4.1, for explanations that predict on their own (L2I, FLINT, VIBI).

    Parameters
    ----------
    surrogate_logits : Tensor (B, C), float
        The explanation's own scores of all classes; any monotone scale.
    predicted : Tensor (B,), int64
        The classifier's decision.
    k : int, 1 to C

    Returns
    -------
    Tensor (B,), float32
        0 or 1; NaN where the surrogate has a NaN. Of equal scores the lower class index comes first, as in argmax.

    Raises
    ------
    ClassifierError
        Shapes do not agree, or a decision is no class.
    ConfigurationError
        ``k`` is not between 1 and C.
    """
    if surrogate_logits.ndim != 2:
        raise ClassifierError(
            f"Surrogate logits must have shape (B, C), got {tuple(surrogate_logits.shape)}. Pass all classes of a row."
        )
    _check_classes(predicted, surrogate_logits.shape, "predicted")
    n_classes = surrogate_logits.shape[1]
    if not 1 <= k <= n_classes:
        raise ConfigurationError(f"k must be between 1 and the {n_classes} classes, got {k}. Choose a smaller k.")
    index = predicted.unsqueeze(1)
    own = surrogate_logits.gather(1, index)
    before = torch.arange(n_classes, device=index.device) < index
    rank = ((surrogate_logits > own) | ((surrogate_logits == own) & before)).sum(1)
    return (rank < k).to(torch.float32).masked_fill(surrogate_logits.isnan().any(1), torch.nan)


def sparseness(masks: Tensor) -> Tensor:
    """SPS: Gini index of the absolute values of each map.

    Chalasani et al. [5]_; with a_(1) <= ... <= a_(n) the sorted values, sum_i (2 i - n - 1) a_(i) / (n sum_i a_i).
    Each map is divided by its own maximum and :data:`SPARSENESS_OFFSET` is added, so the values equal those of Quantus
    on maps with maximum 1, do not depend on a map's scale, and never on its neighbours in the batch.

    Parameters
    ----------
    masks : Tensor (B, ...), float
        Masks or relevance maps with n cells each.

    Returns
    -------
    Tensor (B,), float
        0 (all cells alike) to 1 - 1/n (a single cell); NaN for a map of zeros, which singles nothing out. Higher is
        sparser.

    Raises
    ------
    ExplanationError
        A map has no cells, or values that are not finite.
    """
    cells = _cells(masks)
    highest = cells.amax(1, keepdim=True)
    ascending = (cells / highest.clamp_min(torch.finfo(cells.dtype).tiny) + SPARSENESS_OFFSET).sort(dim=1).values
    n_cells = cells.shape[1]
    ranks = torch.arange(1, n_cells + 1, dtype=cells.dtype, device=cells.device)
    gini = ascending @ (2 * ranks - n_cells - 1) / (n_cells * ascending.sum(1))
    constant = cells.amin(1) == highest.squeeze(1)  # exactly 0: the sum above leaves rounding of either sign
    return gini.masked_fill(constant, 0).masked_fill(highest.squeeze(1) == 0, torch.nan).to(masks.dtype)


def complexity(masks: Tensor) -> Tensor:
    """COMP: entropy of how the absolute values of each map are distributed over its cells, in nats.

    Bhatt et al. [6]_: - sum_i q_i ln q_i with q = |m| / sum |m|. It grows with the number of cells n:
    compare only maps on the same grid.

    Parameters
    ----------
    masks : Tensor (B, ...), float
        Masks or relevance maps with n cells each.

    Returns
    -------
    Tensor (B,), float, nats
        0 (a single cell) to ln n (all cells alike); NaN for a map of zeros. Lower is simpler.

    Raises
    ------
    ExplanationError
        A map has no cells, or values that are not finite.
    """
    cells = _cells(masks)
    scaled = cells / cells.amax(1, keepdim=True)  # 0/0: a map of zeros is NaN from here on
    entropy: Tensor = torch.special.entr(scaled / scaled.sum(1, keepdim=True)).sum(1)
    return entropy.to(masks.dtype)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """``part / whole``, and 0 where ``whole`` (then ``part`` too) is 0."""
    return part / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def _paired(p: Tensor, other: Tensor, name: str) -> tuple[Tensor, Tensor]:
    """Both as probabilities in [0, 1] with shapes that broadcast row by row, or a ClassifierError."""
    _check_probabilities(p, "p")
    _check_probabilities(other, name)
    return _as_rows_of(p, other, name).clamp(0, 1), other.clamp(0, 1)


def _as_rows_of(first: Tensor, other: Tensor, name: str) -> Tensor:
    """``first`` in a shape that broadcasts against ``other``: (B,) stands beside (B,), or as (B, 1) beside (B, S).

    Without this, (B,) against (B, S) with S = B would silently pair rows with budgets.
    """
    if other.ndim not in (1, 2) or first.shape not in (other.shape, other.shape[:1]):
        raise ClassifierError(
            f"{name} must have shape (B,) or (B, S) with the rows of the original, got {tuple(other.shape)} beside "
            f"{tuple(first.shape)}. Is the clip axis first?"
        )
    return first if first.shape == other.shape else first.unsqueeze(1)


def _check_probabilities(values: Tensor, name: str) -> None:
    if values.dtype not in (torch.float32, torch.float64):
        raise ClassifierError(f"{name} must be float32 or float64, got {values.dtype}. Convert it with `.float()`.")
    if bool(((values < -PROBABILITY_ROUNDING) | (values > 1 + PROBABILITY_ROUNDING)).any()):
        known = values[~values.isnan()]
        raise ClassifierError(
            f"{name} must hold probabilities in [0, 1], got values from {float(known.min()):.4g} to "
            f"{float(known.max()):.4g}. Are these logits or percent? Apply softmax or sigmoid once."
        )


def _check_integers(classes: Tensor, name: str) -> None:
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise ClassifierError(f"{name} must hold class indices (int64), got {classes.dtype}. Pass `logits.argmax(-1)`.")


def _check_classes(classes: Tensor, shape: torch.Size, name: str) -> None:
    """Class indices (B,) that fit scores of shape (B, C)."""
    _check_integers(classes, name)
    n_rows, n_classes = shape
    if tuple(classes.shape) != (n_rows,):
        raise ClassifierError(f"{name} must have shape ({n_rows},), got {tuple(classes.shape)}. Pass one class a row.")
    if bool(((classes < 0) | (classes >= n_classes)).any()):
        raise ClassifierError(
            f"{name} must lie between 0 and {n_classes - 1}, got {int(classes.min())} to {int(classes.max())}. "
            "Do both come from the same classifier?"
        )


def _cells(masks: Tensor) -> Tensor:
    """Absolute values as (B, n) in float64, or an ExplanationError."""
    if masks.ndim < 2 or 0 in masks.shape[1:] or not masks.is_floating_point():
        raise ExplanationError(
            f"Maps must be a float tensor of shape (B, ...) with at least one cell, got {masks.dtype} "
            f"{tuple(masks.shape)}. Add the clip axis in front."
        )
    if not bool(masks.isfinite().all()):
        bad = (~masks.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise ExplanationError(f"Maps have NaN or infinite values in rows {bad}. Leave these rows out and report them.")
    return masks.flatten(1).to(torch.float64).abs()
