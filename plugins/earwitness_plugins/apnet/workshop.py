"""A trained network's folder, in which it is refined: every step is kept, so that it can be undone and replayed.

Beside the network that ``earwitness fit`` left, there is a folder ``refinement``::

    history.json             what was done, and the checksum of the network after each step
    step-000.safetensors, …  the network after each step; 0 is as it was trained
    clips.safetensors        the features of the recordings that became prototypes

The network in use is that of the last step. A page in a browser would do its edits through this class too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from earwitness.artifacts import load_tensors, save_tensors, write_json
from earwitness.errors import CheckpointError, ConfigurationError, StoreError
from earwitness.fitting import fitted_identity, load_trained, replace_tensors
from earwitness.registry import Registry
from earwitness_plugins.apnet.edits import Add, Draft, Edit, Material, Retrain
from earwitness_plugins.apnet.explainer import APNet
from earwitness_plugins.apnet.history import History
from earwitness_plugins.apnet.trained import TrainedAPNet

_HISTORY, _CLIPS = "history.json", "clips.safetensors"

Retrainer = Callable[[TrainedAPNet, Retrain], TrainedAPNet]


def load_apnet(folder: Path, registry: Registry) -> APNet:
    """The APNet in a folder of ``earwitness fit apnet``.

    Raises
    ------
    CheckpointError
        The folder is missing, half-written or damaged, or holds something else.
    """
    trained = load_trained(registry, folder)
    if not isinstance(trained, APNet):
        raise CheckpointError(f"{folder} holds a {type(trained).__name__}, not an APNet.")
    return trained


def no_data(trained: TrainedAPNet, edit: Retrain) -> TrainedAPNet:
    """Stands for a retraining where no data are at hand: raises ConfigurationError."""
    raise ConfigurationError("This history trains the network again: say on which data (--dataset).")


@dataclass(frozen=True, eq=False)
class Step:
    """A network on its way.

    Attributes
    ----------
    number : int
        0 is as it was trained.
    edit : Edit or None
        What led to it.
    trained : TrainedAPNet
    """

    number: int
    edit: Edit | None
    trained: TrainedAPNet


class Workshop:
    """A network and its history.

    Parameters
    ----------
    folder : Path
        Of ``earwitness fit apnet``.
    registry : Registry

    Raises
    ------
    CheckpointError
        The folder is missing or damaged, holds something else, or its history is another network's.
    """

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.refinement = folder / "refinement"
        self._sums: list[str] = []
        held = fitted_identity(folder)["tensors_sha256"]
        if (self.refinement / _HISTORY).is_file():
            self.history, self._sums = _read(self.refinement / _HISTORY)
            self._put_right(held)
        self.apnet = load_apnet(folder, registry)
        if not self._sums:
            self.history, self._sums = History.of(self.apnet.trained), [held]

    @property
    def trained(self) -> TrainedAPNet:
        """The network in use."""
        return self.apnet.trained

    def do(self, edit: Edit, *, clips: dict[str, Tensor] | None = None, retrain: Retrainer = no_data) -> TrainedAPNet:
        """Do one edit and keep what came of it.

        Parameters
        ----------
        edit : Edit
        clips : dict of str to Tensor (1, F, T)
            The recordings that become prototypes, by their ``clip_id``.
        retrain : callable

        Returns
        -------
        TrainedAPNet
            The network in use from now on.

        Raises
        ------
        EarwitnessError
            It cannot be done; the folder is as it was.
        """
        self._check_names(clips or {})
        windows = {**self.clips(), **(clips or {})}
        material = Material(self.apnet.configuration, windows.__getitem__, retrain)
        trained = edit.apply(self._draft(), material).trained
        self._keep_first()
        path = self._path(len(self._sums))
        if clips:
            save_tensors(self.refinement / _CLIPS, windows)
        state = trained.tensors()
        save_tensors(path, state)
        self.history = self.history.then(edit)
        self._sums.append(_sha256(path))
        self._write()
        replace_tensors(self.folder, state)
        self.apnet.restore(state, trained.labels)
        return self.trained

    def undo(self) -> Edit:
        """Take back the last edit; returns it.

        Raises
        ------
        ConfigurationError
            There is none.
        """
        shorter, edit = self.history.undone(), self.history.edits[-1]
        left = self._path(len(self._sums) - 1)
        before = self._state(len(self._sums) - 2)
        replace_tensors(self.folder, before)
        self.history, self._sums = shorter, self._sums[:-1]
        self._write()
        left.unlink(missing_ok=True)
        self.apnet.restore(before, self.trained.labels)
        return edit

    def replay(self, origin: Path, *, retrain: Retrainer = no_data) -> Iterator[Edit]:
        """Do again what was done in another folder, edit by edit; yields each when it is done.

        One that stopped on the way goes on after the last edit that was done.

        Parameters
        ----------
        origin : Path
            The other folder.
        retrain : callable

        Raises
        ------
        CheckpointError
            Nothing was done there, or it began with another network.
        ConfigurationError
            This network has been edited otherwise, or an edit cannot be done.
        """
        refinement, n_done = origin / "refinement", len(self.history.edits)
        if not (refinement / _HISTORY).is_file():
            raise CheckpointError(f"{origin} has no history: {refinement / _HISTORY} is missing.")
        history, sums = _read(refinement / _HISTORY)
        if n_done and (n_done == len(history.edits) or self._sums != sums[: n_done + 1]):
            raise ConfigurationError(
                f"{self.folder} has a history of {n_done} edits. Undo them first: a replay begins with the network as "
                "it was trained, or where another replay of the same history stopped."
            )
        if not n_done:
            history.check_begins_with(self.trained)
        clips = _clips_of(refinement)
        for edit in history.edits[n_done:]:
            own = {}
            if isinstance(edit, Add):
                if edit.clip_id not in clips:
                    raise CheckpointError(f"{refinement / _CLIPS} has no clip {edit.clip_id!r}, a prototype since.")
                own = {edit.clip_id: clips[edit.clip_id]}
            self.do(edit, clips=own, retrain=retrain)
            yield edit

    def steps(self) -> Iterator[Step]:
        """The network as it was trained, and after each edit."""
        labels = self.trained.labels
        for number, edit in enumerate((None, *self.history.edits)):
            now = number == len(self.history.edits)
            trained = self.trained if now else TrainedAPNet.of_tensors(self._state(number), labels)
            yield Step(number, edit, trained)

    def clips(self) -> dict[str, Tensor]:
        """Features (1, F, T) of the recordings that became prototypes, by their ``clip_id``."""
        return _clips_of(self.refinement)

    def _check_names(self, clips: Mapping[str, Tensor]) -> None:
        """A history knows recordings by their names: refuse another one by the name of one that is a prototype."""
        kept = self.clips()
        used = {edit.clip_id for edit in self.history.edits if isinstance(edit, Add)}
        for name in used & kept.keys() & clips.keys():
            if not torch.allclose(kept[name], clips[name], atol=1e-4):
                raise ConfigurationError(
                    f"Another recording called {name!r} became a prototype before, and a replay could not tell the two "
                    "apart. Give this one another name, or undo that edit."
                )

    def _draft(self) -> Draft:
        """The network in use, and what its prototypes weighed when it was last trained."""
        trainings = [n for n, edit in enumerate(self.history.edits, start=1) if isinstance(edit, Retrain)]
        last = trainings[-1] if trainings else 0
        if last == len(self.history.edits):
            return Draft.of(self.trained)
        settled = Draft.of(TrainedAPNet.of_tensors(self._state(last), self.trained.labels)).settled
        return Draft(self.trained, settled)

    def _path(self, number: int) -> Path:
        return self.refinement / f"step-{number:03d}.safetensors"

    def _state(self, number: int) -> dict[str, Tensor]:
        path = self._path(number)
        if not path.is_file() or _sha256(path) != self._sums[number]:
            raise CheckpointError(f"{path} is missing or damaged: its checksum does not match. Fit again.")
        return load_tensors(path)[0]

    def _keep_first(self) -> None:
        if len(self._sums) == 1:
            save_tensors(self._path(0), self.trained.tensors())
            self._sums = [_sha256(self._path(0))]

    def _write(self) -> None:
        write_json(self.refinement / _HISTORY, {**self.history.document(), "steps": self._sums})

    def _put_right(self, held: str) -> None:
        """Put the last step's network in use, where a killed command did not come to it."""
        if held == self._sums[-1]:
            return
        if held not in self._sums:
            raise CheckpointError(
                f"The network in {self.folder} is none of those in its history. Remove {self.refinement} to begin a "
                "new one."
            )
        replace_tensors(self.folder, self._state(len(self._sums) - 1))


def _clips_of(refinement: Path) -> dict[str, Tensor]:
    path = refinement / _CLIPS
    return load_tensors(path)[0] if path.is_file() else {}


def _read(path: Path) -> tuple[History, list[str]]:
    try:
        document: dict[str, Any] = json.loads(path.read_text())
        sums = [str(checksum) for checksum in document["steps"]]
        history = History.of_document(document)
        if len(sums) != len(history.edits) + 1:
            raise ValueError(f"{len(sums)} networks for {len(history.edits)} edits")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}.") from error
    return history, sums


def _sha256(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise StoreError(f"Cannot read {path}: {error.strerror}.") from error
