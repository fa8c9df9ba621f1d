"""The folder of a learnt dictionary: patterns, pictures and sounds; taken up where a killed run left it."""

from __future__ import annotations

import inspect
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from earwitness.artifacts import digest_of, write_json
from earwitness.audio.files import write_audio
from earwitness.audio.stft import ListeningSTFT
from earwitness.clips import Dataset
from earwitness.errors import CheckpointError, ConfigurationError, SilentAudioError, nearest
from earwitness.fitting import Workspace
from earwitness.protocols import Progress
from earwitness_plugins.sparse_nmf.dictionary import Dictionary, learn_dictionary
from earwitness_plugins.sparse_nmf.learning import ClassWise
from earwitness_plugins.sparse_nmf.listening import pattern_sound, strongest_places
from earwitness_plugins.sparse_nmf.pictures import draw_each, draw_patterns

_REPORT, _UNFINISHED = "patterns.json", ".unfinished"


def class_wise_of(wanted: bool, parameters: Mapping[str, Any], n_patterns: int | None) -> ClassWise | None:
    """The class-wise scheme as asked for on the command line, or None.

    Raises
    ------
    ConfigurationError
        A parameter is unknown, or does not go with the others.
    """
    if not wanted:
        if parameters:
            raise ConfigurationError(f"{', '.join(parameters)} belong to the class-wise scheme: say --class-wise too.")
        return None
    if n_patterns is not None:
        raise ConfigurationError("With --class-wise, say --class-param patterns_per_class=… instead of --patterns.")
    known = inspect.signature(ClassWise).parameters
    for name in parameters:
        if name not in known:
            raise ConfigurationError(f"The class-wise scheme has no parameter {name!r}. {nearest(name, known)}")
    return ClassWise(**parameters)


def publish(
    dataset: Dataset,
    stft: ListeningSTFT,
    folder: Path,
    *,
    settings: Mapping[str, Any],
    device: str = "cpu",
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:
    """Learn a dictionary and write it to a folder, with a picture and a sound of each pattern.

    Parameters
    ----------
    dataset : Dataset
    stft : ListeningSTFT
    folder : Path
    settings : dict
        Of :func:`~earwitness_plugins.sparse_nmf.dictionary.learn_dictionary`.
    device : str
    progress : callable (done, total, text)

    Returns
    -------
    dict
        What ``patterns.json`` says; that of an earlier run with the same settings, if it was finished.

    Raises
    ------
    CheckpointError
        The folder holds the patterns of other data or settings.
    """
    identity = _identity(dataset, stft, settings)
    finished = _finished(folder, identity)
    if finished is not None:
        return finished
    workspace = Workspace(folder / _UNFINISHED, digest_of(identity))
    dictionary = learn_dictionary(dataset, stft, **settings, device=device, workspace=workspace, progress=progress)
    dictionary.save(folder)
    patterns = _illustrate(dictionary, dataset, folder, seed=settings["seed"], progress=progress)
    document = {**identity, "clips": len(dataset), "checksum": dictionary.checksum, "patterns": patterns}
    write_json(folder / _REPORT, document)
    shutil.rmtree(workspace.folder)
    return document


def _identity(dataset: Dataset, stft: ListeningSTFT, settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that the numbers depend on, as plain values."""
    scheme = settings["class_wise"]
    data = [[entry.clip_id, entry.labels, entry.fingerprint] for entry in dataset.entries]
    return {
        "stft": asdict(stft),
        "settings": {**settings, "class_wise": None if scheme is None else asdict(scheme)},
        "data": digest_of([data, dataset.labels]),
    }


def _finished(folder: Path, identity: Mapping[str, Any]) -> dict[str, Any] | None:
    report = folder / _REPORT
    if report.exists():
        try:
            stored: dict[str, Any] = json.loads(report.read_text())
            differing = [name for name, value in identity.items() if stored[name] != value]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{report} is damaged: {error}. Choose another --out.") from error
        if not differing:
            Dictionary.load(folder)
            return stored
        raise CheckpointError(f"{folder} holds other patterns: other {', '.join(differing)}. Choose another --out.")
    if (folder / "dictionary.json").exists() and not (folder / _UNFINISHED).exists():
        raise CheckpointError(f"{folder} holds a dictionary of another origin. Choose another --out.")
    return None


def _illustrate(
    dictionary: Dictionary, dataset: Dataset, folder: Path, *, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """Write pictures and sounds; what is heard of each pattern."""
    each = folder / "patterns"
    each.mkdir(parents=True, exist_ok=True)
    draw_patterns(folder / "patterns.png", dictionary)
    names = [each / f"{number:03d}.png" for number in range(len(dictionary))]
    places = strongest_places(dictionary, dataset, seed=seed, progress=progress)
    patterns = []
    for number, picture in enumerate(draw_each(names, dictionary)):
        pattern: dict[str, Any] = {"label": dictionary.labels[number], "picture": f"patterns/{picture.name}"}
        try:
            sound = pattern_sound(dictionary, dataset, places, number)
        except SilentAudioError:
            pattern |= {"sound": None}
        else:
            target = write_audio(picture.with_suffix(".wav"), sound.waveform, dictionary.rate)
            heard = {"clip": sound.clip_id, "start_s": round(sound.start_s, 3), "gain": round(sound.gain, 4)}
            pattern |= {"sound": f"patterns/{target.name}", **heard}
        patterns.append(pattern)
        progress(number + 1, len(dictionary), "drawing and playing the patterns")
    return patterns
