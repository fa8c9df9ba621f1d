"""SPS and COMP of the mask on the listening STFT."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import networks
from earwitness.audio.rules import parse_rule
from earwitness.context import Context
from earwitness.explanation import Explanation, Mask, Relevance
from earwitness.random import Random
from earwitness_bench.metrics.mask_shape import MaskShape, constant_rows


def context_of(explanation: Explanation, **options: object) -> Context:
    batch = networks.batch_of(len(explanation.target))
    return Context(networks.classifier_of(), batch, explanation, random=Random(0, batch.clip_ids), **options)  # type: ignore[arg-type]


def masks(n_rows: int = 4) -> Tensor:
    stft = networks.classifier_of().listening
    shape = (n_rows, stft.n_bins, stft.n_frames(networks.N_SAMPLES))
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) ** 3


def test_the_scores_are_the_gini_index_and_the_entropy_of_the_gain() -> None:
    explanation = Explanation(torch.zeros(4, dtype=torch.int64), mask=Mask(masks(), "stft"))
    found = MaskShape().score(explanation, context_of(explanation)).columns
    for row, mask in enumerate(masks().double().numpy()):
        values = np.sort(mask.ravel())
        n = len(values)
        differences = sum(float(np.abs(value - values).sum()) for value in values[:: n // 50])  # a slow sample
        gini = differences / (len(values[:: n // 50]) * 2 * n * values.mean())
        shares = values / values.sum()
        assert float(found["SPS"][row]) == pytest.approx(gini, abs=0.02)
        assert float(found["COMP"][row]) == pytest.approx(-float((shares * np.log(shares + 1e-12)).sum()), rel=1e-5)


def test_it_looks_at_what_the_rule_makes_of_relevance() -> None:
    relevance = Relevance(masks() - 0.2, "stft")
    explanation = Explanation(torch.zeros(4, dtype=torch.int64), relevance=relevance)
    plain, binary = (
        MaskShape().score(explanation, context_of(explanation, **options)).columns["SPS"]
        for options in ({}, {"rule": parse_rule("quantile(0.9)")})
    )
    assert bool((binary - plain).gt(0.05).all())


def test_a_constant_mask_has_no_shape_and_says_so_and_leaves_the_others_alone() -> None:
    values = masks()
    values[1], values[2] = 0.97, 0.0
    explanation = Explanation(torch.zeros(4, dtype=torch.int64), mask=Mask(values, "stft"))
    found = MaskShape().score(explanation, context_of(explanation))
    assert found.reasons == ("", "the mask is constant", "the mask is constant", "")
    for name, column in found.columns.items():
        assert column.isnan().tolist() == [False, True, True, False], name


def test_a_constant_up_to_rounding_is_constant() -> None:
    rounded = torch.full((1, 3, 5), 0.97)
    rounded[0, 1, 2] += 1e-7
    assert constant_rows(rounded).tolist() == [True]
    rounded[0, 1, 2] += 1e-4
    assert constant_rows(rounded).tolist() == [False]


@pytest.mark.golden
@pytest.mark.parametrize("inputs", ["in_masks", "edge"])
def test_on_the_arrays_of_quantus_it_gives_its_numbers_and_no_number_where_quantus_gives_none(
    golden: Path, inputs: str
) -> None:
    arrays = np.load(golden / "metrics.npz")
    if inputs == "edge":
        maps = np.stack([arrays[f"edge_mask_{name}"] for name in arrays["edge_names"]])
        wanted = {"SPS": arrays["edge_SPS_q060"], "COMP": arrays["edge_COMP_q060"]}
    else:
        maps, wanted = arrays["in_masks"], {"SPS": arrays["SPS_q060"], "COMP": arrays["COMP_q060"]}
    found = MaskShape().score(None, _Holding(torch.from_numpy(maps)))  # type: ignore[arg-type]
    for name, column in found.columns.items():
        np.testing.assert_allclose(column.numpy(), wanted[name], atol=2e-6, equal_nan=True)


class _Holding:
    """A context whose rendering has a given gain."""

    def __init__(self, gain: Tensor) -> None:
        self.rendering = self
        self.gain = gain
