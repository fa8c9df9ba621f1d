"""Exchanged masks: counted again, clip by clip."""

import pytest
import torch

from earwitness import load_classifier, load_explainer
from earwitness.audio.rules import Energy
from earwitness.batching import load_batch
from earwitness.loading import load_dataset
from earwitness.random import Random
from earwitness.render import Scene
from mask_exchange import exchange


def test_exchanged_masks_are_counted_clip_by_clip() -> None:
    classifier, rule, loudness = load_classifier("toy-cnn"), Energy(0.3), load_explainer("loudness")
    dataset = load_dataset("toy", parameters={"split": "test", "clips": 6})
    found = exchange(classifier, dataset, loudness, rule)
    scenes, gains = [], []
    for index in range(6):
        batch = load_batch(dataset, [index], classifier.rate)
        scenes.append(Scene(classifier, batch, classifier.listening, "waveform"))
        decision = scenes[-1].original.argmax(1)
        explanation = loudness.explain(classifier, batch, target=decision, random=Random(0, batch.clip_ids))
        gains.append(scenes[-1].gain(explanation, rule))
    said = [int(scene.original.argmax()) for scene in scenes]
    pairs = [(a, b) for a in range(6) for b in range(6) if said[a] != said[b]]
    p = {(a, b): scenes[a].probabilities(gains[b])[0] for a in range(6) for b in range(6)}
    assert len(pairs) > 10
    assert found.own == pytest.approx(sum(int(p[a, a].argmax()) == said[a] for a in range(6)) / 6)
    assert found.other == pytest.approx(sum(int(p[a, b].argmax()) == said[b] for a, b in pairs) / len(pairs))
    assert found.probability == pytest.approx(sum(float(p[a, b][said[b]]) for a, b in pairs) / len(pairs), abs=1e-5)
    before = [float(scenes[a].original[0, said[b]]) for a, b in pairs]
    assert found.before == pytest.approx(sum(before) / len(pairs), abs=1e-5)


def test_a_mask_that_leaves_all_as_it_is_makes_no_class() -> None:
    classifier, dataset = load_classifier("toy-cnn"), load_dataset("toy", parameters={"split": "test", "clips": 4})
    found = exchange(classifier, dataset, load_explainer("all-ones"), Energy(0.99))
    assert (found.own, found.other, found.asked) == (1.0, 0.0, 0.0)
    assert torch.tensor(found.probability).isclose(torch.tensor(found.before), atol=1e-2)
