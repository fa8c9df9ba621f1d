"""Steps of L-MAC's training against a straightforward implementation of the published loop, and what they take.

    python benchmarks/perf/lmac.py

Sixteen clips of five seconds, the packaged ESC-10 classifier, the same decoder and the same objective, which does not
exchange masks. The published loop asks the classifier three times a step (the recording with hidden maps, what is
heard, the rest), makes features from the whole masked STFT, and differentiates through all of it. Ours masks bands
instead of bins, and asks a folded classifier once, a few clips at a time; and where clips are trained on as they are,
it has hidden maps and band coefficients from before the first step. With other clips as noise, the default, both loops
hear new recordings in every step.

Memory is what a process' resident memory rises by while it takes three steps, in a process of its own for each.
"""

from __future__ import annotations

import ctypes
import functools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from side_by_side import gate, ratios, recordings
from torch import Tensor

from earwitness import load_classifier
from earwitness.audio.lifting import lift_mask
from earwitness.batching import ClipList
from earwitness.classifier import AudioClassifier
from earwitness.clips import Batch
from earwitness_plugins.classifiers.zoo import esc10_cnn
from earwitness_plugins.lmac.beginning import new_decoder
from earwitness_plugins.lmac.explainer import LMAC
from earwitness_plugins.lmac.masks import answer
from earwitness_plugins.lmac.material import Material
from earwitness_plugins.lmac.objective import log_odds
from earwitness_plugins.lmac.passages import coarse_grid
from earwitness_plugins.lmac.training import Training
from earwitness_plugins.lmac.variants import lmac_budget

N_CLIPS = 16
LAYERS = ["blocks.block2.relu", "blocks.block3.relu", "blocks.block4.relu", "blocks.block5.relu"]
Step = Callable[[], object]
NOISY_TERMS = functools.partial(LMAC, exchange_weight=0.0)
PUBLISHED_TERMS = functools.partial(NOISY_TERMS, noise=None)


def main() -> int:
    """Print the table; 1 if a bound is not kept."""
    if len(sys.argv) > 1:
        print(memory_of(STEPS[sys.argv[1]]()))
        return 0
    steps = {name: make() for name, make in STEPS.items()}
    median, best = ratios(steps["published"], steps["ours"], rounds=8)
    noisy, _ = ratios(steps["published, noisy"], steps["ours, noisy"], rounds=8)
    default, _ = ratios(steps["published, noisy"], steps["default"], rounds=8)
    for_budgets, _ = ratios(steps["budget"], steps["default"], rounds=8)
    megabytes = {name: measured_apart(name) for name in ("ours", "published")}
    kept = [
        gate(f"L-MAC, steps a second at {N_CLIPS} clips: times the published loop", median, at_least=2),
        gate("  by best times", best),
        gate("  with other clips as noise in both", noisy, at_least=1.5),
        gate("  and the default, which exchanges masks besides", default, at_least=1.2),
        gate("a step that warps masks to budgets, over the default", for_budgets, at_most=1.5),
        gate("largest difference of the losses, relative", difference(), at_most=1e-3),
        gate(f"memory of a step at {N_CLIPS} clips, in MB", megabytes["ours"], at_most=1500),
        gate("  of the published loop", megabytes["published"]),
    ]
    return 0 if all(kept) else 1


def training(method: LMAC, classifier: AudioClassifier) -> tuple[Training, Material]:
    """A training about to begin, on noise."""
    clips = recordings(N_CLIPS, classifier.rate)
    passages = functools.cache(functools.partial(method.kind.passage, classifier))
    noise = {"noise": method.noise, "noise_snr_db": method.noise_snr_db}
    material = Material(classifier, LAYERS, passages, ClipList(clips.clips), seed=0, **noise)
    for index in range(N_CLIPS):
        material.prepare(index, memory_mb=1e4)
    decoder = new_decoder(material, method.width, told=method.class_conditional, seed=0)
    return Training(
        classifier,
        decoder,
        kind=method.kind,
        objective=method.objective,
        guidance=method.guidance,
        recipe=method.recipe,
    ), material


def ours(method: Callable[[], LMAC] = PUBLISHED_TERMS) -> Step:
    """One of our steps."""
    made, material = training(method(), load_classifier("esc10-cnn"))
    return functools.partial(made._step, material, tuple(range(N_CLIPS)), 0, 0)


def published(terms: Callable[[], LMAC] = PUBLISHED_TERMS) -> Step:
    """One step as published."""
    classifier, method = esc10_cnn(), terms()
    made, material = training(method, classifier)
    decoder = made.state.decoder

    def step() -> None:
        batch, _ = material.heard(tuple(range(N_CLIPS)))
        loss = published_loss(method, made, classifier, batch)
        made.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        made.optimiser.step()

    return step


def published_loss(method: LMAC, made: Training, classifier: AudioClassifier, batch: Batch) -> Tensor:
    """The objective, the long way."""
    listening, n_samples = classifier.listening, batch.waveforms.shape[1]
    with torch.no_grad(), classifier.taps(LAYERS) as taps:
        spectrum = listening.forward(batch.waveforms)
        logits = classifier.logits_of_features(classifier.front_end.from_stft(spectrum))
        decision = logits.argmax(1)
        confidence = log_odds(logits, decision, multilabel=False)
        maps = [each.detach() for each in taps.values()]
    coarse, fine = coarse_grid(classifier, n_samples), listening.grid(n_samples)
    mask = lift_mask(torch.sigmoid(made.state.decoder(maps, coarse.shape, decision)), coarse, fine)
    heard = classifier.logits_of_features(classifier.front_end.from_stft(mask * spectrum))
    rest = classifier.logits_of_features(classifier.front_end.from_stft((1 - mask) * spectrum))
    terms = method.objective.of_answers(heard, rest, decision, confidence, multilabel=False)
    return (terms + method.objective.sparsity * mask.mean((1, 2))).mean()


def difference() -> float:
    """Of the first step's loss, relative."""
    classifier, method = load_classifier("esc10-cnn"), PUBLISHED_TERMS()
    made, material = training(method, classifier)
    indices = tuple(range(N_CLIPS))
    wanted = float(published_loss(method, made, classifier, material.clean(indices)).detach())
    rows, passage = material.rows(indices), material.passages(classifier.rate * 5)
    logits = answer(made.state.decoder, rows.maps, rows.decision, classifier, classifier.rate * 5)
    mask = method.kind.mask(logits, passage)
    losses = made._asked(passage.heard_and_rest(mask, rows.clips), rows)[
        0
    ] + method.objective.sparsity * passage.extent(mask)
    return abs(float(losses.mean().detach()) / wanted - 1)


STEPS: dict[str, Callable[[], Step]] = {
    "ours": ours,
    "ours, noisy": functools.partial(ours, NOISY_TERMS),
    "published, noisy": functools.partial(published, NOISY_TERMS),
    "default": functools.partial(ours, LMAC),
    "budget": functools.partial(ours, lmac_budget),
    "published": published,
}


def memory_of(step: Step) -> float:
    """What the resident memory of this process rises by at its peak, in MB; Linux only."""
    step()  # what is made once, such as the optimiser's moments, is no part of it
    ctypes.CDLL(None).malloc_trim(0)
    before = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    for _ in range(3):
        step()
    return _status_mb("VmHWM") - before


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measured_apart(name: str) -> float:
    """:func:`memory_of` in a process of its own."""
    done = subprocess.run([sys.executable, str(Path(__file__)), name], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    sys.exit(main())
