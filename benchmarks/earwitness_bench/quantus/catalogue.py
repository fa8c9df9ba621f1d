"""Which metrics of Quantus are on offer, how each is called, and why the others are refused. Imports no torch.

Written down rather than read from Quantus, whose import takes seconds: ``earwitness list`` does without. The tests
compare every line with the installed release.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from earwitness.specs import Column, Direction, MetricSpec

Category = Literal["faithfulness", "robustness", "localisation", "complexity", "randomisation", "axiomatic"]
Pace = Literal["batch", "clip", "together"]
"""A whole batch in one call; one clip a call, for metrics that draw random numbers or explain again, so that the other
clips cannot change a score; or a whole batch because its clips are compared with each other."""


@dataclass(frozen=True)
class Entry:
    """A metric of Quantus.

    Attributes
    ----------
    category : str
        Quantus' evaluation category. It decides what Quantus is shown, see :mod:`earwitness_bench.quantus.views`.
    direction : {"higher", "lower", "neither"}
        What Quantus declares to be better; "neither" where its declaration contradicts the paper (:data:`DISPUTED`).
    pace : {"batch", "clip", "together"}
    """

    category: Category
    direction: Direction
    pace: Pace


OFFERED: dict[str, Entry] = {
    "FaithfulnessCorrelation": Entry("faithfulness", "higher", "clip"),
    "FaithfulnessEstimate": Entry("faithfulness", "higher", "batch"),
    "IROF": Entry("faithfulness", "higher", "clip"),
    "Infidelity": Entry("faithfulness", "lower", "batch"),
    "MonotonicityCorrelation": Entry("faithfulness", "higher", "clip"),
    "PixelFlipping": Entry("faithfulness", "lower", "batch"),
    "RegionPerturbation": Entry("faithfulness", "neither", "batch"),
    "Selectivity": Entry("faithfulness", "lower", "batch"),
    "Sufficiency": Entry("faithfulness", "higher", "together"),
    "AvgSensitivity": Entry("robustness", "lower", "clip"),
    "Consistency": Entry("robustness", "neither", "together"),
    "Continuity": Entry("robustness", "lower", "clip"),
    "LocalLipschitzEstimate": Entry("robustness", "lower", "clip"),
    "MaxSensitivity": Entry("robustness", "lower", "clip"),
    "RelativeInputStability": Entry("robustness", "lower", "clip"),
    "RelativeOutputStability": Entry("robustness", "lower", "clip"),
    "RelativeRepresentationStability": Entry("robustness", "lower", "clip"),
    "AUC": Entry("localisation", "higher", "batch"),
    "AttributionLocalisation": Entry("localisation", "higher", "batch"),
    "PointingGame": Entry("localisation", "higher", "batch"),
    "RelevanceMassAccuracy": Entry("localisation", "higher", "batch"),
    "RelevanceRankAccuracy": Entry("localisation", "higher", "batch"),
    "TopKIntersection": Entry("localisation", "higher", "batch"),
    "Complexity": Entry("complexity", "lower", "batch"),
    "EffectiveComplexity": Entry("complexity", "lower", "batch"),
    "Sparseness": Entry("complexity", "higher", "batch"),
    "EfficientMPRT": Entry("randomisation", "higher", "clip"),
    "RandomLogit": Entry("randomisation", "lower", "clip"),
    "Completeness": Entry("axiomatic", "higher", "batch"),
}

DISPUTED: dict[str, str] = {
    "RegionPerturbation": "declared as lower, but it is the loss of probability, of which a good map has more (less "
    "with order = 'lerf')",
    "Consistency": "declared as lower, but it is the share of like maps with like decisions",
}
"""Directions that are not taken over from Quantus."""

REFUSED: dict[str, str] = {
    "SensitivityN": "its score is a correlation over clips, one for all of them.",
    "ROAD": "it gives one accuracy over all clips for each percentage, none for a clip.",
    "MPRT": "it gives one list for each layer, not a score for a clip. Use 'quantus:EfficientMPRT'.",
    "SmoothMPRT": "it gives one list for each layer, not a score for a clip. Use 'quantus:EfficientMPRT'.",
    "Focus": "it scores mosaics of four recordings, and fails on a single one.",
    "Monotonicity": "it never shows the network anything but the baseline, so that every map passes. Use "
    "'quantus:MonotonicityCorrelation'.",
    "NonSensitivity": "it fails where several cells are replaced at a time, and one at a time is a pass through the "
    "network for each cell of the map.",
    "InputInvariance": "it shifts the features, which no recording can follow, and fails unless the network's first "
    "module is a convolution.",
}

WITHHELD: dict[str, str] = {
    "return_aggregate": "scores stay per clip",
    "aggregate_func": "scores stay per clip",
    "return_auc_per_sample": "the curve is kept, and its area taken here",
    "compute_extra_scores": "they are of no use to a table",
    "num_classes": "it is the classifier's",
    "weighted": "Quantus divides by the number of clips (AttributionLocalisation), or rounds to 0 and 1 (PointingGame)",
    "max_size": "it only sets off a warning",
    "default_plot_func": "nothing is plotted",
    "disable_warnings": "nothing is printed",
    "display_progressbar": "nothing is printed",
    "kwargs": "a typo would vanish in it",
}
"""Parameters of Quantus' constructors that the bridge does not hand on, and why."""

_CITATION = "Hedström et al., JMLR 2023"


def specs() -> Iterator[MetricSpec]:
    """All metrics of Quantus by the name ``quantus:NAME``, the refused ones with their reason."""
    for name, entry in OFFERED.items():
        needs = {"sources"} if entry.category == "localisation" else set()
        if entry.pace == "together":
            needs.add("several-clips")
        yield MetricSpec(
            name=f"quantus:{name}",
            target=f"earwitness_bench.quantus.bridge:{name}",
            summary=f"{name} of Quantus ({entry.category}).",
            paper=_CITATION,
            columns=(Column(name=name, direction=entry.direction),),
            needs=frozenset(needs),
            attribution_only=entry.category == "complexity",
        )
    for name, reason in REFUSED.items():
        yield MetricSpec(
            name=f"quantus:{name}",
            target=f"earwitness_bench.quantus.bridge:{name}",
            summary=f"{name} of Quantus.",
            paper=_CITATION,
            refused=reason,
        )
