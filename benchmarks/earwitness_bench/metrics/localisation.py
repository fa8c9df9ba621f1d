"""Does an explanation point at the target's sound, where its clean source is known?"""

from __future__ import annotations

import torch
from torch import Tensor

from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation
from earwitness_bench.metrics import localisation_formulas as formulas


class Localisation:
    """Relevance mass and rank in the target's ideal ratio mask, and the SI-SDR improvement of the heard sound."""

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`. A clip without any sound of the target class is not defined."""
        source = context.batch.target_sources(context.target_labels)
        if source is None:
            raise ExplanationError("localisation needs clips whose clean sources are known")
        scene = context.scene
        ideal = formulas.ideal_ratio_mask(
            scene.listening.forward(source).abs(), scene.listening.forward(context.batch.waveforms - source).abs()
        )
        relevance = scene.relevance_map(explanation).clamp_min(0)
        missing = source.abs().amax(1) == 0
        heard = context.rendering.heard
        columns = {
            "relevance_mass": formulas.relevance_mass(relevance, ideal),
            "relevance_rank": formulas.relevance_rank(relevance, ideal),
            "SI-SDR_improvement": formulas.si_sdr_improvement(heard, context.batch.waveforms, source),
        }
        return {name: torch.where(missing, torch.nan, values.float()) for name, values in columns.items()}
