"""Whether to believe an explanation: what is heard must do better than chance at the same energy.

The statistic is p(heard) - p(rest): a true explanation keeps the decision in what is heard and takes it from the rest.
It is compared with random masks that keep exactly as much of the recording's energy. They are random in patches of
about 200 ms by a twelfth of the audible range, because a mask that is random bin by bin sounds like the recording
itself, only quieter, and would be no test.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.budget import EnergyBudget
from earwitness.random import Random
from earwitness.render import Rendering, Scene

PATCH_S = 0.2
"""Length of a random mask's patches in seconds."""

BANDS = 12
"""Number of bands of a random mask, equally wide on the mel scale."""

SUPPORTED = "supported"
CHANCE = "not distinguishable from chance"


@dataclass(frozen=True)
class Verdict:
    """What the classifier says to the parts, and to random parts of equal energy.

    Attributes
    ----------
    label : str
        The explained class.
    p_original, p_heard, p_rest : float
        Its probability in the recording, in what is heard, and in what is left.
    kept_energy : float
        Share of the recording's energy that is heard.
    p_heard_random, p_rest_random : float
        The same for random masks of equal energy, on average.
    draws, beaten : int
        How many random masks were drawn, and how many do worse.
    supported : bool
        All of them do worse (p <= 1 / (draws + 1)), and what is heard speaks more for the class than the rest does.
    """

    label: str
    p_original: float
    p_heard: float
    p_rest: float
    kept_energy: float
    p_heard_random: float
    p_rest_random: float
    draws: int
    beaten: int

    @property
    def supported(self) -> bool:
        """See above."""
        return self.beaten == self.draws and self.p_heard > self.p_rest

    @property
    def word(self) -> str:
        """``"supported"`` or ``"not distinguishable from chance"``."""
        return SUPPORTED if self.supported else CHANCE

    def __str__(self) -> str:
        return (
            f"{self.word}: p({self.label}) is {self.p_original:.2f} in the recording, {self.p_heard:.2f} in what is "
            f"heard ({self.kept_energy:.0%} of the energy), {self.p_rest:.2f} in the rest; random masks of equal "
            f"energy get {self.p_heard_random:.2f} and {self.p_rest_random:.2f} "
            f"({self.beaten} of {self.draws} do worse)"
        )


@dataclass(frozen=True, eq=False)
class Evidence:
    """The numbers behind a verdict, per row: Tensors (B,), and (draws, B) for the random masks."""

    p_original: Tensor
    p_heard: Tensor
    p_rest: Tensor
    kept_energy: Tensor
    p_heard_random: Tensor
    p_rest_random: Tensor


def gather_evidence(scene: Scene, rendering: Rendering, target: Tensor, *, random: Random, draws: int = 19) -> Evidence:
    """Ask the classifier about the parts, and about random parts of equal energy.

    Parameters
    ----------
    scene : Scene
    rendering : Rendering
    target : Tensor (B,), int64
    random : Random
    draws : int
        19 random masks make a test at the 5 % level.
    """

    def p_target(probabilities: Tensor) -> Tensor:
        return probabilities.gather(1, target[:, None])[:, 0].cpu()

    def p_of(gain: Tensor, waveforms: Tensor | None = None) -> Tensor:
        if waveforms is not None and scene.route == "waveform":
            return p_target(scene.classifier.probabilities(waveforms))
        return p_target(scene.probabilities(gain))

    heard: list[Tensor] = []
    rest: list[Tensor] = []
    for draw in range(draws):
        mask = random_mask(scene, random, f"verdict-{draw}")
        gain = EnergyBudget(mask, scene.magnitude).gain(rendering.kept_energy.nan_to_num(0.5))
        for parts, probabilities in zip((heard, rest), scene.split(gain), strict=True):
            parts.append(p_target(probabilities))
    return Evidence(
        p_target(scene.original),
        p_of(rendering.gain, rendering.heard),
        p_of(rendering.rest_gain, rendering.rest),
        rendering.kept_energy.cpu(),
        torch.stack(heard),
        torch.stack(rest),
    )


def judge(label: str, evidence: list[Evidence]) -> Verdict:
    """The verdict over all rows of some batches, each statistic averaged over rows."""

    def mean(name: str) -> float:
        return float(torch.cat([getattr(part, name) for part in evidence], dim=-1).mean())

    heard = torch.cat([part.p_heard_random for part in evidence], dim=1).mean(1)
    rest = torch.cat([part.p_rest_random for part in evidence], dim=1).mean(1)
    p_heard, p_rest = mean("p_heard"), mean("p_rest")
    # A hair's breadth above rounding, so that a mask of everything or of nothing beats nobody.
    beaten = int((heard - rest < p_heard - p_rest - 1e-4).sum())
    return Verdict(
        label=label,
        p_original=mean("p_original"),
        p_heard=p_heard,
        p_rest=p_rest,
        kept_energy=mean("kept_energy"),
        p_heard_random=float(heard.mean()),
        p_rest_random=float(rest.mean()),
        draws=len(heard),
        beaten=beaten,
    )


def random_mask(scene: Scene, random: Random, name: str) -> Tensor:
    """Uniform numbers on patches, interpolated smoothly: Tensor (B, F, N), in [0, 1)."""
    n_bins, n_frames = scene.magnitude.shape[1:]
    grid = scene.listening.grid(scene.n_samples)
    n_patches = max(2, math.ceil(scene.n_samples / scene.listening.rate / PATCH_S))
    coarse = random.uniform(name, BANDS, n_patches).to(scene.magnitude)
    mel = torch.log1p(grid.frequencies_hz / 700)
    place = torch.stack(
        torch.meshgrid(torch.linspace(-1, 1, n_frames), (2 * mel / mel[-1] - 1).float(), indexing="xy"), dim=-1
    ).to(coarse)
    fine = functional.grid_sample(
        coarse[:, None], place.expand(len(coarse), n_bins, n_frames, 2), mode="bilinear", align_corners=True
    )
    return fine[:, 0].clamp(0, 1)
