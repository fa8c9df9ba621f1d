"""Refining APNet: redundancy and editing by hand, against the authors' arrays and derived again."""

from __future__ import annotations

import math
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from earwitness.errors import ConfigurationError
from earwitness_plugins.apnet.configuration import Recipe
from earwitness_plugins.apnet.network import AudioPrototypeNetwork, Sizes
from earwitness_plugins.apnet.objective import initialise
from earwitness_plugins.apnet.prototypes import classes_of_latents
from earwitness_plugins.apnet.published import state_of_published
from earwitness_plugins.apnet.refinement import (
    PrototypeSet,
    Rule,
    add_prototype,
    delete_prototype,
    redundant_channels,
    redundant_prototypes,
    sorting,
    without_channels,
)

CLASSES = (0, 1, 0, 1, 2, 2)


def prototypes(seed: int = 0, channels: int = 4) -> PrototypeSet:
    """Six of three classes."""
    draw = torch.Generator().manual_seed(seed)
    return PrototypeSet(
        torch.randn(6, channels, 2, 3, generator=draw),
        torch.rand(6, 2, generator=draw),
        torch.randn(6, 3, generator=draw),
        torch.tensor(CLASSES),
    )


def near(base: PrototypeSet, j: int, of: int, by: float) -> PrototypeSet:
    """With prototype j moved to a place near another."""
    latents = base.latents.clone()
    latents[j] = latents[of] + by
    return PrototypeSet(latents, base.frequency_weights, base.class_weights, base.classes)


def numbers(chosen: Tensor) -> list[int]:
    return chosen.nonzero().flatten().tolist()


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> Any:
    return np.load(request.getfixturevalue("golden") / "apnet.npz")


@pytest.fixture(scope="module")
def authors(arrays: Any) -> PrototypeSet:
    weights = {name[2:]: arrays[name] for name in arrays.files if name.startswith("w/")}
    network = AudioPrototypeNetwork.of_state(state_of_published(weights))
    return PrototypeSet.of(network, classes_of_latents(network))


# --- against the authors' code


@pytest.mark.golden
def test_the_same_prototypes_are_redundant(arrays: Any, authors: PrototypeSet) -> None:
    kept = authors.select((~redundant_prototypes(authors)).nonzero().flatten())
    assert numbers(~redundant_prototypes(authors)) == arrays["refine/kept_prototypes"].tolist()
    np.testing.assert_array_equal(kept.class_weights, arrays["refine/W_after"])
    np.testing.assert_array_equal(kept.frequency_weights, arrays["refine/H_after"])


@pytest.mark.golden
def test_the_same_channels_are_redundant(arrays: Any, authors: PrototypeSet) -> None:
    assert numbers(~redundant_channels(authors)) == arrays["refine/kept_channels"].tolist()


@pytest.mark.golden
def test_deleting_and_adding_by_hand_leave_the_same_weights(arrays: Any, authors: PrototypeSet) -> None:
    fewer = delete_prototype(authors, 3)
    np.testing.assert_allclose(fewer.class_weights, arrays["edit/after_remove3_W"], atol=2e-7)
    np.testing.assert_array_equal(fewer.frequency_weights, arrays["edit/after_remove3_H"])
    np.testing.assert_array_equal(fewer.classes, arrays["edit/after_remove3_classes"])
    added = add_prototype(fewer, authors.latents[0], 2)
    more = added.select(sorting(added))
    np.testing.assert_array_equal(more.classes, arrays["edit/after_add_cls2_classes"])
    # Within a class the authors' sorting is not stable, so that their rows stand in another order there.
    for mine, theirs in ((more.class_weights, "W"), (more.frequency_weights, "H")):
        wanted = arrays[f"edit/after_add_cls2_{theirs}"]
        for label in range(10):
            rows = more.classes == label
            np.testing.assert_allclose(by_first(mine[rows].numpy()), by_first(wanted[rows.numpy()]), atol=3e-7)


def by_first(rows: Any) -> Any:
    return rows[rows[:, 0].argsort()]


# --- redundancy


def test_by_the_code_a_prototype_goes_where_its_nearest_is_close_and_of_its_class() -> None:
    base = near(near(prototypes(), 2, 0, 0.01), 1, 4, 0.02)  # 0 and 2 are of one class, 1 and 4 are not
    assert numbers(redundant_prototypes(base)) == [0]
    squared = (base.latents[:, None] - base.latents[None]).flatten(2).square().sum(2)
    others = squared + torch.eye(6) * 1e9
    threshold = float(others.min()) + float(squared.mean()) / 2
    close = [(j, int(others[j].argmin())) for j in range(6) if float(others[j].min()) < threshold]
    assert {(0, 2), (2, 0), (1, 4), (4, 1)} <= set(close)
    assert all(CLASSES[j] != CLASSES[nearest] for j, nearest in close if {j, nearest} != {0, 2})


def test_by_the_code_a_prototype_goes_for_a_neighbour_that_is_gone_already() -> None:
    """Nearest of 2 is 0, which went for 1: as in the published loop, which never looks at what it has deleted."""
    base = prototypes()
    places = torch.tensor([0.0, 0.9, -1.0, 20.0, 40.0, 60.0])
    latents = places[:, None, None, None].expand(base.latents.shape)
    line = PrototypeSet(latents, base.frequency_weights, base.class_weights, torch.tensor([0, 0, 0, 1, 2, 1]))
    assert numbers(redundant_prototypes(line)) == [0, 2]


@pytest.mark.parametrize("rule", get_args(Rule))
def test_less_closeness_leaves_fewer_prototypes_out(rule: Rule) -> None:
    places = torch.tensor([0.0, 1.0, 20.0, 24.0, 60.0, 90.0])
    base = prototypes()
    latents = places[:, None, None, None].expand(base.latents.shape)
    line = PrototypeSet(latents, base.frequency_weights, base.class_weights, torch.tensor([0, 0, 1, 1, 2, 2]))
    found = [numbers(redundant_prototypes(line, rule, closeness=closeness)) for closeness in (1e-6, 0.01, 1.0)]
    assert [len(gone) for gone in found] == [1, 2, 3]
    assert redundant_prototypes(line, rule).equal(redundant_prototypes(line, rule, closeness=0.5))
    for nonsense in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ConfigurationError, match="Closeness"):
            redundant_prototypes(line, rule, closeness=nonsense)


def test_by_the_paper_one_of_each_close_pair_goes_and_a_class_keeps_its_last() -> None:
    base = near(near(prototypes(), 2, 0, 0.01), 1, 4, 0.02)
    gone = numbers(redundant_prototypes(base, "paper"))
    assert {2, 4} <= set(gone)
    squared = (base.latents[:, None] - base.latents[None]).flatten(2).square().sum(2)
    off = squared[~torch.eye(6, dtype=torch.bool)]
    threshold = float(off.min() + off.mean() / 2)
    left = [j for j in range(6) if j not in gone]
    assert all(float(squared[j, k]) >= threshold for j in left for k in left if j < k)
    assert {CLASSES[j] for j in left} == {0, 1, 2}
    everything = PrototypeSet(torch.rand(6, 4, 2, 3) * 1e-3, base.frequency_weights, base.class_weights, base.classes)
    everything.latents[0] += 100.0  # so that all others are close to each other
    left = numbers(~redundant_prototypes(everything, "paper"))
    assert [CLASSES[j] for j in left] == [0, 1, 2] or {CLASSES[j] for j in left} == {0, 1, 2}
    assert len(left) < 6


def test_a_copy_of_a_channel_is_the_first_to_go() -> None:
    base = prototypes()
    base.latents[:, 3] = base.latents[:, 1] + 1e-3
    assert numbers(redundant_channels(base, 1)) == [3]
    distances = torch.tensor([
        [float(sum(((base.latents[i, k] - base.latents[j, q]) ** 2).sum() for i in range(6) for j in range(6)))
         for q in range(4)] for k in range(4)
    ])  # fmt: skip
    least = min(((k, q) for k in range(4) for q in range(k)), key=lambda pair: float(distances[pair]))
    assert numbers(redundant_channels(base, 1, "paper")) == [least[0]]


@pytest.mark.parametrize("rule", ["code", "paper"])
@pytest.mark.parametrize("n_channels", [1, 4, 6, 11])
def test_as_many_channels_go_as_were_asked_for(rule: Any, n_channels: int) -> None:
    assert int(redundant_channels(prototypes(channels=12), n_channels, rule).sum()) == n_channels


def network(seed: int = 0) -> AudioPrototypeNetwork:
    net = AudioPrototypeNetwork(Sizes(n_classes=3, n_prototypes=6, n_bands=8, n_frames=12, channels=(3, 2, 4)))
    initialise(net, Recipe(), torch.Generator().manual_seed(seed))
    return net.requires_grad_(False)


def without(gone: Tensor, decoder: Any) -> AudioPrototypeNetwork:
    return without_channels(network(), gone, decoder=decoder, generator=torch.Generator())


def test_channels_that_are_left_out_leave_the_others_as_they_were() -> None:
    net, features = network(), torch.rand(2, 1, 8, 12) - 0.5
    gone = torch.tensor([False, True, False, True])
    draw = torch.Generator().manual_seed(1)
    pruned = without_channels(net, gone, decoder="sliced", generator=draw)
    assert pruned.sizes.channels == (3, 2, 2)
    assert torch.allclose(pruned.encoder(features), net.encoder(features)[:, ~gone])
    silenced = net.encoder.encode(features)
    silenced.latent[:, gone] = 0
    wanted = net.decoder(silenced.latent, silenced.masks)
    assert torch.allclose(pruned.outputs(features).reconstruction, wanted, atol=1e-6)
    fresh = without_channels(net, gone, decoder="anew", generator=draw)
    assert not torch.equal(fresh.decoder.deconv3.weight, net.decoder.deconv3.weight)
    assert torch.equal(fresh.encoder.conv2.weight, net.encoder.conv2.weight)


# --- by hand


def test_what_a_class_weighs_stays_what_it_was() -> None:
    base = prototypes()
    for label, edited in ((0, delete_prototype(base, 2)), (1, add_prototype(base, base.latents[0], 1))):
        before = base.class_weights[base.classes == label].abs().sum(0)
        assert torch.allclose(edited.class_weights[edited.classes == label].abs().sum(0), before)
        others = base.class_weights[base.classes != label]
        assert torch.equal(edited.class_weights[edited.classes != label], others)


def test_edited_prototypes_go_into_a_network_that_is_left_as_it_was() -> None:
    net = network()
    base = PrototypeSet.of(net, torch.tensor(CLASSES))
    edited = delete_prototype(base, 1).put_into(net)
    assert (edited.sizes.n_prototypes, net.sizes.n_prototypes) == (5, 6)
    assert edited(torch.zeros(1, 1, 8, 12)).shape == (1, 3)
    assert torch.equal(edited.encoder.conv1.weight, net.encoder.conv1.weight)


def test_the_first_prototype_of_a_class_without_any_starts_with_mean_weights() -> None:
    base = prototypes().select(torch.tensor([0, 1, 2, 3]))
    added = add_prototype(base, base.latents[0], 2)
    w = base.class_weights
    negative, positive = float(w[w < 0].mean()), float(w[w > 0].mean())
    assert added.class_weights[-1].tolist() == pytest.approx([negative, negative, positive])
    assert added.frequency_weights[-1].tolist() == pytest.approx([float(base.frequency_weights.mean())] * 2)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: delete_prototype(p, 6), "numbered 0 to 5"),
        (lambda p: delete_prototype(delete_prototype(p, 4), 4), "the last of class 2"),
        (lambda p: add_prototype(p, p.latents[0], 3), "no class 3"),
        (lambda p: add_prototype(p, p.latents[0, :2], 1), r"shape \(4, 2, 3\), got \(2, 2, 3\)"),
        (lambda p: redundant_prototypes(p, "cod"), "Did you mean 'code'"),
        (lambda p: redundant_channels(p, 4), "From 1 to 3"),
        (lambda p: without(torch.ones(4) > 0, "anew"), "at least one"),
        (
            lambda p: without(torch.ones(4) > 2, "new"),
            "Did you mean 'anew'",
        ),
    ],
)
def test_edits_that_cannot_be_are_refused(edit: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        edit(prototypes())
