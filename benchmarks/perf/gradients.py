"""Saliency against a bare forward and backward, and integrated gradients against Captum called plainly.

    python benchmarks/perf/gradients.py

5 s recordings, the packaged classifier. "Plainly" means what a user of Captum writes: the trained network as it is, all
steps in one call.
"""

from __future__ import annotations

import sys

import captum.attr
import torch
from scipy.stats import spearmanr
from side_by_side import gate, ratios, recordings
from torch import Tensor

from earwitness import load_classifier
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness.random import Random
from earwitness_plugins.classifiers.zoo import esc10_cnn
from earwitness_plugins.gradients.integrated_gradients import IntegratedGradients
from earwitness_plugins.gradients.saliency import Saliency

N_STEPS = 50


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    kept = [saliency(), *integrated_gradients()]
    return 0 if all(kept) else 1


def saliency() -> bool:
    """Against waveform to logits and back to the features, without anything else."""
    classifier = load_classifier("esc10-cnn")
    batch = recordings(16, classifier.rate)
    target = classifier.logits(batch.waveforms).argmax(1)
    random = Random(0, batch.clip_ids)

    def bare() -> None:
        features = classifier.features(batch.waveforms).requires_grad_(True)
        logits = classifier.logits_of_features(features)
        torch.autograd.grad(logits.gather(1, target[:, None]).sum(), features)

    median, _ = ratios(lambda: Saliency().explain(classifier, batch, target=target, random=random), bare)
    return gate("saliency of 16 clips: time over that of a bare forward and backward", median, at_most=1.15)


def integrated_gradients() -> list[bool]:
    """Against Captum on the trained network, and the same numbers."""
    plain, fast = esc10_cnn(), load_classifier("esc10-cnn")
    batch = recordings(8, plain.rate)
    target = plain.logits(batch.waveforms).argmax(1)
    ours = IntegratedGradients(n_steps=N_STEPS)

    def captum_plainly(classifier: AudioClassifier = plain, batch: Batch = batch) -> Tensor:
        with torch.no_grad():
            features = classifier.features(batch.waveforms)
            silence = classifier.features(torch.zeros_like(batch.waveforms[:1])).expand_as(features)
        method = captum.attr.IntegratedGradients(classifier.network)
        return method.attribute(features, baselines=silence, target=target, n_steps=N_STEPS).detach()

    def explain(classifier: AudioClassifier = fast, batch: Batch = batch) -> Tensor:
        explanation = ours.explain(classifier, batch, target=target, random=Random(0, batch.clip_ids))
        assert explanation.relevance is not None
        return explanation.relevance.values[:, None]

    median, _ = ratios(captum_plainly, explain, rounds=5)
    ranks = [
        spearmanr(one.flatten(), other.flatten()).statistic
        for one, other in zip(captum_plainly(), explain(), strict=True)
    ]
    exact = esc10_cnn()
    exact.network.double()
    exact.front_end.double()
    doubled = Batch(batch.waveforms[:2].double(), batch.rate, batch.clips[:2])
    target = target[:2]
    one, other = captum_plainly(exact, doubled), explain(exact, doubled)
    difference = float((one - other).abs().max() / one.abs().max())
    return [
        gate(
            f"integrated gradients, {N_STEPS} steps, 8 clips: times faster than Captum called plainly",
            median,
            at_least=3,
        ),
        gate("  least rank correlation of the two maps of a clip", min(ranks), at_least=0.99),
        gate("  largest difference in float64 on the same network, over the largest value", difference, at_most=1e-6),
    ]


if __name__ == "__main__":
    sys.exit(main())
