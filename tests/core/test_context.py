"""Explaining again: other recordings, classes, weights and rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import networks
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.context import Context
from earwitness.errors import ExplanationError
from earwitness.explanation import Explanation, Relevance
from earwitness.random import Random

TARGET = torch.tensor([0, 1, 2, 0])


def explanation() -> Explanation:
    return Explanation(TARGET, relevance=Relevance(torch.ones(4, networks.N_SAMPLES), "waveform"))


def asked(*arguments: Any, **options: Any) -> tuple[AudioClassifier, Batch, Any, Any]:
    """What reaches the method when a context is asked to explain again."""
    calls = []

    def again(
        classifier: AudioClassifier, batch: Batch, *, target: Tensor | None, rows: Sequence[int] | None
    ) -> Explanation:
        calls.append((classifier, batch, target, rows))
        return explanation()

    batch = networks.batch_of()
    context = Context(CLASSIFIER, batch, explanation(), random=Random(0, batch.clip_ids), explain=again)
    context.explain(*arguments, **options)
    return calls[0]


CLASSIFIER = networks.classifier_of()


def test_by_default_the_same_classifier_explains_the_same_classes_of_all_rows() -> None:
    batch = networks.batch_of(seed=7)
    classifier, given, target, rows = asked(batch)
    assert (classifier, given, target, rows) == (CLASSIFIER, batch, None, None)


def test_another_classifier_other_classes_and_some_rows_reach_the_method() -> None:
    other, part = networks.wave_classifier_of(), networks.batch_of(2)
    classifier, given, target, rows = asked(part, other, target=torch.tensor([2, 2]), rows=[3, 1])
    assert (classifier, given, target.tolist(), rows) == (other, part, [2, 2], [3, 1])


@pytest.mark.parametrize(
    ("n_rows", "options"),
    [(2, {}), (4, {"rows": [0, 1]}), (2, {"rows": [0, 1], "target": TARGET}), (4, {"target": TARGET[:1]})],
)
def test_recordings_classes_and_rows_that_do_not_match_are_refused(n_rows: int, options: dict[str, Any]) -> None:
    with pytest.raises(ExplanationError, match=r"Say by `rows` which rows they stand for\."):
        asked(networks.batch_of(n_rows), **options)


def test_a_batch_of_some_rows_has_their_recordings_and_clips_in_the_order_asked_for() -> None:
    batch = networks.batch_of()
    part = batch.select([2, 0])
    assert part.clip_ids == ("clip-2", "clip-0")
    assert torch.equal(part.waveforms, batch.waveforms[[2, 0]])
    assert part.rate == batch.rate
