"""What can be done to a trained network's prototypes, as plain records: each can be written down and done again.

M prototypes, K classes; F bands and T frames of the input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from earwitness_plugins.apnet.configuration import Configuration
from earwitness_plugins.apnet.prototypes import Neighbour, compare, decode_prototypes, sounds_of
from earwitness_plugins.apnet.refinement import (
    CLOSENESS,
    DecoderStart,
    PrototypeSet,
    Rule,
    add_prototype,
    class_sums,
    delete_prototype,
    rebalanced,
    redundant_channels,
    redundant_prototypes,
    sorting,
    without_channels,
)
from earwitness_plugins.apnet.trained import Gallery, TrainedAPNet


@dataclass(frozen=True, eq=False)
class Draft:
    """A network at work.

    Attributes
    ----------
    trained : TrainedAPNet
        With its prototypes decoded.
    settled : Tensor (K, K)
        What the prototypes of each class (row) weighed for each class (column) when the network was last trained: sums
        of |W|.
    """

    trained: TrainedAPNet
    settled: Tensor

    @classmethod
    def of(cls, trained: TrainedAPNet) -> Draft:
        """A network that has just been trained."""
        return cls(trained, class_sums(prototypes_of(trained)))

    def edited(self, prototypes: PrototypeSet, gallery: Gallery) -> Draft:
        """With other prototypes."""
        network = prototypes.put_into(self.trained.network)
        return replace(self, trained=replace(self.trained, network=network, gallery=gallery))


def prototypes_of(trained: TrainedAPNet) -> PrototypeSet:
    """The prototypes of a network, as what its gallery says they stand for."""
    assert trained.gallery is not None
    return PrototypeSet.of(trained.network, trained.gallery.classes)


@dataclass(frozen=True)
class Material:
    """What edits are done with.

    Attributes
    ----------
    configuration : Configuration
    window_of : callable str -> Tensor (1, F, T)
        The features of a recording that becomes a prototype, by its ``clip_id``.
    retrain : callable (TrainedAPNet, Retrain) -> TrainedAPNet
    """

    configuration: Configuration
    window_of: Callable[[str], Tensor]
    retrain: Callable[[TrainedAPNet, Retrain], TrainedAPNet]


@dataclass(frozen=True)
class Delete:
    """Prototype ``index``, from 0, was deleted; see :func:`~.refinement.delete_prototype`."""

    kind: ClassVar[str] = "delete"
    index: int

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        prototypes, gallery = _parts(draft)
        rest = [j for j in range(len(gallery)) if j != self.index]
        return draft.edited(delete_prototype(prototypes, self.index), gallery.select(torch.tensor(rest)))

    def describe(self, labels: Sequence[str]) -> str:
        """In words; prototypes are counted from 1."""
        return f"prototype {self.index + 1} deleted"


@dataclass(frozen=True)
class Add:
    """The recording ``clip_id`` became a prototype of class ``label``, from 0; then they were sorted by class.

    See :func:`~.refinement.add_prototype`.
    """

    kind: ClassVar[str] = "add"
    clip_id: str
    label: int

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        prototypes, gallery = _parts(draft)
        window = material.window_of(self.clip_id)
        network = draft.trained.network
        with torch.no_grad():
            latent = network.encoder(window[None].to(network.prototypes.device))[0]
        added = add_prototype(prototypes, latent, self.label)
        order = sorting(added)
        own = _gallery_of(self, replace(draft.trained, network=added.put_into(network)), window, material.configuration)
        return draft.edited(added.select(order), gallery.followed_by(own).select(order))

    def describe(self, labels: Sequence[str]) -> str:
        """In words."""
        return f"{self.clip_id} became a prototype of {labels[self.label]}"


@dataclass(frozen=True)
class Prune:
    """Redundant prototypes were left out; see :func:`~.refinement.redundant_prototypes`."""

    kind: ClassVar[str] = "prune"
    rule: Rule = "code"
    closeness: float = CLOSENESS

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        prototypes, gallery = _parts(draft)
        gone = redundant_prototypes(prototypes, self.rule, closeness=self.closeness)
        rows = (~gone).nonzero().flatten()
        return draft.edited(prototypes.select(rows), gallery.select(rows))

    def describe(self, labels: Sequence[str]) -> str:
        """In words."""
        closer = "" if self.closeness == CLOSENESS else f", closeness {self.closeness:g}"
        return f"redundant prototypes left out ({self.rule}'s rule{closer})"


@dataclass(frozen=True)
class PruneChannels:
    """Redundant channels of the latent map were left out; see :func:`~.refinement.redundant_channels`.

    The pictures and sounds of the prototypes stay as they were decoded before, until the network is trained again.
    """

    kind: ClassVar[str] = "prune-channels"
    n_channels: int = 8
    rule: Rule = "code"
    decoder: DecoderStart = "anew"
    seed: int = 0

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        prototypes, _ = _parts(draft)
        gone = redundant_channels(prototypes, self.n_channels, self.rule)
        generator = torch.Generator().manual_seed(self.seed)
        network = without_channels(draft.trained.network, gone, decoder=self.decoder, generator=generator)
        return replace(draft, trained=replace(draft.trained, network=network))

    def describe(self, labels: Sequence[str]) -> str:
        """In words."""
        return f"{self.n_channels} redundant channels left out ({self.rule}'s rule, decoder {self.decoder})"


@dataclass(frozen=True)
class Rebalance:
    """What each class' prototypes weigh in the classifier was made what it was when the network was last trained.

    See :func:`~.refinement.rebalanced`.
    """

    kind: ClassVar[str] = "rebalance"

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        prototypes, gallery = _parts(draft)
        for label, sums in enumerate(draft.settled):
            if bool((sums > 0).any()):  # a class that had no prototype then keeps what its first ones weigh
                prototypes = rebalanced(prototypes, label, sums)
        return draft.edited(prototypes, gallery)

    def describe(self, labels: Sequence[str]) -> str:
        """In words."""
        return "the weights of each class balanced"


@dataclass(frozen=True)
class Retrain:
    """The network was trained on, and its prototypes decoded anew.

    Attributes
    ----------
    epochs : int
    learning_rate : float
    seed : int
    train, validation : str
        Checksums of the data; "" for none.
    """

    kind: ClassVar[str] = "retrain"
    epochs: int
    learning_rate: float
    seed: int
    train: str
    validation: str = ""

    def apply(self, draft: Draft, material: Material) -> Draft:
        """Do it."""
        return Draft.of(material.retrain(draft.trained, self))

    def describe(self, labels: Sequence[str]) -> str:
        """In words."""
        return f"trained for {self.epochs} more epoch{'' if self.epochs == 1 else 's'}"


Edit = Delete | Add | Prune | PruneChannels | Rebalance | Retrain


def _parts(draft: Draft) -> tuple[PrototypeSet, Gallery]:
    assert draft.trained.gallery is not None
    return prototypes_of(draft.trained), draft.trained.gallery


def _gallery_of(add: Add, trained: TrainedAPNet, window: Tensor, configuration: Configuration) -> Gallery:
    """A recording that is the last prototype of a network, decoded with its own masks: it is its own neighbour."""
    last = PrototypeSet.of(trained.network, torch.zeros(trained.network.sizes.n_prototypes)).select(torch.tensor([-1]))
    alone = last.put_into(trained.network)
    comparison = compare(alone, window[None])
    decoded = decode_prototypes(alone, window[None])
    log_mel: Any = configuration.front_end(trained.min_db, trained.max_db).log_mel
    return Gallery(
        classes=torch.tensor([add.label]),
        nearest=((Neighbour(add.clip_id, float(comparison.similarity), float(comparison.distance)),),),
        features=decoded.cpu(),
        sounds=sounds_of(decoded.cpu(), log_mel, seed=0),
    )
