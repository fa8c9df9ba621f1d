"""Cross-validation: a network is trained anew for each fold that tests it, and every result is kept at once.

A folder holds any number of networks, each in a folder of its own::

    sb-cnn/settings.json                      what the network and the data are, and how many threads compute
    sb-cnn/seed-0-fold-5/result.json          accuracy, once that fold is done
    sb-cnn/seed-0-fold-5/weights.safetensors  or ``trained/``: what was learnt
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from earwitness.artifacts import canonical_json, write_json
from earwitness.errors import ConfigurationError, StoreError
from earwitness.fitting import digest_of_data
from earwitness.protocols import Progress
from earwitness_plugins.classifiers.folds import SPLITS, Fold, FoldedData
from earwitness_plugins.classifiers.learners import Learner, Learnt

SCHEMA = 1
_SETTINGS, _RESULT = "settings.json", "result.json"
_NAMED = 3  # differences that an error spells out


@dataclass(frozen=True)
class Result:
    """A network that was trained on some folds and tested on one.

    Attributes
    ----------
    label : str
        What the network is called in tables.
    seed : int
    fold : Fold
    learnt : Learnt
    clips : dict of str to int
        How many there were to train on, to validate and to test.
    data : dict of str to str
        Digests of these clips.
    settings : dict
        See :class:`Series`.
    threads : int
        Of the CPU: with another number, sums have other last bits, and a training ends elsewhere.
    device : str
    """

    label: str
    seed: int
    fold: Fold
    learnt: Learnt
    clips: dict[str, int]
    data: dict[str, str]
    settings: dict[str, Any]
    threads: int
    device: str

    def document(self) -> dict[str, Any]:
        """As plain values."""
        own = asdict(self)
        return {"schema": SCHEMA, **own.pop("learnt"), **own}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self:
        """The inverse of :meth:`document`; KeyError, TypeError or ValueError where it is none."""
        if document["schema"] != SCHEMA:
            raise ValueError(f"its schema is {document['schema']}, this version reads {SCHEMA}")
        fold = document["fold"]
        names = ("label", "seed", "clips", "data", "settings", "threads", "device")
        return cls(
            fold=Fold(fold["test"], fold["validation"], tuple(fold["train"])),
            learnt=Learnt(*(document[name] for name in ("accuracy", "epoch", "n_parameters", "seconds"))),
            **{name: document[name] for name in names},
        )


class Series:
    """All the trainings of one network, and the folder where they are kept.

    Parameters
    ----------
    out : Path
        For all networks that are to be compared.
    label : str
        What this one is called in tables, and in another spelling its folder.
    learner : Learner
    data : FoldedData

    Raises
    ------
    ConfigurationError
        The label has no letter and no digit, or is no line of text.
    StoreError
        The folder holds results of the same label, finished or not, with other settings or of another number of threads
        than PyTorch has now; or of other data or folds; or it is damaged.
    """

    def __init__(self, out: Path, label: str, learner: Learner, data: FoldedData) -> None:
        self.out, self.label, self.learner, self.data = out, label, learner, data
        self.folder = out / _folder_name(label)
        settings = {"network": learner.settings(), "data": data.settings()}
        self.settings: dict[str, Any] = json.loads(canonical_json(settings))  # as they will be read again
        self._check_own()
        others = [stored["settings"] for stored in _begun(out) if stored["label"] != label]
        check_same_folds(out, [*others, self.settings])

    def _check_own(self) -> None:
        if not _has_begun(self.folder):  # what was refused before its first epoch binds nobody
            return
        stored = _read(self.folder / _SETTINGS)
        if stored["label"] != self.label:
            raise StoreError(
                f"{self.folder} holds the results of {stored['label']!r}; {self.label!r} would be kept in the same "
                "place. Choose another --label."
            )
        self._refuse_others(stored["settings"], stored.get("threads"))
        for kept in map(_result_of, sorted(self.folder.glob(f"seed-*/{_RESULT}"))):
            self._refuse_others(kept.settings, kept.threads)

    def _refuse_others(self, stored: Mapping[str, Any], threads: int | None) -> None:
        """Raise StoreError unless what was kept is of these settings and threads; their number may be unknown."""
        differing = list(_differences(stored, self.settings))
        if differing:
            more = f", and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
            raise StoreError(
                f"{self.folder} holds results of {self.label!r} with other settings: {'; '.join(differing[:_NAMED])}"
                f"{more}. Give this one a --label of its own, or another --out; or remove that folder to start again."
            )
        own = torch.get_num_threads()
        if threads not in (None, own):  # of folders that are older than this record it is not known
            raise StoreError(
                f"{self.folder} holds results of {self.label!r} with another number of threads: it was {threads} and "
                f"is {own} now, so that the numbers may differ. Go on with --threads {threads}, or give this one a "
                "--label of its own, or another --out."
            )

    def result(self, fold: Fold, *, seed: int) -> Result | None:
        """What was kept of a fold, if it is done.

        Raises
        ------
        StoreError
            It is damaged, or of other settings or another number of threads.
        """
        path = self._place(fold, seed) / _RESULT
        if not path.exists():
            return None
        kept = _result_of(path)
        self._refuse_others(kept.settings, kept.threads)
        return kept

    def validate(self, fold: Fold, *, seed: int, progress: Progress) -> Result:
        """Train on a fold's training data, test, and keep the result. What is done already is not done again.

        Parameters
        ----------
        fold : Fold
        seed : int
        progress : callable (done, total, text)

        Raises
        ------
        DatasetError
            See :meth:`FoldedData.load`.
        ClassifierError
            A clip has a class that the architecture does not know, or training diverged.
        CheckpointError
            The clips are not those that an unfinished training began with.
        StoreError
            They are not those of other results of this fold.
        """
        place = self._place(fold, seed)
        if (kept := self.result(fold, seed=seed)) is None:
            clips = self.data.load(fold)
            digests = {split: digest_of_data(clips[split]) for split in SPLITS}
            of_others = [(other.label, other.fold.test, other.data) for other in read_results(self.out)]
            check_same_clips(self.out, [*of_others, (self.label, fold.test, digests)])
            identity = {"label": self.label, "settings": self.settings, "threads": torch.get_num_threads()}
            write_json(self.folder / _SETTINGS, {"schema": SCHEMA, **identity})
            learnt = self.learner.learn(clips, place, seed=seed, progress=progress)
            kept = Result(
                label=self.label,
                seed=seed,
                fold=fold,
                learnt=learnt,
                clips={split: len(clips[split]) for split in SPLITS},
                data=digests,
                settings=self.settings,
                threads=torch.get_num_threads(),
                device=self.learner.device,
            )
            write_json(place / _RESULT, kept.document())
        self.learner.tidy(place)
        return kept

    def _place(self, fold: Fold, seed: int) -> Path:
        return self.folder / f"seed-{seed}-fold-{fold.test}"


def read_results(out: Path) -> list[Result]:
    """All results in a folder, of all networks, by label, seed and fold.

    Raises
    ------
    StoreError
        A file is damaged, or they are of different data sets or rotations, or of different clips of a fold.
    """
    paths = (path for settings in out.glob(f"*/{_SETTINGS}") for path in settings.parent.glob(f"seed-*/{_RESULT}"))
    results = sorted(map(_result_of, paths), key=lambda result: (result.label, result.seed, result.fold.test))
    check_same_folds(out, [result.settings for result in results])
    check_same_clips(out, [(result.label, result.fold.test, result.data) for result in results])
    return results


def check_same_folds(out: Path, settings: Iterable[Mapping[str, Any]]) -> None:
    """Raise StoreError unless all these settings are of one data set and one rotation: else folds do not compare."""
    kinds = {f"{each['data']['dataset']} in folds {each['data']['folds']}" for each in settings}
    if len(kinds) > 1:
        raise StoreError(
            f"{out} would hold results on different data, which cannot be compared fold by fold: "
            f"{' and '.join(sorted(kinds))}. Choose another --out for one of them."
        )


def check_same_clips(out: Path, tests: Iterable[tuple[str, int, Mapping[str, str]]]) -> None:
    """Raise StoreError unless each fold has the same clips for all networks: (label, test fold, digests of clips)."""
    known: dict[int, tuple[str, Mapping[str, str]]] = {}
    for label, fold, digests in tests:
        first, wanted = known.setdefault(fold, (label, digests))
        differing = [split for split in SPLITS if digests.get(split) != wanted.get(split)]
        if differing:
            raise StoreError(
                f"{out} would hold results on different clips, which cannot be compared: with test fold {fold}, the "
                f"{' and '.join(differing)} clips of {label!r} are not those of {first!r}. Were other parameters given "
                "for the data set, or have its files changed? Choose another --out."
            )


def _begun(out: Path) -> Iterator[dict[str, Any]]:
    """The settings of all networks of which there is a result, or at least a checkpoint."""
    yield from (_read(path) for path in sorted(out.glob(f"*/{_SETTINGS}")) if _has_begun(path.parent))


def _has_begun(folder: Path) -> bool:
    return (folder / _SETTINGS).exists() and any(path.is_file() for path in folder.glob("seed-*/**/*"))


def _folder_name(label: str) -> str:
    name = re.sub(r"[^\w.]+", "-", label.lower()).strip("-._")
    if not name or not label.isprintable() or len(name) > 100:
        raise ConfigurationError(
            f"A label is a line of text, with a letter or digit and up to 100 characters, such as 'APNet, 3 prototypes "
            f"a class'; got {label!r}."
        )
    return name


def _result_of(path: Path) -> Result:
    try:
        return Result.of(_read(path))
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(_damaged(path, error)) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        document["schema"], document["label"], document["settings"]["data"]["folds"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(_damaged(path, error)) from error
    return document


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} is damaged ({type(error).__name__}: {error}). Remove it and give the command again."


def _differences(stored: Any, given: Any, name: str = "") -> Iterator[str]:
    """What differs between two documents, each by its path."""
    if isinstance(stored, Mapping) and isinstance(given, Mapping):
        for key in sorted(stored.keys() | given.keys()):
            yield from _differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif stored != given:
        yield f"{name} was {stored!r} and is {given!r} now"
