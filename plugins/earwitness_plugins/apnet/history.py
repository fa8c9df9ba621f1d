"""A record of what was done to a network's prototypes: it can be written down, replayed and undone.

The record holds neither the network nor sounds: replaying it needs the network that it began with, the recordings that
became prototypes, and the data that it was trained on again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.identity import digest_of_tensors
from earwitness_plugins.apnet.edits import Draft, Edit, Material
from earwitness_plugins.apnet.trained import TrainedAPNet

SCHEMA = 1

_EDITS: dict[str, type[Edit]] = {edit.kind: edit for edit in get_args(Edit)}


@dataclass(frozen=True)
class History:
    """Edits in their order, and what they began with.

    Attributes
    ----------
    base : str
        Checksum of the first network.
    edits : tuple of Edit
    """

    base: str
    edits: tuple[Edit, ...] = ()

    @classmethod
    def of(cls, trained: TrainedAPNet) -> History:
        """An empty one that begins with this network."""
        return cls(_checksum(trained))

    def then(self, edit: Edit) -> History:
        """With one edit more."""
        return replace(self, edits=(*self.edits, edit))

    def undone(self) -> History:
        """Without the last edit.

        Raises
        ------
        ConfigurationError
            There is none.
        """
        if not self.edits:
            raise ConfigurationError("There is nothing to undo: the history is empty.")
        return replace(self, edits=self.edits[:-1])

    def check_begins_with(self, trained: TrainedAPNet) -> None:
        """Raise CheckpointError unless this is the network that it begins with."""
        if _checksum(trained) != self.base:
            raise CheckpointError(
                f"This history of {len(self.edits)} edits began with another network ({self.base[:12]}…). Give the one "
                "that was edited, as it was before."
            )

    def replay(self, trained: TrainedAPNet, material: Material) -> TrainedAPNet:
        """Do all edits again.

        Parameters
        ----------
        trained : TrainedAPNet
            The network that the history begins with.
        material : Material

        Raises
        ------
        CheckpointError
            It began with another.
        ConfigurationError
            An edit cannot be done.
        """
        self.check_begins_with(trained)
        draft = Draft.of(trained)
        for edit in self.edits:
            draft = edit.apply(draft, material)
        return draft.trained

    def document(self) -> dict[str, Any]:
        """As JSON."""
        edits = [{"edit": edit.kind, **asdict(edit)} for edit in self.edits]
        return {"schema": SCHEMA, "base": self.base, "edits": edits}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> History:
        """The inverse of :meth:`document`.

        Raises
        ------
        CheckpointError
            It is damaged, or of another version.
        """
        try:
            if document["schema"] != SCHEMA:
                raise ValueError(f"its schema is {document['schema']}, not {SCHEMA}")
            edits = []
            for entry in document["edits"]:
                options = {name: value for name, value in entry.items() if name != "edit"}
                edits.append(_EDITS[entry["edit"]](**options))
            return cls(document["base"], tuple(edits))
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"This is not a history of edits: {error}.") from error


def _checksum(trained: TrainedAPNet) -> str:
    return digest_of_tensors(trained.network.state_dict())
