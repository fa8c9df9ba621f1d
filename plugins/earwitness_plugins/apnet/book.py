"""A book of prototypes: one folder of HTML, pictures and sounds that opens from disk.

M prototypes, K classes, F bands and T frames of the input.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jinja2
from torch import Tensor

from earwitness.artifacts import write_atomically, write_json
from earwitness.audio.files import write_audio
from earwitness.classifier import AudioClassifier
from earwitness.clips import Dataset
from earwitness.errors import StoreError
from earwitness.pictures import RANGE_DB
from earwitness.protocols import Progress
from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.figures import draw_class_weights, draw_frequency_weights, draw_prototypes
from earwitness_plugins.apnet.history import History
from earwitness_plugins.apnet.local import PrototypeClassifier
from earwitness_plugins.apnet.prototypes import LEVEL, Neighbour
from earwitness_plugins.apnet.recognition import (
    Recognition,
    Share,
    Sounds,
    check_judges,
    judged,
    prototype_sounds,
    references,
)
from earwitness_plugins.apnet.trained import Gallery, TrainedAPNet

_DOCUMENT, _PROTOTYPES, _CLIPS = "book.json", "prototypes", "clips"


@dataclass(frozen=True, eq=False)
class Heard:
    """A training clip in the book.

    Attributes
    ----------
    sound : str
        File.
    labels : tuple of str
    """

    sound: str
    labels: tuple[str, ...]


def write_book(
    folder: Path,
    trained: TrainedAPNet,
    configuration: Configuration,
    *,
    history: History,
    clips: Dataset | None = None,
    judges: Mapping[str, AudioClassifier] | None = None,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:
    """Write the book; one that is there already is replaced.

    Parameters
    ----------
    folder : Path
        Empty or absent, or a book.
    trained : TrainedAPNet
    configuration : Configuration
    history : History
        What was done to the network since it was trained.
    clips : Dataset, optional
        Where the training clips are: those that are near a prototype are heard too.
    judges : dict of str to AudioClassifier, optional
        Who says what the prototypes sound like; see :mod:`~.recognition`.
    progress : callable (done, total, text)

    Returns
    -------
    dict
        What ``book.json`` says: the prototypes with their classes, weights, neighbours and files. A distance is
        None where it is infinite: it overflowed.

    Raises
    ------
    StoreError
        The folder holds something else, or cannot be written to.
    ConfigurationError
        A judge knows none of the prototypes' classes.
    """
    assert trained.gallery is not None
    judges, sounds = judges or {}, prototype_sounds(trained, configuration)
    check_judges(judges, sounds.classes)
    _make_room(folder)
    bands_hz = _draw(folder, trained, configuration, progress)
    heard = {} if clips is None else _write_clips(folder, trained.gallery, clips, progress)
    beside = references(trained, configuration, clips, progress) if judges and clips is not None else None
    recognitions = [judged(name, judge, sounds, beside, progress) for name, judge in judges.items()]
    prototypes = [_prototype(folder, trained, sounds, recognitions, j) for j in range(len(trained.gallery))]
    scores = trained.curves.validation_accuracy
    document = {
        "labels": list(trained.labels),
        "without_prototypes": list(trained.gallery.unrepresented(trained.labels)),
        "parameters": trained.n_parameters,
        "epoch": trained.epoch,
        "validation_accuracy": scores[trained.epoch - 1] if scores else None,
        "edits": [edit.describe(trained.labels) for edit in history.edits],
        "bands_hz": [round(hz, 1) for hz in bands_hz.tolist()],
        "clips": {name: asdict(clip) for name, clip in heard.items()},
        "recognition": [_recognised(recognition) for recognition in recognitions],
        "prototypes": prototypes,
    }
    page = _environment().get_template("book.html").render(book=document, level=LEVEL, range_db=round(RANGE_DB))
    write_atomically(folder / "index.html", page.encode())
    write_json(folder / _DOCUMENT, document)
    return document


def _make_room(folder: Path) -> None:
    """Take an older book out of the way; StoreError where the folder is anything else."""
    try:
        if folder.exists() and any(folder.iterdir()) and not (folder / _DOCUMENT).is_file():
            raise StoreError(f"{folder} is not empty and holds no prototype book. Choose another --out.")
        for name in (_PROTOTYPES, _CLIPS):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir(parents=True)
    except OSError as error:
        raise StoreError(f"Cannot write a book to {folder}: {error.strerror}.") from error


def _draw(folder: Path, trained: TrainedAPNet, configuration: Configuration, progress: Progress) -> Tensor:
    """All pictures; returns the middle of each latent band in Hz, (F',)."""
    gallery, network, labels = trained.gallery, trained.network, trained.labels
    assert gallery is not None
    own = PrototypeClassifier.of(trained.as_classifier(configuration))
    grid, bands_hz = own.front_end.grid(configuration.n_samples), own.band_frequencies(configuration.n_samples)
    frequency_weights, class_weights = network.frequency_weights.detach(), network.class_weights.detach()
    draw_class_weights(folder / "class-weights.png", weights=class_weights, classes=gallery.classes, labels=labels)
    draw_frequency_weights(
        folder / "frequency-weights.png",
        weights=frequency_weights,
        classes=gallery.classes,
        labels=labels,
        bands_hz=bands_hz,
    )
    pictures = draw_prototypes(
        [folder / _file(j, "png") for j in range(len(gallery))],
        levels=trained.min_db + (gallery.features[:, 0] + 1) / 2 * (trained.max_db - trained.min_db),
        frequencies_hz=grid.frequencies_hz,
        duration_s=(configuration.n_frames - 1) * configuration.hop_length / configuration.rate,
        weights=frequency_weights,
        bands_hz=bands_hz,
    )
    for done, _ in enumerate(pictures, start=1):
        progress(done, len(gallery), "drawing prototypes")
    return bands_hz


def _prototype(
    folder: Path, trained: TrainedAPNet, sounds: Sounds, recognitions: Sequence[Recognition], j: int
) -> dict[str, Any]:
    """What the book says of one prototype; writes its sound."""
    gallery, labels = trained.gallery, trained.labels
    assert gallery is not None
    peak = float(gallery.sounds[j].abs().max())
    if peak > 0:
        write_audio(folder / _file(j, "wav"), sounds.waveforms[j], sounds.rate)
    answers = {recognition.judge: recognition.answers[j] for recognition in recognitions}
    weights = trained.network.class_weights[j].tolist()
    return {
        "number": j + 1,
        "label": sounds.classes[j],
        "picture": _file(j, "png"),
        "sound": _file(j, "wav") if peak > 0 else None,
        "gain": LEVEL / peak if peak > 0 else None,
        "heard_as": {name: None if answer is None else asdict(answer) for name, answer in answers.items()},
        "class_weights": dict(zip(labels, weights, strict=True)),
        "frequency_weights": trained.network.frequency_weights[j].tolist(),
        "nearest": [_near(neighbour) for neighbour in gallery.nearest[j]],
    }


def _near(neighbour: Neighbour) -> dict[str, Any]:
    """What the book says of one neighbour; JSON has no infinity, so a distance that overflowed is null."""
    distance = neighbour.distance if math.isfinite(neighbour.distance) else None
    return {**asdict(neighbour), "distance": distance}


def _recognised(recognition: Recognition) -> dict[str, Any]:
    """What the book says of one judge."""

    def counted(share: Share | None) -> dict[str, Any] | None:
        return None if share is None else {**asdict(share), "share": share.share}

    return {
        "judge": recognition.judge,
        "classes": recognition.n_classes,
        "chance": recognition.chance,
        "prototypes": counted(recognition.prototypes),
        "nearest": counted(recognition.recorded),
        "nearest_inverted": counted(recognition.inverted),
        "nearest_reconstructed": counted(recognition.reconstructed),
    }


def _write_clips(folder: Path, gallery: Gallery, clips: Dataset, progress: Progress) -> dict[str, Heard]:
    """The sounds of the clips that are near a prototype, where the data set has them."""
    wanted = list(dict.fromkeys(neighbour.clip_id for row in gallery.nearest for neighbour in row))
    places = {entry.clip_id: place for place, entry in enumerate(clips.entries)}
    heard = {}
    for number, clip_id in enumerate(name for name in wanted if name in places):
        clip = clips[places[clip_id]]
        name = f"{_CLIPS}/{number:03d}.wav"
        write_audio(folder / name, clip.waveform, clip.rate)
        heard[clip_id] = Heard(name, tuple(clip.labels))
        progress(number + 1, len(wanted), "writing clips")
    return heard


def _file(j: int, suffix: str) -> str:
    return f"{_PROTOTYPES}/{j + 1:03d}.{suffix}"


def _environment() -> jinja2.Environment:
    """Templates in which every value is text: markup in a name stays a name."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("earwitness_plugins.apnet"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(signed=lambda value: f"{value:+.2f}".replace("-", "−"), extremes=_extremes)
    return environment


def _extremes(weights: dict[str, float]) -> Sequence[tuple[str, float]]:
    """The class that a prototype speaks for most, and the one that it speaks against most."""
    ordered = sorted(weights.items(), key=lambda item: -item[1])
    return [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
