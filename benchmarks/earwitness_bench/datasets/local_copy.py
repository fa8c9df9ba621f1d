"""Published data sets in a folder: where the folder is, and clips of one length from its files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from earwitness import downloads
from earwitness.clips import Clip, Entry
from earwitness.errors import AudioError, DatasetError
from earwitness_bench.datasets.recordings import fingerprint, first_of, length_notes, read_mono, resampled_length
from earwitness_bench.datasets.survey import Survey, survey

LONGEST_S = 3600.0


@dataclass(frozen=True)
class Take:
    """A clip, before its file is looked at.

    Attributes
    ----------
    clip_id, group, label : str
        See ``Clip``.
    path : str
        Of its file, below the data set's folder.
    start : int
        Where it begins in the file, in samples at the data set's rate.
    """

    clip_id: str
    group: str
    label: str
    path: str
    start: int = 0


class LocalCopy:
    """A ``Dataset`` of clips of one length.

    Parameters
    ----------
    folder : Path
    takes : sequence of Take
    labels : sequence of str
        All classes of the data set, in the published order.
    rate : int
        In Hz; files of another rate are resampled.
    n_samples : int
        Length of every clip at ``rate``. What a file lacks is zero-padded at its end, and ``notes`` say so.
    notes : sequence of str
        Said before those about lengths.
    known_damaged : mapping of str to str
        Files that are damaged in the copies that go around, and why: left out, with a note, where they do not open.

    Raises
    ------
    DatasetError
        There is no clip, one is there twice, or files are missing.
    AudioError
        A file that is not known to be damaged does not open.
    """

    def __init__(
        self,
        folder: Path,
        takes: Sequence[Take],
        *,
        labels: Sequence[str],
        rate: int,
        n_samples: int,
        notes: Sequence[str] = (),
        known_damaged: Mapping[str, str] | None = None,
    ) -> None:
        _check_identities(folder, takes)
        found = survey(folder, (take.path for take in takes))
        known = known_damaged or {}
        _check_damage(folder, found, known)
        self.folder = folder
        self.labels: tuple[str, ...] = tuple(labels)
        self.rate = rate
        self._takes = [take for take in takes if take.path in found.sounds]
        if not self._takes:
            raise DatasetError(f"{folder}: nothing is left without {first_of(list(found.damaged))}.")
        self.entries: Sequence[Entry] = tuple(
            Entry(
                take.clip_id,
                take.group,
                (take.label,),
                n_samples,
                fingerprint(found.sounds[take.path].sha256, take.start, n_samples, rate),
            )
            for take in self._takes
        )
        end = max(take.start for take in self._takes) + n_samples
        lengths = [resampled_length(sound.n_frames, sound.rate, rate) for sound in found.sounds.values()]
        self.notes: Sequence[str] = (
            *notes,
            *(f"Left out: {error} {known[path]}" for path, error in found.damaged.items()),
            *length_notes(lengths, end, rate),
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Clip:
        entry, take = self.entries[index], self._takes[index]
        waveform = read_mono(self.folder / take.path, self.rate, entry.n_samples, start=take.start)
        return Clip(waveform, self.rate, entry.clip_id, entry.group, entry.labels)


def find_folder(
    name: str,
    given: str | os.PathLike[str] | None,
    *,
    advice: str,
    aliases: Sequence[str] = (),
    fetch: Callable[[Path], Path] | None = None,
) -> Path:
    """The folder of a data set: the given one, or ``name`` in ``EARWITNESS_DATA``, or in earwitness' cache.

    Parameters
    ----------
    name : str
    given : path, optional
    advice : str
        How to get the data set, as a sentence: the end of an error message.
    aliases : sequence of str
        What the folder is called too, in ``EARWITNESS_DATA``.
    fetch : callable, optional
        Downloads the data set to a folder, where it is not there.

    Returns
    -------
    Path

    Raises
    ------
    DatasetError
        It is not there, and the places are named; or the download failed.
    """
    if given is not None:
        folder = Path(given).expanduser()
        if folder.is_dir() and (fetch is None or any(folder.iterdir())):
            return folder
        if fetch:
            return fetch(folder)
        raise DatasetError(f"{name}: {folder} is not a folder. Give the folder that {name} was unpacked to. {advice}")
    data = os.environ.get("EARWITNESS_DATA")
    candidates = [Path(data) / called for called in (name, *aliases)] if data else []
    candidates.append(downloads.cache_folder(name))
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    if fetch:
        return fetch(candidates[-1])
    looked = " or ".join(str(candidate) for candidate in candidates)
    raise DatasetError(
        f"{name} is not at {looked}. Give its folder (folder=...), or set EARWITNESS_DATA to a folder that has it "
        f"as {name!r}. {advice}"
    )


def below(folder: Path, name: str, *layouts: str) -> tuple[Path, str]:
    """Where in a folder a data set begins: there, or in a folder that it was unpacked to.

    Parameters
    ----------
    folder : Path
    name : str
        Of the data set, for the message.
    layouts : str
        Files or folders one of which must be there, below the data set's own folder.

    Returns
    -------
    (Path, str)
        The data set's own folder, and the layout that was found.

    Raises
    ------
    DatasetError
        There is none, or more than one.
    """
    inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    for places in ([folder], inside):
        found = [(place, layout) for layout in layouts for place in places if (place / layout).exists()]
        if len({place for place, _ in found}) > 1:
            raise DatasetError(
                f"{name}: {folder} holds it more than once: {first_of([place.name for place, _ in found])}. "
                "Give one of them."
            )
        if found:
            return found[0]
    raise DatasetError(
        f"{name}: {folder} has not the published layout. Expected {' or '.join(layouts)}; found {_contents(folder)}."
    )


def samples(name: str, parameter: str, seconds: float, rate: int) -> int:
    """A length in seconds, as a parameter, in samples: at least one, at most an hour of them."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= LONGEST_S:
        raise DatasetError(f"{name}: {parameter} is a length in seconds, at most {LONGEST_S:g}; got {seconds!r}.")
    return max(1, round(seconds * rate))


def choice(name: str, parameter: str, given: Sequence[object], allowed: Sequence[object]) -> frozenset[object]:
    """A parameter that lists some of several values."""
    fine = isinstance(given, Sequence) and not isinstance(given, str) and len(given) > 0
    if not fine or not all(value in allowed for value in given):
        raise DatasetError(f"{name}: {parameter} is a list of some of {', '.join(map(str, allowed))}; got {given!r}.")
    return frozenset(given)


def partial_note(n_found: int, n_published: int) -> Iterator[str]:
    """A sentence where a copy is only a part of what was published."""
    if n_found != n_published:
        yield f"This copy lists {n_found} clips; {n_published} were published."


def _contents(folder: Path) -> str:
    counts = Counter("folders" if path.is_dir() else path.suffix or "files" for path in folder.iterdir())
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) or "nothing"


def _check_identities(folder: Path, takes: Sequence[Take]) -> None:
    if not takes:
        raise DatasetError(f"{folder} holds no clip of what was asked for.")
    repeated = [clip_id for clip_id, count in Counter(take.clip_id for take in takes).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{folder} lists clips more than once: {first_of(repeated)}. Is its table the published one?"
        )


def _check_damage(folder: Path, found: Survey, known: Mapping[str, str]) -> None:
    unknown = [path for path in found.damaged if path not in known]
    if unknown:
        raise AudioError(
            f"{folder}: {len(unknown)} of {len(found.sounds) + len(found.damaged)} files cannot be used: "
            f"{first_of(unknown)}. {found.damaged[unknown[0]]}"
        )
