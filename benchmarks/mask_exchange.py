"""Can a mask make its class? The masks of other recordings on a recording, and the classes that they were made for.

    python benchmarks/mask_exchange.py [--lmac FOLDER] [--classifier NAME] [--folds 5] [--share .5]

A mask that is heard as its class may show where in the recording the class is, or be of a shape that the classifier
takes for the class whatever is behind it. No score of a recording under its own mask can tell the two apart. So each
mask is put on other recordings too, of which the classifier decided otherwise: how many become the mask's class? And
each recording is explained as other classes: how many become what was asked for? The figures of docs/lmac.md; five
minutes.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from earwitness import load_classifier, load_explainer
from earwitness.audio.rules import Energy, Normalise, Rule
from earwitness.batching import load_batch
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch, Dataset
from earwitness.fitting import load_fitted
from earwitness.loading import load_dataset
from earwitness.protocols import Explainer
from earwitness.random import Random
from earwitness.registry import registry
from earwitness.render import Scene

METHODS = ("gradcam", "integrated-gradients", "gradient-shap", "saliency", "loudness", "uniform-noise")
N_CLIPS = 8  # that exchange their masks
ASKED = (1, 4, 7)  # that many classes behind the decision, which is left out


@dataclass(frozen=True)
class Exchange:
    """What masks do to recordings, their own and others, as shares in [0, 1].

    Attributes
    ----------
    own : float
        Recordings of which the decision stays what it is under their own mask.
    other : float
        Recordings that become, under the mask of another of which the decision is otherwise, that one's class.
    probability, before : float
        Mean probability of that class with the mask, and without it.
    asked : float
        Recordings that become, under the mask that explains another class than the decision, that class.
    """

    own: float
    other: float
    probability: float
    before: float
    asked: float


@torch.no_grad()
def exchange(classifier: AudioClassifier, dataset: Dataset, explainer: Explainer, rule: Rule) -> Exchange:
    """Exchange the masks of an explainer among the clips of a data set, eight at a time in a seeded order.

    Parameters
    ----------
    classifier : AudioClassifier
    dataset : Dataset
        Of clips of one length.
    explainer : Explainer
    rule : Rule
        Of maps that are no masks.
    """
    order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(0)).tolist()
    own, other, probability, before, asked = [], [], [], [], []
    for first in range(0, len(order), N_CLIPS):
        batch = load_batch(dataset, order[first : first + N_CLIPS], classifier.rate, device=classifier.device)
        scene = Scene(classifier, batch, classifier.listening, "waveform")
        decision = scene.original.argmax(1)
        gain, *others = [
            _gain(explainer, scene, batch, _behind(decision, step, classifier), rule) for step in (0, *ASKED)
        ]
        for step, of_other in zip(ASKED, others, strict=True):
            wanted = _behind(decision, step, classifier)
            asked.append(scene.probabilities(of_other).argmax(1) == wanted)
        own.append(scene.probabilities(gain).argmax(1) == decision)
        for shift in range(1, len(batch)):
            wanted = decision.roll(shift)
            differs = wanted != decision
            heard = scene.probabilities(gain.roll(shift, 0))
            other.append((heard.argmax(1) == wanted)[differs])
            probability.append(heard.gather(1, wanted[:, None])[differs, 0])
            before.append(scene.original.gather(1, wanted[:, None])[differs, 0])
    return Exchange(*(float(torch.cat(values).float().mean()) for values in (own, other, probability, before, asked)))


def _behind(decision: Tensor, step: int, classifier: AudioClassifier) -> Tensor:
    n_classes = len(classifier.labels)
    return (decision + (step and 1 + (step - 1) % (n_classes - 1))) % n_classes


@torch.enable_grad()
def _gain(explainer: Explainer, scene: Scene, batch: Batch, target: Tensor, rule: Rule) -> Tensor:
    explanation = explainer.explain(scene.classifier, batch, target=target, random=Random(0, batch.clip_ids))
    return scene.gain(explanation, rule).detach()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmac", type=Path, help="folder of a fitted lmac")
    parser.add_argument("--classifier", default="esc10-cnn")
    parser.add_argument("--folds", type=int, nargs="+", default=[5], help="of ESC-10")
    parser.add_argument(
        "--share", type=float, default=0.5, help="of the energy, kept of maps that have no level of their own"
    )
    asked = parser.parse_args()
    classifier = load_classifier(asked.classifier)
    dataset = load_dataset("esc10", parameters={"folds": asked.folds})
    explainers: dict[str, tuple[Explainer, Rule]] = {}
    if asked.lmac:
        fitted = load_fitted(registry(), asked.lmac, classifier)
        explainers = {"lmac, its own mask": (fitted, Normalise()), "lmac": (fitted, Energy(asked.share))}
    explainers |= {name: (load_explainer(name), Energy(asked.share)) for name in METHODS}
    title = f"masks at {asked.share:.0%} of the energy"
    print(f"{title:28s} {'own stays':>10s} {'becomes it':>11s} {'p(it)':>7s} {'before':>7s} {'asked':>7s}")
    for name, (explainer, rule) in explainers.items():
        found = exchange(classifier, dataset, explainer, rule)
        print(
            f"{name:28s} {found.own:10.1%} {found.other:11.1%} {found.probability:7.3f} {found.before:7.3f} "
            f"{found.asked:7.1%}",
            flush=True,
        )


if __name__ == "__main__":
    main()
