"""Does an explanation point at the target's sound, and sound like it, where its clean source is known?"""

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
        source = _target_source(context)
        scene = context.scene
        ideal = formulas.ideal_ratio_mask(
            scene.listening.forward(source).abs(), scene.listening.forward(context.batch.waveforms - source).abs()
        )
        relevance = scene.relevance_map(explanation).clamp_min(0)
        heard = context.rendering.heard
        columns = {
            "relevance_mass": formulas.relevance_mass(relevance, ideal),
            "relevance_rank": formulas.relevance_rank(relevance, ideal),
            "SI-SDR_improvement": formulas.si_sdr_improvement(heard, context.batch.waveforms, source),
        }
        return _where_sounding(source, columns)


class Resemblance:
    """Is what is heard more like the target's clean source, or like what was mixed into it?

    After the corruption experiments of L2I (Parekh et al., NeurIPS 2022, section 4.2), as numbers.
    """

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor]:
        """See :class:`earwitness.protocols.Metric`. A clip without any sound of the target class is not defined."""
        source = _target_source(context)
        heard = context.rendering.heard
        target = formulas.si_sdr(heard, source)
        corruption = formulas.si_sdr(heard, context.batch.waveforms - source)
        columns = {
            "SI-SDR_target": target,
            "SI-SDR_corruption": corruption,
            "resembles_target": torch.where(target.isnan(), torch.nan, (target > corruption).float()),
        }
        return _where_sounding(source, columns)


def _target_source(context: Context) -> Tensor:
    source = context.batch.target_sources(context.target_labels)
    if source is None:
        raise ExplanationError("It needs clips whose clean sources are known.")
    return source


def _where_sounding(source: Tensor, columns: dict[str, Tensor]) -> dict[str, Tensor]:
    missing = source.abs().amax(1) == 0
    return {name: torch.where(missing, torch.nan, values.float()) for name, values in columns.items()}
