"""Does an explanation that decides on its own decide as the classifier does, and are its patterns those that count?

For methods with a surrogate (``surrogate_logits``) and with parts that are masks, such as L2I.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from earwitness.audio.masking import mask_to_gain
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation, Mask, Parts, Scale
from earwitness.protocols import Scores
from earwitness.render import Scene
from earwitness_bench.metrics import fidelity_formulas, formulas

THRESHOLDS = (0.9, 0.7, 0.5, 0.3, 0.1)


class TopKFidelity:
    """Whether the classifier's decision is among the surrogate's first 1, 3 and 5 classes (L2I, section 4.1).

    With C classes or fewer than k the question is no question, and has no score.
    """

    def score(self, explanation: Explanation, context: Context) -> Scores:
        """See :class:`earwitness.protocols.Metric`."""
        logits = _surrogate(explanation)
        decision = context.original.argmax(1)
        undefined = torch.full_like(logits[:, 0], torch.nan)
        columns = {
            f"top-{k}": formulas.top_k_fidelity(logits, decision, k) if k < logits.shape[1] else undefined
            for k in (1, 3, 5)
        }
        return Scores(columns, (f"there are only {logits.shape[1]} classes",) * len(logits))


class MultilabelFidelity:
    """How the surrogate ranks the classes that a multilabel classifier decides for (p > 0.5) above the others, clip by
    clip."""

    def score(self, explanation: Explanation, context: Context) -> Scores:
        """See :class:`earwitness.protocols.Metric`."""
        logits = _surrogate(explanation)
        if not context.classifier.multilabel:
            raise NotApplicableError(f"{context.classifier.name} decides for one class; see the metric `fidelity`")
        decisions = context.original > 0.5
        columns = {
            "average_precision": fidelity_formulas.average_precision(logits, decisions),
            "max_F1": fidelity_formulas.max_f1(logits, decisions),
        }
        return Scores(columns, ("the classifier decides for no class",) * len(logits))


class PatternFaithfulness:
    """FF when the patterns of a relevance above τ are taken out of the sound, for several τ (L2I, section 4.1).

    What the patterns cover together is removed at the masks' own scale; the rest is turned back into sound, and the
    classifier's whole front end listens to it. ``random`` removes as many patterns of the same clip, drawn from all of
    them. Where no pattern is above τ, nothing is removed.

    Parameters
    ----------
    thresholds : sequence of five floats, in [0, 1)
        τ of the columns ``FF@0.9`` to ``FF@0.1``, in this order; others are for experiments of one's own.
    """

    def __init__(self, *, thresholds: Sequence[float] = THRESHOLDS) -> None:
        if len(thresholds) != len(THRESHOLDS) or not all(0 <= threshold < 1 for threshold in thresholds):
            raise ConfigurationError(f"thresholds must be {len(THRESHOLDS)} numbers in [0, 1), got {list(thresholds)}.")
        self.thresholds = tuple(thresholds)

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`."""
        parts = _pattern_parts(explanation)
        scene = context.scene if context.scene.route == "waveform" else replace(context.scene, route="waveform")
        p = context.of_target(scene.original)
        weights = parts.weights.to(p.device)
        chosen = torch.stack([weights > threshold for threshold in self.thresholds], dim=1)
        order = context.random.uniform("random patterns", weights.shape[1]).to(weights.device).argsort(1).argsort(1)
        drawn = order[:, None] < chosen.sum(2, keepdim=True)
        sets = torch.cat([chosen, drawn], dim=1)
        rest = _rest_gains(parts, sets, scene)
        left = torch.stack([context.of_target(scene.probabilities(gain)) for gain in rest.unbind(1)], dim=1)
        # Nothing removed is nothing lost: STFT and back is the recording.
        scores = torch.where(sets.any(2), formulas.faithfulness(p, left), 0).masked_fill(
            scene.silent[:, None], torch.nan
        )
        names = [f"{kind}@{threshold}" for kind in ("FF", "random") for threshold in THRESHOLDS]
        return dict(zip(names, scores.unbind(1), strict=True))


def _rest_gains(parts: Parts, sets: Tensor, scene: Scene) -> Tensor:
    """The gains (B, S, F, N) of what is left when each of S sets of patterns (B, S, K) is taken away."""
    n_rows, n_sets, n_parts = sets.shape
    covered = scene.magnitude.new_zeros(n_rows, n_sets, *scene.magnitude.shape[1:])
    scale: Scale = "magnitude"
    for number in range(n_parts):
        rows = sets[:, :, number].nonzero()
        if not len(rows):
            continue
        part = parts.map(number)
        if not isinstance(part, Mask) or part.domain != "stft":
            raise NotApplicableError("it needs parts that are masks on the listening STFT, as patterns are")
        scale = part.scale
        for row, of_set in rows.tolist():
            covered[row, of_set] += part.values[row]
    left = (1 - covered).clamp_(0, 1)
    return torch.stack([mask_to_gain(one, scene.magnitude, scale) for one in left.unbind(1)], dim=1)


def _surrogate(explanation: Explanation) -> Tensor:
    if explanation.surrogate_logits is None:
        raise NotApplicableError("the method does not predict on its own")
    return explanation.surrogate_logits


def _pattern_parts(explanation: Explanation) -> Parts:
    if explanation.parts is None:
        raise NotApplicableError("the method's explanations have no parts")
    return explanation.parts
