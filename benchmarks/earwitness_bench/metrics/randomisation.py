"""Does an explanation change when the classifier forgets what it learnt?

The classifier's layers are randomised from the output down (:mod:`earwitness_bench.cascade`), each clip is explained
again at every stage, as the same class, and the structural similarity of the new map and the original one is taken. A
method whose maps stay as they are explains something else than the classifier.

Maps are compared where the classifier's features are (on the listening STFT for networks that eat samples), positive
part over maximum, so in [0, 1]. *SSIM* is that of Wang et al. (IEEE TIP 2004): Gaussian window of σ = 1.5 cells, 11 x
11, K1 = .01, K2 = .03, data range 1, mean over all windows that lie inside the map. It is also high where both maps are
empty, so sparse maps are alike whatever they mean: ``SSIM_other_clip`` says how much, it is the similarity of the
original maps of two different clips. A map that is constant when layers are random has an SSIM as well, which says
nothing; ``degenerate_randomised`` is a curve of where that happens.

A fitted explainer keeps its fit, which was made for the classifier as it was.

Source: Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3.1; Paissan et al., ICML 2024, fig. 4.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from earwitness.audio.rules import Normalise
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation
from earwitness.protocols import Curve, Scores
from earwitness.render import Scene
from earwitness_bench.cascade import cascade
from earwitness_bench.chunks import others
from earwitness_bench.metrics.mask_shape import constant_rows

WINDOW = 11
"""Cells on either side of a window of SSIM."""


class CascadingRandomisation:
    """SSIM over the cascade, as an area from the classifier as it is (where it is 1) to one of random layers only.

    Parameters
    ----------
    max_stages : int
        Each explains the clip once more.
    """

    def __init__(self, *, max_stages: int = 8) -> None:
        if isinstance(max_stages, bool) or not isinstance(max_stages, int) or max_stages < 1:
            raise ConfigurationError(f"max_stages is a whole number, at least 1; got {max_stages!r}.")
        self.max_stages = max_stages

    def score(self, explanation: Explanation, context: Context) -> Scores:
        """See :class:`earwitness.protocols.Metric`. Where the original map is constant there is nothing to compare."""
        original = comparable(context.scene, explanation)
        similar, flat = ([torch.full((len(original),), start, device=original.device)] for start in (1.0, 0.0))
        with torch.no_grad():
            features = context.classifier.features(context.batch.waveforms[:1])
        for stage in cascade(context.classifier, features, seed=context.random.seed, most=self.max_stages):
            maps = comparable(context.scene, context.explain(context.batch, stage.classifier))
            similar.append(ssim(original, maps))
            flat.append(constant_rows(maps).float())
        constant = constant_rows(original)
        over_stages, flat_stages = (
            torch.stack(each, 1).masked_fill(constant[:, None], torch.nan) for each in (similar, flat)
        )
        places = torch.linspace(0, 1, len(similar))
        columns: dict[str, Tensor | Curve] = {
            "SSIM_randomised": Curve(places, over_stages),
            "SSIM_all_random": over_stages[:, -1],
            "SSIM_other_clip": _of_other_clips(original, context).masked_fill(constant, torch.nan),
            "degenerate_randomised": Curve(places, flat_stages),
        }
        return Scores(columns, tuple("the map is constant" if row else "" for row in constant.tolist()))


def comparable(scene: Scene, explanation: Explanation) -> Tensor:
    """An explanation as a picture: Tensor (B, M, N') or (B, F, N), in [0, 1]; 0 where nothing is positive."""
    if scene.classifier.feature_grid(scene.n_samples) is None:
        return Normalise()(scene.importance(explanation))
    return Normalise()(scene.on_features(explanation))


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Structural similarity of each pair of maps; see the module.

    Parameters
    ----------
    one, other : Tensor (B, rows, columns), in [0, 1]

    Returns
    -------
    Tensor (B,), float32, in [-1, 1]
        1 for equal maps.

    Raises
    ------
    NotApplicableError
        The maps are smaller than a window.
    """
    if min(one.shape[1:]) < WINDOW:
        raise NotApplicableError(
            f"SSIM looks at windows of {WINDOW} x {WINDOW} cells, and these maps have {tuple(one.shape[1:])}."
        )
    from skimage.metrics import structural_similarity

    measure = functools.partial(
        structural_similarity, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    pairs = zip(one.double().cpu().numpy(), other.double().cpu().numpy(), strict=True)
    return torch.tensor([measure(a, b) for a, b in pairs], dtype=torch.float32, device=one.device)


def _of_other_clips(maps: Tensor, context: Context) -> Tensor:
    """SSIM of each row's map and that of another clip; NaN where that one is constant, or there is none."""
    clip_ids = context.batch.clip_ids
    if len(set(clip_ids)) < 2:
        return torch.full((len(maps),), torch.nan, device=maps.device)
    other = maps[others(context.random.seed, clip_ids, context.target)]
    return ssim(maps, other).masked_fill(constant_rows(other), torch.nan)
