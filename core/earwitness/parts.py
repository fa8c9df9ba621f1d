"""The parts of an explained recording: what is heard of each, and where its relevance lies.

The sound of a part is its share of what is heard. In each bin, the gain is divided among the parts in proportion to
their positive relevance there, so that the sounds of all parts sum to ``heard.wav``, and the parts of a part that
speak against the class are not heard. The one exception is the rule of the DRSA thesis, ``percentile_blur``, which
makes a sound of one map: it is applied to the map of each part, as there, and the sounds then do not sum to what is
heard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from earwitness.artifacts import save_tensors
from earwitness.audio.rules import PercentileBlur, Rule
from earwitness.explanation import Explanation, Mask, Parts, Relevance
from earwitness.pictures import PartMaps, draw_parts
from earwitness.render import Rendering, Scene
from earwitness.stitching import StitchedPicture, StitchedSound

PARTS_WRITTEN = 16
"""Of a method with more parts, those that weigh most in the first windows are written; none that weighs nothing."""


@dataclass(frozen=True)
class ExplainedPart:
    """A part of an explained recording.

    Attributes
    ----------
    name : str
    share : float
        Its weight over the sum of all parts' |weight|: the shares' absolute values sum to 1.
    sound : Path
        WAV file, its share of what is heard; or what ``percentile_blur`` makes of its map.
    maps : Path
        Safetensors file: ``relevance`` and ``mask``, (F, columns) over ``frequencies_hz`` (F,) and ``times_s``
        (columns,), the middle of each column. Relevance is signed, in the method's unit; the mask is the part's gain,
        in [0, 1]; a column that holds several frames has their mean relevance and the gain that keeps their energy.
    """

    name: str
    share: float
    sound: Path
    maps: Path

    def document(self, folder: Path) -> dict[str, Any]:
        """As JSON, with paths relative to a folder."""
        paths = {"sound": self.sound, "maps": self.maps}
        relative = {name: path.relative_to(folder).as_posix() for name, path in paths.items()}
        return {"name": self.name, "share": self.share, **relative}


def part_gains(
    scene: Scene, explanation: Explanation, gain: Tensor, numbers: Sequence[int], rule: Rule | None = None
) -> Iterator[Tensor]:
    """What each of some parts has of a gain.

    Parameters
    ----------
    scene : Scene
    explanation : Explanation
        With parts.
    gain : Tensor (B, F, N), float32, in [0, 1]
        That of the whole.
    numbers : sequence of int
        Which parts.
    rule : Rule, optional
        That made the gain.

    Yields
    ------
    Tensor (B, F, N), float32, in [0, 1]
        The gains of all parts that a row selects sum to ``gain``; where none of them has positive relevance, they share
        it alike. A row that selects none shares it among all. Of ``percentile_blur``: what the rule makes of each map.
    """
    if isinstance(rule, PercentileBlur):
        yield from (scene.gain(part_alone(explanation, number), rule) for number in numbers)
        return
    parts = _parts_of(explanation)
    selected = parts.selected.to(gain.device)
    selected = (selected | ~selected.any(1, keepdim=True)).to(gain)
    total, count = torch.zeros_like(gain), selected.sum(1)[:, None, None]
    for number in range(len(parts.names)):
        total += _positive(scene, parts.map(number)) * selected[:, number, None, None]
    for number in numbers:
        share = _positive(scene, parts.map(number)) / torch.where(total > 0, total, 1)
        yield gain * torch.where(total > 0, share, 1 / count) * selected[:, number, None, None]


class PartFiles:
    """Writes the parts of a recording's windows, in order, in constant memory; a context manager.

    Parameters
    ----------
    folder : Path
        Gets a folder ``parts``, with a sound and a file of maps for each part, and ``parts.png``.
    rate : int
        In Hz.
    duration_s : float
        Of the whole recording.
    frequencies_hz : Tensor (F,)
        Of the listening STFT.
    n_columns : int
        Of the maps.
    rule : Rule, optional
        That makes what is heard.
    """

    def __init__(
        self,
        folder: Path,
        rate: int,
        duration_s: float,
        frequencies_hz: Tensor,
        n_columns: int,
        rule: Rule | None = None,
    ) -> None:
        self._folder = folder
        self._rate = rate
        self._rule = rule
        self._frame = (duration_s, frequencies_hz, n_columns)
        self._stack = ExitStack()
        self._names: tuple[str, ...] = ()
        self._numbers: list[int] = []
        self._sounds: list[StitchedSound] = []
        self._picture: StitchedPicture | None = None
        self._weights = torch.zeros(0, dtype=torch.float64)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def add(
        self, scene: Scene, explanation: Explanation, rendering: Rendering, windows: Sequence[tuple[int, int]]
    ) -> None:
        """Add a batch of windows; one without parts adds nothing.

        Parameters
        ----------
        scene : Scene
        explanation : Explanation
        rendering : Rendering
        windows : sequence of (start, length), length B
            Of each row, in samples; what follows in the row is padding.
        """
        if explanation.parts is None or not explanation.parts.names:
            return
        weights = (explanation.parts.weights * explanation.parts.selected).detach().double().cpu()
        if self._picture is None:
            self._open(explanation.parts.names, weights)
        assert self._picture is not None
        self._weights += weights.sum(0)
        grid = scene.listening.grid(scene.n_samples)
        gains = part_gains(scene, explanation, rendering.gain, self._numbers, self._rule)
        maps: list[dict[str, Tensor]] = [{"power": row} for row in scene.magnitude.square()]
        for place, (number, gain) in enumerate(zip(self._numbers, gains, strict=True)):
            relevance = scene.relevance_map(part_alone(explanation, number))
            heard = scene.sound(gain)
            for row, (start, length) in enumerate(windows):
                self._sounds[place].add(start, heard[row, :length])
                maps[row][f"relevance {number}"] = relevance[row]
                maps[row][f"heard {number}"] = maps[row]["power"] * gain[row].square()
        for (start, _), row_maps in zip(windows, maps, strict=True):
            self._picture.add(start / self._rate, grid, row_maps)

    def _open(self, names: tuple[str, ...], weights: Tensor) -> None:
        total = weights.abs().sum(0)
        n_written = min(max(1, int((total > 0).sum())), PARTS_WRITTEN)  # what weighs nothing is not heard either
        heaviest = total.argsort(descending=True, stable=True)[:n_written]
        self._names, self._numbers = names, sorted(heaviest.tolist())
        (self._folder / "parts").mkdir(exist_ok=True)
        self._sounds = [
            self._stack.enter_context(StitchedSound(self._path(number, "wav"), self._rate)) for number in self._numbers
        ]
        kept = (f"{kind} {number}" for number in self._numbers for kind in ("relevance", "heard"))
        self._picture = StitchedPicture(*self._frame, ("power", *kept))
        self._weights = torch.zeros(len(names), dtype=torch.float64)

    def _path(self, number: int, suffix: str) -> Path:
        return self._folder / "parts" / f"part-{number + 1}.{suffix}"

    @property
    def notes(self) -> list[str]:
        """What a reader should know."""
        if len(self._numbers) == len(self._names):
            return []
        return [f"{len(self._numbers)} of {len(self._names)} parts are written: those that weigh most at the beginning"]

    def finish(self, title: str) -> tuple[ExplainedPart, ...]:
        """Write maps and picture, when the last window is in and the sounds are closed.

        Returns
        -------
        tuple of ExplainedPart
            In the order of the method's parts; empty where it has none.

        Raises
        ------
        StoreError
            A file cannot be written.
        """
        if self._picture is None:
            return ()
        duration_s, frequencies_hz, n_columns = self._frame
        shares = (self._weights / self._weights.abs().sum().clamp_min(1e-300)).tolist()
        times_s = (torch.arange(n_columns) + 0.5) * duration_s / n_columns
        power = self._picture.map("power")
        columns, written = [], []
        for number in self._numbers:
            relevance, heard = self._picture.map(f"relevance {number}"), self._picture.map(f"heard {number}")
            mask = torch.where(power > 0, heard / torch.where(power > 0, power, 1), 0).sqrt().clamp(0, 1)
            name, share, maps = self._names[number], shares[number], self._path(number, "safetensors")
            axes = {"frequencies_hz": frequencies_hz, "times_s": times_s}
            save_tensors(maps, {"relevance": relevance, "mask": mask, **axes}, {"name": name, "share": share})
            columns.append(PartMaps(f"{name}: {share:.0%} of the relevance", relevance, heard))
            written.append(ExplainedPart(name, share, self._path(number, "wav"), maps))
        draw_parts(
            self._folder / "parts.png",
            title=title,
            frequencies_hz=frequencies_hz,
            duration_s=duration_s,
            loudest=float(power.max()),
            parts=columns,
        )
        return tuple(written)


def _parts_of(explanation: Explanation) -> Parts:
    assert explanation.parts is not None
    return explanation.parts


def part_alone(explanation: Explanation, number: int) -> Explanation:
    """Part ``number`` of an explanation as one of its own."""
    one = _parts_of(explanation).map(number)
    if isinstance(one, Mask):
        return Explanation(explanation.target, mask=one)
    return Explanation(explanation.target, relevance=one)


def _positive(scene: Scene, one: Relevance | Mask) -> Tensor:
    """What a part has to say for the class, on the listening STFT: (B, F, N), >= 0."""
    return scene.lift(one.values.clamp_min(0), one.domain)
