"""L-MAC by other names: with the published objective, and trained for budgets."""

from __future__ import annotations

from collections.abc import Sequence

from earwitness.explanation import Scale
from earwitness_plugins.lmac.explainer import LMAC
from earwitness_plugins.lmac.passages import MaskDomain


def lmac_paper(
    *,
    layers: Sequence[str] | None = None,
    width: int = 256,
    domain: MaskDomain = "stft",
    scale: Scale = "magnitude",
    steps: int = 3000,
    learning_rate: float = 2e-4,
    noise: str | None = None,
    noise_snr_db: float = 0.0,
    finetune_steps: int = 0,
    guidance_weight: float = 4.0,
    least_cosine: float = 0.6,
    start: str | None = None,
    examples: int = 0,
    memory_mb: float = 2048.0,
) -> LMAC:
    """L-MAC with the published objective: λ_in 4, λ_out 0.2 of an unbounded cross-entropy, λ_s 6.4, Adam from 2e-4.

    The published decoder has 237 million parameters, a width of 2048 in every stage over CNN14's maps; what is kept of
    it here is its loss, so ``width`` is as for the default. Its learning rate is halved on plateaus where this one
    falls along a cosine. ``scale="log1p"`` is what its code does. For the other parameters, see :class:`LMAC`.
    """
    return LMAC(
        layers=layers,
        width=width,
        domain=domain,
        scale=scale,
        out_loss="published",
        in_weight=4.0,
        increase_weight=0.0,
        out_weight=0.2,
        exchange_weight=0.0,
        class_conditional=False,
        sparsity=6.4,
        mean_mask=None,
        steps=steps,
        learning_rate=learning_rate,
        noise=noise,
        noise_snr_db=noise_snr_db,
        finetune_steps=finetune_steps,
        guidance_weight=guidance_weight,
        guidance_loss="bce",
        least_cosine=least_cosine,
        start=start,
        examples=examples,
        memory_mb=memory_mb,
    )


def lmac_budget(
    *,
    layers: Sequence[str] | None = None,
    width: int = 256,
    in_weight: float = 4.0,
    out_weight: float = 4.0,
    steps: int = 2000,
    batch_size: int = 16,
    learning_rate: float = 1e-3,
    noise: str | None = "clips",
    noise_snr_db: float = 2.0,
    start: str | None = None,
    examples: int = 0,
    memory_mb: float = 2048.0,
) -> LMAC:
    """L-MAC trained to rank: every mask is warped to a random share of the recording's energy before it is judged.

    That is how maps are compared at equal budgets (see :mod:`earwitness_plugins.lmac.budget`), so there is one map for
    all budgets, and nothing to condition a decoder on. Sparsity has no place: the energy is given. For the parameters,
    see :class:`LMAC`.
    """
    return LMAC(
        layers=layers,
        width=width,
        in_weight=in_weight,
        out_weight=out_weight,
        sparsity=0.0,
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        budget_share=1.0,
        noise=noise,
        noise_snr_db=noise_snr_db,
        start=start,
        examples=examples,
        memory_mb=memory_mb,
    )
