"""A classifier in bfloat16 against itself in float32: speed, and what it costs.

    python benchmarks/perf/precision.py [NAME] [DEVICE]

No bound: which one is faster depends on the hardware, and the table is there to tell.
"""

from __future__ import annotations

import sys

from scipy.stats import spearmanr
from side_by_side import gate, ratios, recordings
from torch import Tensor

from earwitness import load_classifier
from earwitness.classifier import AudioClassifier
from earwitness.random import Random
from earwitness_plugins.gradients.saliency import Saliency


def main() -> int:
    """Print the table."""
    name, device = (*sys.argv[1:], *("esc10-cnn", "cpu")[len(sys.argv) - 1 :])
    exact = load_classifier(name, device=device)
    coarse = exact.at_precision("bfloat16")
    batch = recordings(16, exact.rate)
    waveforms = batch.waveforms.to(device)
    batch = type(batch)(waveforms, batch.rate, batch.clips)
    target = exact.probabilities(waveforms).argmax(1)

    def maps(classifier: AudioClassifier) -> Tensor:
        explanation = Saliency().explain(classifier, batch, target=target, random=Random(0, batch.clip_ids))
        assert explanation.relevance is not None
        return explanation.relevance.values.cpu()

    median, _ = ratios(lambda: exact.probabilities(waveforms), lambda: coarse.probabilities(waveforms), rounds=10)
    gate(f"{name} on {device}: bfloat16, times faster than float32 (waveform to probabilities)", median)
    deviation = (exact.probabilities(waveforms) - coarse.probabilities(waveforms)).abs().max()
    gate("  largest difference of a probability", float(deviation))
    gate("  largest difference of a logit on noise, over the largest |logit|", coarse.precision_deviation)
    ranks = [spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(maps(exact), maps(coarse), strict=True)]
    gate("  least rank correlation of the two saliency maps of a clip", min(ranks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
