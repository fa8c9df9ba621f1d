"""The five mask metrics against three bare forward passes: what does measuring cost beyond asking the classifier?

    python benchmarks/perf/mask_metrics.py

FF, AI, AD, AG and Fid-In of a mask on the listening STFT need the classifier's answers to the recording, to what is
heard and to the rest, each from waveform to logits. Everything else (analysing the recording, masking, synthesising,
the scores themselves) may cost 15 % on top. 16 clips of 5 s, the packaged network, prepared, on the waveform route.
Ends with status 1 where it costs more.
"""

from __future__ import annotations

import sys

import torch
from side_by_side import ratios

from earwitness import load_classifier
from earwitness.clips import Batch, Clip
from earwitness.context import Context
from earwitness.explanation import Explanation, Mask
from earwitness.random import Random
from earwitness_bench.metrics.faithfulness import OwnMask

GATE = 1.15


def main() -> int:
    """Print the ratio; 1 where the gate is missed."""
    classifier = load_classifier("esc10-cnn")
    waveforms = 0.1 * torch.randn(16, 5 * classifier.rate, generator=torch.Generator().manual_seed(0))
    batch = Batch.of([Clip(row, classifier.rate, f"clip-{number}") for number, row in enumerate(waveforms)])
    random = Random(0, batch.clip_ids)
    shape = classifier.listening.grid(waveforms.shape[1]).shape
    explanation = Explanation(
        classifier.probabilities(waveforms).argmax(1), mask=Mask(random.uniform("mask", *shape), "stft")
    )
    metric = OwnMask()

    def three_forwards() -> None:
        with torch.no_grad():
            for _ in range(3):
                classifier.logits(batch.waveforms)

    def five_metrics() -> None:
        metric.score(explanation, Context(classifier, batch, explanation, random=random))

    median, best = (1 / ratio for ratio in ratios(three_forwards, five_metrics))
    missed = median > GATE
    print(
        f"five mask metrics / three bare forwards: {median:.3f} (median of rounds), {best:.3f} (best times); "
        f"gate {GATE}: {'MISSED' if missed else 'met'}; {torch.get_num_threads()} threads"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
