"""Deletion and insertion over time-frequency patches: does the decision go where the map says that it comes from?

Where
-----
On the classifier's *feature map*, whatever the run's route: its own features of the recording, computed once, lose
patches, and the unchanged ones are the beginning of each curve. (A patch that is cut out of a spectrogram and made
audible leaks into its neighbours, so the removed share would not be the true one.) A network that eats samples has no
such map; there the patches are of the listening STFT, and every point of a curve, its beginning included, is made
audible.

What ranks the cells: see ``Scene.on_features`` and ``Scene.on_stft``. A patch counts by its relevance per cell.

Axis
----
The fraction of *cells* that is removed (or put back), exact and common to all rows, from 0 to 1; the target's
probability over it; the area by :meth:`earwitness.protocols.Curve.area`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from earwitness.classifier import AudioClassifier
from earwitness.context import Context
from earwitness.errors import ConfigurationError, NotApplicableError
from earwitness.explanation import Explanation
from earwitness.parts import part_alone
from earwitness.protocols import Curve
from earwitness.render import Scene
from earwitness_bench.metrics import patch_flipping_formulas as formulas
from earwitness_bench.metrics.patch_flipping_formulas import PatchGrid

Removal = Literal["floor", "mean", "zero"]
REMOVALS: tuple[Removal, ...] = ("floor", "mean", "zero")

Read = Callable[[Tensor, Tensor], Tensor]
"""From logits (R, C) and the rows (R,) of the batch that they belong to, to the numbers (R,) of a curve."""

CHUNK_ROWS = 8
"""Maps that go through the network at once. Larger chunks are slower on a CPU: they leave the cache."""


@dataclass(frozen=True, eq=False)
class Canvas:
    """What patches are removed from.

    Attributes
    ----------
    values : Tensor (B, M, N), float32 or complex64
        Features, or the listening STFT of a network that eats samples.
    removed : Tensor (B, M, N), of the same type
        What stands where a cell was removed.
    logits : callable
        Any number of such maps (R, M, N) -> logits (R, C).
    """

    values: Tensor
    removed: Tensor
    logits: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, scene: Scene, removal: Removal) -> Canvas:
        """The recordings of a scene.

        Parameters
        ----------
        scene : Scene
        removal : {"floor", "mean", "zero"}
            The features of digital silence; each band's mean over the recording; or the number 0, which in a log-mel
            map may be *louder* than the median cell. On the STFT: silence; the mean magnitude at the phase that was
            there; or silence again.
        """
        classifier = scene.classifier
        if classifier.feature_grid(scene.n_samples) is None:
            spectrum = scene.spectrum
            removed = torch.zeros_like(spectrum)
            if removal == "mean":
                mean = scene.magnitude.mean(2, keepdim=True).expand(spectrum.shape)
                removed = torch.polar(mean.contiguous(), spectrum.angle())
            return cls(
                spectrum, removed, lambda maps: classifier.logits(scene.listening.inverse(maps, scene.n_samples))
            )
        values = classifier.features(scene.batch.waveforms)[:, 0]
        removed = torch.zeros_like(values)
        if removal == "floor":
            removed = removed + classifier.features(torch.zeros_like(scene.batch.waveforms[:1]))[:, 0]
        elif removal == "mean":
            removed = removed + values.mean(2, keepdim=True)
        return cls(values, removed, lambda maps: classifier.logits_of_features(maps[:, None]))

    def grid(self, bands: int, frames: int) -> PatchGrid:
        """The patches of ``bands`` x ``frames`` cells that its maps are cut into."""
        return PatchGrid(self.values.shape[1], self.values.shape[2], bands, frames)

    @torch.no_grad()
    def answers(self, places: Tensor, removals: Sequence[tuple[int, int]], read: Read, rows: int) -> Tensor:
        """Ask the classifier about every row under every removal, a fixed number of maps at a time.

        Parameters
        ----------
        places : Tensor (B, M, N), int
            When each cell's turn is.
        removals : sequence of (start, stop), length S
            Which turns are removed: start <= place < stop.
        read : Read
        rows : int
            At most so many maps at a time.

        Returns
        -------
        Tensor (B, S), float32
        """
        bounds = torch.tensor(removals, device=places.device)[:, :, None, None, None]
        found = []
        for some in torch.split(torch.arange(len(places), device=places.device), rows):
            turns, values, removed = places[some], self.values[some], self.removed[some]
            answers = []
            for piece in torch.split(bounds, max(1, rows // len(some))):  # the same removals of all these rows at once
                flipped = torch.where((turns >= piece[:, 0]) & (turns < piece[:, 1]), removed, values)
                answers.append(read(self.logits(flipped.flatten(0, 1)), some.repeat(len(piece))))
            found.append(torch.cat(answers).reshape(len(removals), len(some)).T)
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Orders:
    """The orders in which the parts of an explanation ask for patches.

    Attributes
    ----------
    ranks : Tensor (B, K, P), int64
        Place of each patch in each part's own order.
    selected : Tensor (B, K), bool
        The parts that count.
    ties : Tensor (B, P), in [0, 1)
        Who goes first where several ask at once.
    """

    ranks: Tensor
    selected: Tensor
    ties: Tensor


class PatchFlipping:
    """Deletion and insertion curves, most and least relevant patches first (MoRF, LeRF), and what lies between.

    Insertion of the most relevant first is deletion of the least relevant first, read backwards: the same maps. So two
    curves are computed, and their ends, the recording and nothing, once.

    Parameters
    ----------
    removal : {"floor", "mean", "zero"}
        See :meth:`Canvas.of`.
    patch_bands, patch_frames : int
        A patch, in cells.
    n_steps : int
        Equal steps from the recording to nothing.
    chunk_rows : int
        Maps that go through the network at once.

    Raises
    ------
    ConfigurationError
        The removal is unknown, or a number is not positive.
    """

    def __init__(
        self,
        removal: Removal,
        patch_bands: int = 8,
        patch_frames: int = 8,
        n_steps: int = 20,
        chunk_rows: int = CHUNK_ROWS,
    ) -> None:
        if removal not in REMOVALS:
            raise ConfigurationError(f"removal must be one of {REMOVALS}, got {removal!r}.")
        _check_positive(patch_bands=patch_bands, patch_frames=patch_frames, n_steps=n_steps, chunk_rows=chunk_rows)
        self.removal: Removal = removal
        self.patch_bands, self.patch_frames = patch_bands, patch_frames
        self.n_steps, self.chunk_rows = n_steps, chunk_rows

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor | Curve]:
        """See :class:`earwitness.protocols.Metric`."""
        canvas = Canvas.of(context.scene, self.removal)
        grid = canvas.grid(self.patch_bands, self.patch_frames)
        scores = formulas.patch_means(_map_on_canvas(context.scene, explanation), grid)
        places = formulas.cell_ranks(formulas.ranked(scores, _ties(context, grid)), grid)
        curves = self.curves(canvas, places, _probability(context.classifier, explanation.target))
        silent = context.scene.silent
        columns: dict[str, Tensor | Curve] = {
            name: Curve(curve.x, _without(curve.y, silent)) for name, curve in curves.items()
        }
        columns["gap"] = _without(curves["insertion"].area() - curves["deletion"].area(), silent)
        return {f"{name}@{self.removal}": values for name, values in columns.items()}

    def curves(self, canvas: Canvas, places: Tensor, read: Read) -> dict[str, Curve]:
        """The four curves of an order of cells; see :meth:`Canvas.answers` for the arguments."""
        n_cells = places[0].numel()
        counts = formulas.equal_steps(n_cells, min(self.n_steps, n_cells))
        inner = counts[1:-1]
        removals = [(0, 0), *((0, n) for n in inner), (0, n_cells), *((n, n_cells) for n in inner)]
        answers = canvas.answers(places, removals, read, self.chunk_rows)
        whole, deleted, nothing, kept = torch.split(answers, [1, len(inner), 1, len(inner)], dim=1)
        deletion, insertion = torch.cat([whole, deleted, nothing], 1), torch.cat([nothing, kept, whole], 1)
        x = torch.tensor(counts, dtype=torch.float64) / n_cells
        backwards = 1 - x.flip(0)
        return {
            "deletion": Curve(x, deletion),
            "insertion": Curve(x, insertion),
            "deletion_LeRF": Curve(backwards, insertion.flip(1)),
            "insertion_LeRF": Curve(backwards, deletion.flip(1)),
        }


class ThesisAUPC:
    """Patch flipping as the DRSA audio thesis codes it, and the same flips at the true fraction.

    ``aupc_thesis``: heat maps clamped at 0; patches of 8 x 8 log-mel cells by their sum; step τ flips the next τ² of
    *each part's* own order, to 0; relu(logit) of the target; Σ ω_τ (f_{τ-1} - f_τ) / 2. Lower counts as better.

    **The trap**: ω counts the τ² patches of one part, but the union over K parts flips up to K τ². More parts flip more
    at the same ω, so a larger K wins whatever the maps say: sixteen maps of white noise beat real methods. Compare it
    across methods of equal K only, if at all; it is no headline.

    ``aupc_true_fraction``: the same heat maps, orders, union, removal and score, but the trapezoid area over the
    fraction of cells that is really flipped, in equal steps: the same budget whatever K.

    ``delta_aupc_thesis``, ``delta_aupc_true_fraction``: ΔAUPC (the thesis' eq. 4.5), what the one map of the whole
    scores less what its parts score. Higher is better; it takes out the scale of the logits, so that classes and
    classifiers can be compared. The first rises with K all by itself, the second does not.

    An explanation without parts is one part: its one map, and ΔAUPC is 0. Parts that a row does not select do not
    count in it; a row that selects none is not defined.

    Parameters
    ----------
    patch : int
        Bands and frames of a patch. Patches at the rim are smaller where it does not divide the map.
    n_steps : int
        Equal steps of ``aupc_true_fraction``.
    chunk_rows : int
        Maps that go through the network at once.

    Raises
    ------
    ConfigurationError
        A number is not positive.
    """

    def __init__(self, *, patch: int = 8, n_steps: int = 20, chunk_rows: int = CHUNK_ROWS) -> None:
        _check_positive(patch=patch, n_steps=n_steps, chunk_rows=chunk_rows)
        self.patch, self.n_steps, self.chunk_rows = patch, n_steps, chunk_rows

    def score(self, explanation: Explanation, context: Context) -> dict[str, Tensor | Curve]:
        """See :class:`earwitness.protocols.Metric`.

        Raises
        ------
        NotApplicableError
            The classifier has no feature map.
        """
        scene = context.scene
        if scene.classifier.feature_grid(scene.n_samples) is None:
            raise NotApplicableError(f"{scene.classifier.name} has no log-mel map, over which aupc-thesis is defined.")
        canvas = Canvas.of(scene, "zero")
        grid = canvas.grid(self.patch, self.patch)
        ties, read = _ties(context, grid), _rectified_logit(explanation.target)

        def flip(maps: list[Explanation], selected: Tensor) -> tuple[Tensor, Curve]:
            patches = [formulas.patch_sums(scene.on_features(one).clamp_min(0), grid) for one in maps]
            ranks = torch.stack([formulas.ranked(scores, ties) for scores in patches], dim=1)
            orders = Orders(ranks, selected, ties)
            return self._coded(canvas, grid, orders, read), self._at_true_fraction(canvas, grid, orders, read)

        maps, selected = _parts_of(explanation)
        coded, honest = flip(maps, selected)
        of_whole = coded, honest
        if explanation.parts is not None:
            of_whole = flip([explanation], torch.ones_like(selected[:, :1]))
        undefined = ~selected.any(1) | scene.silent
        return {
            "aupc_thesis": _without(coded, undefined),
            "aupc_true_fraction": Curve(honest.x, _without(honest.y, undefined)),
            "delta_aupc_thesis": _without(of_whole[0] - coded, undefined),
            "delta_aupc_true_fraction": _without(of_whole[1].area() - honest.area(), undefined),
        }

    def _coded(self, canvas: Canvas, grid: PatchGrid, orders: Orders, read: Read) -> Tensor:
        schedule = formulas.thesis_schedule(grid.n_patches)
        steps = formulas.thesis_steps(orders.ranks, orders.selected, schedule)[:, grid.index.to(orders.ranks.device)]
        removals = [(0, step) for step in range(len(schedule) + 1)]
        return formulas.thesis_area(canvas.answers(steps, removals, read, self.chunk_rows), schedule)

    def _at_true_fraction(self, canvas: Canvas, grid: PatchGrid, orders: Orders, read: Read) -> Curve:
        places = formulas.cell_ranks(formulas.united(orders.ranks, orders.selected, orders.ties), grid)
        counts = formulas.equal_steps(grid.n_cells, min(self.n_steps, grid.n_cells))
        answers = canvas.answers(places, [(0, n) for n in counts], read, self.chunk_rows)
        return Curve(torch.tensor(counts, dtype=torch.float64) / grid.n_cells, answers)


def patches_floor(
    *, patch_bands: int = 8, patch_frames: int = 8, n_steps: int = 20, chunk_rows: int = CHUNK_ROWS
) -> PatchFlipping:
    """What is removed becomes digital silence."""
    return PatchFlipping("floor", patch_bands, patch_frames, n_steps, chunk_rows)


def patches_mean(
    *, patch_bands: int = 8, patch_frames: int = 8, n_steps: int = 20, chunk_rows: int = CHUNK_ROWS
) -> PatchFlipping:
    """What is removed becomes its band's mean over the recording."""
    return PatchFlipping("mean", patch_bands, patch_frames, n_steps, chunk_rows)


def patches_zero(
    *, patch_bands: int = 8, patch_frames: int = 8, n_steps: int = 20, chunk_rows: int = CHUNK_ROWS
) -> PatchFlipping:
    """What is removed becomes the number 0."""
    return PatchFlipping("zero", patch_bands, patch_frames, n_steps, chunk_rows)


def _map_on_canvas(scene: Scene, explanation: Explanation) -> Tensor:
    """What ranks the cells, (B, M, N)."""
    has_features = scene.classifier.feature_grid(scene.n_samples) is not None
    return scene.on_features(explanation) if has_features else scene.on_stft(explanation)


def _parts_of(explanation: Explanation) -> tuple[list[Explanation], Tensor]:
    """Each part as an explanation of its own, and which count in each row, (B, K); without parts, the one map."""
    parts, target = explanation.parts, explanation.target
    if parts is None or not parts.names:
        return [explanation], torch.ones(len(target), 1, dtype=torch.bool, device=target.device)
    maps = [part_alone(explanation, number) for number in range(len(parts.names))]
    return maps, parts.selected.to(target.device)


def _ties(context: Context, grid: PatchGrid) -> Tensor:
    """A random key for each patch, (B, P), from each clip's own stream."""
    return context.random.uniform("patch-flipping", grid.n_patches).to(context.target.device)


def _probability(classifier: AudioClassifier, target: Tensor) -> Read:
    return lambda logits, rows: classifier.probabilities_of(logits).gather(1, target[rows, None])[:, 0]


def _rectified_logit(target: Tensor) -> Read:
    return lambda logits, rows: logits.gather(1, target[rows, None])[:, 0].clamp_min(0)


def _without(values: Tensor, undefined: Tensor) -> Tensor:
    """Values (B,) or (B, S) with NaN in undefined rows (B,)."""
    return values.masked_fill(undefined if values.ndim == 1 else undefined[:, None], torch.nan)


def _check_positive(**numbers: int) -> None:
    wrong = {name: n for name, n in numbers.items() if isinstance(n, bool) or not isinstance(n, int) or n < 1}
    if wrong:
        raise ConfigurationError(f"Expected whole numbers of 1 or more, got {wrong}.")
