"""The prepared classifier (batch norm folded, channels last) against the network as it was trained.

    python benchmarks/perf/prepared_classifier.py

16 clips of 5 s; forward alone, and forward with the gradient of the features.
"""

from __future__ import annotations

import torch
from side_by_side import gate, ratios

from earwitness import load_classifier
from earwitness.classifier import AudioClassifier
from earwitness_plugins.classifiers.zoo import esc10_cnn


def main() -> None:
    """Print the ratios."""
    plain, fast = esc10_cnn(), load_classifier("esc10-cnn")
    waveforms = 0.1 * torch.randn(16, 5 * plain.rate, generator=torch.Generator().manual_seed(0))
    features = plain.features(waveforms)

    def forward(classifier: AudioClassifier) -> None:
        with torch.no_grad():
            classifier.logits_of_features(features)

    def gradient(classifier: AudioClassifier) -> None:
        inputs = features.clone().requires_grad_(True)
        torch.autograd.grad(classifier.logits_of_features(inputs)[:, 0].sum(), inputs)

    for name, function in (("forward", forward), ("forward and gradient", gradient)):
        median, _ = ratios(lambda run=function: run(plain), lambda run=function: run(fast))
        gate(f"prepared network, {name}: times faster than the trained one", median)


if __name__ == "__main__":
    main()
