"""Factorising a spectrogram that is in memory, and encoding one with patterns that are known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from earwitness.errors import AudioError, ConfigurationError, SilentAudioError, nearest
from earwitness_plugins.sparse_nmf.descent import BLOCK_FRAMES, MemoryShelf, Rules, State, descend
from earwitness_plugins.sparse_nmf.updates import (
    METHODS,
    MethodName,
    audible,
    descend_activations,
    energy_of,
    normalised,
    project,
)

Report = Callable[[int, float], None]
"""Called after each iteration with its number and the best objective."""

MAX_ITERATIONS = {"hals": 200, "multiplicative": 1000}
"""By default."""

_ENCODING_SWEEPS, _ENCODED = 500, 1e-7


@dataclass(frozen=True, eq=False)
class Factorisation:
    """A spectrogram as patterns times activations.

    Attributes
    ----------
    patterns : Tensor (F, K), like the spectrogram, >= 0
        W; columns of unit L2 norm.
    activations : Tensor (K, N), >= 0
        H.
    objective : Tensor (iterations,), float64
        ½‖X - WH‖² + mu ΣH after each iteration.
    """

    patterns: Tensor
    activations: Tensor
    objective: Tensor


def factorise(
    spectrogram: Tensor,
    n_patterns: int,
    *,
    sparsity: float = 0.8,
    method: MethodName = "hals",
    patterns: Tensor | None = None,
    activations: Tensor | None = None,
    frozen: int | Tensor = 0,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    max_iterations: int | None = None,
    tolerance: float = 1e-5,
    report: Report | None = None,
) -> Factorisation:
    """Minimise ½‖X - WH‖² + mu ΣH over W, H >= 0 with columns of W of unit norm.

    Parameters
    ----------
    spectrogram : Tensor (F, N), float, >= 0
        X, such as log(1 + |S|).
    n_patterns : int
        K.
    sparsity : float, >= 0
        mu. The published form without the ½ has twice this number.
    method : {"hals", "multiplicative"}
        Coordinate descent, of which each step is exact; or the published updates, which need many more iterations.
    patterns : Tensor (F, K' <= K), optional
        Start of the first columns of W; normalised. The others start at random.
    activations : Tensor (K, N), optional
        Start of H. Default: random.
    frozen : int or Tensor (n,), int64
        Columns of ``patterns`` that stay as they are: how many of the first ones, or which.
    restarts : int
        Random starts, side by side; that which ends lowest is kept.
    generator : torch.Generator, optional
        On the CPU, of the random starts. Default: seed 0.
    max_iterations : int, optional
        Default: 200, or 1000 multiplicative ones.
    tolerance : float
        The end: an iteration (of ``"hals"``, two in a row) changes the objective by less than this share. 0: go on to
        ``max_iterations``.
    report : callable, optional

    Returns
    -------
    Factorisation
        On the spectrogram's device, in its precision.

    Raises
    ------
    AudioError
        The spectrogram is not (F, N), empty, negative or not finite.
    SilentAudioError
        No frame is loud enough to be explained at this sparsity.
    ConfigurationError
        A setting is out of range, a start does not fit, or there are more patterns than frames.
    """
    check_spectrogram(spectrogram, ("F", "N"))
    start = Start(n_patterns, patterns, frozen, restarts, generator)
    start.check(spectrogram.shape[0], whole=activations is not None)
    rules = rules_of(start, sparsity, method, max_iterations, tolerance, device=spectrogram.device)
    heard = audible(spectrogram, sparsity)
    check_enough(int(heard.sum()), int(rules.free.sum()), sparsity)
    kept = heard if rules.method.screens else torch.ones_like(heard)
    blocks = [block.contiguous() for block in torch.split(spectrogram[:, kept], BLOCK_FRAMES, dim=1)]
    first, scale = start.patterns_for(spectrogram)
    if activations is None:
        shelf = MemoryShelf(start.activations_for(block) for block in blocks)
    else:
        given = check_activations(activations, n_patterns, spectrogram) * scale[0, :, None]
        shelf = MemoryShelf(torch.split(given[None, :, kept], BLOCK_FRAMES, dim=2))
    state = descend(blocks, energy_of(spectrogram), shelf, State.start(first), rules, _reporting(report))
    best, current = state.best, state.slots[:, 1]
    found = spectrogram.new_zeros(n_patterns, spectrogram.shape[1])
    found[:, kept] = torch.cat([shelf.read(number, current)[best] for number in range(len(blocks))], dim=1)
    return Factorisation(state.patterns[best].T.contiguous(), found, state.objectives[best].cpu())


def encode(spectrogram: Tensor, patterns: Tensor, *, sparsity: float) -> Tensor:
    """The activations that minimise ½‖X - WH‖² + mu ΣH for patterns that are given; a convex problem.

    Parameters
    ----------
    spectrogram : Tensor (F, N) or (B, F, N), float, >= 0
    patterns : Tensor (F, K), >= 0
        Of unit norm.
    sparsity : float, >= 0
        mu.

    Returns
    -------
    Tensor (K, N) or (B, K, N), >= 0
        One more sweep over all coordinates would gain less than 1e-7 of what they have gained. Quiet frames are exact
        zeros.

    Raises
    ------
    AudioError
        The spectrogram has another shape, is empty, negative or not finite.
    ConfigurationError
        The patterns are for other bins, negative, or not of unit norm, or the sparsity is negative.
    """
    check_spectrogram(spectrogram, ("F", "N") if spectrogram.ndim == 2 else ("B", "F", "N"))
    check_patterns(patterns, spectrogram.shape[-2])
    check_sparsity(sparsity)
    norms = torch.linalg.vector_norm(patterns, dim=0)
    if not bool(((norms - 1).abs() < 1e-3).all()):
        raise ConfigurationError(
            f"Patterns need columns of unit L2 norm, got norms from {float(norms.min()):.3g} to "
            f"{float(norms.max()):.3g}. Divide each column by its norm."
        )
    frames = spectrogram.movedim(-2, 0).flatten(1)
    rows = normalised(patterns.to(frames).T)[None]
    gram = rows @ rows.mT
    heard = audible(frames, sparsity)
    found = frames.new_zeros(patterns.shape[1], frames.shape[1])
    if bool(heard.any()):
        blocks = torch.split(frames[:, heard], BLOCK_FRAMES, dim=1)
        found[:, heard] = torch.cat([_encode_block(block, rows, gram, sparsity) for block in blocks], dim=1)
    return found.reshape(-1, *spectrogram.shape[:-2], spectrogram.shape[-1]).movedim(0, -2)


def _encode_block(block: Tensor, rows: Tensor, gram: Tensor, sparsity: float) -> Tensor:
    """Sweeps with momentum, which starts anew whenever it no longer helps; ten times fewer than without."""
    projected = project(rows, block)
    activations = before = torch.zeros_like(projected)
    value, age = 0.0, 0  # of the objective, but for ½‖X‖²; of the momentum
    for _ in range(_ENCODING_SWEEPS):
        pushed = torch.lerp(before, activations, 1 + age / (age + 3)).clamp_min_(0)
        moved = descend_activations(pushed, projected, gram, sparsity, sweeps=1)
        now = float(((0.5 * (gram @ moved) - projected + sparsity) * moved).sum(dtype=torch.float64))
        if value - now > _ENCODED * abs(now):
            before, activations, value, age = activations, moved, now, age + 1
        elif age:
            before, age = activations, 0
        else:
            break
    return activations[0]


@dataclass(frozen=True, eq=False)
class Start:
    """Where a factorisation begins; see :func:`factorise` for the attributes."""

    n_patterns: int
    patterns: Tensor | None = None
    frozen: int | Tensor = 0
    restarts: int = 1
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.generator is None:
            object.__setattr__(self, "generator", torch.Generator().manual_seed(0))

    def check(self, n_bins: int, *, whole: bool) -> None:
        """Refuse what does not fit F = ``n_bins``; ``whole``: activations are given too.

        Raises
        ------
        ConfigurationError
        """
        if self.n_patterns < 1 or self.restarts < 1:
            raise ConfigurationError(
                f"At least one pattern and one start are needed, got n_patterns={self.n_patterns} and "
                f"restarts={self.restarts}."
            )
        n_given = 0
        if self.patterns is not None:
            check_patterns(self.patterns, n_bins)
            n_given = self.patterns.shape[1]
        if n_given > self.n_patterns:
            raise ConfigurationError(f"{n_given} patterns to start from do not fit n_patterns={self.n_patterns}.")
        fixed = self._frozen_columns()
        if bool(((fixed < 0) | (fixed >= n_given)).any()):
            raise ConfigurationError(
                f"Frozen columns must be among the {n_given} patterns that are given, got {self.frozen}."
            )
        if whole and (n_given < self.n_patterns or self.restarts > 1):
            raise ConfigurationError(
                f"Activations to start from go with all {self.n_patterns} patterns and one start, got {n_given} "
                f"patterns and restarts={self.restarts}."
            )

    def free(self) -> Tensor:
        """Columns that may change: Tensor (K,), bool."""
        free = torch.ones(self.n_patterns, dtype=torch.bool)
        free[self._frozen_columns()] = False
        return free

    def patterns_for(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Wᵀ (R, K, F) of unit norm, and the norms (R, K) it had, in precision and on the device of (F, ...)."""
        drawn = torch.rand(self.restarts, self.n_patterns, like.shape[0], generator=self.generator, dtype=torch.float64)
        if self.patterns is not None:
            drawn[:, : self.patterns.shape[1]] = self.patterns.detach().T.to("cpu", torch.float64)
        norms = torch.linalg.vector_norm(drawn, dim=-1)
        return normalised(drawn).to(like), norms.to(like)

    def activations_for(self, block: Tensor) -> Tensor:
        """Random H of a block (F, n): Tensor (R, K, n), the same however frames are cut into blocks."""
        shape = (block.shape[1], self.restarts, self.n_patterns)
        return torch.rand(shape, generator=self.generator).movedim(0, -1).to(block).contiguous()

    def _frozen_columns(self) -> Tensor:
        if isinstance(self.frozen, int):
            return torch.arange(self.frozen)
        return self.frozen.detach().cpu().long()


def rules_of(
    start: Start,
    sparsity: float,
    method: str,
    max_iterations: int | None,
    tolerance: float,
    *,
    device: torch.device | str,
) -> Rules:
    """The settings of a descent, checked.

    Raises
    ------
    ConfigurationError
        One is out of range.
    """
    check_sparsity(sparsity)
    if method not in METHODS:
        raise ConfigurationError(f"Unknown method {method!r}. {nearest(str(method), METHODS)}")
    most = MAX_ITERATIONS[method] if max_iterations is None else max_iterations
    if most < 1 or not 0 <= tolerance < 1:
        raise ConfigurationError(
            f"Expected max_iterations of 1 or more and a tolerance in [0, 1), got {most} and {tolerance}."
        )
    return Rules(METHODS[method], float(sparsity), start.free().to(device), most, tolerance)


def check_spectrogram(spectrogram: Tensor, axes: tuple[str, ...]) -> None:
    """Refuse what is no magnitude spectrogram.

    Raises
    ------
    AudioError
    """
    if spectrogram.ndim != len(axes) or not spectrogram.is_floating_point() or not spectrogram.numel():
        raise AudioError(
            f"Expected a float spectrogram ({', '.join(axes)}), frequency before time, got "
            f"{tuple(spectrogram.shape)} of {spectrogram.dtype}."
        )
    lowest, highest = (float(value) for value in spectrogram.aminmax())  # NaN, where there is one
    if not highest < float("inf"):
        raise AudioError("The spectrogram has NaN or infinite values. Look for damaged recordings.")
    if lowest < 0:
        raise AudioError(
            f"A spectrogram for Sparse-NMF is not negative, got {lowest:.3g}. "
            "Use magnitudes or log(1 + magnitude), not decibels."
        )


def check_patterns(patterns: Tensor, n_bins: int) -> None:
    """Refuse patterns that are not (F, K), finite and non-negative, or have a column of zeros.

    Raises
    ------
    ConfigurationError
    """
    if patterns.ndim != 2 or patterns.shape[0] != n_bins:
        raise ConfigurationError(f"Expected patterns of shape ({n_bins}, K), got {tuple(patterns.shape)}.")
    if not bool(torch.isfinite(patterns).all()) or bool((patterns < 0).any()):
        raise ConfigurationError("Patterns must be finite and not negative.")
    if not bool((patterns > 0).any(0).all()):
        raise ConfigurationError(f"Pattern {int((patterns > 0).any(0).logical_not().nonzero()[0])} is all zeros.")


def check_activations(activations: Tensor, n_patterns: int, spectrogram: Tensor) -> Tensor:
    """Activations to start from, in precision and on the device of the spectrogram.

    Raises
    ------
    ConfigurationError
        They are not (K, N), not finite or negative.
    """
    expected = (n_patterns, spectrogram.shape[1])
    if tuple(activations.shape) != expected:
        raise ConfigurationError(f"Expected activations of shape {expected}, got {tuple(activations.shape)}.")
    if not bool(torch.isfinite(activations).all()) or bool((activations < 0).any()):
        raise ConfigurationError("Activations must be finite and not negative.")
    return activations.detach().to(spectrogram)


def check_sparsity(sparsity: float) -> None:
    """Refuse a weight that is negative or no number.

    Raises
    ------
    ConfigurationError
    """
    if not 0 <= sparsity < float("inf"):
        raise ConfigurationError(f"The sparsity mu must be a number >= 0, got {sparsity}.")


def check_enough(n_frames: int, n_free: int, sparsity: float) -> None:
    """Refuse to learn from silence, or more patterns than frames.

    Raises
    ------
    SilentAudioError, ConfigurationError
    """
    if not n_frames:
        raise SilentAudioError(
            f"There is nothing to learn: no frame's norm exceeds the sparsity {sparsity:g}, so all activations would "
            "be zero. Give louder recordings or a smaller sparsity."
        )
    if n_free > n_frames:
        raise ConfigurationError(
            f"{n_free} patterns cannot be learnt from {n_frames} frames that are not silent. Give more recordings or "
            "ask for fewer patterns."
        )


def _reporting(report: Report | None) -> Callable[[State], None]:
    if report is None:
        return lambda state: None
    return lambda state: report(state.iterations, float(state.objectives[:, -1].min()))
