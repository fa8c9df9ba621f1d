"""A record of what was done to a network's prototypes: it can be written down, replayed and undone.

The record does not hold the prototypes: replaying it needs the network that it began with, and the latent maps of the
recordings that became prototypes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from torch import Tensor

from earwitness.errors import CheckpointError, ConfigurationError
from earwitness.identity import digest_of_tensors
from earwitness_plugins.apnet.refinement import (
    PrototypeSet,
    Rule,
    add_prototype,
    delete_prototype,
    redundant_prototypes,
    sorted_by_class,
)

LatentOf = Callable[[str], Tensor]
"""The latent map (C, F', T') of a recording, by its clip_id."""

SCHEMA = 1


@dataclass(frozen=True)
class Delete:
    """Prototype ``index`` was deleted."""

    index: int

    def apply(self, prototypes: PrototypeSet, latent_of: LatentOf) -> PrototypeSet:
        """See :func:`~.refinement.delete_prototype`."""
        return delete_prototype(prototypes, self.index)


@dataclass(frozen=True)
class Add:
    """The recording ``clip_id`` became a prototype of class ``label``; then they were sorted by class."""

    clip_id: str
    label: int

    def apply(self, prototypes: PrototypeSet, latent_of: LatentOf) -> PrototypeSet:
        """See :func:`~.refinement.add_prototype`."""
        return sorted_by_class(add_prototype(prototypes, latent_of(self.clip_id), self.label))


@dataclass(frozen=True)
class Prune:
    """Redundant prototypes were left out."""

    rule: Rule = "code"

    def apply(self, prototypes: PrototypeSet, latent_of: LatentOf) -> PrototypeSet:
        """See :func:`~.refinement.redundant_prototypes`."""
        return prototypes.select((~redundant_prototypes(prototypes, self.rule)).nonzero().flatten())


Edit = Delete | Add | Prune

_EDITS: dict[str, type[Edit]] = {kind.__name__.lower(): kind for kind in get_args(Edit)}


@dataclass(frozen=True)
class History:
    """Edits in their order, and what they began with.

    Attributes
    ----------
    base : str
        Checksum of the first :class:`PrototypeSet`.
    edits : tuple of Edit
    """

    base: str
    edits: tuple[Edit, ...] = ()

    @classmethod
    def of(cls, prototypes: PrototypeSet) -> History:
        """An empty one that begins with these prototypes."""
        return cls(_checksum(prototypes))

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

    def replay(self, prototypes: PrototypeSet, latent_of: LatentOf) -> PrototypeSet:
        """Do all edits again.

        Parameters
        ----------
        prototypes : PrototypeSet
            Those that the history begins with.
        latent_of : callable str -> Tensor (C, F', T')

        Raises
        ------
        CheckpointError
            It began with others.
        ConfigurationError
            An edit cannot be done.
        """
        if _checksum(prototypes) != self.base:
            raise CheckpointError(
                f"This history of {len(self.edits)} edits began with other prototypes ({self.base[:12]}…). Load the "
                "network that was edited, as it was before."
            )
        for edit in self.edits:
            prototypes = edit.apply(prototypes, latent_of)
        return prototypes

    def document(self) -> dict[str, Any]:
        """As JSON."""
        edits = [{"edit": type(edit).__name__.lower(), **vars(edit)} for edit in self.edits]
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


def _checksum(prototypes: PrototypeSet) -> str:
    return digest_of_tensors({name: getattr(prototypes, name) for name in prototypes.__dataclass_fields__})
