"""The record of edits: each changes what it says, and a history does all of them again."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from apnet_toy import CONFIGURATION, LABELS
from earwitness.errors import CheckpointError, ConfigurationError
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.edits import (
    Add,
    Delete,
    Draft,
    Edit,
    Material,
    Prune,
    PruneChannels,
    Rebalance,
    Retrain,
    prototypes_of,
)
from earwitness_plugins.apnet.history import History
from earwitness_plugins.apnet.network import AudioPrototypeNetwork
from earwitness_plugins.apnet.objective import initialise
from earwitness_plugins.apnet.prototypes import Neighbour, compare
from earwitness_plugins.apnet.refinement import PrototypeSet, add_prototype, class_sums, delete_prototype, sorting
from earwitness_plugins.apnet.trained import Gallery, TrainedAPNet
from earwitness_plugins.apnet.training import Curves

CLASSES = (0, 1, 0, 1, 2, 2)
WINDOW = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(9)) - 0.5


def network(seed: int = 0) -> AudioPrototypeNetwork:
    net = CONFIGURATION.network(3)
    draw = torch.Generator().manual_seed(seed)
    initialise(net, Recipe(), draw)
    with torch.no_grad():
        net.prototypes.uniform_(-0.3, 0.3, generator=draw)
        net.prototypes[2] = net.prototypes[0] + 0.001  # 0 and 2, of one class, are close
    return net.requires_grad_(False)


def trained(seed: int = 0) -> TrainedAPNet:
    draw = torch.Generator().manual_seed(seed)
    gallery = Gallery(
        torch.tensor(CLASSES),
        tuple((Neighbour(f"clip-{j}", 1.0, 2.0),) for j in range(6)),
        torch.rand(6, 1, 16, 16, generator=draw),
        torch.rand(6, 15 * 128, generator=draw),
    )
    return TrainedAPNet(network(seed), -90.0, 30.0, LABELS, 1, Curves([1.0]), gallery)


def retrained(given: TrainedAPNet, edit: Retrain) -> TrainedAPNet:
    """Stands for a training: twice the weights."""
    weights = {**given.network.state_dict(), "class_weights": 2 * given.network.class_weights}
    return replace(given, network=AudioPrototypeNetwork.of_state(weights), epoch=edit.epochs)


MATERIAL = Material(CONFIGURATION, {"clip": WINDOW}.__getitem__, retrained)


def applied(*edits: Edit, seed: int = 0) -> TrainedAPNet:
    draft = Draft.of(trained(seed))
    for edit in edits:
        draft = edit.apply(draft, MATERIAL)
    return draft.trained


def nearest_of(given: TrainedAPNet) -> list[str]:
    assert given.gallery is not None
    return [row[0].clip_id for row in given.gallery.nearest]


def same(a: PrototypeSet, b: PrototypeSet) -> bool:
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in PrototypeSet.__dataclass_fields__)


def sums_of(given: TrainedAPNet) -> Tensor:
    return class_sums(prototypes_of(given))


def test_deleting_takes_the_prototype_its_picture_and_its_sound() -> None:
    before, after = trained(), applied(Delete(1))
    assert same(prototypes_of(after), delete_prototype(prototypes_of(before), 1))
    assert nearest_of(after) == ["clip-0", "clip-2", "clip-3", "clip-4", "clip-5"]
    assert after.gallery is not None
    assert before.gallery is not None
    assert torch.equal(after.gallery.sounds, before.gallery.sounds[[0, 2, 3, 4, 5]])
    assert torch.allclose(sums_of(after), sums_of(before))


def test_a_recording_becomes_a_prototype_with_its_own_masks_and_is_its_own_neighbour() -> None:
    before, after = trained(), applied(Add("clip", 1))
    latent = before.network.encoder(WINDOW[None])[0]
    added = add_prototype(prototypes_of(before), latent, 1)
    assert same(prototypes_of(after), added.select(sorting(added)))
    assert nearest_of(after) == ["clip-0", "clip-2", "clip-1", "clip-3", "clip", "clip-4", "clip-5"]
    assert after.gallery is not None
    own = after.gallery.nearest[4][0]
    assert own.distance == pytest.approx(0, abs=1e-6)
    assert own.similarity == pytest.approx(float(compare(after.network, WINDOW[None]).similarity[0, 4]), abs=1e-6)
    encoding = before.network.encoder.encode(WINDOW[None])
    decoded = before.network.decoder(encoding.latent, encoding.masks)
    assert torch.allclose(after.gallery.features[4], decoded[0], atol=1e-6)
    assert after.gallery.sounds.shape[0] == 7


def test_leaving_out_redundant_prototypes_keeps_the_others_as_they_were() -> None:
    before, after = trained(), applied(Prune("code"))
    assert nearest_of(after) == ["clip-1", "clip-2", "clip-3", "clip-4", "clip-5"]
    assert same(prototypes_of(after), prototypes_of(before).select(torch.tensor([1, 2, 3, 4, 5])))


def test_balancing_gives_each_class_the_weight_that_it_had_when_it_was_trained() -> None:
    before = trained()
    pruned, balanced = applied(Prune("code")), applied(Prune("code"), Rebalance())
    assert not torch.allclose(sums_of(pruned)[0], sums_of(before)[0])
    assert torch.allclose(sums_of(balanced), sums_of(before))
    twice = applied(Prune("code"), Retrain(3, 0.1, 0, "data"), Rebalance())
    assert torch.allclose(sums_of(twice), 2 * sums_of(pruned))  # what it weighed at the last training, not the first


def test_balancing_leaves_a_class_alone_that_had_no_prototype() -> None:
    base = trained()
    assert base.gallery is not None
    rows = torch.tensor([0, 1, 2, 3])
    draft = Draft.of(base).edited(prototypes_of(base).select(rows), base.gallery.select(rows))
    draft = Draft.of(draft.trained)  # trained without a prototype of the last class
    added = Add("clip", 2).apply(draft, MATERIAL)
    balanced = Rebalance().apply(added, MATERIAL)
    assert torch.allclose(sums_of(balanced.trained), sums_of(added.trained))
    assert float(sums_of(balanced.trained)[2].min()) > 0


def test_leaving_out_channels_makes_the_network_smaller_and_keeps_the_sounds() -> None:
    before, after = trained(), applied(PruneChannels(1, "paper", "sliced"))
    assert after.network.sizes.channels == (4, 4, 2)
    assert nearest_of(after) == nearest_of(before)
    assert after.n_parameters < before.n_parameters
    again, other = applied(PruneChannels(1, seed=1)), applied(PruneChannels(1, seed=2))
    weights = [net.network.decoder.deconv1.weight for net in (again, applied(PruneChannels(1, seed=1)), other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


EDITS: tuple[Edit, ...] = (
    Delete(3),
    Add("clip", 1),
    Prune("code", 0.3),
    Rebalance(),
    PruneChannels(1, "code", "anew", 4),
    Retrain(20, 0.001, 7, "data", "other"),
)


def test_a_history_is_written_and_does_all_edits_again() -> None:
    history = History.of(trained())
    for edit in EDITS:
        history = history.then(edit)
    read = History.of_document(json.loads(json.dumps(history.document())))
    assert read == history
    replayed, wanted = read.replay(trained(), MATERIAL), applied(*EDITS)
    for name, value in wanted.tensors().items():
        assert torch.equal(replayed.tensors()[name], value), name
    assert read.undone().edits == EDITS[:-1]
    assert all(edit.describe(LABELS) for edit in EDITS)
    assert len({edit.kind for edit in EDITS}) == len(EDITS)


def test_a_history_of_another_network_or_a_damaged_one_is_refused() -> None:
    history = History.of(trained()).then(Delete(3))
    with pytest.raises(CheckpointError, match="1 edits began with another network"):
        history.replay(trained(seed=1), MATERIAL)
    with pytest.raises(ConfigurationError, match="nothing to undo"):
        History.of(trained()).undone()
    document = history.document()
    changes: tuple[dict[str, Any], ...] = (
        {"schema": 2},
        {"edits": [{"edit": "explode"}]},
        {"edits": [{"edit": "delete", "number": 1}]},
    )
    for change in changes:
        with pytest.raises(CheckpointError, match="not a history"):
            History.of_document({**document, **change})


def test_what_a_trained_network_keeps_comes_back_from_its_tensors() -> None:
    given = applied(Add("clip", 1))
    read = TrainedAPNet.of_tensors(given.tensors(), LABELS)
    assert read.gallery is not None
    assert given.gallery is not None
    assert read.gallery.nearest == given.gallery.nearest
    assert asdict(read.curves) == asdict(given.curves)
    assert torch.equal(read.network.prototypes, given.network.prototypes)
