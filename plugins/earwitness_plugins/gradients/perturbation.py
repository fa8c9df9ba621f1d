"""Methods that silence parts of the input and watch the logit: occlusion, feature ablation, KernelSHAP.

They need no gradient. Parts are blocks of the feature map (frequency bands × stretches of time), or stretches of
samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from captum.attr import FeatureAblation as CaptumFeatureAblation
from captum.attr import KernelShap as CaptumKernelShap
from captum.attr import Occlusion as CaptumOcclusion
from torch import Tensor, nn

from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.errors import NotApplicableError
from earwitness.explanation import Explanation
from earwitness.random import Random
from earwitness_plugins.gradients.inputs import (
    MEMORY_MB,
    AttributionInput,
    InputDomain,
    check_count,
    check_domain,
    check_memory,
    explained,
)

_AS_GOOD_AS_INFINITE = 1e6
"""Weight of the two coalitions that the regression must meet, beside weights of about 1."""


class FeatureAblation:
    """Drop of the logit when one segment is silenced, for each segment, by Captum (Zeiler and Fergus, 2014).

    Parameters
    ----------
    domain : {"features", "waveform"}
    frequency_segments, time_segments : int
        Blocks over frequency (of the feature map) and over time.
    memory_mb : float
        What the network may hold at once; it decides how many segments go through in one pass.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        frequency_segments: int = 8,
        time_segments: int = 10,
        memory_mb: float = MEMORY_MB,
    ) -> None:
        self.domain = check_domain(domain)
        self.frequency_segments = check_count("feature-ablation", "frequency_segments", frequency_segments, 1)
        self.time_segments = check_count("feature-ablation", "time_segments", time_segments, 1)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            found: Tensor = CaptumFeatureAblation(piece.forward).attribute(
                piece.values,
                baselines=piece.silence.expand_as(piece.values),
                target=piece.target,
                feature_mask=segments(piece.values, self.frequency_segments, self.time_segments),
                perturbations_per_eval=piece.copies_at_once,
            )
            return found

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        with torch.no_grad():
            return explained(given, attribute)


class Occlusion:
    """Drop of the logit under a sliding silent window, averaged over the windows on a cell, by Captum.

    Zeiler and Fergus, 2014, section 4.2.

    Parameters
    ----------
    domain : {"features", "waveform"}
    frequency_segments, time_segments : int
        The window spans this fraction of the map (1/8 of the bands, 1/10 of the time) and moves by half its size.
    memory_mb : float
        What the network may hold at once; it decides how many windows go through in one pass.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        frequency_segments: int = 8,
        time_segments: int = 10,
        memory_mb: float = MEMORY_MB,
    ) -> None:
        self.domain = check_domain(domain)
        self.frequency_segments = check_count("occlusion", "frequency_segments", frequency_segments, 1)
        self.time_segments = check_count("occlusion", "time_segments", time_segments, 1)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`."""

        def attribute(piece: AttributionInput) -> Tensor:
            *bands, n_columns = piece.values.shape[1:]
            time = -(-n_columns // self.time_segments)
            frequency = [-(-n_bands // self.frequency_segments) for n_bands in bands[1:]]
            window = (*[1] * len(bands[:1]), *frequency, time)
            found: Tensor = CaptumOcclusion(piece.forward).attribute(
                piece.values,
                sliding_window_shapes=window,
                strides=tuple(-(-size // 2) for size in window),
                baselines=piece.silence.expand_as(piece.values),
                target=piece.target,
                perturbations_per_eval=piece.copies_at_once,
            )
            return found

        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        with torch.no_grad():
            return explained(given, attribute)


class KernelShap:
    """Shapley values of segments, estimated by weighted regression, by Captum (Lundberg and Lee, 2017, section 4.1).

    Parameters
    ----------
    domain : {"features", "waveform"}
    frequency_segments, time_segments : int
        The players: blocks over frequency (of the feature map) and over time. A silenced block is out of the game.
    n_samples : int
        Coalitions that are tried, each with its complement; all of them, if they are no more. At least twice as many as
        there are players, or the regression has no one answer.
    memory_mb : float
        What the network may hold at once; it decides how many coalitions go through in one pass.

    Notes
    -----
    The diagnostic ``completeness_gap`` is |sum of Shapley values - (logit(x) - logit(silence))|; the regression holds
    it near 0.
    """

    def __init__(
        self,
        *,
        domain: InputDomain = "features",
        frequency_segments: int = 6,
        time_segments: int = 8,
        n_samples: int = 200,
        memory_mb: float = MEMORY_MB,
    ) -> None:
        self.domain = check_domain(domain)
        self.frequency_segments = check_count("kernel-shap", "frequency_segments", frequency_segments, 1)
        self.time_segments = check_count("kernel-shap", "time_segments", time_segments, 2)
        n_players = self.time_segments * (self.frequency_segments if domain == "features" else 1)
        self.n_samples = check_count("kernel-shap", "n_samples", n_samples, 2 * n_players)
        self.memory_mb = check_memory(memory_mb)

    def explain(self, classifier: AudioClassifier, batch: Batch, *, target: Tensor, random: Random) -> Explanation:
        """See :class:`earwitness.protocols.Explainer`.

        Raises
        ------
        NotApplicableError
            There is only one segment.
        """
        given = AttributionInput.of(
            classifier, batch, self.domain, target=target, random=random, memory_mb=self.memory_mb
        )
        # The data loader of Captum's regression takes a number from torch's global generator, for nothing.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return explained(given, self._attribute, baseline=given.silence)

    def _attribute(self, given: AttributionInput) -> Tensor:
        """Clip by clip, as the regression goes."""
        found = []
        for clip in given.pieces(1):
            parts = segments(clip.values, self.frequency_segments, self.time_segments)
            n_players = int(parts.max()) + 1
            if n_players == 1:
                raise NotApplicableError(
                    f"KernelSHAP needs at least two players; an input of shape {tuple(clip.values.shape[1:])} "
                    "makes one segment. Ask for more segments, or use feature-ablation."
                )
            (generator,) = clip.random.generators("coalitions")
            coalitions, weights = draw_coalitions(n_players, self.n_samples, generator)
            values: Tensor = _KernelShap(clip.forward, coalitions, weights).attribute(
                clip.values,
                baselines=clip.silence,
                target=clip.target,
                feature_mask=parts,
                n_samples=len(coalitions),
                perturbations_per_eval=clip.rows_at_once,
            )
            # Captum gives each cell its segment's value; spread it, so that the map sums to what is shared out.
            found.append(values / torch.bincount(parts.flatten())[parts])
        return torch.cat(found)


def draw_coalitions(n_players: int, n_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Who takes part, and how much each coalition weighs in the regression (Theorem 2 of the paper).

    All coalitions, with the weights of the Shapley kernel, where they are no more than ``n_samples``: then the
    regression gives exact Shapley values. Else as many as are asked for, drawn as often as the kernel weighs them, each
    followed by its complement, which makes the estimate a good deal steadier (Covert and Lee, AISTATS 2021, section
    3.2).

    Parameters
    ----------
    n_players : int
        M, at least 2.
    n_samples : int
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    coalitions : Tensor (K, M), int64
        0 or 1; the first two are all and nobody.
    weights : Tensor (K,), float32
        The first two weigh as good as infinitely much.
    """
    everybody = torch.ones(1, n_players, dtype=torch.int64)
    sizes = torch.arange(1, n_players)
    per_size = (n_players - 1) / (sizes * (n_players - sizes))  # the kernel times the number of coalitions of a size
    if 2**n_players <= n_samples:
        numbers = torch.arange(1, 2**n_players - 1)[:, None]
        drawn = (numbers >> torch.arange(n_players)) & 1
        n_of_size = torch.tensor([math.comb(n_players, size) for size in range(1, n_players)])
        weights = (per_size / n_of_size)[drawn.sum(1) - 1]
    else:
        n_pairs = -(-(n_samples - 2) // 2)
        size = 1 + torch.multinomial(per_size, n_pairs, replacement=True, generator=generator)
        ranks = torch.rand(n_pairs, n_players, generator=generator).argsort(1).argsort(1)
        chosen = (ranks < size[:, None]).long()
        drawn = torch.stack([chosen, 1 - chosen], dim=1).flatten(0, 1)[: n_samples - 2]
        weights = torch.ones(len(drawn))
    ends = torch.full((2,), _AS_GOOD_AS_INFINITE)
    return torch.cat([everybody, 0 * everybody, drawn]), torch.cat([ends, weights])


class _KernelShap(CaptumKernelShap):  # type: ignore[misc]
    """Captum's KernelSHAP over given coalitions, which it would draw from torch's global generator."""

    def __init__(self, forward: nn.Module, coalitions: Tensor, weights: Tensor) -> None:
        super().__init__(forward)
        self._coalitions = coalitions
        self._weights: Iterator[Tensor] = iter(weights)

    def kernel_shap_perturb_generator(self, original_inp: Tensor, **_settings: object) -> Iterator[Tensor]:
        yield from self._coalitions[:, None].to(original_inp.device)

    def kernel_shap_similarity_kernel(self, *_inputs: Tensor, **_settings: object) -> Tensor:
        return next(self._weights).reshape(1)


def segments(values: Tensor, n_frequency: int, n_time: int) -> Tensor:
    """Numbers of the blocks that a map is cut into, of nearly equal size.

    Parameters
    ----------
    values : Tensor (B, 1, M, N') or (B, T)
    n_frequency, n_time : int
        Blocks over frequency and over time, no more than there are rows and columns.

    Returns
    -------
    Tensor (1, 1, M, N') or (1, T), int64
        0, 1, … without a gap.
    """
    n_columns = values.shape[-1]
    n_time = min(n_time, n_columns)
    over_time = torch.arange(n_columns, device=values.device) * n_time // n_columns
    if values.ndim == 2:
        return over_time[None]
    n_bands = values.shape[2]
    over_frequency = torch.arange(n_bands, device=values.device) * min(n_frequency, n_bands) // n_bands
    return (over_frequency[:, None] * n_time + over_time)[None, None]
