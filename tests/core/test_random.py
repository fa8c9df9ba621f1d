"""Randomness that batching cannot change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from torch import Tensor

from earwitness.random import Random, stream_seed

IDS = ("dog-1", "rain-2", "clock-3", "sea-4")
Draw = Literal["uniform", "normal"]


def draw(kind: Draw, random: Random, name: str = "noise", shape: tuple[int, ...] = (3, 5)) -> Tensor:
    drawn: Callable[..., Tensor] = getattr(random, kind)
    return drawn(name, *shape)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_a_row_draws_the_same_in_any_batch_and_any_order(kind: Draw) -> None:
    together = draw(kind, Random(7, IDS))
    backwards = draw(kind, Random(7, IDS[::-1]))
    assert torch.equal(together, backwards.flip(0))
    for number, clip_id in enumerate(IDS):
        assert torch.equal(draw(kind, Random(7, [clip_id])), together[number : number + 1])


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_other_clips_seeds_and_names_draw_otherwise_and_the_same_ones_again(kind: Draw) -> None:
    drawn = draw(kind, Random(7, IDS))
    assert len({tuple(row.flatten().tolist()) for row in drawn}) == len(IDS)
    assert torch.equal(draw(kind, Random(7, IDS)), drawn)
    assert not torch.equal(draw(kind, Random(8, IDS)), drawn)
    assert not torch.equal(draw(kind, Random(7, IDS), "other"), drawn)
    random = Random(7, IDS)
    draw(kind, random, "other", (100,))
    assert torch.equal(draw(kind, random), drawn)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_the_global_generator_is_neither_read_nor_moved(kind: Draw) -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    one = draw(kind, Random(7, IDS))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert torch.equal(draw(kind, Random(7, IDS)), one)


def test_draws_have_their_distribution_shape_and_type() -> None:
    uniform = draw("uniform", Random(0, IDS), shape=(20000,))
    normal = draw("normal", Random(0, IDS), shape=(20000,))
    assert float(uniform.min()) >= 0
    assert float(uniform.max()) < 1
    assert torch.allclose(uniform.mean(1), torch.full((4,), 0.5), atol=0.02)
    assert torch.allclose(normal.mean(1), torch.zeros(4), atol=0.04)
    assert torch.allclose(normal.std(1), torch.ones(4), atol=0.04)
    correlation = torch.corrcoef(normal)
    assert float((correlation - torch.eye(4)).abs().max()) < 0.04
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert draw("uniform", Random(0, IDS), shape=()).dtype == torch.float32
        assert draw("uniform", Random(0, IDS), shape=()).shape == (4,)
    finally:
        torch.set_default_dtype(default)


def test_seeds_are_those_of_every_machine() -> None:
    # SHA-256 of "7\x1fdog-1\x1fnoise", first eight bytes, without the last bit.
    assert stream_seed(7, "dog-1", "noise") == int.from_bytes(bytes.fromhex("0614c24a59e4ceaf"), "big") >> 1
    assert 0 <= stream_seed("x") < 2**63
    assert stream_seed("ab", "c") != stream_seed("a", "bc")
