"""LRP of a batch against plain Zennit on the network as it was trained: the same composite, the same maps.

    python benchmarks/perf/lrp.py

16 clips, one thread. Plain Zennit registers its own rules by name on the unprepared network; where there is batch norm,
with its canonizer, which merges it each time. Ours prepares the network once (batch norm folded, channels last in
memory), takes one branch where inputs are >= 0, and copies less. The maps are compared on the prepared network.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable

import torch
from side_by_side import gate, ratios
from torch import Tensor, nn
from zennit.canonizers import SequentialMergeBatchNorm
from zennit.composites import MixedComposite, NameMapComposite
from zennit.core import BasicHook
from zennit.rules import Epsilon, Flat, Gamma, Norm, ZPlus

from earwitness import load_classifier
from earwitness.classifier import AudioClassifier
from earwitness_plugins.classifiers.zoo import esc10_cnn, toy_cnn
from earwitness_plugins.lrp.propagation import STABILISER, Propagation

N_CLIPS = 16
STABILISED = {"stabilizer": STABILISER, "zero_params": ["bias"]}


def main() -> int:
    """Print the ratios, and how far the maps of the two are apart; 1 if a bound is not kept."""
    torch.set_num_threads(1)
    kept = []
    toy, esc10 = toy_cnn(), esc10_cnn()
    thesis = (Flat(**STABILISED), *[Gamma(0.8, **STABILISED)] * 4)
    for plain, seconds, composite, convolutions in (
        (toy, 1.0, "thesis-toy", thesis),
        (esc10, 5.0, "thesis-toy", thesis),
        (esc10, 5.0, "epsilon-plus-flat", (Flat(**STABILISED), *[ZPlus(**STABILISED)] * 4)),
    ):
        waveforms = 0.1 * torch.randn(N_CLIPS, round(seconds * plain.rate), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features = plain.features(waveforms)
            target = plain.logits_of_features(features).argmax(1)
        fast, propagation = load_classifier(plain.name), Propagation(composite, start="logit")

        def ours(fast: AudioClassifier = fast, propagation: Propagation = propagation) -> Tensor:
            return propagation.attribute(fast, features, target).relevance  # noqa: B023  # called in this round

        theirs = zennit_alone(plain, features, target, convolutions)
        median, _ = ratios(theirs, ours, rounds=12)
        # On one network in float64: the canonizer leaves the eps of batch norm in its place, which changes outputs by
        # 1e-6 and, where large numbers cancel out, a map by much more; so does float32.
        wide = doubled(fast)
        exact = zennit_alone(wide, features.double(), target, convolutions)()
        found = propagation.attribute(wide, features.double(), target).relevance
        difference = (found - exact).abs().amax((1, 2, 3)) / exact.abs().amax((1, 2, 3))
        what = f"LRP of {N_CLIPS} clips, {plain.name}, {composite}: times faster than plain Zennit"
        kept.append(gate(what, median, at_least=3))
        kept.append(gate("  largest difference of a map in float64, over its maximum", float(difference.max()),
                         at_most=1e-9))  # fmt: skip
    return 0 if all(kept) else 1


def doubled(classifier: AudioClassifier) -> AudioClassifier:
    """The same classifier with its network in float64."""
    wide = copy.copy(classifier)
    wide.network = copy.deepcopy(classifier.network).double()
    return wide


def zennit_alone(
    classifier: AudioClassifier, features: Tensor, target: Tensor, convolutions: tuple[BasicHook, ...]
) -> Callable[[], Tensor]:
    """The usual way: a composite by name, one context, one gradient."""
    network = classifier.network
    named = [(name, module) for name, module in network.named_modules()]
    names = [name for name, module in named if isinstance(module, nn.Conv2d)]
    rules = [((name,), rule) for name, rule in zip(names, convolutions, strict=True)]
    linear = Epsilon(epsilon=STABILISER, zero_params=["bias"])
    rules += [((name,), linear) for name, module in named if isinstance(module, nn.Linear)]
    rules += [((name,), Norm(STABILISER)) for name, module in named if isinstance(module, nn.AdaptiveAvgPool2d)]
    canonizers = [SequentialMergeBatchNorm()] if any(isinstance(m, nn.BatchNorm2d) for _, m in named) else []
    composite = MixedComposite([NameMapComposite(rules)], canonizers=canonizers)

    def run() -> Tensor:
        with composite.context(network):
            inputs = features.clone().requires_grad_(True)
            logits = network(inputs)
            start = torch.zeros_like(logits).scatter(1, target[:, None], logits.detach().gather(1, target[:, None]))
            return torch.autograd.grad(logits, inputs, start)[0]

    return run


if __name__ == "__main__":
    sys.exit(main())
