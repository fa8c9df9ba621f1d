"""Whether prototypes decode to sounds that others recognise.

Other classifiers, the judges, hear the sound of each prototype and answer with a class. How often that is the
prototype's own means little alone. So they also hear the training window that is nearest to it, three times: as it was
recorded, which is the best that one can expect; through the mel inversion that every prototype's sound goes through;
and through encoder, decoder and inversion. So one can tell what the inversion loses from what the decoder loses, and
that from what was never in the prototype.

M sounds, T samples, K classes of a judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from earwitness.audio.files import is_constant
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset, resample
from earwitness.errors import ConfigurationError
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.data import labelled_windows, read_recordings
from earwitness_plugins.apnet.front_end import Windows
from earwitness_plugins.apnet.prototypes import compare, levelled, reconstructed, sounds_of
from earwitness_plugins.apnet.trained import TrainedAPNet

_CHUNK = 16


@dataclass(frozen=True)
class Answer:
    """What a judge hears in a sound.

    Attributes
    ----------
    label : str
        The most probable of all its classes.
    probability : float, in [0, 1]
    recognised : bool or None
        Whether that is the class of the sound; None where the judge does not know this class.
    """

    label: str
    probability: float
    recognised: bool | None


@dataclass(frozen=True)
class Share:
    """How many sounds a judge recognised.

    Attributes
    ----------
    recognised, asked : int
        Of the sounds whose class it knows. A silent one is recognised by nobody.
    """

    recognised: int
    asked: int

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.recognised / self.asked


@dataclass(frozen=True, eq=False)
class Sounds:
    """Sounds of one length that have a class each.

    Attributes
    ----------
    waveforms : Tensor (M, T), float32
        On the CPU.
    rate : int
        In Hz.
    classes : tuple of str, length M
    """

    waveforms: Tensor
    rate: int
    classes: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class References:
    """For each prototype whose nearest training clip is at hand, the nearest window of that clip; R of them.

    Attributes
    ----------
    recorded : Sounds
        As recorded, over exactly the time that a prototype's sound has. Their classes are those of the clips.
    inverted : Sounds
        The same windows through the inversion of the prototypes' sounds.
    reconstructed : Sounds
        The same through encoder and decoder, then inverted.
    """

    recorded: Sounds
    inverted: Sounds
    reconstructed: Sounds


@dataclass(frozen=True)
class Recognition:
    """What one judge recognised.

    Attributes
    ----------
    judge : str
    n_classes : int
        K.
    answers : tuple of Answer or None, length M
        To the prototypes; None to a silent one.
    prototypes : Share
    recorded, inverted, reconstructed : Share or None
        Of the :class:`References`; None where there are none, or none of a class that the judge knows.
    """

    judge: str
    n_classes: int
    answers: tuple[Answer | None, ...]
    prototypes: Share
    recorded: Share | None = None
    inverted: Share | None = None
    reconstructed: Share | None = None

    @property
    def chance(self) -> float:
        """The share that is expected of a judge who guesses: 1 / K."""
        return 1 / self.n_classes


def check_judges(judges: Mapping[str, AudioClassifier], classes: Sequence[str]) -> None:
    """Raise ConfigurationError where a judge knows none of the classes: its answers could not be right."""
    for name, judge in judges.items():
        if not set(judge.labels) & set(classes):
            own, asked = ", ".join(judge.labels[:5]), ", ".join(sorted(set(classes))[:5])
            raise ConfigurationError(
                f"The judge {name} knows none of the prototypes' classes, such as {asked}; its {len(judge.labels)} "
                f"classes begin with {own}. Take another, or put those of a tagger together: yamnet(regroup=esc10)."
            )


def prototype_sounds(trained: TrainedAPNet, configuration: Configuration) -> Sounds:
    """The sounds of the prototypes, as the book plays them."""
    gallery = trained.gallery
    assert gallery is not None
    classes = tuple(trained.labels[index] for index in gallery.classes.tolist())
    return Sounds(levelled(gallery.sounds), configuration.rate, classes)


def references(
    trained: TrainedAPNet, configuration: Configuration, clips: Dataset, progress: Progress
) -> References | None:
    """The training windows that are nearest to the prototypes, as recorded and inverted; None where there are none.

    Parameters
    ----------
    trained : TrainedAPNet
    configuration : Configuration
    clips : Dataset
        Where the training clips are. A prototype whose nearest clip is not among them has no reference.
    progress : callable (clips read, clips in all, text)

    Raises
    ------
    ClassifierError, DatasetError, AudioError
        See :func:`~.data.read_recordings` and :func:`~.prototypes.compare`.
    """
    assert trained.gallery is not None
    places = {entry.clip_id: place for place, entry in enumerate(clips.entries)}
    nearest = [(j, row[0].clip_id) for j, row in enumerate(trained.gallery.nearest) if row[0].clip_id in places]
    if not nearest:
        return None
    wanted = list(dict.fromkeys(clip_id for _, clip_id in nearest))
    held = ClipList([clips[places[clip_id]] for clip_id in wanted], trained.labels)
    recordings = read_recordings(held, trained.labels, configuration, progress)
    front_end = configuration.front_end(trained.min_db, trained.max_db)
    windows, clip_ids = labelled_windows(recordings, front_end, configuration, torch.device("cpu"))
    order = compare(trained.network, windows).order().T.tolist()
    rows = [next(row for row in order[j] if clip_ids[row] == clip_id) for j, clip_id in nearest]
    numbers = [wanted.index(clip_id) for _, clip_id in nearest]
    classes = tuple(trained.labels[int(recordings.classes[number])] for number in numbers)
    place_in_clip = torch.tensor(rows) % (len(windows) // len(wanted))
    stretches = _stretches(recordings.waveforms, configuration)[numbers, place_in_clip]
    maps = (windows[rows], reconstructed(trained.network, windows[rows]))
    inverted = [sounds_of(each, front_end.log_mel, seed=0) for each in maps]
    return References(*(Sounds(levelled(each), configuration.rate, classes) for each in (stretches, *inverted)))


def judged(
    name: str, judge: AudioClassifier, sounds: Sounds, beside: References | None, progress: Progress
) -> Recognition:
    """Let a judge hear the prototypes and what they are compared with.

    Parameters
    ----------
    name : str
        Of the judge.
    judge : AudioClassifier
        One that knows some of the classes; see :func:`check_judges`.
    sounds : Sounds
        Of the prototypes.
    beside : References or None
    progress : callable (kinds of sounds done, all kinds, text)

    Returns
    -------
    Recognition
    """
    kinds = [sounds] if beside is None else [sounds, beside.recorded, beside.inverted, beside.reconstructed]
    answers = []
    for done, kind in enumerate(kinds, start=1):
        answers.append(_answers(judge, kind))
        progress(done, len(kinds), f"{name} listens")
    shares = [_share(judge, kind, said) for kind, said in zip(kinds, answers, strict=True)]
    assert shares[0] is not None
    return Recognition(name, len(judge.labels), answers[0], shares[0], *shares[1:])


@torch.no_grad()
def probabilities_of_sounds(judge: AudioClassifier, sounds: Sounds) -> Tensor:
    """What a judge says to sounds, at its own rate.

    A sound that is shorter than the judge takes, or than the second on which every classifier is tried, is followed by
    silence; of one that is longer than a judge of a fixed duration takes, probabilities are means over windows that
    overlap by half. Both as in ``earwitness explain``.

    Returns
    -------
    Tensor (M, K), in [0, 1]
        On the CPU.
    """
    waveforms = torch.stack([resample(row, sounds.rate, judge.rate) for row in sounds.waveforms])
    fixed = None if judge.duration_s is None else round(judge.duration_s * judge.rate)
    missing = max(0, (fixed or max(judge.min_samples, judge.rate)) - waveforms.shape[1])
    waveforms = functional.pad(waveforms, (0, missing))
    n_window = fixed or waveforms.shape[1]
    windows = Windows(n_window, max(1, n_window // 2))(waveforms)
    said = [judge.probabilities(chunk.to(judge.device)).cpu() for chunk in torch.split(windows.flatten(0, 1), _CHUNK)]
    return torch.cat(said).reshape(*windows.shape[:2], -1).mean(1)


def _answers(judge: AudioClassifier, sounds: Sounds) -> tuple[Answer | None, ...]:
    best = probabilities_of_sounds(judge, sounds).max(1)
    silent = is_constant(sounds.waveforms).tolist()
    answers: list[Answer | None] = []
    for index, probability, own, nothing in zip(
        best.indices.tolist(), best.values.tolist(), sounds.classes, silent, strict=True
    ):
        label = judge.labels[index]
        recognised = label == own if own in judge.labels else None
        answers.append(None if nothing else Answer(label, probability, recognised))
    return tuple(answers)


def _share(judge: AudioClassifier, sounds: Sounds, answers: Sequence[Answer | None]) -> Share | None:
    known = [answer for own, answer in zip(sounds.classes, answers, strict=True) if own in judge.labels]
    return Share(sum(bool(answer and answer.recognised) for answer in known), len(known)) if known else None


def _stretches(waveforms: Tensor, configuration: Configuration) -> Tensor:
    """Of clips (N, T), what sounds in each window while an inverted one does: (N, P, (W - 1) · hop_length).

    Frames are not centred, and those of the inversion are: so half a frame is missing at either end.
    """
    hop, length = configuration.hop_length, (configuration.n_frames - 1) * configuration.hop_length
    padded = functional.pad(waveforms, (0, max(0, configuration.n_samples - waveforms.shape[1])))
    n_frames = 1 + (padded.shape[1] - configuration.n_fft) // hop
    first = torch.tensor(configuration.windows.starts(n_frames)) * hop + configuration.n_fft // 2
    return padded[:, first[:, None] + torch.arange(length)]
