"""Learning a dictionary from a data set, in memory that does not grow with it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from earwitness.audio.stft import ListeningSTFT
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness.random import stream_seed
from earwitness_plugins.sparse_nmf.descent import Rules, State, descend
from earwitness_plugins.sparse_nmf.factorisation import Start, check_enough, rules_of
from earwitness_plugins.sparse_nmf.frames import Sampling, read_frames
from earwitness_plugins.sparse_nmf.spool import DiskShelf, Spool, spooled
from earwitness_plugins.sparse_nmf.updates import MethodName, audible, energy_of


@dataclass(frozen=True)
class ClassWise:
    """The scheme for noisy multilabel data: what all clips share is learnt first, and then kept out of the classes.

    Noise patterns are learnt from the clips without a label; then, for each class, patterns of its own from its clips,
    with the noise patterns beside them, frozen.

    Attributes
    ----------
    noise_patterns : int
        0 where no clip is without a label.
    patterns_per_class : int
    clips_per_class : int
        At most so many clips of a class, and of noise, drawn at random.
    keep_noise : bool
        Whether the noise patterns are part of the dictionary, as its last ones, without a label.
    """

    noise_patterns: int = 10
    patterns_per_class: int = 10
    clips_per_class: int = 700
    keep_noise: bool = False

    def __post_init__(self) -> None:
        if self.noise_patterns < 0 or self.patterns_per_class < 1 or self.clips_per_class < 1:
            raise ConfigurationError(
                "A class-wise dictionary needs noise_patterns >= 0, patterns_per_class >= 1 and clips_per_class >= 1, "
                f"got {self}."
            )


@dataclass(frozen=True)
class Recipe:
    """How patterns are learnt; see :func:`~earwitness_plugins.sparse_nmf.dictionary.learn_dictionary`."""

    stft: ListeningSTFT
    sparsity: float
    method: MethodName
    restarts: int
    max_iterations: int
    tolerance: float
    sampling: Sampling
    device: str

    def rules(self, start: Start) -> Rules:
        """Of a descent from ``start``."""
        return rules_of(start, self.sparsity, self.method, self.max_iterations, self.tolerance, device=self.device)


@dataclass(frozen=True, eq=False)
class Lesson:
    """Patterns to learn from some clips.

    Attributes
    ----------
    name : str
        For the reader of progress, and of errors.
    label : str or None
        Of the patterns.
    clips : tuple of int
        Indices into the data set.
    n_patterns : int
        New ones.
    """

    name: str
    label: str | None
    clips: tuple[int, ...]
    n_patterns: int


def lessons_of(dataset: Dataset, n_patterns: int, class_wise: ClassWise | None, seed: int) -> list[Lesson]:
    """What is learnt one after the other; in the class-wise scheme, noise first.

    Raises
    ------
    ConfigurationError
        There are no clips, none without a label, or none of a class.
    """
    if not len(dataset):
        raise ConfigurationError("There is nothing to learn from: the data set has no clips.")
    if class_wise is None:
        return [Lesson("patterns", None, tuple(range(len(dataset))), n_patterns)]
    lessons = []
    if class_wise.noise_patterns:
        silent = [index for index, entry in enumerate(dataset.entries) if not entry.labels]
        if not silent:
            raise ConfigurationError(
                "Noise patterns are learnt from clips without a label, and each clip has one. "
                "Say noise_patterns=0 to learn the classes alone."
            )
        clips = _sample(dataset, silent, class_wise.clips_per_class, seed)
        lessons.append(Lesson("noise", None, clips, class_wise.noise_patterns))
    for label in dataset.labels:
        own = [index for index, entry in enumerate(dataset.entries) if label in entry.labels]
        if not own:
            raise ConfigurationError(f"No clip has the label {label!r}, so its patterns cannot be learnt.")
        clips = _sample(dataset, own, class_wise.clips_per_class, seed)
        lessons.append(Lesson(label, label, clips, class_wise.patterns_per_class))
    return lessons


def _sample(dataset: Dataset, indices: Sequence[int], count: int, seed: int) -> tuple[int, ...]:
    """At most ``count`` of some clips, by the hashes of their identities; in their order."""
    shuffled = sorted(indices, key=lambda index: (stream_seed(seed, dataset.entries[index].clip_id), index))
    return tuple(sorted(shuffled[:count]))


class Learner:
    """Goes through lessons; what it has done so far is kept after each iteration.

    Parameters
    ----------
    dataset : Dataset
    recipe : Recipe
    lessons : sequence of Lesson
    workspace : Workspace or None
        Of a run that can be killed and taken up again, to the same bits; its folder holds spectrograms and activations.
        None: they are in a temporary folder.
    progress : callable (done, total, text)
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        lessons: Sequence[Lesson],
        workspace: Workspace | None,
        progress: Progress,
    ) -> None:
        self.dataset, self.recipe, self.lessons = dataset, recipe, tuple(lessons)
        self._workspace, self._progress = workspace, progress
        self._learnt: list[Tensor] = []
        self._stand: _Stand | None = None
        self._total = sum(len(lesson.clips) + recipe.max_iterations for lesson in lessons)
        self._take_up()

    def learn(self) -> list[Tensor]:
        """The new patterns (F, K) of each lesson, float32, on the CPU."""
        with self._folder() as folder:
            while len(self._learnt) < len(self.lessons):
                self._learnt.append(self._lesson(self.lessons[len(self._learnt)], folder))
                self._stand = None
                self._keep()
        return self._learnt

    def _lesson(self, lesson: Lesson, folder: Path) -> Tensor:
        frozen = self._learnt[0] if self._learnt and self.lessons[0].label is None else None
        n_frozen = 0 if frozen is None else frozen.shape[1]
        generator = torch.Generator().manual_seed(stream_seed(self.recipe.sampling.seed, "sparse-nmf", lesson.name))
        start = Start(n_frozen + lesson.n_patterns, frozen, n_frozen, self.recipe.restarts, generator)
        start.check(self.recipe.stft.n_bins, whole=False)
        rules = self.recipe.rules(start)
        if self._stand is None:
            spectra, energy = self._listen(lesson, folder)
            check_enough(spectra.n_frames, lesson.n_patterns, self.recipe.sparsity)
            first = start.patterns_for(spectra.read(0))[0]
            shelf = self._shelf(folder, start, spectra.n_frames)
            shelf.fill(start.activations_for(block) for block in spectra)
            self._stand = _Stand(spectra.n_frames, energy, State.start(first.to(self.recipe.device)))
            self._keep()
        stand = self._stand
        spectra = Spool(folder / "spectra", self.recipe.stft.n_bins, stand.n_frames)
        shelf = self._shelf(folder, start, stand.n_frames)
        state = descend(_On(spectra, self.recipe.device), stand.energy, shelf, stand.state, rules, self._note)
        return state.patterns[state.best, n_frozen:].T.float().cpu().contiguous()

    def _listen(self, lesson: Lesson, folder: Path) -> tuple[Spool, float]:
        """Write the frames of a lesson that can be explained at all; and ½‖X‖² of all of them."""
        energy, before, recipe = 0.0, self._before(), self.recipe

        def heard() -> Iterator[Tensor]:
            nonlocal energy
            frames = read_frames(
                self.dataset,
                lesson.clips,
                recipe.stft,
                recipe.sampling,
                lambda done: self._progress(before + done, self._total, f"{lesson.name}: reading clips"),
            )
            for block in frames:
                energy += energy_of(block)
                yield block[:, audible(block, recipe.sparsity)]

        return spooled(folder / "spectra", heard(), recipe.stft.n_bins), energy

    def _shelf(self, folder: Path, start: Start, n_frames: int) -> DiskShelf:
        return DiskShelf(folder / "activations", start.restarts, start.n_patterns, n_frames, device=self.recipe.device)

    def _note(self, state: State) -> None:
        assert self._stand is not None
        self._stand = replace(self._stand, state=state)
        self._keep()
        lesson = self.lessons[len(self._learnt)]
        text = f"{lesson.name}: objective {float(state.objectives[state.best, -1]):.6g}"
        self._progress(self._before() + len(lesson.clips) + state.iterations, self._total, text)

    def _before(self) -> int:
        """Steps of the lessons that are over."""
        over = self.lessons[: len(self._learnt)]
        return sum(len(lesson.clips) + self.recipe.max_iterations for lesson in over)

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        if self._workspace is not None:
            yield self._workspace.folder
            return
        with tempfile.TemporaryDirectory(prefix="earwitness-") as folder:
            yield Path(folder)

    def _keep(self) -> None:
        if self._workspace is None:
            return
        tensors = {f"learnt/{number}": patterns for number, patterns in enumerate(self._learnt)}
        if self._stand is not None:
            tensors |= self._stand.tensors()
        self._workspace.save_checkpoint(tensors)

    def _take_up(self) -> None:
        kept = self._workspace.load_checkpoint() if self._workspace is not None else None
        if kept is None:
            return
        tensors = kept[0]
        n_learnt = sum(name.startswith("learnt/") for name in tensors)
        try:
            self._learnt = [tensors[f"learnt/{number}"] for number in range(n_learnt)]
            self._stand = _Stand.of(tensors, self.recipe.device) if "patterns" in tensors else None
        except KeyError as error:
            raise CheckpointError(f"The checkpoint has no {error}. Remove its folder and start again.") from error


@dataclass(frozen=True, eq=False)
class _Stand:
    """Where a lesson stands."""

    n_frames: int
    energy: float
    state: State

    def tensors(self) -> dict[str, Tensor]:
        return {
            **self.state.tensors(),
            "n_frames": torch.tensor(self.n_frames),
            "energy": torch.tensor(self.energy, dtype=torch.float64),
        }

    @classmethod
    def of(cls, tensors: dict[str, Tensor], device: str) -> _Stand:
        return cls(int(tensors["n_frames"]), float(tensors["energy"]), State.of(tensors, device))


@dataclass(frozen=True, eq=False)
class _On:
    """Blocks of a spool on a device."""

    spool: Spool
    device: str

    def __iter__(self) -> Iterator[Tensor]:
        return (block.to(self.device) for block in self.spool)
